"""Local only: every client trains its own model and nothing crosses the network.

On client i, in every round it takes part in, K times:  u <- u - eta grad f_i(u)  from its own u of the last time,
the first time from the server's fresh model. Client sends nothing and keeps u. The server's model never moves, so an
unseen client starts from the fresh model and takes the same steps on its support set: eta is its adaptation step too.
Ditto (2012.04221) at lambda = 0 keeps the same models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, Kept, Sent
from fmlab.data import Batch, Examples
from fmlab.gradients import Objective, descend, path
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class LocalOnly(Algorithm):
    local_steps: int = fields.local_steps()
    adapt_lr: float | None = fields.step_size("η", "step size, on unseen clients too")
    batch_size: int | None = fields.batch_size()
    server: ClassVar[Server] = SGD()  # no choice here: it is never asked to step

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, w.repeat(1, n_clients, 1)

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        u = w if kept is None else kept
        return None, descend(f, u, lambda k: batch.minibatch(k, self.batch_size), self.adapt_lr, self.local_steps)

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        return path(f, w, support, self.adapt_lr, steps)

    def evaluations(self) -> Any:
        return self.local_steps
