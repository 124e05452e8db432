"""N-way K-shot classification across clients: what Digits, Glyphs and Omniglot share.

A client holds ``ways`` classes under its own labels 0 .. ways - 1, drawn in a style (a writer; where ``style_by_label``
is set, one style a label). At heterogeneity h, independently for every label j and for every style:

    with probability 1 - h  the common one: label j is class c_j, the same for all clients of the seed; the common style
    with probability h      the client's own: a class it draws, without repeats, from its split's pool; a style likewise
    shares of the labels    pi = (1 - h skew) / ways + h skew p,  p uniform on the simplex, Dirichlet(1, ..., 1)

h = 0: all clients have the same classes, the same labels, the same style and equal shares, so they differ in their
examples only. That goes for unseen clients too: there they hold the common, trained classes, on images that no
training client has. h = 1: every client has its own classes, labels, style and shares, and an unseen client holds only
classes (and, where the pools of styles differ, only styles) that no training client has. In between, the expected
share of labels that are the client's own is h; each client's choices use the same random numbers at every h.

Shares become counts by largest remainders, at least one example a label; where a class has too few examples, the
client's shares are drawn towards equal ones until they fit. With ``skew=0`` every label has exactly ``shots``
examples: the K-shot of the literature.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fmlab.data import Clients, Examples, examples
from fmlab.declare import hyper
from fmlab.losses import CrossEntropy
from fmlab.models import Model
from fmlab.objective import Empirical
from fmlab.populations.base import Population
from fmlab.populations.difference import LABELS, Difference, of_labels
from fmlab.randomness import uniform

SPLITS = ("training", "validation", "unseen")


class Bank(NamedTuple):
    """Images and where each class has them. Training clients draw on ``training`` alone, everyone else's examples
    (and the fresh ones that training clients are scored on) come from ``others``: no image is in both."""

    images: Tensor  # (rows, ...) float
    training: Tensor  # (styles, classes, examples) int64, rows of ``images``
    others: Tensor  # (styles, classes, examples') int64


class Pool(NamedTuple):
    """What the clients of one split may own; the training pool's first classes and first style are the common ones."""

    classes: Tensor  # (number,) int64 in [0, classes)
    styles: Tensor  # (number,) int64 in [0, styles)


