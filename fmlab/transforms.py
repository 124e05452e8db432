"""What may happen to a client's message on its way to the server: clipped, blurred, made smaller, or a lie.

``compare(..., transforms=[fm.Clip(1.0), fm.Noise(0.1)])`` applies them in this order, before the server's mean. Each
changes every client's message by itself, and what it draws is a function of (seed, round, client), not of who else
takes part: a client alone on a real node sends what it sends in a simulation of thousands.

The seeds are known here, so that a run can be repeated, and whoever knows the seed can take the noise off again. A run
that is to protect anybody draws from a source that nobody else knows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fmlab.data import Batch, Tree
from fmlab.declare import Declared, choice, hyper
from fmlab.randomness import fraction, number, numbered, scattered


class Wire(NamedTuple):
    """What one entry of a message takes on the wire: so many numbers of so many bits, and so many bits beside them."""

    numbers: int
    bits: float = 32.0  # float32
    beside: float = 0.0

    @property
    def bytes(self) -> int:
        return math.ceil((self.numbers * self.bits + self.beside) / 8)


@dataclass(frozen=True)
class Transformation(Declared, ABC):
    """A transform that is declared, so that ``study.save`` keeps it. Any function (sent, batch) -> sent is one too."""

    @property
    def at_server(self) -> bool:
        """Whether the server changes the mean, see ``on_mean``."""
        return False

    @abstractmethod
    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        """What clients send instead, the same names and shapes (R, C, .)."""

    def on_mean(self, mean: Tree, answered: int | Tensor, batch: Batch) -> Tree:
        """What the server does to the mean (R, 1, .) of the ``answered`` messages, a number or (R, 1, 1)."""
        return mean

    def wire(self, wire: Wire) -> Wire:
        """What an entry takes on the wire after it."""
        return wire


def norms(sent: Tree) -> Tensor:
    """The Euclidean norm (R, C, 1) of every client's whole message, all entries together."""
    return torch.stack([t.square().sum(-1, keepdim=True) for t in sent.values()]).sum(0).sqrt()


def fractions(purpose: str, like: Tensor, who: Tensor, batch: Batch) -> Tensor:
    """Uniform on [0, 1), (R, C, P) as ``like``, float64: a function of (seed, round, exchange, who, place).

    who: int64 (R, C) or (R, 1). Swept values of one seed draw the same.
    """
    keys = [number(purpose, s, batch.round, batch.phase) for s in batch.seeds]
    key = torch.tensor(keys, device=like.device).repeat(len(like) // len(keys))[:, None, None]
    places = numbered(who[..., None], torch.arange(like.shape[-1], device=like.device))
    return fraction(scattered(places + key))


def gaussian(purpose: str, like: Tensor, who: Tensor, batch: Batch) -> Tensor:
    """Standard normal in the dtype of ``like``, by Box and Muller; see ``fractions``."""
    u, v = (fractions(f"{purpose}/{part}", like, who, batch) for part in ("radius", "angle"))
    return ((-2.0 * torch.log1p(-u)).sqrt() * torch.cos(2.0 * torch.pi * v)).to(like)


@dataclass(frozen=True)
class Clip(Transformation):
    """Scales a message that is longer than ``norm`` down to it:  m <- m min(1, norm / |m|)  (McMahan et al. 2018,
    1710.06963, Alg. 1), all entries of a message together. No client moves the sum by more than ``norm``, or by twice
    as much where it is replaced by another. Clip first, then add noise. With math.inf nothing changes.
    """

    norm: float = hyper(1.0, symbol="C", low=0.0, high=math.inf, log=True, text="largest norm of a message")

    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        length = norms(sent)
        scale = torch.where(length > self.norm, self.norm / length, 1.0)
        return {name: t * scale for name, t in sent.items()}


@dataclass(frozen=True)
class Noise(Transformation):
    """Normal noise of standard deviation ``std`` on every number.

    by "client": each adds its own to its message, and need not trust the server (local privacy); the mean of C messages
    then has noise of std / sqrt(C). by "server": it adds noise once, to the SUM of the messages, so std / C to their
    mean (central privacy; McMahan et al. 2018, 1710.06963): less noise in the model, and a server that is trusted.
    """

    std: float = hyper(1.0, symbol="σ", low=0.0, high=1e6, log=True, text="standard deviation of the noise")
    by: str = choice("client", ("client", "server"), text="who adds it: to its message, or to the sum of all")

    @property
    def at_server(self) -> bool:
        return self.by == "server" and self.std > 0

    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        if self.by == "server" or self.std == 0:
            return sent
        return {name: t + self.std * gaussian(f"noise/{name}", t, batch.who, batch) for name, t in sent.items()}

    def on_mean(self, mean: Tree, answered: int | Tensor, batch: Batch) -> Tree:
        server = batch.who.new_zeros(len(batch.who), 1)
        std = self.std / answered
        return {name: t + std * gaussian(f"central/{name}", t, server, batch) for name, t in mean.items()}


TRANSFORMS = (Clip, Noise)


def on_the_wire(sent: Tree, transforms: Iterable[object]) -> int:
    """Bytes of one client's message: float32, but for what the transforms make of it."""
    total = 0
    for t in sent.values():
        wire = Wire(t.shape[-1])
        for transform in transforms:
            if isinstance(transform, Transformation):
                wire = transform.wire(wire)
        total += wire.bytes
    return total
