"""Quadratic losses, where every fixed point has a closed form.

Client i:  f_i(w) = (w - m_i)' A_i (w - m_i) / 2  in ``dim`` dimensions. At heterogeneity h:

    m_i = (1, ..., 1) + h z_i,  z_i ~ N(0, I);      A_i = exp(h S_i),  S_i symmetric, entries sqrt(2 / dim) U[-1, 1]

h = 0: one optimum (1, ..., 1) and unit curvature for all. The spread of the optima and of log A_i is proportional to
h. Support and query hold one example each: x is the optimum, y the curvature; with ``noise`` each sees the optimum
with an error of its own. Scores are taken without noise.

Fixed points: every method's mean update is  mean_i G_i (w - m_i)  with (I - eta A_i)^K and the like inside G_i, so
the point where it stands still solves  (sum_i G_i) w = sum_i G_i m_i.  They hold with all clients in every round,
uniform weights and no noise, for step sizes at which the method converges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.data import Clients, Examples
from fmlab.declare import hyper
from fmlab.gradients import Product
from fmlab.losses import mean
from fmlab.models import Model
from fmlab.objective import Objective
from fmlab.populations.base import Population
from fmlab.populations.difference import Difference
from fmlab.randomness import normal, uniform


@dataclass(frozen=True)
class Point:
    """The model of a quadratic: a point w in ``size`` dimensions."""

    size: int

    def init(self, generator: torch.Generator) -> Tensor:
        """float64 (size,): uniform in [-3, 3]."""
        return 6 * torch.rand(self.size, generator=generator, dtype=torch.float64) - 3


@dataclass(frozen=True)
class Quadratic(Objective):
    """f(w) = sum_j weight_j (w - x_j)' y_j (w - x_j) / 2: w (R, C, d), x (R, C, n, d), y (R, C, n, d, d) -> (R, C)."""

    def __call__(self, w: Tensor, data: Examples) -> Tensor:
        away = w[..., None, :] - data.x
        return mean((away * (data.y @ away[..., None])[..., 0]).sum(-1) / 2, data.weight)

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        return self.linearize(w, data)[0]

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        curvature = data.weight[..., None, None] * data.y
        g = (curvature @ (w[..., None, :] - data.x)[..., None])[..., 0].sum(-2)
        hessian = curvature.sum(-3)
        return g, lambda v: (hessian @ v[..., None])[..., 0]


@dataclass(frozen=True)
class Quadratics(Population):
    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one quadratic for all; see the module")
    dim: int = hyper(2, symbol="d", low=1, high=100, whole=True, sweepable=False, text="dimensions of w")
    noise: float = hyper(0.0, symbol="σ", low=0.0, high=5.0, text="standard deviation of the error on an optimum")

    def losses(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """Every client's optimum m (N, d) and curvature A (N, d, d), symmetric positive definite."""
        who = "training" if split == "participating" else split
        n, d = self.count(split), self.dim
        m = 1 + self.heterogeneity * normal((n, d), "optima", seed, who)
        s = math.sqrt(2 / d) * uniform((n, d, d), -1.0, 1.0, "curvatures", seed, who)
        values, vectors = torch.linalg.eigh(s.tril() + s.tril(-1).mT)
        return m, (vectors * (self.heterogeneity * values).exp()[:, None]) @ vectors.mT

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """1 - |mean g_i|^2 / mean |g_i|^2 of the clients' gradients g_i(w), both in the mean over fresh models w. It is
        1 - 1 / B^2 with the dissimilarity B of Li et al. 2018 (1812.06127, definition 3). Without noise."""
        m, a = self.losses(split, seed)
        pull = (a @ m[..., None])[..., 0]  # g_i = A_i w - pull_i, and w uniform in [-3, 3]: E w w' = 3 I
        whole = 3 * a.square().sum((1, 2)).mean() + pull.square().sum(1).mean()
        common = 3 * a.mean(0).square().sum() + pull.mean(0).square().sum()
        what = "share of the clients' squared gradients that their mean does not have, over fresh models"
        return Difference(max(1 - float(common / whole), 0.0), what)

    def draw(self, split: str, seed: int) -> Clients:
        m, curvature = self.losses(split, seed)
        ones = m.new_ones(1, len(m), 1)

        def seen(part: str, who: str, noise: float) -> Examples:
            x = m + noise * normal((len(m), self.dim), f"noise {part}", seed, who) if noise else m
            return Examples(x[None, :, None], curvature[None, :, None], ones)

        who = "training" if split == "participating" else split
        support = seen("support", who, self.noise)
        return Clients(support, seen("query", who, self.noise if split == "training" else 0.0), 2 * ones[..., 0])

    def model(self) -> Model:
        return Point(self.dim)  # type: ignore[return-value]

    def objective(self, model: object = None) -> Quadratic:
        return Quadratic()

    def optimum(self, seed: int, split: str = "training") -> Tensor:
        """Where the mean loss is least (d,)."""
        m, a = self.losses(split, seed)
        return _still(a, m)

    def fedavg_point(self, seed: int, lr: float, local_steps: int) -> Tensor:
        """FedAvg's fixed point (d,): G = I - (I - lr A)^K. K = 1, or lr towards 0, gives the optimum."""
        m, a = self.losses("training", seed)
        eye = torch.eye(self.dim, dtype=a.dtype)
        return _still(eye - torch.linalg.matrix_power(eye - lr * a, local_steps), m)

    def fedmaml_point(self, seed: int, inner_lr: float, inner_steps: int = 1, first_order: bool = False) -> Tensor:
        """FedMAML's fixed point (d,): G = B A B with B = (I - inner_lr A)^K; first order drops one factor."""
        m, a = self.losses("training", seed)
        b = torch.linalg.matrix_power(torch.eye(self.dim, dtype=a.dtype) - inner_lr * a, inner_steps)
        return _still(a @ b if first_order else b @ a @ b, m)


def _still(g: Tensor, m: Tensor) -> Tensor:
    """w with sum_i G_i (w - m_i) = 0."""
    w: Tensor = torch.linalg.solve(g.sum(0), (g @ m[..., None]).sum(0))
    return w[:, 0]
