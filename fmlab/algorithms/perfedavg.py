"""Per-FedAvg (Fallah et al. 2020, 2002.07948, Alg. 1), first order (FO) and Hessian-free (HF).

On client i, tau times, each time on three fresh minibatches D, D', D'' of all its examples, from v = w:

    u = v - alpha grad f(v; D),    g = grad f(u; D')
    FO:  v <- v - beta g
    HF:  v <- v - beta (g - alpha d),    d = [grad f(v + delta g; D'') - grad f(v - delta g; D'')] / (2 delta)

d is the Hessian at v (not u) times g; exact where f is quadratic. delta g has length eps^(1/3) (1 + |v|), eps the
precision of v's numbers: there rounding and truncation are about equal, whatever the length of g.
Client sends v (here as w - v, the same bytes). Server: the mean.  alpha = 0 is FedAvg on the minibatches D'.
For an unseen client: gradient steps on its support set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import choice, hyper
from fmlab.gradients import grad
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class PerFedAvg(Algorithm):
    variant: str = choice("FO", ("FO", "HF"), text="first order, or the Hessian by a difference of gradients")
    local_steps: int = hyper(5, symbol="τ", low=1, high=100, whole=True, text="meta steps a client takes a round")
    inner_lr: float = fields.step_size("α", "step size of the adaptation trained for")
    lr: float = fields.step_size("β", "client step size")
    adapt_lr: float = fields.adaptation("α'", "adaptation step size on unseen clients")
    batch_size: int | None = fields.batch_size("examples in each minibatch; None takes half of the client's")
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        alpha, v = self.inner_lr, held["model"]
        for k in range(self.local_steps):
            d1, d2, d3 = (batch.minibatch(3 * k + j, self.batch_size, share=0.5) for j in range(3))
            g = grad(f, v - alpha * grad(f, v, d1), d2)
            if self.variant == "HF":
                delta = safe_delta(v, g)
                difference = grad(f, v + delta * g, d3) - grad(f, v - delta * g, d3)
                g = g - alpha * (difference / (2 * delta))
            v = v - self.lr * g
        return {"model": held["model"] - v}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps * (4 if self.variant == "HF" else 2)


def safe_delta(v: Tensor, g: Tensor) -> Tensor:
    """delta (R, C, 1) such that a central difference along delta g is neither noise nor far from v."""
    number = torch.finfo(v.dtype)
    length = g.norm(dim=-1, keepdim=True).clamp(min=number.tiny**0.5)  # g = 0 gives d = 0
    delta: Tensor = number.eps ** (1 / 3) * (1 + v.norm(dim=-1, keepdim=True)) / length
    return delta
