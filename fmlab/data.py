"""Examples and clients as plain tensors.

Shapes, one legend for the whole code: R runs (seeds x swept values), C clients in the round, N clients of a
population, S seeds, n examples, d features, K local or inner steps, T rounds, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fmlab.randomness import number, numbered, scattered

SPLITS = ("training", "participating", "validation", "unseen")
Tree = dict[str, Tensor]  # named tensors (R, C, .): what a server holds, a client sends, a client keeps


class Examples(NamedTuple):
    """Labelled examples of many clients. A padded example has weight 0; a client's weights sum to one."""

    x: Tensor  # (..., n, d...)
    y: Tensor  # (..., n, o) numbers, or (..., n) classes as int64
    weight: Tensor  # (..., n)

    def map(self, change: object) -> Examples:
        return Examples(*(change(t) for t in self))  # type: ignore[operator]


def examples(x: Tensor, y: Tensor, real: Tensor | None = None) -> Examples:
    """Examples (..., n) with equal weights; ``real`` (..., n) is False where an example only pads."""
    n_axis = x.shape[: y.ndim - 1] if y.dtype.is_floating_point else y.shape
    ones = torch.ones(n_axis, dtype=torch.float64) if real is None else real.to(torch.float64)
    return Examples(x, y, ones / ones.sum(-1, keepdim=True))


def writes(*sets: Examples) -> int:
    """A number that rises when somebody writes into these tensors, or into what they are views of."""
    return sum(t._version for e in sets for t in e if not t.is_inference())


def join(a: Examples, b: Examples) -> Examples:
    """Both sets as one; each example weighs the same (padding stays at 0)."""
    count_a, count_b = ((e.weight > 0).sum(-1, keepdim=True) for e in (a, b))
    total = count_a + count_b
    weight = torch.cat([a.weight * count_a / total, b.weight * count_b / total], -1)
    axis = a.weight.ndim - 1
    return Examples(torch.cat([a.x, b.x], axis), torch.cat([a.y, b.y], axis), weight)


