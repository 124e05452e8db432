"""FedMeta(Meta-SGD) (Chen et al. 2018, 1802.07876; Li et al. 2017, 1707.09835).

The server learns the model w and a step size for each parameter, a: two entries, twice the bytes of the rest.
On client i:  u <- u - a o grad L_S(u)  from u = w, ``inner_steps`` times (o is elementwise; the paper takes one);
dw = d/dw L_Q(u) and da = d/da L_Q(u), both through the steps.  After one step  da = - grad L_S(w) o grad L_Q(u).
Client sends (dw, da).  Server: its optimiser steps on both means.
An unseen client takes the ``inner_steps`` steps that a was learned for and stays there: a has entries far above what
descent bears, and below 0 (nothing holds them above, nor do the papers), so that further steps with it climb and end in
infinity, whatever a was at the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.objective import Objective
from fmlab.optimisers import Adam, Optimiser


@dataclass(frozen=True)
class FedMetaSGD(Algorithm):
    learned = ("model", "rates")

    inner_steps: int = fields.inner_steps()
    inner_lr: float = fields.step_size("a₀", "every learned step size at the start")
    server: Optimiser = Adam()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w, "rates": torch.ones_like(w) * self.inner_lr}, {}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w, a = held["model"], held["rates"]
        dw, da = f.meta_gradients(w, batch.support, batch.query, a, self.inner_steps)
        return {"model": dw, "rates": da}, {}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        for u in f.path(held["model"], support, held["rates"], min(steps, self.inner_steps)):
            yield u
        yield from repeat(u, steps - self.inner_steps)

    def evaluations(self) -> int:
        return 3 * self.inner_steps + 1
