"""Randomness as a function of what it is for: the same seed, round and purpose give the same draw, in any order.

There is no global seed: every draw names its purpose, ``generator("participation", seed, round)``. Any round can be
re-entered, every algorithm of a comparison meets the same clients and batches, and evaluation moves no stream.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor


def number(purpose: str, *key: int | str) -> int:
    """63 bits for one purpose; ``key`` is usually (seed, round, ...)."""
    digest = blake2b("/".join(map(str, (purpose, *key))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(purpose: str, *key: int | str) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(number(purpose, *key))


def scattered(counters: Tensor) -> Tensor:
    """Different int64 become independent-looking ones, each by itself and the same on every machine: the last mixing
    of SplitMix64 (Steele, Lea and Flood 2014, fig. 15). So what is drawn for a client does not depend on its company.
    """
    z = (counters ^ _logical_shift(counters, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed number
    z = (z ^ _logical_shift(z, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return z ^ _logical_shift(z, 31)


def _logical_shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def numbered(*axes: Tensor) -> Tensor:
    """One int64 for each place in axes that broadcast (client, example, ...), to be added to a ``number``."""
    odd = (-0x61C8864680B583EB, -0x3D4D51C2D82B14B1, 0x165667B19E3779F9)  # far apart, so that sums of small ones differ
    return sum((axis + 1) * factor for axis, factor in zip(axes, odd, strict=False))  # type: ignore[return-value]


def fraction(scattered: Tensor) -> Tensor:
    """int64 -> float64 uniform on [0, 1)."""
    return _logical_shift(scattered, 11).to(torch.float64) * 2.0**-53


def shuffled(n: int, purpose: str, *key: int | str) -> Tensor:
    """0, ..., n - 1 in random order, int64 (n,)."""
    return torch.randperm(n, generator=generator(purpose, *key))


def uniform(shape: tuple[int, ...], low: float, high: float, purpose: str, *key: int | str) -> Tensor:
    """float64 uniform on [low, high); row i does not depend on how many rows follow."""
    return low + (high - low) * torch.rand(shape, generator=generator(purpose, *key), dtype=torch.float64)


def normal(shape: tuple[int, ...], purpose: str, *key: int | str) -> Tensor:
    """float64 standard normal by Box-Muller; row i does not depend on how many rows follow (torch.randn's may)."""
    u = torch.rand((*shape, 2), generator=generator(purpose, *key), dtype=torch.float64)
    return (-2.0 * torch.log1p(-u[..., 0])).sqrt() * torch.cos(2.0 * torch.pi * u[..., 1])
