"""FedAvg (McMahan et al. 2017, 1602.05629, Alg. 1).

On client i, K times:  v <- v - eta grad f_i(v)  from v = w, on support and query together or on minibatches of them.
Client sends v (here as w - v, the same bytes). Server: the weighted mean of the models; with another server optimiser
it is FedOpt (2003.00295). FedSGD is K = 1. For an unseen client: fine-tuning, gradient steps on its support set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class FedAvg(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = held["model"]
        v = f.descend(w, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps)
        return {"model": w - v}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
