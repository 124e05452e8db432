"""What a population is: a frozen dataclass that draws clients.

Each client's data is a function of (seed, split, client): it does not depend on how many clients there are, nor on
who takes part. ``heterogeneity`` in [0, 1] means something exact in each population, 0 being "all clients alike".

Splits: "training" clients take part in rounds; "participating" are the same clients with the same support set and
fresh query examples, to score on; "validation" and "unseen" clients never take part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fmlab.data import Clients
from fmlab.declare import Declared, hyper
from fmlab.models import Model
from fmlab.objective import Objective


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

    def count(self, split: str) -> int:
        """How many clients the split has."""
        return {"validation": self.n_validation, "unseen": self.n_unseen}.get(split, self.n_clients)
