"""Gradients of every client's loss at once, and gradients through gradient steps.

A loss ``f(w, *data)`` maps models w (R, C, P) to losses (R, C). No two clients share a row of w, so the gradient of
the sum is every client's own gradient. ``grad`` nests, so the meta-gradient can be written as in the paper::

    grad(lambda v, *_: f(v - alpha * grad(f, v, support), query), w)

``meta_grad`` computes the same without the long graph, for any number of inner steps u_{k+1} = u_k - alpha g(u_k)::

    v_K = grad f(u_K; query),    v_k = v_{k+1} - H(u_k) (alpha v_{k+1}),    H = Hessian of f(.; support)

which is exact (Finn et al. 2017, 1703.03400, eq. 1 for K = 1); dropping H is first-order MAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fmlab.data import Examples

if TYPE_CHECKING:
    from fmlab.models.backprop import Backprop

Product = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """Every client's mean loss. ``gradient`` and ``linearize`` are exact; a closed form where the model has one."""

    def __call__(self, w: Tensor, data: Examples) -> Tensor: ...

    def gradient(self, w: Tensor, data: Examples) -> Tensor: ...

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]: ...

    def scores(self, models: Iterable[Tensor], data: Examples) -> Iterator[tuple[Tensor, Tensor | None]]: ...


def autograd(f: Callable[..., Tensor], w: Tensor, *data: Any) -> Tensor:
    """grad f by reverse mode; itself differentiable when w asks for it."""
    nested = w.requires_grad
    with torch.enable_grad():
        v = w if nested else w.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(v, *data).sum(), v, create_graph=nested)
    return g


def autograd_linearize(f: Callable[..., Tensor], w: Tensor, *data: Any) -> tuple[Tensor, Product]:
    """(grad f(w), v -> Hessian f(w) v) by double reverse mode; the product may be taken once."""
    with torch.enable_grad():
        leaf = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf, *data).sum(), leaf, create_graph=True)

    def product(v: Tensor) -> Tensor:
        if not g.requires_grad:  # f is linear in w
            return torch.zeros_like(v)
        (hv,) = torch.autograd.grad(g, leaf, v, allow_unused=True)
        return torch.zeros_like(v) if hv is None else hv

    return g.detach(), product


def grad(f: Callable[..., Tensor], w: Tensor, *data: Any) -> Tensor:
    """Gradient of every client's loss: w (R, C, P) -> (R, C, P). Nests; closed form where f has one."""
    if hasattr(f, "gradient") and not w.requires_grad:
        return f.gradient(w, *data)  # type: ignore[no-any-return]
    return autograd(f, w, *data)


def step_sizes(lr: Any, steps: Any) -> Iterator[Any]:
    """lr for each step. A swept number of steps runs to the longest, with step size 0 once a run has had its own."""
    if not isinstance(steps, Tensor):
        yield from (lr for _ in range(int(steps)))
    else:
        yield from (lr * (k < steps).to(steps.dtype) for k in range(int(steps.max())))


def descend(
    f: Objective,
    w: Tensor,
    data: Examples | Callable[[int], Examples],
    lr: Any,
    steps: Any,
    pull: Any = None,
    to: Tensor | None = None,
) -> Tensor:
    """w after ``steps`` steps  w <- w - lr (grad f(w) + pull (w - to)).

    data: the same examples for every step, or a function that gives those of step k. ``to`` (R, C, P) stays put.
    """
    rates = step_sizes(lr, steps)
    batches = ((data(k) if callable(data) else data, eta) for k, eta in enumerate(rates))
    fast = _closed_form(f, w, lr)
    if fast is not None:
        return fast.descend(w, batches, pull, to)
    for batch, eta in batches:
        g = grad(f, w, batch)
        w = w - eta * (g if to is None else g + pull * (w - to))
    return w


def path(f: Objective, w: Tensor, data: Examples, lr: Any, steps: int) -> Iterator[Tensor]:
    """The models after 0, 1, ..., steps gradient steps."""
    yield w
    fast = _closed_form(f, w, lr)
    if fast is not None:
        yield from fast.path(w, [(data, lr)] * steps)
        return
    for _ in range(steps):
        w = w - lr * grad(f, w, data)
        yield w


def _closed_form(f: Objective, w: Tensor, lr: Any) -> Backprop | None:
    """f's closed form where it can be used: nobody differentiates through, and a client has one step size."""
    one_size = not isinstance(lr, Tensor) or (lr.shape[-1:] in ((), (1,)) and not lr.requires_grad)
    return getattr(f, "backprop", None) if one_size and not w.requires_grad else None


def meta_grad(
    f: Objective, w: Tensor, support: Examples, query: Examples, lr: Any, steps: Any, first_order: Any = False
) -> Tensor:
    """Gradient (R, C, P) of the query loss after inner steps on the support set, with respect to w.

    Source: module docstring. ``first_order``: bool, or a bool tensor (R, 1, 1) where it is swept; True leaves the
    Hessian out.
    """
    fast = _closed_form(f, w, lr)
    if fast is not None and isinstance(first_order, bool):
        return fast.meta_gradient(w, support, query, list(step_sizes(lr, steps)), not first_order)
    return meta_grads(f, w, support, query, lr, steps, first_order)[0]


def meta_grads(
    f: Objective, w: Tensor, support: Examples, query: Examples, lr: Any, steps: Any, first_order: Any = False
) -> tuple[Tensor, Tensor]:
    """As ``meta_grad``, and beside it the gradient with respect to lr (elementwise): two (R, C, P).

    For lr: Li et al. 2017 (1707.09835), whose one-step case is -grad L_S(w) o grad L_Q(u).
    """
    keep = float(not first_order) if isinstance(first_order, bool) else (~first_order).to(w.dtype)
    exact = isinstance(keep, Tensor) or keep > 0
    u, steps_taken = w, []
    for alpha, on in zip(step_sizes(lr, steps), step_sizes(1.0, steps), strict=True):
        g, hessian = f.linearize(u, support) if exact else (grad(f, u, support), None)
        u = u - alpha * g
        steps_taken.append((alpha, on, g, hessian))
    v = grad(f, u, query)
    rate = torch.zeros_like(v)
    for alpha, on, g, hessian in reversed(steps_taken):
        rate = rate - on * g * v
        if hessian is not None:
            v = v - keep * hessian(alpha * v)
    return v, rate
