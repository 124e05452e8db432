"""Clients with files of their own: a node names its file, and no one else reads it.

The plan holds the form alone: which columns, how many classes, who is enrolled, and the mean and spread in which inputs
(and a target of numbers) are measured. Those are of the examples that train, of all nodes together: each node says how
many it has, their mean and their variance, column by column, and nothing else about them.

A client's examples stand in random order, by (seed, name), and are cut as in ``collection``: support | query | test,
the last to score it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fmlab.data import Clients, Examples, examples, padded
from fmlab.declare import hyper
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.models import MLP, Model
from fmlab.objective import Empirical
from fmlab.populations.base import Population
from fmlab.populations.collection import DataError
from fmlab.populations.table_files import numbers
from fmlab.randomness import shuffled

LEAST = 3  # examples of a file: one each to adapt on, to train on and to score on


@dataclass(frozen=True, kw_only=True)
class Files(Population):
    """The form of the files. ``names``: the clients that are enrolled; empty until those who are there are known."""

    target: str
    features: tuple[str, ...]
    classes: int = hyper(0, symbol="k", low=0, high=1000, whole=True, text="of the target, 0 .. k - 1; 0: numbers")
    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()  # of the features and, where it is a number, of the target
    spread: tuple[float, ...] = ()
    longest: tuple[int, int] = (0, 0)  # the most support and query examples that a client has: all are padded to it
    support: float = hyper(0.5, symbol="s", low=0.0, high=1.0, text="share of a client's examples it adapts on")
    held: float = hyper(0.2, symbol="t", low=0.0, high=0.9, text="share of them kept to score it on")

    def __post_init__(self) -> None:
        if self.names:
            object.__setattr__(self, "n_clients", len(self.names))
        super().__post_init__()
        if not self.features or self.target in self.features:
            raise DataError(f"features = {self.features!r}: name the columns to predict from, without the target")
        if len(set(self.names)) < len(self.names):
            raise DataError(f"names = {self.names!r}: a client stands there twice")

    def draw(self, split: str, seed: int) -> Clients:
        raise DataError("the examples stand in files on the nodes, and only there")

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 32, as for ``fm.Table``."""
        return MLP((len(self.features), 32, self.classes or 1))

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), CrossEntropy() if self.classes else SquaredError())

    def enrolled(self, told: Mapping[str, Moments]) -> Files:
        """With these clients, in the order of their names, and the mean and spread over all that they have."""
        names = tuple(sorted(told))
        mean, spread = together([told[name] for name in names])
        longest = (max(m.support for m in told.values()), max(m.query for m in told.values()))
        return replace(self, names=names, mean=tuple(mean), spread=tuple(spread), longest=longest)


class Moments(NamedTuple):
    """What a node says about its examples: how many train, and their columns' means and squared deviations, summed."""

    support: int
    query: int
    mean: list[float]
    squares: list[float]


def together(parts: Sequence[Moments]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of all, from each one's (Chan, Golub and LeVeque 1979, eq. 2.1); where a column never
    varies, 1 in place of the latter."""
    count, mean, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for part in parts:
        n = part.support + part.query
        theirs, their_squares = (torch.tensor(v, dtype=torch.float64) for v in (part.mean, part.squares))
        apart = theirs - mean
        squares = squares + their_squares + apart.square() * count * n / (count + n)
        mean = mean + apart * n / (count + n)
        count += n
    spread = (squares / count).sqrt()
    return mean.tolist(), torch.where(spread > 0, spread, 1.0).tolist()


class OwnFile:
    """One client's examples, read once. Raises DataError where the file does not fit the form."""

    def __init__(self, form: Files, name: str, path: str) -> None:
        self.form, self.name = form, name
        if not name.strip():
            raise DataError("this node has no name; a client with a file of its own needs one: NAME=alice")
        x, y, self.decided = numbers(Path(path), form.target, form.features)
        if len(y) < LEAST:
            raise DataError(f"{path} has {len(y)} complete rows; {LEAST} are the least")
        if form.classes:
            wrong = y[(y != y.round()) | (y < 0) | (y >= form.classes)]
            if len(wrong):
                raise DataError(
                    f"{path}: {form.target!r} holds {float(wrong[0]):g}; the plan has classes 0 to {form.classes - 1}"
                )
        self.x, self.y = x, y

    @property
    def number(self) -> int:
        """Its place among the clients. Raises DataError for one that is not enrolled."""
        if self.name not in self.form.names:
            raise DataError(
                f"{self.name!r} is not enrolled in this run, which has {', '.join(self.form.names)}; the next run "
                "takes whoever is there when it begins"
            )
        return self.form.names.index(self.name)

    def _cut(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of support, query and test set."""
        order, n = shuffled(len(self.y), "own examples", seed, self.name), len(self.y)
        test = min(max(1, int(n * self.form.held)), n - 2) if self.form.held else 0
        support = min(max(1, round((n - test) * self.form.support)), n - test - 1)
        return order[:support], order[support : n - test], order[n - test :]

    def moments(self, seed: int) -> Moments:
        support, query, _ = self._cut(seed)
        used = torch.cat([support, query])
        columns = self.x[used] if self.form.classes else torch.cat([self.x[used], self.y[used, None]], 1)
        mean = columns.mean(0)
        return Moments(len(support), len(query), mean.tolist(), (columns - mean).square().sum(0).tolist())

    def draw(self, split: str, seed: int) -> Clients:
        """This client (1, 1, n, ...), float64, padded to the longest of all."""
        support, query, test = self._cut(seed)
        d = len(self.form.features)
        mean, spread = (torch.tensor(v, dtype=torch.float64) for v in (self.form.mean, self.form.spread))
        x = (self.x - mean[:d]) / spread[:d]
        y = self.y.long() if self.form.classes else ((self.y - mean[d]) / spread[d])[:, None]
        scored = split == "participating" and len(test)
        longest = self.form.longest

        def part(rows: Tensor, n: int) -> Examples:
            e = examples(x[rows][None, None], y[rows][None, None])
            return e.map(lambda t: padded(t, max(n, len(rows)), 2))

        sizes = torch.tensor([[float(len(self.y))]], dtype=torch.float64)
        return Clients(part(support, longest[0]), part(test if scored else query, 0 if scored else longest[1]), sizes)


class Gathered:
    """All files in one place, as only a test has them: the clients that the nodes together are."""

    def __init__(self, form: Files, files: Mapping[str, str]) -> None:
        self.files = [OwnFile(form, name, files[name]) for name in form.names]

    def draw(self, split: str, seed: int) -> Clients:
        from fmlab.data import stack

        one_each = [f.draw(split, seed) for f in self.files]
        turned = stack(one_each)  # (clients, 1, n, ...) as if each were a seed
        support, query = (e.map(lambda t: t.transpose(0, 1)) for e in (turned.support, turned.query))
        return Clients(support, query, turned.sizes.T)
