"""The algorithms, one file each. Add yours to ``ALGORITHMS`` and the contract tests, ``compare`` and the lab see it."""

from fmlab.algorithms.base import Algorithm
from fmlab.algorithms.fedavg import FedAvg
from fmlab.algorithms.fedmaml import FedMAML

ALGORITHMS: tuple[type[Algorithm], ...] = (FedAvg, FedMAML)

__all__ = ["ALGORITHMS", "Algorithm", *(a.__name__ for a in ALGORITHMS)]
