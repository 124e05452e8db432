"""The rounds of federated training, for every run and client in one batch.

``rounds`` is a generator of states: a panel draws each one, stops early, or keeps the last. One round:

    sample m of N clients -> local (all at once) -> weighted mean of what they send -> server optimiser

The client sample and the minibatches of round t depend on (seed, t) alone, so every algorithm of a comparison meets
the same, and evaluation in between changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fmlab.algorithms.base import Algorithm, Kept
from fmlab.data import Batch, Clients, Examples
from fmlab.declare import spread, sweep_length
from fmlab.gradients import Objective
from fmlab.randomness import shuffled
from fmlab.servers import Moments


@dataclass(frozen=True)
class State:
    """After ``round`` rounds. ``kept`` is the engine's own buffer, updated in place for clients that took part."""

    round: int
    server: Tensor  # (R, 1, Q)
    moments: Moments
    kept: Kept  # (R, N, .)
    diverged: Tensor  # (R,) the round in which the server's or a client's kept model stopped being finite; -1: never
    bytes_per_client: int = 0  # up, in one round; float32 on the wire
    participants: Tensor | None = None  # (S, C) of the last round


def participants(seeds: tuple[int, ...], n_clients: int, per_round: int, round: int) -> Tensor:
    """Who takes part (S, C), without replacement: a function of (seed, round)."""
    if per_round == n_clients:
        return torch.arange(n_clients).expand(len(seeds), -1)
    return torch.stack([shuffled(n_clients, "participation", s, round) for s in seeds])[:, :per_round]


class Sampler:
    """Who takes part in a round and what they hold. The last round stays, for the next algorithm that asks for it."""

    def __init__(self, clients: Clients, seeds: tuple[int, ...], per_round: int) -> None:
        self.clients, self.seeds, self.per_round = clients, seeds, per_round
        self.last: tuple[Tensor, Batch] | None = None

    def __call__(self, round: int) -> tuple[Tensor, Batch]:
        """The clients (S, C) and their batch."""
        last = self.last
        if last is None or last[1].round != round:
            clients = self.clients
            ids = participants(self.seeds, clients.number, self.per_round, round).to(clients.sizes.device)
            support, query, both = clients.take(ids)
            batch = Batch(support, query, self.seeds, round, both)
            last = self.last = ids, batch
        return last


def tile(e: Examples, values: int) -> Examples:
    """The same data for every swept value: (S, C, ...) -> (values * S, C, ...)."""
    return e if values == 1 else e.map(lambda t: t.repeat(values, *([1] * (t.ndim - 1))))


@torch.no_grad()
def rounds(
    algorithm: Algorithm,
    f: Objective,
    clients: Clients,
    start: Tensor,
    *,
    seeds: tuple[int, ...],
    per_round: int,
    weights: str = "uniform",
    sampler: Sampler | None = None,
) -> Iterator[State]:
    """Yields the state before training, then after every round, without end.

    clients: training clients of S seeds; start: fresh models (S, P); weights: "uniform" or "size".
    sampler: one for all algorithms of a comparison saves drawing every round again for each.
    """
    values, device = sweep_length(algorithm), start.device
    algorithm = spread(algorithm, len(seeds), start.dtype, device)
    optimiser = algorithm.server
    w, kept = algorithm.init(start.repeat(values, 1)[:, None], clients.number)
    runs = torch.arange(len(w), device=device)[:, None]
    state = State(0, w, optimiser.init(w), kept, torch.full((len(w),), -1, device=device))
    sampler = sampler or Sampler(clients, seeds, per_round)
    while True:
        yield state
        t = state.round
        ids, batch = sampler(t)
        if values > 1:
            support, query, both = (tile(e, values) for e in (batch.support, batch.query, batch.both))
            batch = Batch(support, query, seeds, t, both)
        w, moments, mine, up = state.server, state.moments, None, state.bytes_per_client
        if kept is not None:
            theirs = runs, ids.repeat(values, 1)
            mine = kept[theirs]
        sent, mine = algorithm.local(f, w.expand(-1, per_round, -1), mine, batch)
        if kept is not None and mine is not None:
            kept[theirs] = mine
        if sent is not None:
            w, moments = optimiser.step(w, moments, average(sent, clients, ids, weights, values), t + 1)
            up = 4 * sent.shape[-1]
        ok = finite(w) if mine is None else finite(w) & finite(mine)
        diverged = torch.where(ok | (state.diverged >= 0), state.diverged, t + 1)
        state = State(t + 1, w, moments, kept, diverged, up, ids)


def finite(models: Tensor) -> Tensor:
    """Runs (R,) in which every number of the models (R, C, .) is finite."""
    return models.abs().amax((1, 2)) < torch.inf


def average(sent: Tensor, clients: Clients, ids: Tensor, weights: str, values: int) -> Tensor:
    """The mean over clients (R, C, Q) -> (R, 1, Q), uniform or by the clients' sizes."""
    if weights == "uniform":
        return sent.mean(1, keepdim=True)
    size = clients.sizes.gather(1, ids).repeat(values, 1)[..., None]
    return (sent * (size / size.sum(1, keepdim=True))).sum(1, keepdim=True)