@dataclass(frozen=True)
class FewShot(Population):
    """Abstract. To add a set of images: ``bank``, ``pool`` and ``model``."""

    style_by_label: ClassVar[bool] = False

    heterogeneity: float = hyper(
        1.0, symbol="h", low=0.0, high=1.0, text="0: the same classes and labels for all; 1: each client its own"
    )
    ways: int = hyper(5, symbol="N", low=2, high=1000, whole=True, sweepable=False, text="classes a client tells apart")
    shots: int = hyper(5, symbol="K", low=1, high=1000, whole=True, text="examples of a class a client adapts on")
    query: int = hyper(5, symbol="n_Q", low=1, high=1000, whole=True, text="examples of a class it trains its score on")
    test: int = hyper(5, symbol="n_T", low=1, high=1000, whole=True, text="examples of a class it is scored on unseen")
    skew: float = hyper(0.0, symbol="s", low=0.0, high=1.0, text="how far label shares move with h; 0: K-shot exactly")

    @abstractmethod
    def bank(self) -> Bank:
        """The images; the same object at every call with the same fields (keep it in a cache)."""

    def each(self) -> tuple[int, int]:
        """How many examples of a class training clients draw on, and how many everyone else."""
        bank = self.bank()
        return bank.training.shape[-1], bank.others.shape[-1]

    @abstractmethod
    def pool(self, split: str, seed: int) -> Pool:
        """Classes and styles of "training", "validation" and "unseen": classes disjoint, at least ``ways`` each."""

    def span(self, name: str) -> tuple[float, float]:
        """See Population; of ``ways`` that of seed 0."""
        low, high = super().span(name)
        if name in ("shots", "query", "test"):
            training, others = self.each()
            taken = {
                "shots": (training - self.query, others - self.test),
                "query": (training - self.shots,),
                "test": (others - self.shots,),
            }
            return low, min(high, *taken[name])
        if name == "ways":
            return low, min(high, *(len(self.pool(split, 0).classes) for split in SPLITS))
        return low, high

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), CrossEntropy())

    @abstractmethod
    def model(self) -> Model: ...

    def draw(self, split: str, seed: int) -> Clients:
        """Raises ValueError for more ways than a pool's classes, and for more examples of a class than there are."""
        bank = self.bank()
        self._check(bank, seed)
        classes, style = self.tasks(split, seed)
        training, others = (rows[style, classes] for rows in (bank.training, bank.others))  # (N, ways, .)
        if split == "training":
            support, query = self._pick(training, self.query, split, split, seed)
        elif split == "participating":
            support, _ = self._pick(training, self.query, "training", "training", seed)
            _, query = self._pick(others, self.test, "training", split, seed)
        else:
            support, query = self._pick(others, self.test, split, split, seed)
        sizes = support.weight.new_full((1, len(classes)), self.ways * (self.shots + self.query))
        return Clients(support, query, sizes, bank.images)

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """Of the pairs (class, label) that a client's examples have: labels alone may be alike, and name other classes.
        Styles are not looked at."""
        what = LABELS.replace("label shares", "shares of (class, label)").replace("labels'", "pairs'")
        labels, client = self._targets(split, seed)
        classes, _ = self.tasks(split, seed)
        return of_labels(classes[client, labels] * self.ways + labels, client, what)

    def tasks(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """Every client's classes, label by label, and the style they are drawn in: two (N, ways)."""
        who = "training" if split == "participating" else split
        n, ways, h = self.count(split), self.ways, self.heterogeneity
        common, mine = self.pool("training", seed), self.pool(who, seed)
        own = uniform((n, ways), 0.0, 1.0, "own labels", seed, who) < h
        keys = uniform((n, len(mine.classes)), 0.0, 1.0, "own classes", seed, who)
        for j in range(ways):  # a common class that the client holds is not drawn again
            keys = torch.where(~own[:, j : j + 1] & (mine.classes == common.classes[j]), 2.0, keys)
        drawn = mine.classes[keys.argsort(1)].gather(1, (own.cumsum(1) - 1).clamp(min=0))
        u = uniform((n, ways if self.style_by_label else 1, 2), 0.0, 1.0, "own style", seed, who)
        style = torch.where(u[..., 0] < h, mine.styles[(u[..., 1] * len(mine.styles)).long()], common.styles[0])
        return torch.where(own, drawn, common.classes[:ways]), style.expand(-1, ways)

    def _pick(self, rows: Tensor, query: int, who: str, examples_of: str, seed: int) -> tuple[Examples, Examples]:
        """Support and query (1, N, ways * per class), disjoint, ordered by label; rows (N, ways, examples)."""
        n, ways, most = rows.shape
        order = uniform((n, ways, most), 0.0, 1.0, "examples", seed, examples_of).argsort(-1)
        p = -torch.log1p(-uniform((n, ways), 0.0, 1.0, "shares", seed, who))
        p = p / p.sum(1, keepdim=True)
        used, sets = torch.zeros(n, ways, dtype=torch.int64), []
        for k in (self.shots, query):
            count = counts(p, self.heterogeneity * self.skew, ways * k, most * k // (self.shots + query))
            place, client = torch.arange(ways * k).expand(n, -1), torch.arange(n)[:, None]
            label = (count.cumsum(1)[:, None, :] <= place[..., None]).sum(-1)
            nth = place + (used + count - count.cumsum(1)).gather(1, label)
            x = rows[client, label, order[client, label, nth]]
            sets.append(examples(x[None], label[None]))
            used = used + count
        return sets[0], sets[1]

    def _check(self, bank: Bank, seed: int) -> None:
        name = type(self).__name__
        for split in SPLITS:
            number = len(self.pool(split, seed).classes)
            if self.ways > number:
                raise ValueError(
                    f"{name}.ways = {self.ways} is more than the {number} classes that {split} clients may have; "
                    f"give a whole number in [2, {number}]"
                )
        for part, most in (("query", bank.training.shape[-1]), ("test", bank.others.shape[-1])):
            wanted = self.shots + getattr(self, part)
            if wanted > most:
                raise ValueError(
                    f"{name}.shots + {name}.{part} = {self.shots} + {getattr(self, part)} is more than the {most} "
                    f"examples that a class has for it; give shots and {part} with a sum of at most {most}"
                )


def counts(p: Tensor, weight: float, total: int, most: int) -> Tensor:
    """Whole numbers (N, ways) in [1, most] that add up to ``total``, near (1 - weight) / ways + weight p.

    Needs ways <= total <= ways * most. Where a share does not fit into ``most``, the row's weight is lowered.
    """
    ways = p.shape[1]
    spare = total - ways
    if spare == 0:
        return torch.ones(p.shape, dtype=torch.int64)
    room = (most - 2) / spare - 1 / ways  # one example is given out first, and rounding may add another
    excess = (p.amax(1, keepdim=True) - 1 / ways).clamp(min=1e-12)
    weights = torch.where(excess * weight > room, max(room, 0.0) / excess, weight)
    wanted = spare * (1 / ways + weights * (p - 1 / ways))
    whole = (wanted + 1e-9).floor()
    left = spare - whole.sum(1, keepdim=True)
    extra = (wanted - whole).argsort(dim=1, descending=True, stable=True).argsort(dim=1) < left
    return (1 + whole + extra).long()
