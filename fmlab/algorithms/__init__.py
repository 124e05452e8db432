"""The algorithms, one file each. Add yours to ``ALGORITHMS`` and the contract tests, ``compare`` and the lab see it."""

from fmlab.algorithms.anil import ANIL
from fmlab.algorithms.base import Algorithm
from fmlab.algorithms.ditto import Ditto
from fmlab.algorithms.fedavg import FedAvg
from fmlab.algorithms.fedbabu import FedBABU
from fmlab.algorithms.fedma import FedMA
from fmlab.algorithms.fedmaml import FedMAML
from fmlab.algorithms.fedmetasgd import FedMetaSGD
from fmlab.algorithms.fedper import FedPer
from fmlab.algorithms.fedprox import FedProx
from fmlab.algorithms.fedrep import FedRep
from fmlab.algorithms.fedreptile import FedReptile
from fmlab.algorithms.localonly import LocalOnly
from fmlab.algorithms.perfedavg import PerFedAvg
from fmlab.algorithms.pfedme import PFedMe
from fmlab.algorithms.scaffold import Scaffold

ALGORITHMS: tuple[type[Algorithm], ...] = (
    LocalOnly,
    FedAvg,
    FedProx,
    FedReptile,
    FedMAML,
    FedMetaSGD,
    PerFedAvg,
    PFedMe,
    Scaffold,
    Ditto,
    FedPer,
    FedRep,
    FedBABU,
    ANIL,
    FedMA,
)

__all__ = ["ALGORITHMS", "Algorithm", *(a.__name__ for a in ALGORITHMS)]
