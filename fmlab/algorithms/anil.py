"""ANIL, "almost no inner loop" (Raghu et al. 2020, 1909.09157), as federated learning.

FedMeta(MAML) whose inner steps move the last layer alone, mask s = 1 on the head (``f.head``) and 0 on the body.
On client i:  u <- u - alpha s o grad L_S(u)  from u = w, ``inner_steps`` times;  g = d/dw L_Q(u), THROUGH the steps, or
with ``first_order`` g = grad L_Q at u: of body and head alike.  Client sends g.  Server: its optimiser steps on the
mean of g. An unseen client takes its steps on the head alone. With s = 1 everywhere it is FedMAML.
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
class ANIL(Algorithm):
    inner_steps: int = fields.inner_steps()
    inner_lr: float = fields.step_size("α", "inner step size of the head")
    first_order: bool = choice(False, (False, True), text="leave the Hessian out")
    adapt_lr: float = fields.adaptation("α'", "step size of the head on unseen clients")
    server: Optimiser = Adam()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        f.split(w)  # raises where the model has no head
        return {"model": w}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w = held["model"]
        inner = self.inner_lr * f.head.to(w), self.inner_steps, self.first_order
        return {"model": f.meta_gradient(w, batch.support, batch.query, *inner)}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        w = held["model"]
        return f.path(w, support, self.adapt_lr * f.head.to(w), steps)

    def evaluations(self) -> int:
        return self.inner_steps + 1 + (0 if self.first_order else 2 * self.inner_steps)
