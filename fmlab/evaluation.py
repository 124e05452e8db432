"""Scoring on clients: adapt on the support set, score on the query set, one value a client. Nothing here trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.algorithms.base import Algorithm
from fmlab.data import Clients
from fmlab.engine import tile
from fmlab.gradients import Objective

CHUNK = 2**26  # numbers in one chunk of personal models, so that large models are scored within bounded memory


@dataclass(frozen=True)
class Scores:
    """After 0..steps adaptation steps: query loss and, for classification, share correct (R, clients, steps + 1)."""

    loss: Tensor
    accuracy: Tensor | None


@torch.no_grad()
def evaluate(algorithm: Algorithm, f: Objective, server: Tensor, clients: Clients, steps: int) -> Scores:
    """Score ``server`` (R, 1, Q) on every client. ``algorithm`` has its sweeps already spread over the R runs."""
    values = len(server) // len(clients.sizes)
    per = max(1, CHUNK // server.numel())
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for first in range(0, clients.number, per):
        ids = torch.arange(first, min(first + per, clients.number), device=server.device)
        whole = per >= clients.number
        support, query = clients.everyone() if whole else clients.take(ids.expand(len(clients.sizes), -1))[:2]
        support, query = tile(support, values), tile(query, values)
        w = server.expand(-1, len(ids), -1)
        scores = list(f.scores(algorithm.adapt(f, w, support, steps), query))
        losses.append(torch.stack([s[0] for s in scores], -1))
        right = [s[1] for s in scores if s[1] is not None]
        if right:
            hits.append(torch.stack(right, -1))
    return Scores(torch.cat(losses, 1), torch.cat(hits, 1) if hits else None)


@torch.no_grad()
def personal(f: Objective, kept: Tensor, clients: Clients) -> Tensor:
    """Query loss (R, N) of models that are the clients' own already (R, N, P), without adaptation."""
    values, per = len(kept) // len(clients.sizes), max(1, CHUNK // (len(kept) * kept.shape[-1]))
    parts = []
    for first in range(0, clients.number, per):
        ids = torch.arange(first, min(first + per, clients.number), device=kept.device)
        _, query, _ = clients.take(ids.expand(len(clients.sizes), -1))
        parts.append(f(kept[:, ids], tile(query, values)))
    return torch.cat(parts, 1)
