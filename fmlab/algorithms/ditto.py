"""Ditto (Li et al. 2021, 2012.04221, Alg. 1, with FedAvg as its global part).

Client i keeps a personal model u. On it, K times each, from v = w and from its own u of the last time:

    v <- v - eta grad f_i(v)
    u <- u - eta (grad f_i(u) + lambda (u - w)),   w the model as the server sent it, not the new one

Client sends v (here as w - v, the same bytes). Server: the weighted mean; u stays with the client.
lambda = 0 keeps the models of local-only training; the global part is FedAvg for any lambda. For an unseen client: the
steps of u on its support set, from u = w.
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
class Ditto(Algorithm):
    lam: float = hyper(
        0.1, symbol="λ", low=0.0, high=1000.0, log=True, text="pull of the personal to the server's model"
    )
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size, of both models")
    adapt_lr: float = fields.adaptation("α", "personal step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {"model": w}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w, u = held["model"], kept["model"]

        def data(k: int) -> Examples:
            return batch.minibatch(k, self.batch_size)

        v = f.descend(w, data, self.lr, self.local_steps)
        u = f.descend(u, data, self.lr, self.local_steps, pull=self.lam, to=w)
        return {"model": w - v}, {"model": u}

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor:
        return kept["model"]

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.pulled_path(held["model"], support, self.adapt_lr, steps, self.lam)

    def evaluations(self) -> int:
        return 2 * self.local_steps
