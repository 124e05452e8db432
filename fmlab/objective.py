"""A model and a loss make the objective that algorithms descend: every client's mean loss over its examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fmlab.data import Examples
from fmlab.gradients import Product, autograd, autograd_linearize
from fmlab.losses import Loss, mean
from fmlab.models import MLP, Model
from fmlab.models.backprop import Backprop


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

    @cached_property
    def backprop(self) -> Backprop | None:
        """The same derivatives in closed form, where the model has them."""
        return Backprop(self.model, self.loss) if self.closed_form and isinstance(self.model, MLP) else None

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        return self.backprop.gradient(w, data) if self.backprop else autograd(self, w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        return self.backprop.linearize(w, data) if self.backprop else autograd_linearize(self, w, data)

    def scores(self, models: Iterable[Tensor], data: Examples) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Loss and share correct (R, C) of each of ``models`` (R, C, P), from one forward pass each."""
        if self.backprop:
            predictions = self.backprop.predictions(models, data.x)
        else:
            predictions = (self.model(w, data.x) for w in models)
        return (self._score(p, data) for p in predictions)

    def _score(self, p: Tensor, data: Examples) -> tuple[Tensor, Tensor | None]:
        hits = self.loss.correct(p, data.y)
        return mean(self.loss.each(p, data.y), data.weight), None if hits is None else mean(hits, data.weight)

    def trivial(self, support: Examples, query: Examples) -> tuple[Tensor, Tensor | None]:
        """Loss and share correct of the predictor that learns nothing: zero, or the support set's class shares."""
        return self._score(self.loss.trivial(support, query), query)
