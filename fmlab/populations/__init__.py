"""Who the clients are, one file each. Add yours to ``POPULATIONS`` and the contract tests see it."""

from fmlab.populations.base import Population
from fmlab.populations.sines import Sines

POPULATIONS: tuple[type[Population], ...] = (Sines,)

__all__ = ["POPULATIONS", "Population", *(p.__name__ for p in POPULATIONS)]
