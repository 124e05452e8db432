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

from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.declare import hyper
from fmlab.gradients import Objective, descend, path
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class FedAvg(Algorithm):
    local_steps: int = hyper(5, symbol="K", low=1, high=100, whole=True, text="gradient steps a client takes a round")
    lr: float | None = hyper(None, symbol="η", low=0.0, high=10.0, log=True, optional=True, text="client step size")
    adapt_lr: float | None = hyper(
        None, symbol="α", low=0.0, high=10.0, log=True, optional=True, text="fine-tuning step size on unseen clients"
    )
    batch_size: int | None = hyper(
        None, symbol="B", low=1, high=10**6, whole=True, optional=True, sweepable=False,
        text="examples a local step; None takes all the client has",
    )  # fmt: skip
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
