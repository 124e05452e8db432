"""FedMeta(Meta-SGD) (Chen et al. 2018, 1802.07876; Li et al. 2017, 1707.09835).

The server learns the model w and a step size for each parameter, a; its tensor is (w, a), twice the bytes of the rest.
On client i:  u <- u - a o grad L_S(u)  from u = w, ``inner_steps`` times (o is elementwise; the paper takes one);
dw = d/dw L_Q(u) and da = d/da L_Q(u), both through the steps.  After one step  da = - grad L_S(w) o grad L_Q(u).
Client sends (dw, da).  Server: its optimiser steps on both means.  An unseen client takes its steps with the learned a.
Nothing holds a above 0: the papers do not either, and a negative entry climbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.gradients import Objective, meta_grads, path
from fmlab.servers import Adam, Server


@dataclass(frozen=True)
class FedMetaSGD(Algorithm):
    inner_steps: int = fields.inner_steps()
    inner_lr: float | None = fields.step_size("a₀", "every learned step size at the start")
    server: Server = Adam()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        a: Any = self.inner_lr
        return torch.cat([w, torch.ones_like(w) * a], -1), None

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        w, a = w.chunk(2, -1)
        return torch.cat(meta_grads(f, w, batch.support, batch.query, a, self.inner_steps), -1), None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        w, a = w.chunk(2, -1)
        return path(f, w, support, a, steps)

    def evaluations(self) -> Any:
        return 3 * self.inner_steps + 1
