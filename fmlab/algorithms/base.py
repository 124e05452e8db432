"""What an algorithm is: a frozen dataclass of hyperparameters with pure methods. One file each, mostly formula.

To add one: write its file beside these, with a field ``server`` and with ``start``, ``local``, ``adapt`` and
``evaluations``, and add the class to ``ALGORITHMS`` in ``fmlab/algorithms/__init__.py``; the README shows one.
Sampling of clients, the weighted mean, the server's optimiser, sweeps, counters and evaluation are the engine's.

Three trees, named tensors each: what the server *held*, a client *sent*, a client *kept*. Shapes: held (R, 1, .) at
the server and (R, C, .) at the clients, which all start from the same; sent and kept (R, C, .). A hyperparameter is a
number, or a tensor (R, 1, 1) where it is swept: both broadcast. Keep the models' dtype: a number times a truth value
has torch's default one, so write ``mask.to(w)``. An entry that is sent and not held is only for ``combine`` to see.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fmlab.data import Batch, Examples, Tree
from fmlab.declare import Declared
from fmlab.objective import Objective
from fmlab.optimisers import Optimiser


@dataclass(frozen=True)
class Algorithm(Declared, ABC):
    """Abstract. Fields beside ``server`` are hyperparameters; ``None`` is filled from the recorded step sizes."""

    learned: ClassVar[tuple[str, ...]] = ("model",)  # what of ``held`` the optimiser steps on
    averages: ClassVar[bool] = True  # whether ``combine`` sees only the messages' mean, so that it may be another one

    @property
    @abstractmethod
    def server(self) -> Optimiser:
        """The server's optimiser: a field ``server: Optimiser = SGD()``."""

    @abstractmethod
    def start(self, f: Objective, w: Tensor) -> tuple[Tree, Tree]:
        """From fresh models w (R, 1, P): what the server holds, and what a client keeps before its first round."""

    @abstractmethod
    def local(self, f: Objective, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        """The clients' half of a round: what they send, and what they keep. No client sees another's."""

    def combine(self, f: Objective, held: Tree, sent: Tree, weight: Tensor | None) -> Tree:
        """What the server makes of all messages, (R, C, .) -> (R, 1, .). weight (R, C, 1) adds up to one, 0 for a
        client that did not answer; None: all the same."""
        return weighted_mean(sent, weight)

    def absorb(self, held: Tree, mean: Tree, share: float | Tensor) -> Tree:
        """``held`` with the entries that are not learned brought up to date; share: of all clients who answered."""
        return held

    def personal(self, f: Objective, held: Tree, kept: Tree) -> Tensor | None:
        """The model (R, C, P) that a participating client uses now, where the method gives it one of its own."""
        return None

    def updates_all(self) -> bool:
        """Whether ``personal`` is of all clients after one more local update from the server's model, as in methods
        where everyone trains in every round and only the mean is of a sample; else of what each kept when last asked.
        """
        return False

    @abstractmethod
    def adapt(self, f: Objective, held: Tree, support: Examples, steps: int) -> Iterator[Tensor]:
        """Models (R, C, P) of clients that never took part, after 0, 1, ..., steps adaptation steps."""

    @abstractmethod
    def evaluations(self) -> float:
        """Gradient evaluations a client spends in one exchange, the mean where clients differ; a Hessian-vector product
        counts as two."""

    def phases(self, f: Objective) -> int:
        """Exchanges with the same clients in one round."""
        return 1

    def received(self, held: Tree, sent: Tree, phase: int) -> Iterable[str]:
        """What of ``held`` goes to a client in an exchange: what it answers, by default."""
        return sent.keys() & held.keys()

    def objective(self, f: Objective) -> Objective:
        """The objective of the models in ``held``, where they are not those of ``f``."""
        return f


def weighted_mean(sent: Tree, weight: Tensor | None) -> Tree:
    """The mean over clients (R, C, .) -> (R, 1, .) of every entry."""
    if weight is None:
        return {name: t.mean(1, keepdim=True) for name, t in sent.items()}
    return {name: (t * weight).sum(1, keepdim=True) for name, t in sent.items()}
