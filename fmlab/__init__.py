"""fmlab: federated meta-learning beside federated averaging, every client of every run trained in one batch."""

from fmlab.algorithms import *  # noqa: F403
from fmlab.algorithms import ALGORITHMS, Algorithm
from fmlab.declare import sweep
from fmlab.gradients import grad, meta_grad
from fmlab.models import MLP, lift, softmax
from fmlab.populations import *  # noqa: F403
from fmlab.populations import POPULATIONS, Population
from fmlab.servers import SGD, Adam, Yogi

__version__ = "0.1.0"
