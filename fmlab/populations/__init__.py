"""Who the clients are, one file each. Add yours to ``POPULATIONS`` and the contract tests see it."""

from fmlab.populations.base import Population
from fmlab.populations.bearings import Bearings
from fmlab.populations.datasets import Datasets
from fmlab.populations.digits import Digits
from fmlab.populations.glyphs import Glyphs
from fmlab.populations.insurers import Insurers
from fmlab.populations.leaf import Leaf
from fmlab.populations.omniglot import Omniglot as Omniglot
from fmlab.populations.patients import Patients
from fmlab.populations.quadratics import Quadratics
from fmlab.populations.ratings import Ratings
from fmlab.populations.sines import Sines
from fmlab.populations.speeches import Speeches
from fmlab.populations.synthetic import Synthetic
from fmlab.populations.table import Table
from fmlab.populations.watches import Watches

# Those that need no data from elsewhere.
POPULATIONS: tuple[type[Population], ...] = (Sines, Quadratics, Synthetic, Digits, Glyphs)

# Where such clients are met: a question each, on real data where it may ship (NOTICE says whose it is), else on drawn.
SCENARIOS: tuple[type[Population], ...] = (Watches, Patients, Insurers, Bearings, Speeches, Ratings)

NEED_DATA: tuple[type[Population], ...] = (Omniglot, Table, Leaf, Datasets)

__all__ = ["POPULATIONS", "SCENARIOS", "Population", *(p.__name__ for p in (*POPULATIONS, *SCENARIOS, *NEED_DATA))]
