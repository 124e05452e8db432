"""The rounds of federated training, for every run and client in one batch.

``rounds`` is a generator of states: a panel draws each one, stops early, or keeps the last. One round:

    sample m of N clients -> work (all at once) -> transforms of what they send -> serve: mean, server optimiser

``work`` is the clients' half and ``serve`` the server's, so that real nodes can call the same two. Who takes part, who
does not answer and the minibatches of round t depend on (seed, t, client) alone, so every algorithm of a comparison
meets the same, and evaluation in between changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fmlab.algorithms.base import Algorithm, weighted_mean
from fmlab.data import Batch, Clients, Examples, Tree, writes
from fmlab.declare import spread, sweep_length
from fmlab.means import Mean
from fmlab.objective import Objective
from fmlab.optimisers import Moments
from fmlab.randomness import fraction, number, numbered, scattered, shuffled
from fmlab.transforms import Transformation, on_the_wire

SHARED = "writes into its clients' examples, which all methods share; write into a copy: examples.map(torch.clone)"
Transform = Callable[[Tree, Batch], Tree]  # of what clients send (R, C, .), each client's by itself


@dataclass(frozen=True)
class State:
    """After ``round`` rounds; a value, which nothing changes. What clients keep stands in the run's ``Store``."""

    round: int
    held: Tree  # (R, 1, .)
    moments: dict[str, Moments]  # the optimiser's, for each entry of ``held`` that is learned
    diverged: Tensor  # (R,) the round in which the server's or a client's kept model stopped being finite; -1: never
    heard: Tensor  # (R,) rounds in which at least one client answered, int64
    answers: Tensor  # (R,) answers so far, one a client and round, int64
    up: int = 0  # bytes of one answer, float32 on the wire, over all exchanges of a round
    down: int = 0  # bytes to one client in a round
    participants: Tensor | None = None  # (S, C) who was asked in the last round


class Store:
    """What N clients keep between rounds: named tensors (R, N, .). The one thing of a run that changes in place."""

    def __init__(self, kept: Tree | None = None) -> None:
        """kept: of all N clients, as an earlier run left it; it is copied."""
        self.kept = None if kept is None else {name: t.clone() for name, t in kept.items()}

    def fill(self, kept: Tree, n: int) -> None:
        """The same for all n clients, from (R, 1, .), unless it is filled already."""
        if self.kept is None:
            self.kept = {name: t.expand(-1, n, -1).clone() for name, t in kept.items()}

    def take(self, places: Tensor) -> Tree:
        """Of the clients at these places (R, C)."""
        runs = torch.arange(len(places), device=places.device)[:, None]
        return {name: t[runs, places] for name, t in (self.kept or {}).items()}

    def put(self, places: Tensor, kept: Tree) -> None:
        runs = torch.arange(len(places), device=places.device)[:, None]
        for name, t in (self.kept or {}).items():
            t[runs, places] = kept[name]


def in_turn(n: int, seed: int, round: int) -> Tensor:
    """All n clients (n,) in the order in which they are asked in a round, until enough take part."""
    return shuffled(n, "participation", seed, round)


def participants(seeds: tuple[int, ...], n_clients: int, per_round: int, round: int) -> Tensor:
    """Who takes part (S, C), without replacement: a function of (seed, round)."""
    if per_round == n_clients:
        return torch.arange(n_clients).expand(len(seeds), -1)
    return torch.stack([in_turn(n_clients, s, round) for s in seeds])[:, :per_round]


def turnout(seeds: tuple[int, ...], n_clients: int, per_round: int, round: int) -> Tensor:
    """How many take part (S,) where each client by itself does with probability per_round / n_clients."""
    key = torch.tensor([number("poisson", s, round) for s in seeds])[:, None]
    return (fraction(scattered(numbered(torch.arange(n_clients)) + key)) < per_round / n_clients).sum(1)


def sampled(
    seeds: tuple[int, ...], n_clients: int, per_round: int, round: int, sampling: str
) -> tuple[Tensor, Tensor | None]:
    """Places (S, C) of those who are asked, and which of them take part; None: all.

    sampling "fixed": per_round of them. "poisson": each by itself with probability per_round / n_clients, which is as
    many of a random order as ``turnout`` says; C is the largest of these numbers over the seeds, and at least 1.
    """
    if sampling == "fixed":
        return participants(seeds, n_clients, per_round, round), None
    come = turnout(seeds, n_clients, per_round, round)
    most = max(1, int(come.max()))
    places = torch.stack([in_turn(n_clients, s, round) for s in seeds])[:, :most]
    return places, torch.arange(most) < come[:, None]


def answers(seeds: tuple[int, ...], ids: Tensor, round: int, dropout: float) -> Tensor:
    """Which of the clients ids (S, C) answer: each fails with probability ``dropout``, by (seed, round, client)."""
    key = torch.tensor([number("dropout", s, round) for s in seeds], device=ids.device)
    return fraction(scattered(numbered(ids) + key[:, None])) >= dropout


