"""pFedMe (T. Dinh et al. 2020, 2006.08848, Alg. 1).

On client i, R times, from v = theta = w, each time on one minibatch:

    theta <- theta - alpha (grad f_i(theta) + lambda (theta - v)), K times:  theta ~ argmin f_i + lambda/2 |theta - v|^2
    v <- v - eta lambda (v - theta)

theta goes on from where it was, as in the authors' code. Client sends v and keeps theta, its personal model, which is
not v.  Server:  w <- (1 - beta) w + beta mean v,  with beta folded into what is sent, beta (w - v), the same bytes.
For an unseen client: the theta steps on its support set, with v = w.
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
from fmlab.gradients import Objective, descend, step_sizes
from fmlab.servers import SGD, Server


@dataclass(frozen=True)
class PFedMe(Algorithm):
    lam: float = hyper(15.0, symbol="λ", low=0.0, high=1000.0, log=True, text="pull of the personal to the local model")
    beta: float = hyper(1.0, symbol="β", low=0.0, high=4.0, text="share of the way to the clients' mean model")
    local_rounds: int = hyper(5, symbol="R", low=1, high=100, whole=True, text="steps of the local model a round")
    inner_steps: int = hyper(5, symbol="K", low=1, high=100, whole=True, text="steps of the personal model to each")
    inner_lr: float | None = fields.step_size("α", "step size of the personal model")
    lr: float | None = fields.step_size("η", "step size of the local model")
    adapt_lr: float | None = fields.step_size("α'", "personal step size on unseen clients")
    batch_size: int | None = fields.batch_size("examples in each minibatch; None takes all the client has")
    server: Server = SGD()

    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        return w, w.repeat(1, n_clients, 1)

    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        eta: Any = self.lr
        v = theta = w
        for r, on in enumerate(step_sizes(1.0, self.local_rounds)):  # on: 0 once a swept run has had its rounds
            data = batch.minibatch(r, self.batch_size)
            theta = descend(f, theta, data, on * self.inner_lr, self.inner_steps, pull=self.lam, to=v)
            v = v - on * eta * self.lam * (v - theta)
        return self.beta * (w - v), theta

    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        theta = w
        yield theta
        for _ in range(steps):
            theta = descend(f, theta, support, self.adapt_lr, 1, pull=self.lam, to=w)
            yield theta

    def evaluations(self) -> Any:
        return self.local_rounds * self.inner_steps
