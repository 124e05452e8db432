"""Models over stacked parameters: w (R, C, P), x (R, C, n, ...) -> predictions (R, C, n, o)."""

from fmlab.models.conv import conv
from fmlab.models.lift import Lifted, lift
from fmlab.models.mlp import MLP, softmax

Model = MLP | Lifted

__all__ = ["MLP", "Lifted", "Model", "conv", "lift", "softmax"]
