"""What the lesson on theory measures with: slopes, an angle between two spans, a resting point, a run's server models.

The first three are exercises there, so that the lesson imports them from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

import fmlab as fm
from fmlab.setup import prepare


def slope(x: Tensor | Sequence[float], y: Tensor | Sequence[float]) -> float:
    """The slope of log y over log x, by least squares: -1 where y falls like 1 / x. x and y (n,), n >= 2, all > 0."""
    a, b = (torch.as_tensor(t, dtype=torch.float64).log() for t in (x, y))
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())


def angle(one: Tensor, other: Tensor) -> Tensor:
    """The sine of the largest angle between the columns' spans, (..., d, k) both, in [0, 1]: 0 where they are one
    span, 1 where a direction of ``other`` stands at right angles to ``one``."""
    p, q = (torch.linalg.qr(t)[0] for t in (one, other))
    return torch.linalg.matrix_norm(q - p @ (p.mT @ q), ord=2)


def perfedavg_point(m: Tensor, g: Tensor, beta: float, tau: int) -> Tensor:
    """Where exact Per-FedAvg with ``tau`` local steps of ``beta`` rests, (d,): minima m (N, d), and g (N, d, d) with
    the gradient g_i (w - m_i) of the clients' loss after their inner step. All clients take part in every round."""
    eye = torch.eye(m.shape[1], dtype=m.dtype)
    moved = eye - torch.linalg.matrix_power(eye - beta * g, tau)
    w: Tensor = torch.linalg.solve(moved.sum(0), (moved @ m[..., None]).sum(0))[:, 0]
    return w


def track(method: fm.Algorithm, clients: fm.Population, rounds: int, seed: int = 0) -> Tensor:
    """The server's models (rounds + 1, P) of one run in which every client takes part in every round."""
    setup = prepare([method], clients, seeds=[seed], clients_per_round=clients.n_clients)
    with torch.no_grad():
        return torch.stack([state.held["model"][0, 0] for state in islice(setup.run(method), rounds + 1)])
