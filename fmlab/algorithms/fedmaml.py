"""FedMeta(MAML) (Chen et al. 2018, 1802.07876; Finn et al. 2017, 1703.03400).

On client i:  u <- u - alpha grad L_S(u)  from u = w, ``inner_steps`` times;  g = d/dw L_Q(u), THROUGH the steps, or
with ``first_order`` g = grad L_Q at u.  Client sends g.  Server: its optimiser steps on the mean of g.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import choice
from fmlab.objective import Objective
from fmlab.optimisers import Adam, Optimiser


@dataclass(frozen=True)
class FedMAML(Algorithm):
    inner_steps: int = fields.inner_steps()
    inner_lr: float = fields.step_size("α", "inner step size")
    first_order: bool = choice(False, (False, True), text="leave the Hessian out")
    adapt_lr: float = fields.adaptation("α'", "adaptation step size on unseen clients")
    server: Optimiser = Adam()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        inner = self.inner_lr, self.inner_steps, self.first_order
        return {"model": f.meta_gradient(held["model"], batch.support, batch.query, *inner)}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.inner_steps + 1 + (0 if self.first_order else 2 * self.inner_steps)
