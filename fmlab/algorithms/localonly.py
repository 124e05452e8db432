"""Local only: every client trains its own model and nothing crosses the network.

On client i, in every round it takes part in, K times:  u <- u - eta grad f_i(u)  from its own u of the last time,
the first time from the server's fresh model. Client sends nothing and keeps u, its personal model. The server's model
never moves, so an unseen client starts from the fresh model and takes the same steps, also of size eta, on its support
set.
Ditto (2012.04221) at lambda = 0 keeps the same models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class LocalOnly(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "step size, on unseen clients too")
    batch_size: int | None = fields.batch_size()
    server: ClassVar[Optimiser] = SGD()  # no choice here: it is never asked to step

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {"model": w}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        u = kept["model"]
        u = f.descend(u, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps)
        return {}, {"model": u}

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor:
        return kept["model"]

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
