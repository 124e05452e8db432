"""Objectives: every client's mean loss, what algorithms descend. One is made of a model and a loss (``Empirical``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fmlab.closed_form import Programs
from fmlab.data import Examples
from fmlab.gradients import Product, StepSize, autograd, autograd_linearize, grad, meta_grads
from fmlab.layers import Chain, chain, resize
from fmlab.losses import Loss, mean
from fmlab.models import MLP, Model

Scored = tuple[Tensor, Tensor | None]  # loss and, for classification, share correct (R, C)


class Objective(ABC):
    """f(w, data): models w (R, C, P), data (R, C, n, ...) -> losses (R, C).

    Only the loss itself has to be written; here every derivative is autograd's and every step the formula's. A class
    that knows a closed form overrides what it is faster at, and a test holds both equal.
    """

    @abstractmethod
    def __call__(self, w: Tensor, data: Examples) -> Tensor: ...

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        """(R, C, P)."""
        return autograd(self, w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        """The gradient (R, C, P), and v (R, C, P) -> Hessian v (R, C, P)."""
        return autograd_linearize(self, w, data)

    def descend(
        self,
        w: Tensor,
        data: Examples | Callable[[int], Examples],
        lr: StepSize,
        steps: int,
        pull: StepSize = 0.0,
        to: Tensor | None = None,
    ) -> Tensor:
        """w after ``steps`` steps  w <- w - lr (grad f(w) + pull (w - to)).

        data: the same examples for every step, or a function that gives those of step k. ``to`` (R, C, P) stays put.
        """
        for k in range(steps):
            g = grad(self, w, data(k) if callable(data) else data)
            w = w - lr * (g if to is None else g + pull * (w - to))
        return w

    def path(self, w: Tensor, data: Examples, lr: StepSize, steps: int) -> Iterator[Tensor]:
        """The models after 0, 1, ..., steps gradient steps."""
        yield w
        for _ in range(steps):
            w = w - lr * grad(self, w, data)
            yield w

    def pulled_path(self, w: Tensor, data: Examples, lr: StepSize, steps: int, pull: StepSize) -> Iterator[Tensor]:
        """As ``path``, every step pulled back to the start:  u <- u - lr (grad f(u) + pull (u - w))  from u = w."""
        u = w
        yield u
        for _ in range(steps):
            u = self.descend(u, data, lr, 1, pull=pull, to=w)
            yield u

    def meta_gradient(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
    ) -> Tensor:
        """See ``fm.meta_grad``."""
        return meta_grads(self, w, support, query, lr, steps, first_order)[0]

    def meta_gradients(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
    ) -> tuple[Tensor, Tensor]:
        """See ``meta_grads``."""
        return meta_grads(self, w, support, query, lr, steps, first_order)

    def scores(self, models: Iterable[Tensor], data: Examples) -> Iterator[Scored]:
        """Loss and share correct of each of ``models`` (R, C, P)."""
        return ((self(w, data), None) for w in models)

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        """Predictions (R, C, n, o) of models w (R, C, P) for x (R, C, n, ...); NotImplementedError where a model makes
        none."""
        raise NotImplementedError(f"{type(self).__name__} has a loss without predictions")

    def trivial(self, support: Examples, query: Examples) -> Scored | None:
        """The score of the predictor that learns nothing; None where there is none."""
        return None

    @property
    def head(self) -> Tensor:
        """bool (P,): which parameters are the last layer's; the others are the body. ValueError without layers."""
        raise ValueError(
            f"{type(self).__name__} has a model without layers, so there is no head to tell from a body; take clients "
            "whose model is a network, or leave this method out"
        )

    @property
    def chain(self) -> Chain:
        """The model's layers, whose hidden units can be matched. ValueError where it is not such a chain."""
        raise ValueError(
            f"{type(self).__name__} has a model without layers, so there are no hidden units to match; take clients "
            "whose model is a network, or leave this method out"
        )

    def resized(self, hidden: Sequence[int]) -> Objective:
        """The same loss of a chain with other numbers of hidden units. ValueError as in ``chain``."""
        raise ValueError(f"{type(self).__name__} has a model without layers, so there are no hidden units to resize")

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Body (..., P - H) and head (..., H) of models w (..., P)."""
        head = self.head.to(w.device)
        return w[..., ~head], w[..., head]

    def join(self, body: Tensor, head: Tensor) -> Tensor:
        """The models w (..., P) with this body and head."""
        where = self.head.to(body.device)
        w = body.new_empty(*body.shape[:-1], len(where))
        w[..., ~where], w[..., where] = body, head
        return w

    def forget(self) -> None:  # noqa: B027  (most have none)
        """Give back memory that only makes the next call faster."""


@dataclass(frozen=True)
class Empirical(Objective):
    """f(w, data) = sum_j weight_j loss(model(w, x_j), y_j): w (R, C, P), data (R, C, n, ...) -> (R, C).

    ``closed_form=False`` makes an MLP use autograd too: the oracle of the tests.
    """

    model: Model
    loss: Loss
    closed_form: bool = True

    def __call__(self, w: Tensor, data: Examples) -> Tensor:
        return mean(self.loss.each(self.model(w, data.x), data.y), data.weight)

    @cached_property
    def programs(self) -> Programs | None:
        """The same derivatives in closed form, where the model has them."""
        return Programs(self.model, self.loss) if self.closed_form and isinstance(self.model, MLP) else None

    def _programs(self, *inputs: object) -> Programs | None:
        """The closed form where it can be used: nobody differentiates through."""
        graph = any(isinstance(t, Tensor) and t.requires_grad for t in inputs)
        return None if graph else self.programs

    def gradient(self, w: Tensor, data: Examples) -> Tensor:
        return self.programs.gradient(w, data) if self.programs else autograd(self, w, data)

    def linearize(self, w: Tensor, data: Examples) -> tuple[Tensor, Product]:
        return self.programs.linearize(w, data) if self.programs else autograd_linearize(self, w, data)

    def descend(
        self,
        w: Tensor,
        data: Examples | Callable[[int], Examples],
        lr: StepSize,
        steps: int,
        pull: StepSize = 0.0,
        to: Tensor | None = None,
    ) -> Tensor:
        if (fast := self._programs(w, lr, pull, to)) is None:
            return super().descend(w, data, lr, steps, pull, to)
        batches = (data(k) if callable(data) else data for k in range(steps))
        return fast.descend(w, batches, lr, pull, to)

    def path(self, w: Tensor, data: Examples, lr: StepSize, steps: int) -> Iterator[Tensor]:
        if (fast := self._programs(w, lr)) is None:
            yield from super().path(w, data, lr, steps)
            return
        yield w
        yield from fast.path(w, data, lr, steps)

    def meta_gradient(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
    ) -> Tensor:
        if (fast := self._programs(w, lr)) is None:
            return super().meta_gradient(w, support, query, lr, steps, first_order)
        return fast.meta_gradient(w, support, query, lr, steps, not first_order)

    def meta_gradients(
        self, w: Tensor, support: Examples, query: Examples, lr: StepSize, steps: int, first_order: bool = False
    ) -> tuple[Tensor, Tensor]:
        if (fast := self._programs(w, lr)) is None:
            return super().meta_gradients(w, support, query, lr, steps, first_order)
        return fast.meta_gradients(w, support, query, lr * torch.ones_like(w), steps, not first_order)

    def scores(self, models: Iterable[Tensor], data: Examples) -> Iterator[Scored]:
        """From one forward pass each."""
        if self.programs:
            predictions = self.programs.predictions(models, data.x)
        else:
            predictions = (self.model(w, data.x) for w in models)
        return (self._score(p, data) for p in predictions)

    def predict(self, w: Tensor, x: Tensor) -> Tensor:
        return self.model(w, x)

    def _score(self, p: Tensor, data: Examples) -> Scored:
        hits = self.loss.correct(p, data.y)
        return mean(self.loss.each(p, data.y), data.weight), None if hits is None else mean(hits, data.weight)

    def trivial(self, support: Examples, query: Examples) -> Scored:
        """Zero, or the support set's class shares."""
        return self._score(self.loss.trivial(support, query), query)

    @property
    def head(self) -> Tensor:
        return self.model.head

    @cached_property
    def chain(self) -> Chain:
        return chain(self.model)

    def resized(self, hidden: Sequence[int]) -> Empirical:
        return replace(self, model=resize(self.model, hidden))

    def forget(self) -> None:
        if self.programs:
            self.programs.forget()
