"""Linear clients: the losses of the two papers that can be solved by hand.

``Factored``: client i has the loss |B h - theta_i|^2 / 2 of a matrix B (d, k) that all share and k numbers h, which is
its loss on infinitely many examples y = x' theta_i with x ~ N(0, I). ``LeastSquares``: mean (x' w - y)^2 / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import fmlab as fm
from fmlab.data import Clients, Examples, examples
from fmlab.declare import hyper
from fmlab.objective import Objective
from fmlab.randomness import normal


@dataclass(frozen=True)
class Matrix:
    """B with orthonormal columns and h = 0, flat: d k + k numbers."""

    d: int
    k: int

    def init(self, generator: torch.Generator) -> Tensor:
        b = torch.linalg.qr(torch.randn(self.d, self.k, generator=generator, dtype=torch.float64))[0]
        return torch.cat([b.flatten(), b.new_zeros(self.k)])


@dataclass(frozen=True)
class Factored(Objective):
    d: int
    k: int

    def parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """B (R, C, d, k) and h (R, C, k, 1) of w (R, C, P)."""
        b, h = w.split([self.d * self.k, self.k], -1)
        return b.unflatten(-1, (self.d, self.k)), h[..., None]

    def __call__(self, w: Tensor, data: Examples) -> Tensor:
        b, h = self.parts(w)
        return ((b @ h)[..., 0] - data.x[..., 0, :]).square().sum(-1) / 2

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        b, h = self.parts(w)
        e = b @ h - data.x[..., 0, :, None]
        return torch.cat([(e @ h.mT).flatten(-2), (b.mT @ e)[..., 0]], -1)


@dataclass(frozen=True)
class SharedSpan(fm.Population):
    """theta_i = B* h_i, B* (d, k) orthonormal columns, h_i ~ N(0, I); heterogeneity 0: one h for all."""

    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one h_i for all")
    d: int = hyper(100, symbol="d", low=2, high=1000, whole=True, sweepable=False, text="dimensions of x")
    k: int = hyper(5, symbol="k", low=1, high=100, whole=True, sweepable=False, text="dimensions shared")

    def span(self, seed: int) -> Tensor:
        return torch.linalg.qr(normal((self.d, self.k), "span", seed))[0]

    def draw(self, split: str, seed: int) -> Clients:
        n, who = self.count(split), "training" if split == "participating" else split
        share = self.heterogeneity
        h = share * normal((n, self.k), "heads", seed, who) + (1 - share**2) ** 0.5 * normal((self.k,), "head", seed)
        theta = (h @ self.span(seed).mT)[None, :, None]
        e = examples(theta, theta)
        return Clients(e, e, torch.ones(1, n, dtype=torch.float64))

    def model(self) -> Matrix:  # type: ignore[override]
        return Matrix(self.d, self.k)

    def objective(self, model: object = None) -> Factored:
        return Factored(self.d, self.k)


@dataclass(frozen=True)
class Zeros:
    size: int

    def init(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.size, dtype=torch.float64)


@dataclass(frozen=True)
class LeastSquares(Objective):
    def __call__(self, w: Tensor, data: Examples) -> Tensor:
        return (data.weight * ((data.x @ w[..., None]) - data.y)[..., 0].square()).sum(-1) / 2

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        e = data.x @ w[..., None] - data.y
        return (data.x.mT @ (data.weight[..., None] * e))[..., 0]

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, object]:  # type: ignore[override]
        weighted = data.x.mT * data.weight[..., None, :]
        return self.gradient(w, data), lambda v: (weighted @ (data.x @ v[..., None]))[..., 0]


@dataclass(frozen=True)
class Regressions(fm.Population):
    """y = x' theta_i + noise, x ~ N(0, I), theta_i = theta_0 + r u_i: theta_0 of length ``centre``, u_i of length 1.

    n examples in the support set and n in the query set.
    """

    d: int = hyper(100, symbol="d", low=2, high=1000, whole=True, sweepable=False, text="dimensions")
    n: int = hyper(50, symbol="n", low=1, high=10_000, whole=True, sweepable=False, text="examples a client")
    radius: float = hyper(1.0, symbol="r", low=0.0, high=10.0, text="length of theta_i - theta_0")
    noise: float = hyper(0.5, symbol="σ", low=0.0, high=10.0, text="standard deviation of the noise on y")
    centre: float = hyper(2.0, symbol="|θ_0|", low=0.0, high=10.0, text="length of theta_0")

    def thetas(self, split: str, seed: int) -> Tensor:
        """(N, d)."""
        who = "training" if split == "participating" else split
        u = torch.nn.functional.normalize(normal((self.count(split), self.d), "thetas", seed, who), dim=-1)
        middle = torch.nn.functional.normalize(normal((self.d,), "centre", seed), dim=-1)
        return self.centre * middle + self.radius * u

    def draw(self, split: str, seed: int) -> Clients:
        theta = self.thetas(split, seed)

        def sample(part: str) -> Examples:
            x = normal((len(theta), self.n, self.d), f"x {part}", seed, split)
            y = x @ theta[..., None] + self.noise * normal((len(theta), self.n, 1), f"noise {part}", seed, split)
            return examples(x[None], y[None])

        return Clients(sample("support"), sample("query"), torch.ones(1, len(theta), dtype=torch.float64))

    def model(self) -> Zeros:  # type: ignore[override]
        return Zeros(self.d)

    def objective(self, model: object = None) -> LeastSquares:
        return LeastSquares()
