"""FedProx (Li et al. 2018, 1812.06127, Alg. 2).

On client i, K times:  v <- v - eta (grad f_i(v) + mu (v - w))  from v = w: gradient steps on f_i(v) + mu/2 |v - w|^2,
with w the model as the server sent it. Client sends v (here as w - v, the same bytes). Server: the weighted mean.
mu = 0 is FedAvg. For an unseen client: fine-tuning as in FedAvg, without the proximal term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import hyper
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class FedProx(Algorithm):
    mu: float = hyper(0.1, symbol="μ", low=0.0, high=100.0, log=True, text="pull back to the server's model")
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = held["model"]

        def data(k: int) -> Examples:
            return batch.minibatch(k, self.batch_size)

        v = f.descend(w, data, self.lr, self.local_steps, pull=self.mu, to=w)
        return {"model": w - v}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
