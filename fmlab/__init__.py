"""fmlab: federated meta-learning beside federated averaging, every client of every run trained in one batch."""

from fmlab import privacy as privacy
from fmlab.algorithms import *  # noqa: F403
from fmlab.algorithms import ALGORITHMS as ALGORITHMS
from fmlab.algorithms import Algorithm as Algorithm
from fmlab.compare import compare as compare
from fmlab.compare import stream as stream
from fmlab.declare import sweep as sweep
from fmlab.declare import validated as validated
from fmlab.gradients import grad as grad
from fmlab.gradients import meta_grad as meta_grad
from fmlab.interrupt import interrupted as interrupted
from fmlab.judgement import Verdict as Verdict
from fmlab.judgement import judge as judge
from fmlab.learner import FederatedMetaLearner as FederatedMetaLearner
from fmlab.means import Krum as Krum
from fmlab.means import Median as Median
from fmlab.means import TrimmedMean as TrimmedMean
from fmlab.models import MLP as MLP
from fmlab.models import lift as lift
from fmlab.models import softmax as softmax
from fmlab.optimisers import SGD as SGD
from fmlab.optimisers import Adam as Adam
from fmlab.optimisers import Yogi as Yogi
from fmlab.populations import *  # noqa: F403
from fmlab.populations import POPULATIONS as POPULATIONS
from fmlab.populations import SCENARIOS as SCENARIOS
from fmlab.populations import Population as Population
from fmlab.populations.collection import DataError as DataError
from fmlab.populations.collection import Decided as Decided
from fmlab.secure import SecureSum as SecureSum
from fmlab.study import Study as Study
from fmlab.study import load as load
from fmlab.transforms import Clip as Clip
from fmlab.transforms import Liars as Liars
from fmlab.transforms import Noise as Noise
from fmlab.transforms import Quantize as Quantize
from fmlab.transforms import TopK as TopK

__version__ = "0.1.0"