@dataclass(frozen=True)
class Batch:
    """What the clients of one round hold: support and query sets (R, C, n, ...), and fresh minibatches of both.

    ids: who they are, int64 (R, C), or (S, C) where every swept value has the same; None: 0, 1, .... phase: which
    exchange of the round this is, 0 for all methods with one exchange a round.
    """

    support: Examples
    query: Examples
    seeds: tuple[int, ...] = (0,)
    round: int = 0
    ids: Tensor | None = None
    phase: int = 0
    joined: Examples | None = None  # where support and query stand together already

    @cached_property
    def both(self) -> Examples:
        """Support and query together: everything the client may train on."""
        return join(self.support, self.query) if self.joined is None else self.joined

    def minibatch(self, step: int, size: int | None, share: float = 1.0) -> Examples:
        """``size`` of the client's examples without replacement, a function of (seed, round, step, client) alone: not
        of who else takes part, nor of padding.

        None takes ``share`` of them, rounded up, which for share = 1 is all; so does a size that no client reaches.
        """
        both = self.both
        if size is None and share >= 1:
            return both
        real = (both.weight > 0).sum(-1, keepdim=True)
        wanted = (real * share).ceil().long() if size is None else real.clamp(max=size)
        if bool((wanted >= real).all()):
            return both
        runs, device = len(both.weight), both.weight.device
        key = torch.tensor([number("minibatch", s, self.round, self.phase, step) for s in self.seeds], device=device)
        draws = scattered(self._places + key.repeat(runs // len(self.seeds))[:, None, None])
        draws = torch.where(both.weight > 0, draws, torch.iinfo(torch.int64).min)
        rows = draws.topk(int(wanted.max()), -1).indices  # in falling order: real examples first, then padding
        weight = both.weight.gather(-1, rows) * (torch.arange(rows.shape[-1], device=device) < wanted)
        return Examples(take(both.x, rows), take(both.y, rows), weight / weight.sum(-1, keepdim=True))

    @cached_property
    def who(self) -> Tensor:
        """The clients' ids, int64 (R, C)."""
        runs, clients = self.support.weight.shape[:2]
        ids = torch.arange(clients, device=self.support.weight.device)[None] if self.ids is None else self.ids
        return ids.repeat(runs // len(ids), 1)

    @cached_property
    def _places(self) -> Tensor:
        """(R, C, n): a number for each client's each real example."""
        return numbered(self.who[..., None], (self.both.weight > 0).cumsum(-1))


def take(t: Tensor, rows: Tensor) -> Tensor:
    """t (R, C, n, ...) at rows (R, C, m) -> (R, C, m, ...)."""
    r = torch.arange(t.shape[0], device=t.device)[:, None, None]
    c = torch.arange(t.shape[1], device=t.device)[:, None]
    return t[r, c, rows]


@dataclass(frozen=True)
class Clients:
    """All clients of one split, for S seeds: axes (S, N, n, ...).

    ``bank``: where x would be large (images), ``support.x`` and ``query.x`` hold row numbers of ``bank`` (rows, ...)
    and a client's pixels are gathered only when it takes part. ``standard``: the mean and the spread of the bank's
    columns for each seed, (S, 2, d...); what is gathered is then (x - mean) / spread, and 0 where x is NaN, a missing
    value. The bank keeps its dtype: a column far from zero would lose its digits before the mean is taken off.
    ``ids``: who the clients are, which their minibatches depend on; None: their places, 0, 1, ....
    """

    support: Examples
    query: Examples
    sizes: Tensor  # (S, N) how many examples the client holds; weights of the mean "by size"
    bank: Tensor | None = None
    ids: Tensor | None = None  # (S, N) int64
    standard: Tensor | None = None

    @property
    def number(self) -> int:
        return self.sizes.shape[1]

    def to(self, dtype: torch.dtype, device: torch.device) -> Clients:
        def move(t: Tensor) -> Tensor:
            return t.to(device, dtype) if t.dtype.is_floating_point else t.to(device)

        def stay(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        bank = stay(self.bank) if self.bank is None or self.standard is not None else move(self.bank)
        examples = self.support.map(move), self.query.map(move), move(self.sizes)
        return Clients(*examples, bank, stay(self.ids), stay(self.standard))

    def called(self, places: Tensor) -> Tensor:
        """The ids (S, C) of the clients at these places (S, C)."""
        return places if self.ids is None else self.ids.gather(1, places)

    @cached_property
    def both(self) -> Examples:
        """Support and query together."""
        return join(self.support, self.query)

    def take(self, places: Tensor) -> tuple[Examples, Examples, Examples]:
        """Support, query, and both together, of the clients at places (S, C) -> (S, C, n, ...), views of one copy."""
        rows = (places + self._first).flatten()
        x, y, weight = (t.index_select(0, rows).view(*places.shape, *t.shape[1:]) for t in self._rows)
        parts = [self.support.weight.shape[-1], self.query.weight.shape[-1]]
        both = Examples(self._look_up(x), y, weight[..., : sum(parts)])
        halves = (t.split_with_sizes(parts, 2) for t in (both.x, both.y, weight[..., sum(parts) :]))
        support, query = (Examples(*half) for half in zip(*halves, strict=True))
        return support, query, both

    @cached_property
    def _rows(self) -> Examples:
        """Client by client (S * N, n, ...): both sets' x and y, and three weights, of both, support and query."""
        weights = (self.both.weight, self.support.weight, self.query.weight)
        return self.both._replace(weight=torch.cat(weights, -1)).map(lambda t: t.flatten(0, 1))

    @cached_property
    def _first(self) -> Tensor:
        """The row of each seed's first client (S, 1)."""
        return self.number * torch.arange(len(self.sizes), device=self.sizes.device)[:, None]

    def everyone(self) -> tuple[Examples, Examples]:
        """Support and query of all clients, without a copy where there is no bank."""
        return tuple(e._replace(x=self._look_up(e.x)) for e in (self.support, self.query))  # type: ignore[return-value]

    def _look_up(self, x: Tensor) -> Tensor:
        if self.bank is None:
            return x
        found = self.bank.index_select(0, x.flatten()).view(*x.shape, *self.bank.shape[1:])
        if self.standard is None:
            return found
        mean, spread = self.standard[:, :, None, None].unbind(1)
        scaled = found.sub_(mean).div_(spread).nan_to_num_(0.0, torch.inf, -torch.inf)  # in place: it may be large
        return scaled.to(self.support.weight.dtype)


def padded(t: Tensor, n: int, axis: int) -> Tensor:
    """With zeros behind it, up to the length n along the axis."""
    short = n - t.shape[axis]
    return torch.cat([t, t.new_zeros(*t.shape[:axis], short, *t.shape[axis + 1 :])], axis) if short else t


def stack(clients: list[Clients]) -> Clients:
    """One seed each -> all seeds, padded to the longest; they share the first one's bank."""

    def side_by_side(name: str) -> Tensor | None:
        parts = [t for c in clients if (t := getattr(c, name)) is not None]
        return torch.cat(parts) if parts else None

    def pile(parts: list[Examples]) -> Examples:
        longest = max(e.weight.shape[2] for e in parts)
        return Examples(*(torch.cat([padded(t, longest, 2) for t in ts]) for ts in zip(*parts, strict=True)))

    return Clients(
        pile([c.support for c in clients]),
        pile([c.query for c in clients]),
        torch.cat([c.sizes for c in clients]),
        clients[0].bank,
        side_by_side("ids"),
        side_by_side("standard"),
    )
