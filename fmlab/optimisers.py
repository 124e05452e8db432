"""Optimisers of the server: how it steps on the clients' mean update (Reddi et al. 2020, 2003.00295, Alg. 2).

What arrives is a gradient-like tensor g: a mean meta-gradient, or the pseudo-gradient w - mean v of methods that send
models. The moments belong to the server's state and live as long as the run. Every optimiser works with every
algorithm. Shapes: w, g (R, 1, Q).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fmlab.declare import Declared, hyper

Moments = tuple[Tensor, ...]


def _step_size(default: float | None, high: float) -> Any:
    """Of the server. None is filled from the recorded search, or where nothing is recorded with what is ``usual``."""
    return hyper(
        default, symbol="β", low=0.0, high=high, log=True, optional=True, step_size="server", text="server step size"
    )


@dataclass(frozen=True)
class Optimiser(Declared, ABC):
    """``init(w) -> moments`` and ``step(w, moments, g, t) -> (w, moments)``; t counts its steps from 1, a number or
    (R, 1, 1). A field ``lr``, its step size."""

    usual: ClassVar[float] = 0.01  # the step size where none is given and none is recorded

    @property
    def rate(self) -> Any:
        """The step size, a number or (R, 1, 1)."""
        given = getattr(self, "lr", None)
        return self.usual if given is None else given

    @abstractmethod
    def init(self, w: Tensor) -> Moments: ...

    @abstractmethod
    def step(self, w: Tensor, moments: Moments, g: Tensor, t: int | Tensor) -> tuple[Tensor, Moments]: ...


@dataclass(frozen=True)
class SGD(Optimiser):
    """m <- momentum * m + g;  w <- w - lr * m.  lr = 1 without momentum takes the clients' mean model as it is."""

    usual = 1.0

    lr: float = _step_size(1.0, high=10.0)
    momentum: float = hyper(0.0, symbol="m", low=0.0, high=0.999, text="share of the last server step kept")

    def init(self, w: Tensor) -> Moments:
        return (w.new_zeros(w.shape),)

    def step(self, w: Tensor, moments: Moments, g: Tensor, t: int | Tensor) -> tuple[Tensor, Moments]:
        m = self.momentum * moments[0] + g
        return w - self.rate * m, (m,)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Kingma & Ba 2014 (1412.6980), Alg. 1, with bias correction. ``a.lerp(b, c)`` is (1 - c) a + c b."""

    lr: float = _step_size(None, high=1.0)
    b1: float = hyper(0.9, symbol="β1", low=0.0, high=0.9999, text="decay of the first moment")
    b2: float = hyper(0.999, symbol="β2", low=0.0, high=0.99999, text="decay of the second moment")
    eps: float = hyper(1e-8, symbol="ε", low=1e-12, high=1.0, text="added to the root of the second moment", log=True)

    def init(self, w: Tensor) -> Moments:
        return w.new_zeros(w.shape), w.new_zeros(w.shape)

    def step(self, w: Tensor, moments: Moments, g: Tensor, t: int | Tensor) -> tuple[Tensor, Moments]:
        m = moments[0].lerp(g, 1 - self.b1)
        v = moments[1].lerp(g * g, 1 - self.b2)
        scaled = (m / (1 - self.b1**t)) / ((v / (1 - self.b2**t)).sqrt() + self.eps)
        return w - self.rate * scaled, (m, v)


@dataclass(frozen=True)
class Yogi(Optimiser):
    """Zaheer et al. 2018, in the form of 2003.00295: the second moment moves by the sign of v - g^2; no correction."""

    lr: float = _step_size(None, high=1.0)
    b1: float = hyper(0.9, symbol="β1", low=0.0, high=0.9999, text="decay of the first moment")
    b2: float = hyper(0.99, symbol="β2", low=0.0, high=0.99999, text="decay of the second moment")
    eps: float = hyper(1e-3, symbol="τ", low=1e-12, high=1.0, text="added to the root of the second moment", log=True)

    def init(self, w: Tensor) -> Moments:
        return w.new_zeros(w.shape), w.new_zeros(w.shape) + self.eps**2

    def step(self, w: Tensor, moments: Moments, g: Tensor, t: int | Tensor) -> tuple[Tensor, Moments]:
        m = moments[0].lerp(g, 1 - self.b1)
        square = g * g
        v = moments[1] - (1 - self.b2) * square * (moments[1] - square).sign()
        return w - self.rate * m / (v.sqrt() + self.eps), (m, v)


OPTIMISERS = (SGD, Adam, Yogi)
