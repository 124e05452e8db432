"""SCAFFOLD (Karimireddy et al. 2020, 1910.06378, Alg. 1 with option II).

Client i keeps a control variate c_i, the server c, their mean over all N clients; all start at 0. On client i, K times:

    v <- v - eta (grad f_i(v) - c_i + c)  from v = w,        then  c_i' = c_i - c + (w - v) / (K eta)

which is the mean of the K gradients that it met, and is computed as that, so that eta = 0 is no division by zero.
Client sends v (here as w - v, the same bytes) and c_i' - c_i, twice FedAvg's bytes, both ways. Server: the mean of the
models;  c <- c + (m / N) mean(c_i' - c_i)  for the m clients that answered, so that c stays the mean of all c_i (by the
same weights as the mean of the models). For an unseen client, which has no c_i yet: fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Examples, Tree
from fmlab.gradients import grad
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class Scaffold(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float = fields.step_size("η", "client step size")
    adapt_lr: float = fields.adaptation("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        control = torch.zeros_like(w)
        return {"model": w, "control": control}, {"control": control}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        w, c, own = held["model"], held["control"], kept["control"]
        v, total = w, torch.zeros_like(w)
        for k in range(self.local_steps):
            g = grad(f, v, batch.minibatch(k, self.batch_size))
            v = v - self.lr * (g - own + c)
            total = total + g
        new = total / self.local_steps
        return {"model": w - v, "control": new - own}, {"control": new}

    def absorb(self, held: Tree, mean: Tree, share: float | Tensor) -> Tree:
        return held | {"control": held["control"] + share * mean["control"]}

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.path(held["model"], support, self.adapt_lr, steps)

    def evaluations(self) -> int:
        return self.local_steps
