"""Scoring on clients: adapt on the support set, score on the query set, one value a client. Nothing here trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.algorithms.base import Algorithm
from fmlab.data import Batch, Clients, Tree, writes
from fmlab.engine import SHARED, tile, work
from fmlab.objective import Objective

OTHERS = 5  # clients, at most, whose query sets a personal model is scored on off its own distribution
CHUNK = 2**24  # numbers in one chunk of personal models, so that large models are scored within bounded memory


@dataclass(frozen=True)
class Scores:
    """Query loss and, for classification, share correct (R, clients, ...)."""

    loss: Tensor
    accuracy: Tensor | None


@torch.no_grad()
def evaluate(algorithm: Algorithm, f: Objective, held: Tree, clients: Clients, steps: int) -> Scores:
    """What the server holds (R, 1, .), scored on every client after 0..steps adaptation steps: (R, clients, steps + 1).

    ``algorithm`` has its sweeps already spread over the R runs.
    """
    f = algorithm.objective(f)
    runs, size = len(next(iter(held.values()))), sum(t.numel() for t in held.values())
    values = runs // len(clients.sizes)
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for chunk in _chunks(clients, size):
        whole = len(chunk) == clients.number
        support, query = clients.everyone() if whole else clients.take(chunk.expand(len(clients.sizes), -1))[:2]
        support, query = tile(support, values), tile(query, values)
        here = {name: t.expand(-1, len(chunk), -1) for name, t in held.items()}
        before = writes(support, query)
        scores = list(f.scores(algorithm.adapt(f, here, support, steps), query))
        if writes(support, query) != before:
            raise ValueError(f"{type(algorithm).__name__}.adapt {SHARED}")
        losses.append(torch.stack([s[0] for s in scores], -1))
        right = [s[1] for s in scores if s[1] is not None]
        if right:
            hits.append(torch.stack(right, -1))
    return Scores(torch.cat(losses, 1), torch.cat(hits, 1) if hits else None)


@torch.no_grad()
def personal(algorithm: Algorithm, f: Objective, held: Tree, kept: Tree, clients: Clients) -> Scores | None:
    """The models that participating clients use now, without adaptation: (R, N); None where the method has none.

    held (R, 1, .), kept (R, N, .).
    """
    f = algorithm.objective(f)
    runs, size = len(next(iter(held.values()))), sum(t.numel() for t in held.values())
    parts: list[tuple[Tensor, Tensor | None]] = []
    for chunk in _chunks(clients, size):
        theirs = {name: t[:, chunk] for name, t in kept.items()}
        models = algorithm.personal(f, {name: t.expand(-1, len(chunk), -1) for name, t in held.items()}, theirs)
        if models is None:
            return None
        _, query, _ = clients.take(chunk.expand(len(clients.sizes), -1))
        parts += f.scores([models], tile(query, runs // len(clients.sizes)))
    hits = [right for _, right in parts if right is not None]
    return Scores(torch.cat([loss for loss, _ in parts], 1), torch.cat(hits, 1) if hits else None)


@torch.no_grad()
def updated(
    algorithm: Algorithm, f: Objective, held: Tree, kept: Tree, clients: Clients, seeds: tuple[int, ...], round: int
) -> Tree:
    """What all N clients would keep (R, N, .) if all took part in this round, from held (R, 1, .), kept (R, N, .)."""
    f = algorithm.objective(f)
    runs, size = len(next(iter(held.values()))), sum(t.numel() for t in held.values())
    parts = []
    for chunk in _chunks(clients, 4 * size):  # a step holds more than a score
        places = chunk.expand(len(seeds), -1)
        support, query, both = (tile(e, runs // len(seeds)) for e in clients.take(places))
        batch = Batch(support, query, seeds, round, clients.called(places), joined=both)
        parts.append(work(algorithm, f, held, {name: t[:, chunk] for name, t in kept.items()}, batch)[1])
    return {name: torch.cat([part[name] for part in parts], 1) for name in kept}


@torch.no_grad()
def elsewhere(
    algorithm: Algorithm, f: Objective, held: Tree, kept: Tree, clients: Clients, steps: int
) -> Scores | None:
    """The models that participating clients use, on query sets of other clients: (R, N), for each the mean over
    ``OTHERS`` of them, evenly far along the clients' order. None where there is one client alone.

    A client uses its own model where the method has such, else the server's after ``steps`` steps on its support set.
    held (R, 1, .), kept (R, N, .); ``algorithm`` has its sweeps already spread over the R runs.
    """
    f, n = algorithm.objective(f), clients.number
    number = min(OTHERS, n - 1)
    runs, size = len(next(iter(held.values()))), sum(t.numel() for t in held.values())
    values, seeds = runs // len(clients.sizes), len(clients.sizes)
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    for chunk in _chunks(clients, size) if number else ():
        here = {name: t.expand(-1, len(chunk), -1) for name, t in held.items()}
        models = algorithm.personal(f, here, {name: t[:, chunk] for name, t in kept.items()})
        if models is None:
            support = tile(clients.take(chunk.expand(seeds, -1))[0], values)
            *_, models = algorithm.adapt(f, here, support, steps)
        others = [(chunk + 1 + j * (n - 1) // number) % n for j in range(number)]
        queries = (tile(clients.take(other.expand(seeds, -1))[1], values) for other in others)
        scores = [next(iter(f.scores([models], query))) for query in queries]
        losses.append(torch.stack([loss for loss, _ in scores]).mean(0))
        right = [share for _, share in scores if share is not None]
        if right:
            hits.append(torch.stack(right).mean(0))
    return Scores(torch.cat(losses, 1), torch.cat(hits, 1) if hits else None) if losses else None


def current(
    algorithm: Algorithm, f: Objective, held: Tree, kept: Tree, clients: Clients, seeds: tuple[int, ...], round: int
) -> Tree:
    """What ``Algorithm.personal`` is to see: what clients kept, or ``updated`` where the method says so."""
    return updated(algorithm, f, held, kept, clients, seeds, round) if algorithm.updates_all() else kept


def _chunks(clients: Clients, size: int) -> Iterator[Tensor]:
    """Clients by their places, as many at once as have room when each needs ``size`` numbers beside its examples, which
    are looked up, passed through a layer and back."""
    x, shape = clients.support.x, (clients.support.x if clients.bank is None else clients.bank[None, None]).shape[3:]
    each = size + 4 * (x.shape[2] + clients.query.x.shape[2]) * shape.numel()
    return iter(torch.arange(clients.number, device=clients.sizes.device).split(max(1, CHUNK // each)))
