"""FedAvg (McMahan et al. 2017, 1602.05629, Alg. 1).

On client i, K times:  v <- v - eta grad f_i(v)  from v = w, on support and query together or on minibatches of them.
Client sends v (here as w - v, the same bytes). Server: the weighted mean of the models; with another server optimiser
it is FedOpt (2003.00295). FedSGD is K = 1. For an unseen client: fine-tuning, gradient steps on its support set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.gradients import Objective, descend, path
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class FedAvg(Algorithm):
    local_steps: int = fields.local_steps()
    lr: float | None = fields.step_size("η", "client step size")
    adapt_lr: float | None = fields.step_size("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Server = SGD()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, None

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        v = descend(f, w, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps)
        return w - v, None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.local_steps
