"""The loss of one example, and its first and second derivative with respect to the prediction.

``each(p, y)``: (..., n) losses. Times ``scale`` (..., n, 1), and without the constant ``factor(o)`` for o outputs,
which the caller puts into its scale: ``slope(p, scale, shift, out)``, the first derivative d each / d p, where
``shift(y, scale, out)`` is what of it does not depend on p; ``curve(p, dp, scale, out)``, the second derivative times
dp. What has an ``out`` writes there and returns it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fmlab.data import Examples


@dataclass(frozen=True)
class SquaredError:
    """Mean over outputs of (p - y)^2; p and y (..., n, o)."""

    name: str = "mean square error"

    def each(self, p: Tensor, y: Tensor) -> Tensor:
        return (p - y).square().mean(-1)

    def factor(self, outputs: int) -> float:
        return 2.0 / outputs

    def shift(self, y: Tensor, scale: Tensor, out: Tensor) -> Tensor:
        return torch.mul(y, scale, out=out).neg_()

    def slope(self, p: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(shift, p, scale, out=out)

    def curve(self, p: Tensor, dp: Tensor, scale: Tensor, out: Tensor) -> Tensor:
        return torch.mul(dp, scale, out=out)

    def misfit(self, p: Tensor, y: Tensor, every: Tensor) -> str:
        """Why predictions p do not fit targets y, or ``every`` target does not; "" where all do."""
        if not every.dtype.is_floating_point or p.shape != y.shape:
            return (
                f"predictions of shape {tuple(p.shape[2:])} a client for targets y {tuple(y.shape[2:])} of dtype "
                f"{every.dtype}; both are (examples, outputs), of floating point"
            )
        return ""

    def correct(self, p: Tensor, y: Tensor) -> Tensor | None:
        return None

    def trivial(self, support: Examples, query: Examples) -> Tensor:
        """Zero for every query example."""
        return torch.zeros_like(query.y)


@dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(p)_y; logits p (..., n, o), classes y (..., n) int64."""

    name: str = "cross entropy"

    def each(self, p: Tensor, y: Tensor) -> Tensor:
        return -p.mT.log_softmax(-2).gather(-2, y[..., None, :])[..., 0, :]

    def factor(self, outputs: int) -> float:
        return 1.0

    def shift(self, y: Tensor, scale: Tensor, out: Tensor) -> Tensor:
        return out.zero_().scatter_(-1, y[..., None], scale).neg_()

    def slope(self, p: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        return torch.addcmul(shift, _softmax(p), scale, out=out)

    def curve(self, p: Tensor, dp: Tensor, scale: Tensor, out: Tensor) -> Tensor:
        s = _softmax(p)
        return torch.mul(s, dp - (s * dp).sum(-1, keepdim=True), out=out).mul_(scale)

    def misfit(self, p: Tensor, y: Tensor, every: Tensor) -> str:
        """See ``SquaredError``."""
        if every.dtype != torch.int64 or p.ndim != y.ndim + 1 or p.shape[:-1] != y.shape:
            return (
                f"logits of shape {tuple(p.shape[2:])} a client for y {tuple(y.shape[2:])} of dtype {every.dtype}; "
                "logits are (examples, classes), and y holds one int64 an example"
            )
        low, high, classes = int(every.min()), int(every.max()), p.shape[-1]
        if low < 0 or high >= classes:
            return (
                f"{classes} logits for classes from {low} to {high}; classes are 0 .. {classes - 1}: give the model "
                f"{max(high, 0) + 1} outputs, or number the classes from 0"
            )
        return ""

    def correct(self, p: Tensor, y: Tensor) -> Tensor | None:
        """(..., n) 1 where the largest logit is the class's, else 0: also where a logit is not finite (argmax takes NaN
        for the largest)."""
        return ((p.argmax(-1) == y) & p.isfinite().all(-1)).to(p.dtype)

    def trivial(self, support: Examples, query: Examples) -> Tensor:
        """Logits of the support set's class shares, one example added to each class: its majority class wins."""
        classes = int(max(support.y.max(), query.y.max())) + 1
        real = (support.weight > 0).to(support.weight.dtype)
        counts = (one_hot(support.y, classes) * real[..., None]).sum(-2) + 1.0
        return counts.log()[..., None, :].expand(*query.y.shape, -1)


def _softmax(p: Tensor) -> Tensor:
    """Over the last axis, computed along another one: six times as fast where classes are few."""
    return p.mT.softmax(-2).mT


Loss = SquaredError | CrossEntropy


def mean(each: Tensor, weight: Tensor) -> Tensor:
    """The client's mean (..., n) -> (...), padding excluded by its weight 0."""
    return torch.where(weight > 0, each * weight, 0.0).sum(-1)
