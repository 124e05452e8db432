"""FedRep (Collins et al. 2021, 2102.07078, Alg. 1): a shared body, own heads, trained one after the other.

w = (b, h), body and head: h is the last layer (``f.head``). On client i, from the server's b and its own h:

    h <- h - eta grad_h f_i(b, h), ``head_steps`` times,  then  b <- b - eta grad_b f_i(b, h), ``local_steps`` times

Client sends b (here as the change, the same bytes) and keeps h. Server: the weighted mean of the bodies. A
participating client's personal model is the server's body with its own head. An unseen client fits a fresh head to
the server's body, which stays as it is.
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
class FedRep(Algorithm):
    head_steps: int = hyper(
        5, symbol="τ", low=1, high=100, whole=True, text="steps of the head before those of the body"
    )
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size, of head and body")
    adapt_lr: float = fields.adaptation("α", "step size of the head on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        body, head = f.split(w)
        return {"model": body, "head": head}, {"head": head}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = f.join(held["model"], kept["head"])
        moves, first = f.head.to(w), self.head_steps

        def head_data(k: int) -> Examples:
            return batch.minibatch(k, self.batch_size)

        def body_data(k: int) -> Examples:
            return batch.minibatch(first + k, self.batch_size)

        w = f.descend(w, head_data, self.lr * moves, first)
        w = f.descend(w, body_data, self.lr * (1 - moves), self.local_steps)
        body, head = f.split(w)
        return {"model": held["model"] - body}, {"head": head}

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor:
        return f.join(held["model"], kept["head"])

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        w = f.join(held["model"], held["head"])
        return f.path(w, support, self.adapt_lr * f.head.to(w), steps)

    def evaluations(self) -> int:
        return self.head_steps + self.local_steps
