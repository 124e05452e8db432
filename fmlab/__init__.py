"""fmlab: federated meta-learning beside federated averaging, every client of every run trained in one batch."""

from fmlab.algorithms import *  # noqa: F403
from fmlab.algorithms import ALGORITHMS as ALGORITHMS
from fmlab.algorithms import Algorithm as Algorithm
from fmlab.compare import compare as compare
from fmlab.compare import stream as stream
from fmlab.declare import sweep as sweep
from fmlab.export import load as load
from fmlab.gradients import grad as grad
from fmlab.gradients import meta_grad as meta_grad
from fmlab.models import MLP as MLP
from fmlab.models import lift as lift
from fmlab.models import softmax as softmax
from fmlab.populations import *  # noqa: F403
from fmlab.populations import POPULATIONS as POPULATIONS
from fmlab.populations import Population as Population
from fmlab.servers import SGD as SGD
from fmlab.servers import Adam as Adam
from fmlab.servers import Yogi as Yogi
from fmlab.study import Study as Study

__version__ = "0.1.0"
