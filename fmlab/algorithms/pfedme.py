"""pFedMe (T. Dinh et al. 2020, 2006.08848, Alg. 1).

On client i, R times, from v = theta = w, each time on one minibatch:

    theta <- theta - alpha (grad f_i(theta) + lambda (theta - v)), K times:  theta ~ argmin f_i + lambda/2 |theta - v|^2
    v <- v - eta lambda (v - theta)

theta goes on from where it was, as in the authors' code. Client sends v (here as w - v, the same bytes) and keeps
theta, its personal model, which is not v. In Alg. 1 all clients do so in every round, and only the mean is of a sample;
here, as in practice, only the sample does. ``study.personal``: with ``everyone`` Alg. 1's theta, of all clients from
the server's last model; without, the theta that each client kept when it was last asked, from an older model, or from
the fresh one where it never was. Training is the same.
Server:  w <- (1 - beta) w + beta mean v;  another server optimiser takes beta (w - mean v) as its gradient.
For an unseen client: the theta steps on its support set, with v = w.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fmlab.algorithms import fields
from fmlab.algorithms.base import Algorithm, weighted_mean
from fmlab.data import Batch, Examples, Tree
from fmlab.declare import choice, hyper
from fmlab.objective import Objective
from fmlab.optimisers import SGD, Optimiser


@dataclass(frozen=True)
class PFedMe(Algorithm):
    lam: float = hyper(15.0, symbol="λ", low=0.0, high=1000.0, log=True, text="pull of the personal to the local model")
    beta: float = hyper(1.0, symbol="β", low=0.0, high=4.0, text="share of the way to the clients' mean model")
    local_rounds: int = hyper(5, symbol="R", low=1, high=100, whole=True, text="steps of the local model a round")
    inner_steps: int = hyper(5, symbol="K", low=1, high=100, whole=True, text="steps of the personal model to each")
    inner_lr: float = fields.step_size("α", "step size of the personal model")
    lr: float = fields.step_size("η", "step size of the local model")
    adapt_lr: float = fields.adaptation("α'", "personal step size on unseen clients")
    batch_size: int | None = fields.batch_size("examples in each minibatch; None takes all the client has")
    everyone: bool = choice(True, (True, False), text="personal models of all clients now, not of those asked last")
    server: Optimiser = SGD()

    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        return {"model": w}, {"model": w}

    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        v = theta = held["model"]
        for r in range(self.local_rounds):
            data = batch.minibatch(r, self.batch_size)
            theta = f.descend(theta, data, self.inner_lr, self.inner_steps, pull=self.lam, to=v)
            v = v - self.lr * self.lam * (v - theta)
        return {"model": held["model"] - v}, {"model": theta}

    def combine(self, f: Objective, held: Tree, sent: Tree, weight: Tensor | None) -> Tree:
        return {name: self.beta * t for name, t in weighted_mean(sent, weight).items()}

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor:
        return kept["model"]

    def updates_all(self) -> bool:
        return self.everyone

    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        return f.pulled_path(held["model"], support, self.adapt_lr, steps, self.lam)

    def evaluations(self) -> int:
        return self.local_rounds * self.inner_steps
