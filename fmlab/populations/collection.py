"""Clients that bring examples of their own: what ``Table``, ``Leaf`` and ``Datasets`` share once the data is read.

Clients are split, by the seed, into training, validation and unseen ones: the first ``n_clients`` of a random order
train, its last ``n_unseen`` are unseen, the ``n_validation`` before those choose step sizes. Within a client, examples
stand in random order, or in that of time where there is one, and are cut in this order:

    training and participating   support | query | test: the last ``held`` of them, to score the participating on
    validation and unseen        support | query

``support`` is the share for the support set, ``shots`` its most. Every part has an example, but a training client of
two has no test example: as a participating one it is scored on its query set, which it has seen. A client uses at most
``most`` examples, its last ones in time or random ones; ``sizes``, the server's weights, count all.

heterogeneity h. h = 1: the natural partition. Otherwise every client, whatever its part, keeps each example with
probability h, independently, and all that are not kept are dealt out again at random among the places they left. So
sizes stay, no example is lost or doubled, and h = 0 is the pooled distribution for all. What is kept at h is kept at
every larger h too.

With ``standardise`` inputs, and a target of numbers, are (x - mean) / spread with the mean and the standard deviation
of the support and query sets of training clients alone; a missing input is then 0. An input that never varies there
teaches nothing and is 0 for everyone.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlab.data import Clients, Examples, examples
from fmlab.declare import choice, hyper
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.models import MLP, Model
from fmlab.objective import Empirical
from fmlab.populations.base import Labels, Population
from fmlab.randomness import fraction, number, numbered, scattered, shuffled

CHUNK = 2**22  # numbers that statistics take at once


class DataError(ValueError):
    """Data that cannot be read as clients with examples: says where, what it is, and the way out."""


class Decided(UserWarning):
    """What was left out of the data, or read in one of several ways."""


@dataclass(frozen=True, eq=False)
class Rows:
    """All examples, client by client. Two are equal where their contents are."""

    x: Tensor = field(repr=False)  # (rows, d...); NaN is a missing value
    y: Tensor = field(repr=False)  # (rows, o) float64, or (rows,) classes as int64
    counts: Tensor = field(repr=False)  # (N,) int64, examples of each client, all >= 2
    names: tuple[str, ...] = field(repr=False)  # of the clients
    columns: tuple[str, ...] = field(default=(), repr=False)  # of x, where they have names
    classes: tuple[str, ...] = field(default=(), repr=False)  # of y, where they have names
    plain: Tensor | None = field(default=None, repr=False)  # bool (d,): columns of 0 and 1, which keep their scale
    time: Tensor | None = field(default=None, repr=False)  # (rows,) int64, the order in time
    read: tuple[Any, ...] = field(default=(), repr=False)  # the options it was read with
    form: tuple[Any, ...] = field(default=(), repr=False)  # of a table: how its columns became x
    group: Tensor | None = field(default=None, repr=False)  # (N,) int64: clients that belong together, see ``_who``
    origin: str = field(default="", repr=False)  # the file or folder it was read from, where there is one

    def __repr__(self) -> str:
        return f"Rows({len(self.y)} examples of {len(self.names)} clients, sha256 {self.sha256[:12]}...)"

    @cached_property
    def sha256(self) -> str:
        """Of everything in it."""
        digest = hashlib.sha256()
        for t in (self.x, self.y, self.counts, self.plain, self.time, self.group):
            if t is None:
                continue
            digest.update(f"{t.dtype} {tuple(t.shape)}".encode())
            digest.update(t.contiguous().numpy().data)
        digest.update(repr((self.names, self.columns, self.classes)).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Rows) and self.sha256 == other.sha256)

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def labels(self) -> bool:
        return not self.y.dtype.is_floating_point

    @property
    def outputs(self) -> int:
        """What a model has to give for an example."""
        return max(len(self.classes), int(self.y.max()) + 1) if self.labels else self.y.shape[1]

    @cached_property
    def owner(self) -> Tensor:
        """(rows,) the client of each example."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)


@dataclass(frozen=True)
class Places:
    """Which rows the clients of one split hold, (N, n) int64 with a mask of what is real, and how many in all (N,)."""

    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    sizes: Tensor