def weigh(sizes: Tensor, weights: str, answered: Tensor | None = None) -> Tensor | None:
    """The weight (R, C, 1) of every client's message, from their sizes (R, C): uniform or by size; 0 without an answer.
    None: all the same."""
    if answered is None and weights == "uniform":
        return None
    size = torch.ones_like(sizes) if weights == "uniform" else sizes
    size = size if answered is None else size * answered
    return (size / size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny))[..., None]


def work(
    algorithm: Algorithm, f: Objective, held: Tree, kept: Tree, batch: Batch, transforms: Sequence[Transform] = ()
) -> tuple[Tree, Tree]:
    """The clients' half of a round: from what the server holds (R, 1, .) to what they send and keep (R, C, .)."""
    c = batch.support.weight.shape[1]
    before = writes(batch.support, batch.query, batch.both)
    sent, kept = algorithm.local(f, {name: t.expand(-1, c, -1) for name, t in held.items()}, kept, batch)
    for transform in transforms if sent else ():
        sent = transform(sent, batch)
    if writes(batch.support, batch.query, batch.both) != before:
        raise ValueError(f"{type(algorithm).__name__}.local or a transform {SHARED}")
    return sent, kept


def gather(
    sent: Tree,
    weight: Tensor | None,
    batch: Batch,
    transforms: Sequence[Transform] = (),
    mean: Mean | None = None,
    expected: int | None = None,
) -> tuple[Tree, Tensor | None]:
    """What reaches ``serve``: the messages (R, C, .) and their weights as they are; or, where the server takes another
    mean of them or adds noise to it, that mean, as the one message (R, 1, .) of weight one. expected: by how many the
    sum is divided in place of those who answered, whose number is nobody's business under Poisson sampling."""
    server = [t for t in transforms if isinstance(t, Transformation) and t.at_server]
    if not sent or not (server or mean or expected):
        return sent, weight
    one = weighted_mean(sent, weight) if mean is None else mean(sent, weight, batch)
    answered = batch.who.shape[1] if weight is None else (weight > 0).sum(1, keepdim=True).clamp(min=1)
    if expected and weight is not None:
        if mean is None or mean.weighs:  # a median is no sum
            one = {name: t * (torch.as_tensor(answered).to(t) / expected) for name, t in one.items()}
        answered = expected
    for transform in server:
        one = transform.on_mean(one, answered, batch)
    return one, None


def serve(
    algorithm: Algorithm,
    f: Objective,
    held: Tree,
    moments: dict[str, Moments],
    sent: Tree,
    weight: Tensor | None,
    share: float | Tensor,
    t: int | Tensor,
) -> tuple[Tree, dict[str, Moments]]:
    """The server's half of a round: what it holds afterwards, and its optimiser's moments.

    weight: see ``Algorithm.combine``. share: of all N clients' weight, what those who answered have. t: steps the
    server has taken, this one counted, for the optimiser's bias correction.
    """
    if not sent:
        return held, moments
    mean = algorithm.combine(f, held, sent, weight)
    t = t.to(next(iter(held.values()))) if isinstance(t, Tensor) else t  # else a power of it has torch's default dtype
    after, moments = dict(algorithm.absorb(held, mean, share)), dict(moments)
    for name in algorithm.learned:
        after[name], moments[name] = algorithm.server.step(held[name], moments[name], mean[name], t)
    return after, moments


