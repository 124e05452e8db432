"""Sine regression (Finn et al. 2017, 1703.03400, section 5.1).

Client i: y = A_i sin(x - phi_i), x uniform on [-5, 5]. At heterogeneity h, with a_i ~ U[0.1, 5] and p_i ~ U[0, pi]:

    A_i = 2.55 + h (a_i - 2.55),    phi_i = pi/2 + h (p_i - pi/2)

h = 1 is exactly the published distribution; h = 0 gives every client the mean curve, y = 2.55 sin(x - pi/2). The
spread of both parameters is proportional to h. The points x are each client's own at every h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fmlab.data import Clients, Examples, examples
from fmlab.declare import hyper
from fmlab.losses import SquaredError
from fmlab.models import MLP, Model
from fmlab.objective import Empirical
from fmlab.populations.base import Population
from fmlab.populations.difference import Difference
from fmlab.randomness import normal, uniform


@dataclass(frozen=True)
class Sines(Population):
    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one curve for all; 1: Finn et al. 2017")
    support: int = hyper(10, symbol="n_S", low=1, high=1000, whole=True, text="examples a client adapts on")
    query: int = hyper(
        10, symbol="n_Q", low=1, high=1000, whole=True, text="examples a client is scored on in training"
    )
    test: int = hyper(25, symbol="n_T", low=1, high=10000, whole=True, text="examples an unseen client is scored on")
    noise: float = hyper(0.0, symbol="σ", low=0.0, high=5.0, text="standard deviation of the noise on training targets")

    def curves(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """Amplitude and phase of every client (N, 1)."""
        who = "training" if split == "participating" else split
        u = uniform((self.count(split), 2), 0.0, 1.0, "sines", seed, who)
        amplitude = 2.55 + self.heterogeneity * 4.9 * (u[:, :1] - 0.5)
        phase = math.pi / 2 + self.heterogeneity * math.pi * (u[:, 1:] - 0.5)
        return amplitude, phase

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """The share of the curves' variance, over clients and points, that is between clients at the same point:
        E_x Var_i f_i(x) / Var f. Exact for these clients, without noise; f_i = a_i sin x + b_i cos x."""
        amplitude, phase = self.curves(split, seed)
        a, b = amplitude * phase.cos(), -amplitude * phase.sin()
        shared = math.sin(10) / 10  # E sin^2 x = (1 - shared) / 2 and E cos^2 x = (1 + shared) / 2 on [-5, 5]

        def power(of_a: Tensor, of_b: Tensor) -> float:
            return float(of_a * (1 - shared) + of_b * (1 + shared)) / 2

        whole = power(a.square().mean(), b.square().mean()) - float(b.mean() * math.sin(5) / 5) ** 2
        between = power(a.var(correction=0), b.var(correction=0))
        return Difference(between / whole, "share of the curves' variance that is between clients at the same point")

    def draw(self, split: str, seed: int) -> Clients:
        amplitude, phase = self.curves(split, seed)
        n = self.count(split)

        def points(number: int, who: str, part: str) -> Examples:
            x = uniform((n, number), -5.0, 5.0, f"sines {part}", seed, who)
            y = amplitude * (x - phase).sin()
            if self.noise and part != "test":
                y = y + self.noise * normal((n, number), f"sines noise {part}", seed, who)
            return examples(x[None, :, :, None], y[None, :, :, None])

        who = "training" if split == "participating" else split
        query = points(self.query, who, "query") if split == "training" else points(self.test, split, "test")
        support = points(self.support, who, "support")
        return Clients(support, query, support.weight.new_full((1, n), self.support + self.query))

    def model(self) -> Model:
        """Finn et al.'s network, 1-40-40-1 with ReLU: 1,761 parameters."""
        return MLP((1, 40, 40, 1))

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), SquaredError())
