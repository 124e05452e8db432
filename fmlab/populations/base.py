"""What a population is: a frozen dataclass that draws clients.

Each client's data is a function of (seed, split, client): it does not depend on how many clients there are, nor on
who takes part. ``heterogeneity`` in [0, 1] means something exact in each population, 0 being "all clients alike".

Splits: "training" clients take part in rounds; "participating" are the same clients with the same support set and
fresh query examples, to score on; "validation" and "unseen" clients never take part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fmlab.data import Clients
from fmlab.declare import Declared, hyper
from fmlab.models import Model
from fmlab.objective import Objective
from fmlab.populations.difference import Difference, of_labels, of_numbers


class Labels(NamedTuple):
    """What to call an input and what is to be predicted, with units, and the classes where they have names. A target in
    these units is middle + unit * y, where ``y_scale`` = (middle, unit)."""

    x: str = "input x"
    y: str = "output y"
    classes: tuple[str, ...] = ()
    y_scale: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Population(Declared, ABC):
    """Abstract. To add one: write its file beside these and add the class to ``POPULATIONS``."""

    n_clients: int = hyper(1000, symbol="N", low=1, high=10**6, whole=True, text="clients that may take part")
    n_validation: int = hyper(
        50, symbol="N_v", low=1, high=10**5, whole=True, text="clients that step sizes are chosen on"
    )
    n_unseen: int = hyper(100, symbol="N_u", low=1, high=10**5, whole=True, text="clients never seen in training")

    @abstractmethod
    def draw(self, split: str, seed: int) -> Clients:
        """All clients of one split (1, N, ...): one seed, float64, on the CPU."""

    @abstractmethod
    def model(self) -> Model | None:
        """The model used when none is given; None where the objective needs none."""

    @abstractmethod
    def objective(self, model: Model | None) -> Objective:
        """The loss of every client."""

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """How unlike the clients of a split are, in [0, 1], and what is measured: by default the labels or targets of
        their support and query sets, see ``fmlab.populations.difference``."""
        y, client = self._targets(split, seed)
        return of_numbers(y, client) if y.dtype.is_floating_point else of_labels(y, client)

    def _targets(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """What all examples of a split are to be predicted as, and whose they are (n,)."""
        clients = self.draw(split, seed)
        who = torch.arange(clients.number)[:, None]
        parts = [(e.y[0], who.expand(e.weight.shape[1:]), e.weight[0] > 0) for e in (clients.support, clients.query)]
        return torch.cat([y[real] for y, _, real in parts]), torch.cat([c[real] for _, c, real in parts])

    def labels(self) -> Labels:
        """For pictures and words."""
        return Labels()

    def fingerprint(self) -> str:
        """What else than its class tells the data apart, for what is kept about it; "" where there is nothing."""
        return ""

    def span(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a declared field that goes with the other fields as they are: its declared range,
        or less. Empty (lowest > highest) where the others leave it none."""
        h = type(self).__dataclass_fields__[name].metadata["hyper"]
        return h.low, h.high

    def count(self, split: str) -> int:
        """How many clients the split has."""
        return {"validation": self.n_validation, "unseen": self.n_unseen}.get(split, self.n_clients)
