"""What an algorithm is: a frozen dataclass of hyperparameters with pure methods. One file each, mostly formula.

To add one: write its file beside these, with a field ``server`` and with ``init``, ``local``, ``adapt`` and
``evaluations``, and add the class to ``ALGORITHMS`` in ``fmlab/algorithms/__init__.py``. Sampling of clients, the
weighted mean, the server's optimiser, sweeps, counters and evaluation are the engine's.

Shapes: server (R, 1, Q); every client's copy, what it sends and what it keeps (R, C, .). Hyperparameters are numbers,
or tensors (R, 1, 1) where they are swept: both broadcast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fmlab.data import Batch, Examples
from fmlab.declare import Declared
from fmlab.gradients import Objective
from fmlab.servers import Server

Sent = Tensor | None
Kept = Tensor | None


@dataclass(frozen=True)
class Algorithm(Declared, ABC):
    """Abstract. Fields beside ``server`` are hyperparameters; ``None`` is filled from the recorded step sizes."""

    @property
    @abstractmethod
    def server(self) -> Server:
        """The server's optimiser: a field ``server: Server = SGD()``."""

    @abstractmethod
    def init(self, w: Tensor, n_clients: int) -> tuple[Tensor, Kept]:
        """The server's start (R, 1, Q) from a fresh model w (R, 1, P), and what N clients keep (R, N, .) or None."""

    @abstractmethod
    def local(self, f: Objective, w: Tensor, kept: Kept, batch: Batch) -> tuple[Sent, Kept]:
        """One round on the clients: from the server's w (R, C, Q) to what they send (R, C, Q) and keep (R, C, .)."""

    @abstractmethod
    def adapt(self, f: Objective, w: Tensor, support: Examples, steps: int) -> Iterator[Tensor]:
        """Personal models (R, C, P) after 0, 1, ..., steps adaptation steps from the server's w (R, C, Q)."""

    @abstractmethod
    def evaluations(self) -> Any:
        """Gradient evaluations a client spends in one round; a Hessian-vector product counts as two."""
