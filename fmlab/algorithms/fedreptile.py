"""FedReptile (Nichol et al. 2018, 1803.02999, batched form; Jiang et al. 2019, 1909.12488, as federated learning).

On client i, K times:  v <- v - eta grad f_i(v)  from v = w.  Client sends v (here as w - v, the same bytes).
Server:  w <- w + epsilon (mean v - w);  another server optimiser takes epsilon (w - mean v) as its gradient.
epsilon = 1 is FedAvg. For an unseen client: fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, weighted_mean
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import hyper
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class FedReptile(Algorithm):
    epsilon: float = hyper(0.5, symbol="ε", low=0.0, high=2.0, text="share of the way to the clients' mean model")
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

    def combine(self, f: Objective, held: Tree, sent: Tree, weight: Tensor | None) -> Tree:
        return {name: self.epsilon * t for name, t in weighted_mean(sent, weight).items()}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
