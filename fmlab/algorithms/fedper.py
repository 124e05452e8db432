"""FedPer (Arivazhagan et al. 2019, 1912.00818): the clients share a body, and each keeps a head of its own.

w = (b, h), body and head: h is the last layer (``f.head``). On client i, K times, on both together, from the server's
b and its own h:  (b, h) <- (b, h) - eta grad f_i(b, h).  Client sends b (here as the change, the same bytes) and keeps
h.  Server: the weighted mean of the bodies. A participating client's personal model is the server's body with its own
head. An unseen client starts from the server's body and a fresh head, and fine-tunes both.
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
class FedPer(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        body, head = f.split(w)
        return {"model": body, "head": head}, {"head": head}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = f.join(held["model"], kept["head"])
        v = f.descend(w, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps)
        body, head = f.split(v)
        return {"model": held["model"] - body}, {"head": head}

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor:
        return f.join(held["model"], kept["head"])

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(f.join(held["model"], held["head"]), support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
