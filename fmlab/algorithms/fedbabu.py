"""FedBABU (Oh et al. 2022, 2106.06042): the body is trained under a head that nobody ever moves.

w = (b, h), body and head: h is the last layer (``f.head``), the same fresh one for all. On client i, K times, from the
server's b:  b <- b - eta grad_b f_i(b, h).  Client sends b (here as the change, the same bytes). Server: the weighted
mean of the bodies. The head moves only when a client adapts: an unseen one fine-tunes body and head together.
A head that starts at zero passes no gradient to the body, which could not learn: it is refused.
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
class FedBABU(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        body, head = f.split(w)
        if not head.any():
            raise ValueError("the head starts at zero, so the body under it would never learn; use another last layer")
        return {"model": body, "head": head}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = f.join(held["model"], held["head"])
        rates = self.lr * (1 - f.head.to(w))
        v = f.descend(w, lambda k: batch.minibatch(k, self.batch_size), rates, self.local_steps)
        return {"model": held["model"] - f.split(v)[0]}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(f.join(held["model"], held["head"]), support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
