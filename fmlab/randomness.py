"""Randomness as a function of what it is for: the same seed, round and purpose give the same draw, in any order.

There is no global seed: every draw names its purpose, ``generator("participation", seed, round)``. Any round can be
re-entered, every algorithm of a comparison meets the same clients and batches, and evaluation moves no stream.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor


def generator(purpose: str, *key: int | str) -> torch.Generator:
    """A CPU generator for one purpose; ``key`` is usually (seed, round, ...)."""
    digest = blake2b("/".join(map(str, (purpose, *key))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


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
