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

from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.declare import hyper
from fmlab.gradients import Objective, descend, path
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class FedReptile(Algorithm):
    epsilon: float = hyper(0.5, symbol="ε", low=0.0, high=2.0, text="share of the way to the clients' mean model")
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
        return self.epsilon * (w - v), None

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.local_steps
