"""FedReptile (Nichol et al. 2018, 1803.02999, batched form; Jiang et al. 2019, 1909.12488, as federated learning).

On client i, K times:  v <- v - eta grad f_i(v)  from v = w.  Client sends v.  Server:  w <- w + epsilon (mean v - w).
epsilon is folded into what is sent, epsilon (w - v), the same bytes: with the default server that is the line above,
and epsilon = 1 is FedAvg; another server optimiser takes it as its gradient. For an unseen client: fine-tuning.
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
class FedReptile(Algorithm):
    epsilon: float = hyper(0.5, symbol="ε", low=0.0, high=2.0, text="share of the way to the clients' mean model")
    local_steps: int = fields.local_steps()
    lr: float | None = fields.step_size("η", "client step size")
    adapt_lr: float | None = fields.step_size("α", "fine-tuning step size on unseen clients")
    batch_size: int | None = fields.batch_size()
    server: Server = SGD()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, None

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        v = descend(f, w, lambda k: batch.minibatch(k, self.batch_size), self.lr, self.local_steps)
        return self.epsilon * (w - v), None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.local_steps
