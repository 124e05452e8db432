"""Who the clients are, one file each. Add yours to ``POPULATIONS`` and the contract tests see it."""

from fmlab.populations.base import Population
from fmlab.populations.digits import Digits
from fmlab.populations.glyphs import Glyphs
from fmlab.populations.omniglot import Omniglot  # needs files, so it is not in POPULATIONS
from fmlab.populations.quadratics import Quadratics
from fmlab.populations.sines import Sines
from fmlab.populations.synthetic import Synthetic

POPULATIONS: tuple[type[Population], ...] = (Sines, Quadratics, Synthetic, Digits, Glyphs)

__all__ = ["POPULATIONS", "Omniglot", "Population", *(p.__name__ for p in POPULATIONS)]
