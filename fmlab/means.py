"""How the server makes one message of many: ``compare(..., mean=fm.Median())`` in place of the weighted mean.

A robust mean listens to no single client, so that a liar among them does not decide what comes out; but a client whose
data differ from the others' looks like a liar to it, and is not heard either. What a method makes of the mean
(FedReptile's share of the way, the server's optimiser) comes afterwards and stays as it is. A client that did not
answer has no message, and every other counts once. What is not a number ranks above all numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fmlab.data import Batch, Tree
from fmlab.declare import Declared, hyper
from fmlab.transforms import Wire


@dataclass(frozen=True)
class Mean(Declared, ABC):
    """One message of all clients', (R, C, .) -> (R, 1, .). weight (R, C, 1) as in ``Algorithm.combine``: it adds up to
    one, and is 0 for a client that did not answer; None: all the same."""

    weighs: ClassVar[bool] = False  # whether it knows weights other than 0 and all the same

    @abstractmethod
    def __call__(self, sent: Tree, weight: Tensor | None, batch: Batch) -> Tree: ...

    def check(self, clients: int) -> None:
        """Raises ValueError where so many clients a round are too few."""
        return

    def wire(self, wire: Wire) -> Wire:
        """What an entry of a message takes on the wire for it."""
        return wire


def _there(t: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The clients' numbers in rising order (R, C, P), absent ones last; and how many clients answered (R, 1, 1)."""
    here = torch.ones_like(t[..., :1], dtype=torch.bool) if weight is None else weight > 0
    return torch.where(here, t, torch.nan).sort(1).values, here.sum(1, keepdim=True)


@dataclass(frozen=True)
class Median(Mean):
    """Of every coordinate by itself; between the two in the middle where clients are even in number (Yin et al. 2018,
    1803.01498, Alg. 1). Less than half of the clients cannot move it beyond what the others sent."""

    def __call__(self, sent: Tree, weight: Tensor | None, batch: Batch) -> Tree:
        found = {}
        for name, t in sent.items():
            ranked, n = _there(t, weight)
            low, high = ((n - 1) // 2).clamp(min=0), (n // 2).clamp(max=t.shape[1] - 1)
            two = [ranked.gather(1, row.expand(-1, 1, t.shape[-1])) for row in (low, high)]
            found[name] = (two[0] + two[1]) / 2
        return found


@dataclass(frozen=True)
class TrimmedMean(Mean):
    """Of every coordinate by itself, without the lowest and the highest ``share`` of the clients, rounded down (Yin et
    al. 2018, 1803.01498, Alg. 1). 0 is the mean."""

    share: float = hyper(0.2, symbol="β", low=0.0, high=0.49, text="share of the clients left out at either end")

    def __call__(self, sent: Tree, weight: Tensor | None, batch: Batch) -> Tree:
        found = {}
        for name, t in sent.items():
            ranked, n = _there(t, weight)
            out = (n * self.share + 1e-9).floor()  # 0.29 * 100 is a little less than 29
            rank = torch.arange(t.shape[1], device=t.device)[:, None]
            inside = (rank >= out) & (rank < n - out)
            found[name] = torch.where(inside, ranked, 0.0).sum(1, keepdim=True) / (n - 2 * out).clamp(min=1).to(t)
        return found


@dataclass(frozen=True)
class Krum(Mean):
    """The one message that is nearest to its n - liars - 2 nearest others, by the sum of squared distances of whole
    messages (Blanchard et al. 2017, 1703.02757, sec. 4). n is how many answered; 2 liars + 2 < n, or nothing is
    promised: where fewer answer than were asked, at least the nearest other counts."""

    liars: int = hyper(1, symbol="f", low=0, high=10**6, whole=True, text="clients of a round that may lie")

    def check(self, clients: int) -> None:
        if 2 * self.liars + 2 >= clients:
            most = (clients - 3) // 2
            way = f"liars is at most {most}" if most >= 0 else "it takes at least 3 clients"
            raise ValueError(
                f"Krum.liars = {self.liars} of {clients} clients a round: it needs 2 liars + 2 < clients; {way}, "
                "or raise clients_per_round"
            )

    def __call__(self, sent: Tree, weight: Tensor | None, batch: Batch) -> Tree:
        whole = torch.cat(list(sent.values()), -1)
        here = torch.ones_like(whole[..., 0], dtype=torch.bool) if weight is None else weight[..., 0] > 0
        apart = torch.cdist(whole, whole, compute_mode="donot_use_mm_for_euclid_dist").square().nan_to_num(torch.inf)
        self_ = torch.eye(whole.shape[1], dtype=torch.bool, device=whole.device)
        apart = torch.where((here[:, None] & here[..., None]) & ~self_, apart, torch.inf).sort(-1).values
        near = (here.sum(1) - self.liars - 2).clamp(min=1)[:, None, None]
        counted = torch.arange(whole.shape[1], device=whole.device) < near
        score = torch.where(counted, apart, 0.0).sum(-1)
        # Where no score is finite, one of those who answered; argmin takes the first of equals.
        chosen = torch.where(here, score.clamp(max=torch.finfo(score.dtype).max), torch.inf).argmin(1)
        runs = torch.arange(len(whole), device=whole.device)
        return {name: t[runs, chosen][:, None] for name, t in sent.items()}


MEANS = (Median, TrimmedMean, Krum)
