"""Who the clients are, one file each. Add yours to ``POPULATIONS`` and the contract tests see it."""

from fmlab.populations.base import Population
from fmlab.populations.omniglot import Omniglot  # needs files, so it is not in POPULATIONS
from fmlab.populations.sines import Sines

POPULATIONS: tuple[type[Population], ...] = (Sines,)

__all__ = ["POPULATIONS", "Omniglot", "Population", *(p.__name__ for p in POPULATIONS)]