class Sampler:
    """Who takes part in a round and what they hold. The last round stays, for the next algorithm that asks for it."""

    def __init__(self, clients: Clients, seeds: tuple[int, ...], per_round: int, sampling: str = "fixed") -> None:
        self.clients, self.seeds, self.per_round, self.sampling = clients, seeds, per_round, sampling
        self.last: tuple[Tensor, Batch, Tensor | None] | None = None

    def __call__(self, round: int) -> tuple[Tensor, Batch]:
        """Places of the clients in the population (S, C), and their batch."""
        places, batch, _ = self._round(round)
        return places, batch

    def here(self, round: int) -> Tensor | None:
        """Which of the places take part (S, C); None: all."""
        return self._round(round)[2]

    def _round(self, round: int) -> tuple[Tensor, Batch, Tensor | None]:
        last = self.last
        if last is None or last[1].round != round:
            clients, device = self.clients, self.clients.sizes.device
            places, here = sampled(self.seeds, clients.number, self.per_round, round, self.sampling)
            places = places.to(device)
            support, query, both = clients.take(places)
            batch = Batch(support, query, self.seeds, round, clients.called(places), joined=both)
            last = self.last = places, batch, here if here is None else here.to(device)
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
    transforms: Sequence[Transform] = (),
    mean: Mean | None = None,
    dropout: float = 0.0,
    sampling: str = "fixed",
    sampler: Sampler | None = None,
    store: Store | None = None,
    state: State | None = None,
) -> Iterator[State]:
    """Yields the state before training, then after every round, without end.

    clients: training clients of S seeds; start: fresh models (S, P); weights: "uniform" or "size". transforms: of what
    clients send, in this order. mean: in place of the weighted one. dropout: share of the sampled clients that never
    answer. sampling: see ``sampled``.
    sampler: one for all algorithms of a comparison saves drawing every round again for each.
    store: where clients' own entries are kept; state: where to go on from, with the store as it was then.
    """
    values, device = sweep_length(algorithm), start.device
    algorithm = spread(algorithm, len(seeds), start.dtype, device)
    f, store = algorithm.objective(f), store or Store()
    sampler = sampler or Sampler(clients, seeds, per_round, sampling)
    expected = per_round if sampling == "poisson" else None
    if state is None:
        held, kept = algorithm.start(f, start.repeat(values, 1)[:, None])
        store.fill(kept, clients.number)
        moments = {name: algorithm.server.init(held[name]) for name in algorithm.learned}
        none = torch.zeros(values * len(seeds), dtype=torch.int64, device=device)
        state = State(0, held, moments, none - 1, none, none)
    phases = algorithm.phases(f)
    while True:
        yield state
        places, batch = sampler(state.round)
        if values > 1:
            support, query, both = (tile(e, values) for e in (batch.support, batch.query, batch.both))
            batch = Batch(support, query, seeds, state.round, batch.ids, joined=both)
        who = places.repeat(values, 1)
        answered = sampler.here(state.round)
        if dropout > 0:
            able = answers(seeds, clients.called(places), state.round, dropout)
            answered = able if answered is None else able & answered
        answered = answered if answered is None else answered.repeat(values, 1)
        weight = weigh(clients.sizes.gather(1, places).repeat(values, 1), weights, answered)
        came = torch.full_like(state.answers, per_round) if answered is None else answered.sum(1)
        heard = state.heard + (came > 0)
        if expected and (mean is None or mean.weighs):  # by so many the sum is divided, whoever answered
            share: float | Tensor = expected / clients.number
        else:
            share = share_of(clients.sizes, who, weights, answered)
        t = state.round + 1 if answered is None or expected else heard.clamp(min=1)[:, None, None]
        held, moments, up, down = state.held, state.moments, 0, 0
        for phase in range(phases):
            now = replace(batch, phase=phase) if phase else batch
            before = store.take(who)
            sent, kept = work(algorithm, f, held, before, now, transforms)
            if answered is not None:  # who does not answer sends nothing and keeps what it had
                here = answered[..., None]
                sent = {name: torch.where(here, m, 0.0) for name, m in sent.items()}
                kept = {name: torch.where(here, m, before[name]) for name, m in kept.items()}
            up += on_the_wire(sent, (*transforms, mean))
            down += 4 * sum(held[name].shape[-1] for name in algorithm.received(held, sent, phase))
            served = serve(
                algorithm, f, held, moments, *gather(sent, weight, now, transforms, mean, expected), share, t
            )
            # Under Poisson sampling a round in which nobody takes part is not told from the others: it adds its noise.
            still = answered is not None and not expected
            held, moments = _where(came > 0, served, (held, moments)) if still else served
            store.put(who, kept)
        ok = _finite(held) & _finite(kept)
        diverged = torch.where(ok | (state.diverged >= 0), state.diverged, state.round + 1)
        state = State(state.round + 1, held, moments, diverged, heard, state.answers + came, up, down, places)


def share_of(sizes: Tensor, who: Tensor, weights: str, answered: Tensor | None) -> float | Tensor:
    """Of all N clients' weight, sizes (S, N), what those of who (R, C) that answered have: a number, or (R, 1, 1)."""
    if answered is None and weights == "uniform":
        return who.shape[1] / sizes.shape[1]
    size = torch.ones_like(sizes) if weights == "uniform" else sizes
    here = size.repeat(len(who) // len(sizes), 1).gather(1, who)
    here = here if answered is None else here * answered
    return (here.sum(1) / size.sum(1).repeat(len(who) // len(sizes)))[:, None, None]


Served = tuple[Tree, dict[str, Moments]]


def _where(runs: Tensor, new: Served, old: Served) -> Served:
    """Where nobody answered, in runs (R,), a server stays as it was."""
    here = runs[:, None, None]
    held = {name: torch.where(here, m, old[0][name]) for name, m in new[0].items()}
    moments = {
        name: tuple(torch.where(here, m, before) for m, before in zip(now, old[1][name], strict=True))
        for name, now in new[1].items()
    }
    return held, moments


def _finite(tree: Tree) -> Tensor | bool:
    """Runs (R,) in which every number of the tree (R, C, .) is finite."""
    ok: Tensor | bool = True
    for t in tree.values():
        ok = (t.abs().amax((1, 2)) < torch.inf) & ok
    return ok
