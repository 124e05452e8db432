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
        noise = {name: self.std * gaussian(f"central/{name}", t, server, batch) for name, t in mean.items()}
        return {name: t + (noise[name] / answered).to(t) for name, t in mean.items()}


@dataclass(frozen=True)
class Quantize(Transformation):
    """Each entry's numbers on a grid of 2^bits - 1 steps from -max|m| to max|m|, rounded up or down at random so that
    the mean is right (QSGD: Alistarh et al. 2017, 1610.02132, with the largest number as the scale). 0 stays 0. On the
    wire: ``bits`` a number, and the scale of the entry as one float32. After TopK, of the numbers that are sent.
    """

    bits: int = hyper(8, symbol="b", low=2, high=16, whole=True, text="bits of a number on the wire")

    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        half, after = 2 ** (self.bits - 1) - 1, {}
        for name, t in sent.items():
            most = t.abs().amax(-1, keepdim=True).to(torch.float64)
            steps = torch.where(most > 0, t / most, 0.0) * half
            rounded = (steps + fractions(f"quantize/{name}", t, batch.who, batch)).floor().clamp(-half, half)
            after[name] = (rounded / half * most).to(t)
        return after

    def wire(self, wire: Wire) -> Wire:
        return wire._replace(bits=float(self.bits), beside=wire.beside + 32)


@dataclass(frozen=True)
class TopK(Transformation):
    """Of each entry the ``share`` of the numbers that are largest without their sign, at least one; the rest is sent as
    0 (Aji and Heafield 2017, 1704.05021). What is left out is lost: nothing is kept for the next round, so the mean is
    not right, unlike Quantize's. On the wire: the numbers, and for each its place as 32 bits, unless all are sent.
    """

    share: float = hyper(0.1, symbol="k", low=1e-6, high=1.0, log=True, text="share of the numbers that are sent")

    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        after = {}
        for name, t in sent.items():
            k = self.number(t.shape[-1])
            rows = t.abs().topk(k, -1).indices
            after[name] = t if k == t.shape[-1] else torch.zeros_like(t).scatter(-1, rows, t.gather(-1, rows))
        return after

    def number(self, of: int) -> int:
        """How many of so many numbers are sent."""
        return max(1, math.ceil(self.share * of - 1e-9))  # 0.1 * 30 is a little more than 3

    def wire(self, wire: Wire) -> Wire:
        k = self.number(wire.numbers)
        return wire if k == wire.numbers else wire._replace(numbers=k, beside=wire.beside + 32 * k)


@dataclass(frozen=True)
class Liars(Transformation):
    """Clients that send something else than they found: each is one with probability ``share``, by (seed, client), and
    then lies in every round. "noise": normal noise of ``factor`` times its message's norm; "opposite": -m;
    "scaled": factor times m. What a transform before it did to the message, Clip for example, does not hold a liar.
    """

    share: float = hyper(0.2, symbol="p", low=0.0, high=1.0, text="share of the clients that lie")
    how: str = choice("noise", ("noise", "opposite", "scaled"), text="what a liar sends")
    factor: float = hyper(10.0, symbol="a", low=0.0, high=1e3, log=True, text="size of the lie, in messages")

    def lie(self, batch: Batch) -> Tensor:
        """Who lies, bool (R, C)."""
        keys = torch.tensor([number("liar", s) for s in batch.seeds], device=batch.who.device)
        runs = len(batch.who) // len(keys)
        return fraction(scattered(numbered(batch.who) + keys.repeat(runs)[:, None])) < self.share

    def __call__(self, sent: Tree, batch: Batch) -> Tree:
        lies, length = self.lie(batch)[..., None], norms(sent)
        width = sum(t.shape[-1] for t in sent.values())
        after = {}
        for name, t in sent.items():
            if self.how == "noise":
                draws = gaussian(f"lie/{name}", t, batch.who, batch)
                false = draws * (self.factor * length / width**0.5)
            else:
                false = -t if self.how == "opposite" else self.factor * t
            after[name] = torch.where(lies, false, t)
        return after


TRANSFORMS = (Clip, Noise, Quantize, TopK, Liars)


def on_the_wire(sent: Tree, transforms: Iterable[object]) -> int:
    """Bytes of one client's message: float32, but for what the transforms make of it."""
    total = 0
    for t in sent.values():
        wire = Wire(t.shape[-1])
        for transform in transforms:
            if hasattr(transform, "wire"):  # a Transformation, or the server's mean
                wire = transform.wire(wire)
        total += wire.bytes
    return total
