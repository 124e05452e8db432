"""FedProx (Li et al. 2018, 1812.06127, Alg. 2).

On client i, K times:  v <- v - eta (grad f_i(v) + mu (v - w))  from v = w: gradient steps on f_i(v) + mu/2 |v - w|^2,
with w the model as the server sent it. Client sends v (here as w - v, the same bytes). Server: the weighted mean.
mu = 0 is FedAvg. For an unseen client: fine-tuning as in FedAvg, without the proximal term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.declare import hyper
from fmlab.gradients import Objective, descend, path
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class FedProx(Algorithm):
    mu: float = hyper(0.1, symbol="μ", low=0.0, high=100.0, log=True, text="pull back to the server's model")
    local_steps: int = fields.local_steps()
    lr: float | None = fields.step_size("η", "client step size")
    adapt_lr: float | None = fields.step_size("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Server = SGD()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, None

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        v = descend(f, w, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps, pull=self.mu, to=w)
        return w - v, None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.local_steps