@dataclass(frozen=True, kw_only=True)
class Collection(Population):
    """Abstract. To add a format: fields of its own, and ``read``.

    ``source`` is read once, when the population is made; afterwards the field holds what was read.
    """

    source: Any = field(kw_only=False)
    n_clients: int = hyper(
        None, symbol="N", low=1, high=10**6, whole=True, optional=True, text="clients that train; None: all others"
    )
    n_validation: int = hyper(
        None, symbol="N_v", low=1, high=10**5, whole=True, optional=True, text="for step sizes; None: a tenth of them"
    )
    n_unseen: int = hyper(
        None, symbol="N_u", low=1, high=10**5, whole=True, optional=True, text="never in training; None: a fifth"
    )
    heterogeneity: float = hyper(
        1.0, symbol="h", low=0.0, high=1.0, text="0: pooled examples for all; 1: each client its own"
    )
    support: float = hyper(0.5, symbol="s", low=0.0, high=1.0, text="share of a client's examples it adapts on")
    shots: int | None = hyper(
        None, symbol="n_S", low=1, high=10**6, whole=True, optional=True, text="examples it adapts on at most"
    )
    held: float = hyper(0.2, symbol="t", low=0.0, high=0.9, text="share of a training client's kept to score it on")
    most: int = hyper(
        1000, symbol="n", low=2, high=10**6, whole=True, text="examples of a client that are used, at most"
    )
    standardise: bool = choice(False, (False, True), "inputs and targets in units of the training clients' spread")

    @abstractmethod
    def read(self) -> tuple[Rows, list[str]]:
        """All examples of ``source``, and what was decided, a sentence each. Raises DataError."""

    def check_options(self) -> None:
        """Bring fields of its own into form, before anything is read. Raises DataError."""

    @property
    def rows(self) -> Rows:
        """All examples; the same object every time."""
        held: Rows = self.source
        return held

    def __post_init__(self) -> None:
        self.check_options()
        if not isinstance(self.source, Rows):
            rows, decided = self.read()
            origin = str(self.source) if isinstance(self.source, (str, Path)) else ""
            object.__setattr__(self, "source", replace(rows, origin=origin))
            if decided:
                warnings.warn(f"fm.{type(self).__name__}: {'; '.join(decided)}", Decided, stacklevel=3)
        super().__post_init__()
        total = len(self.rows.names)
        given: dict[str, int | None] = {n: getattr(self, n) for n in ("n_unseen", "n_validation", "n_clients")}
        left = total - sum(v for v in given.values() if v is not None)
        for name, part in (("n_unseen", 5), ("n_validation", 10)):
            if given[name] is None:
                given[name] = max(1, min(round(total / part), left - 1))
                left -= given[name] or 0
        if given["n_clients"] is None:
            given["n_clients"], left = left, 0
        if left < 0 or min(v or 0 for v in given.values()) < 1:
            said = ", ".join(f"{name} = {getattr(self, name)}" for name in ("n_clients", "n_validation", "n_unseen"))
            raise DataError(
                f"{type(self).__name__}: {said} of {total} clients with two or more examples; each part needs one or "
                "more clients, and together they have no more than there are: lower one of them, or leave it out"
            )
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def names(self, split: str, seed: int) -> tuple[str, ...]:
        """Who the clients of a split are, in their order."""
        return tuple(self.rows.names[i] for i in self._who(split, seed).tolist())

    def draw(self, split: str, seed: int) -> Clients:
        rows, order = self.rows, self._order(seed)
        found = self._places(split, seed, order)
        standard, y = None, rows.y
        if self.standardise:
            used = self._used(seed, order)
            standard = self._standard(used)[None]
            y = y if rows.labels else _scaled(y, *_moments(y, used))

        def part(places: tuple[Tensor, Tensor]) -> Examples:
            at, real = places
            return examples(at.int()[None], y[at][None], real[None])  # int32: of 10,000 clients every byte counts

        sizes = found.sizes.to(torch.float64)[None]
        return Clients(part(found.support), part(found.query), sizes, rows.x, standard=standard)

    def target_scale(self, seed: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (o,) of a target of numbers over training examples: a loss times the variance is
        in the target's own units, squared."""
        return _moments(self.rows.y, self._used(seed, self._order(seed)))

    def labels(self) -> Labels:
        rows, unit = self.rows, " (standardised)" * self.standardise
        x = rows.columns[0] if len(rows.columns) == 1 else "input x"
        return Labels(x + unit, "output y" + unit, rows.classes)

    def standardised(self, x: Tensor, seed: int) -> Tensor:
        """Inputs (n, d...) as a model of this seed takes them."""
        if not self.standardise:
            return x
        mean, spread = self._standard(self._used(seed, self._order(seed)))
        scaled: Tensor = (x - mean) / spread
        return scaled.nan_to_num(0.0, torch.inf, -torch.inf)

    def fingerprint(self) -> str:
        return self.rows.sha256[:12]

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 32."""
        rows = self.rows
        if not rows.x.dtype.is_floating_point:
            raise DataError(
                f"{type(self).__name__} has inputs of dtype {rows.x.dtype}, which no layer of numbers takes; give a "
                "model that starts with nn.Embedding: model=fm.lift(module)"
            )
        return MLP((rows.x[0].numel(), 32, rows.outputs))

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), CrossEntropy() if self.rows.labels else SquaredError())

    def _who(self, split: str, seed: int) -> Tensor:
        """(N,) which clients: training ones from the front of the order, so that more of them change no other part.
        Where clients have a group, groups are shuffled and none is in two parts."""
        rows, n, group = self.rows, self.count(split), self.rows.group
        if group is None:
            order = shuffled(len(rows.names), "clients of a split", seed)
            skip = {"unseen": 0, "validation": self.n_unseen}.get(split)
            return order[:n] if skip is None else order.flip(0)[skip : skip + n]
        place = shuffled(int(group.max()) + 1, "clients of a split", seed).argsort()
        order = place[group].argsort(stable=True)
        back = group[order.flip(0)]
        begin = self.n_unseen + int((back[self.n_unseen :] == back[self.n_unseen - 1]).sum())
        end = begin + self.n_validation
        front = group[order[: self.n_clients]]
        if end > len(order) or torch.isin(back[:end], front).any():
            raise DataError(
                f"{type(self).__name__}: n_clients = {self.n_clients}, n_validation = {self.n_validation} and "
                f"n_unseen = {self.n_unseen} of {len(order)} clients leave no room to keep those of a group in one "
                "part; lower one of them"
            )
        first = {"unseen": 0, "validation": begin}.get(split)
        return order[:n] if first is None else order.flip(0)[first : first + n]

    def _order(self, seed: int) -> Tensor:
        """(rows,) which example stands in which place, client by client, each client's in its own order."""
        rows = self.rows
        every = torch.arange(len(rows.y))
        held = every.clone()
        if self.heterogeneity < 1:
            free = fraction(scattered(numbered(every) + number("kept", seed))) >= self.heterogeneity
            places = free.nonzero()[:, 0]
            held[places] = places[shuffled(len(places), "dealt out", seed)]
        key = scattered(numbered(held) + number("order", seed)) if rows.time is None else rows.time[held]
        by_key = key.argsort(stable=True)
        return held[by_key[rows.owner[by_key].argsort(stable=True)]]

    def _places(self, split: str, seed: int, order: Tensor) -> Places:
        who, rows = self._who(split, seed), self.rows
        sizes = rows.counts[who]
        used, ends = sizes.clamp(max=self.most), rows.counts.cumsum(0)[who]
        test = torch.zeros_like(used)
        if self.held and split in ("training", "participating"):
            test = torch.minimum((used.double() * self.held).floor().long().clamp(min=1), used - 2)
        left = used - test
        support = (left.double() * self.support).round().long().clamp(min=1, max=self.shots)
        support = torch.minimum(support, left - 1)
        query, first = left - support, ends - used
        cuts = {"support": (first, support), "query": (first + support, query)}
        if split == "participating":
            scored = test > 0
            cuts["query"] = (
                torch.where(scored, first + left, first + support),
                torch.where(scored, test, query),
            )

        def rows_of(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
            real = torch.arange(int(length.max())) < length[:, None]
            place = start[:, None] + torch.where(real, torch.arange(real.shape[1]), 0)
            return order[place], real

        return Places(rows_of(*cuts["support"]), rows_of(*cuts["query"]), sizes)

    def _used(self, seed: int, order: Tensor) -> Tensor:
        """The rows of the training clients' support and query sets."""
        found = self._places("training", seed, order)
        return torch.cat([at[real] for at, real in (found.support, found.query)])

    def _standard(self, used: Tensor) -> Tensor:
        """Mean and spread (2, d...) of the inputs; the spread is infinite where an input never varies."""
        mean, spread = _moments(self.rows.x, used)
        never = spread == 0
        if self.rows.plain is not None:
            mean, spread = mean.masked_fill(self.rows.plain, 0.0), spread.masked_fill(self.rows.plain, 1.0)
        return torch.stack([mean, spread.masked_fill(never, torch.inf)])


def _scaled(y: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return (y - mean) / torch.where(spread == 0, 1.0, spread)


def _moments(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d...) of x (all, d...) over these rows, without NaN. The latter is 0 exactly where
    all are the same, or missing."""
    parts = rows.sort().values.split(max(1, CHUNK // max(1, x[0].numel())))
    first = torch.stack([_ends(x[p].double()) for p in parts])
    least, greatest = first[:, 0].amin(0), first[:, 1].amax(0)
    count = torch.stack([(~x[p].isnan()).sum(0) for p in parts]).sum(0).clamp(min=1)
    mean = torch.stack([x[p].double().nansum(0) for p in parts]).sum(0) / count
    square = torch.stack([(x[p].double() - mean).square().nansum(0) for p in parts]).sum(0) / count
    return mean, torch.where(least >= greatest, 0.0, square.sqrt())


def _ends(x: Tensor) -> Tensor:
    """Least and largest (2, d...) of x (n, d...) without NaN."""
    gone = x.isnan()
    return torch.stack([x.masked_fill(gone, torch.inf).amin(0), x.masked_fill(gone, -torch.inf).amax(0)])


def packaged(name: str) -> Mapping[str, Any]:
    """The arrays of a file that ships with fmlab, see NOTICE."""
    with files("fmlab.populations").joinpath("files", name).open("rb") as f, np.load(f, allow_pickle=False) as held:
        return {key: held[key] for key in held.files}


def gathered(where: str, clients: list[tuple[str, Tensor, Tensor]], classes: tuple[str, ...]) -> tuple[Rows, list[str]]:
    """All examples of named clients, x (n, d...) and y (n,) int64 or (n, o), and what was decided. Raises DataError
    where they do not fit together, or are too few."""
    short = [name for name, _, y in clients if len(y) < 2]
    clients = [c for c in clients if len(c[2]) >= 2]
    if len(clients) < 3:
        raise DataError(
            f"{where}: {len(clients)} clients with two or more examples; three are the least: one to train, one to "
            "choose step sizes on, one unseen"
        )
    name, x, y = clients[0]
    for other, x_, y_ in clients[1:]:
        for of, one, two in (("x", x, x_), ("y", y, y_)):
            if (one.shape[1:], one.dtype) != (two.shape[1:], two.dtype):
                raise DataError(
                    f"{where}: {of} of client {other!r} is {tuple(two.shape[1:])} of {two.dtype}, and of client "
                    f"{name!r} {tuple(one.shape[1:])} of {one.dtype}; give all the same"
                )
    x, y = torch.cat([x for _, x, _ in clients]), torch.cat([y for _, _, y in clients])
    if x.dtype == torch.bool:
        x = x.double()
    if x.dtype.is_floating_point and not x.isfinite().all():
        raise DataError(f"{where}: an x holds NaN or infinite numbers; clean the data first")
    if y.dtype.is_floating_point and not y.isfinite().all():
        raise DataError(f"{where}: a y holds NaN or infinite numbers; clean the data first")
    if not y.dtype.is_floating_point and int(y.min()) < 0:
        raise DataError(f"{where}: a class is {int(y.min())}; classes are 0, 1, ...")
    if bool((y == y[0]).all()):
        raise DataError(f"{where}: y is the same in every example; there is nothing to learn")
    listed = ", ".join(map(repr, short[:5])) + f" and {len(short) - 5} more" * (len(short) > 5)
    said = (
        [f"clients with fewer than two examples left out, which cannot adapt and be scored: {listed}"] if short else []
    )
    counts = torch.tensor([len(c[2]) for c in clients])
    return Rows(x, y, counts, tuple(c[0] for c in clients), classes=classes), said
