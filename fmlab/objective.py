"""A model and a loss make the objective that algorithms descend: every client's mean loss over its examples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fmlab.data import Examples
from fmlab.gradients import Product, autograd, autograd_linearize
from fmlab.losses import Loss, mean
from fmlab.models import MLP, Model


@dataclass(frozen=True)
class Empirical:
    """f(w, data) = sum_j weight_j loss(model(w, x_j), y_j): w (R, C, P), data (R, C, n, ...) -> (R, C).

    ``closed_form=False`` makes an MLP use autograd too: the oracle of the tests.
    """

    model: Model
    loss: Loss
    closed_form: bool = True

    def __call__(self, w: Tensor, data: Examples) -> Tensor:
        return mean(self.loss.each(self.model(w, data.x), data.y), data.weight)

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        if self.closed_form and isinstance(self.model, MLP):
            return self.model.gradient(self.loss, w, data)
        return autograd(self, w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        if self.closed_form and isinstance(self.model, MLP):
            return self.model.linearize(self.loss, w, data)
        return autograd_linearize(self, w, data)

    def score(self, w: Tensor, data: Examples) -> tuple[Tensor, Tensor | None]:
        """Loss and share correct from one forward pass."""
        p = self.model(w, data.x)
        hits = self.loss.correct(p, data.y)
        return mean(self.loss.each(p, data.y), data.weight), None if hits is None else mean(hits, data.weight)

    def trivial(self, support: Examples, query: Examples) -> tuple[Tensor, Tensor | None]:
        """Loss and share correct of the predictor that learns nothing: zero, or the support set's class shares."""
        p = self.loss.trivial(support.y, query.y)
        hits = self.loss.correct(p, query.y)
        return mean(self.loss.each(p, query.y), query.weight), None if hits is None else mean(hits, query.weight)
