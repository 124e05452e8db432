"""One round of training as others write it: learn2learn's clone/adapt loop, a plain loop over modules, and JAX.

All peers start from the same model and meet the same clients, and return the mean update, so that the benchmark can
check that everybody computed the same thing before it times them. Clients: x, y (C, n, 1); the first half of a
client's examples is its support set, the second its query set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import fmlab as fm
from fmlab.data import Batch, examples, join

SIZES = (1, 40, 40, 1)


def network(w: Tensor, sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    """The nn.Module with the parameters of an fmlab MLP, w (P,): blocks of weights (d, o), then the bias."""
    layers: list[nn.Module] = []
    at = 0
    for d, o in pairwise(sizes):
        block = w[at : at + (d + 1) * o].view(d + 1, o)
        at += (d + 1) * o
        linear = nn.Linear(d, o, dtype=w.dtype)
        linear.weight.data, linear.bias.data = block[:-1].T.clone(), block[-1].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flat(leaves: list[Tensor]) -> Tensor:
    """[(o, d), (o,), ...] -> (P,) in fmlab's order."""
    return torch.cat([leaf.T.flatten() if leaf.ndim == 2 else leaf for leaf in leaves])


def ours(w: Tensor, x: Tensor, y: Tensor, algorithm: fm.Algorithm) -> Callable[[], Tensor]:
    """fmlab's round on clients whose data stand in its own form, as in a training: the mean of what they send, (P,)."""
    half = x.shape[1] // 2
    parts = [examples(x[None, :, s], y[None, :, s]) for s in (slice(half), slice(half, None))]
    support, query = (e._replace(weight=e.weight.to(w.dtype)) for e in parts)
    f, both = fm.Sines().objective(None), join(support, query)

    @torch.no_grad()
    def round() -> Tensor:
        batch = Batch(support, query, joined=both)
        sent, _ = algorithm.local(f, {"model": w.expand(1, len(x), -1)}, {}, batch)
        return sent["model"].mean((0, 1))

    return round


def plain_fedavg(w: Tensor, x: Tensor, y: Tensor, steps: int, lr: float) -> Tensor:
    """A loop over clients, an nn.Module and torch.optim.SGD each."""
    total = torch.zeros_like(w)
    for xi, yi in zip(x, y, strict=True):
        module = network(w)
        optimiser = torch.optim.SGD(module.parameters(), lr=lr)
        for _ in range(steps):
            optimiser.zero_grad()
            mse_loss(module(xi), yi).backward()
            optimiser.step()
        total += w - flat([p.detach() for p in module.parameters()])
    return total / len(x)


def learn2learn_maml(w: Tensor, x: Tensor, y: Tensor, steps: int, lr: float, first_order: bool) -> Tensor:
    """learn2learn's documented loop: clone, adapt, backward through the adaptation."""
    from lab.install.l2l import load

    l2l = load()

    half = x.shape[1] // 2
    maml = l2l.algorithms.MAML(network(w), lr=lr, first_order=first_order)
    for xi, yi in zip(x, y, strict=True):
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(mse_loss(learner(xi[:half]), yi[:half]))
        (mse_loss(learner(xi[half:]), yi[half:]) / len(x)).backward()
    return flat([p.grad for p in maml.parameters() if p.grad is not None])


def jax_loss(w: Any, x: Any, y: Any) -> Any:
    """Mean square error of the network with parameters w (P,) in JAX."""
    import jax
    import jax.numpy as jnp

    at, h = 0, x
    for d, o in pairwise(SIZES):
        block = w[at : at + (d + 1) * o].reshape(d + 1, o)
        at += (d + 1) * o
        h = h @ block[:-1] + block[-1]
        h = jax.nn.relu(h) if at < w.size else h
    return jnp.mean((h - y) ** 2)


def jax_round(steps: int, lr: float, meta: bool, first_order: bool = False) -> Callable[[Any, Any, Any], Any]:
    """The same round in JAX: vmap over clients, jit, fori_loop over steps where no gradient goes through."""
    import jax

    slope = jax.grad(jax_loss)

    def fedavg(w: Any, x: Any, y: Any) -> Any:
        return w - jax.lax.fori_loop(0, steps, lambda _, v: v - lr * slope(v, x, y), w)

    def maml(w: Any, x: Any, y: Any) -> Any:
        half = x.shape[0] // 2

        def after(v: Any) -> Any:
            for _ in range(steps):
                g = slope(v, x[:half], y[:half])
                v = v - lr * (jax.lax.stop_gradient(g) if first_order else g)
            return jax_loss(v, x[half:], y[half:])

        return jax.grad(after)(w)

    one = maml if meta else fedavg
    return jax.jit(lambda w, x, y: jax.vmap(partial(one, w))(x, y).mean(0))  # type: ignore[no-any-return]
