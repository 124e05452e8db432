"""Gradients of every client's loss at once, and gradients through gradient steps.

A loss ``f(w, *data)`` maps models w (R, C, P) to losses (R, C). No two clients share a row of w, so the gradient of
the sum is every client's own gradient. ``grad`` nests, so the meta-gradient can be written as in the paper::

    grad(lambda v, *_: f(v - alpha * grad(f, v, support), query), w)

``meta_grads`` computes the same without the long graph, for any number of inner steps u_{k+1} = u_k - alpha g(u_k)::

    v_K = grad f(u_K; query),    v_k = v_{k+1} - H(u_k) (alpha v_{k+1}),    H = Hessian of f(.; support)

which is exact (Finn et al. 2017, 1703.03400, eq. 1 for K = 1); dropping H is first-order MAML.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from fmlab.data import Examples

Product = Callable[[Tensor], Tensor]
StepSize = float | Tensor  # one for all, one a run (R, 1, 1), or one for each parameter (..., P)


class Smooth(Protocol):
    """What these functions ask of an objective; ``fmlab.objective`` has it."""

    def __call__(self, w: Tensor, data: Examples) -> Tensor: ...

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]: ...

    def meta_gradient(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
    ) -> Tensor: ...


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


def meta_grad(
    f: Smooth, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
) -> Tensor:
    """Gradient (R, C, P) of the query loss after ``steps`` inner steps of size lr on the support set, with respect to
    w. ``first_order`` leaves the Hessian out. Source: module docstring."""
    return f.meta_gradient(w, support, query, lr, steps, first_order)


def meta_grads(
    f: Smooth, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
) -> tuple[Tensor, Tensor]:
    """As ``meta_grad``, and beside it the gradient with respect to lr (elementwise): two (R, C, P).

    For lr: Li et al. 2017 (1707.09835), whose one-step case is -grad L_S(w) o grad L_Q(u).
    """
    u, taken = w, []
    for _ in range(steps):
        g, hessian = (grad(f, u, support), None) if first_order else f.linearize(u, support)
        u = u - lr * g
        taken.append((g, hessian))
    v = grad(f, u, query)
    rate = torch.zeros_like(v)
    for g, hessian in reversed(taken):
        rate = rate - g * v
        if hessian is not None:
            v = v - hessian(lr * v)
    return v, rate
