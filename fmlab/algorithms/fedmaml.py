"""FedMeta(MAML) (Chen et al. 2018, 1802.07876; Finn et al. 2017, 1703.03400).

On client i:  u <- u - alpha grad L_S(u)  from u = w, ``inner_steps`` times;  g = d/dw L_Q(u), THROUGH the steps, or
with ``first_order`` g = grad L_Q at u.  Client sends g.  Server: its optimiser steps on the mean of g.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.declare import choice
from fmlab.gradients import Objective, meta_grad, path
from fmlab.servers import Adam, Server


@dataclass(frozen=True)
class FedMAML(Algorithm):
    inner_steps: int = fields.inner_steps()
    inner_lr: float | None = fields.step_size("α", "inner step size")
    first_order: bool = choice(False, (False, True), text="leave the Hessian out")
    adapt_lr: float | None = fields.step_size("α'", "adaptation step size on unseen clients")
    server: Server = Adam()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, None

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        return meta_grad(f, w, batch.support, batch.query, self.inner_lr, self.inner_steps, self.first_order), None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.inner_steps + 1 + 2 * self.inner_steps * (1 - self.first_order * 1)
