"""How unlike clients are, measured: 0 where they are alike, up to the chance of a sample, 1 where the client tells all.

    labels    D = (I - c) / (H - c):  I the Jensen-Shannon divergence of the clients' label shares, each weighed by its
              number of examples (Lin 1991, IEEE Trans. Inf. Theory 37:145), H the entropy of the pooled shares, which
              it reaches where every client has one label
    numbers   D = (I - c) / (1 - c):  I the share of the targets' variance that is between the clients' means, the
              squared correlation ratio

c is what I comes to if the same examples are dealt out to the clients at random, in the mean over all ways to deal:
small clients look unlike by chance alone. Of numbers c = (N - 1) / (n - 1), which makes D Kelley's epsilon squared
(1935, PNAS 21:554); of labels it is Vinh, Epps and Bailey's (2010, JMLR 11:2837, eq. 24a). D below 0 is given as 0.

Only what is to be predicted is looked at: clients that are alike in it may differ in their inputs, or in what leads
from one to the other. Where all have the same classes in equal shares, ``of_inputs`` measures how differently they show
them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """A number in [0, 1], and what it is."""

    value: float
    what: str

    def __float__(self) -> float:
        return self.value


LABELS = "Jensen-Shannon divergence of the clients' label shares, as a part of the labels' entropy, above chance"
NUMBERS = "share of the targets' variance that is between clients, above chance"
INPUTS = "share of the inputs' variance within a class that is between clients, above chance"


def of_labels(labels: Tensor, client: Tensor, what: str = LABELS) -> Difference:
    """Labels (n,) and whose they are (n,), both int64 from 0."""
    _, counts = (client * (int(labels.max()) + 1) + labels).unique(return_counts=True)
    sizes, kinds = client.bincount(), labels.bincount()
    within = _entropy(counts) - _entropy(sizes)  # the mean entropy of a client's labels
    pooled, chance = _entropy(kinds), _chance(sizes, kinds)
    return Difference(_above(pooled - within, chance, pooled), what)


def of_numbers(y: Tensor, client: Tensor, what: str = NUMBERS) -> Difference:
    """Targets (n, o) and whose they are (n,) int64 from 0; the variances of several targets are added up."""
    y = y - y.mean(0)
    sizes = client.bincount()
    sums = y.new_zeros(len(sizes), y.shape[1]).index_add_(0, client, y)
    between = (sums.square().sum(1) / sizes.clamp(min=1)).sum()
    whole = float(y.square().sum())
    chance = (int((sizes > 0).sum()) - 1) / max(len(y) - 1, 1)
    return Difference(_above(float(between) / whole if whole else 0.0, chance, 1.0), what)


def of_inputs(x: Tensor, labels: Tensor, client: Tensor, what: str = INPUTS) -> Difference:
    """Inputs (n, d) less the mean of their class (n,): for clients that have the same classes and show them in another
    way. Taken as targets are."""
    kinds = labels.bincount().clamp(min=1)
    means = x.new_zeros(len(kinds), x.shape[1]).index_add_(0, labels, x) / kinds[:, None]
    return of_numbers(x - means[labels], client, what)


def _above(found: float, chance: float, most: float) -> float:
    room = most - chance
    return min(max((found - chance) / room, 0.0), 1.0) if room > 1e-12 else 0.0


def _entropy(counts: Tensor) -> float:
    """Of shares in these proportions, in nats."""
    p = counts[counts > 0].to(torch.float64) / counts.sum()
    return float(-(p * p.log()).sum())


def _chance(sizes: Tensor, kinds: Tensor) -> float:
    """The mean of I if n labels are dealt out at random to clients of these sizes: how many of a kind of b come to a
    client of a is hypergeometric, P(k) = C(b, k) C(n - b, a - k) / C(n, a)."""
    n = int(sizes.sum())
    lg = torch.arange(n + 2, dtype=torch.float64).lgamma()  # lg[k + 1] = log k!
    a, often = sizes[sizes > 0].unique(return_counts=True)
    total = 0.0
    for b in kinds[kinds > 0].tolist():
        for part, times in zip(a.split(64), often.split(64), strict=True):
            k = torch.arange(1, min(int(part.max()), b) + 1)
            rest, others = part[:, None] - k, n - b - part[:, None] + k
            fits = (rest >= 0) & (others >= 0)
            rest, others = rest.clamp(min=0), others.clamp(min=0)
            p = lg[b + 1] - lg[k + 1] - lg[b - k + 1] + lg[n - b + 1] - lg[rest + 1] - lg[others + 1]
            p = p - (lg[n + 1] - lg[part + 1] - lg[n - part + 1])[:, None]
            gain = k / n * (n * k.to(torch.float64) / (part[:, None] * b)).log()
            total += float((times[:, None] * torch.where(fits, p.exp() * gain, 0.0)).sum())
    return total
