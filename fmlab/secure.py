"""A sum of which the server learns nothing else: every message under masks that cancel (Bonawitz et al. 2017,
1611.04482, sec. 4). Made for teaching.

Clients i < j agree on a secret (X25519 with each other's public key) and draw of it, anew for every round, a mask s_ij.
A message is written in fixed point and sent as

    y_i = m_i + sum_{j > i} s_ij - sum_{j < i} s_ji    modulo 2^64

so each number that the server sees is as likely as any other, and in the sum all masks cancel. Where a client does not
answer, those who did name the masks of this round that they share with it, and the server takes them out.

Left out: the second mask, against a server that says that somebody did not answer who did, and takes out the masks of a
message that it has; the signatures, against a server that hands out public keys of its own. Secret keys are a function
of (seed, client) here, so that a run can be repeated. How many examples a client has is no secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, shake_256
from itertools import combinations
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fmlab.data import Batch, Tree
from fmlab.declare import hyper
from fmlab.means import Mean
from fmlab.randomness import number
from fmlab.transforms import Wire
from fmlab.x25519 import agree, public


@lru_cache(maxsize=2**16)
def keys(seed: int, client: int) -> tuple[bytes, bytes]:
    """A client's secret and public key."""
    secret = blake2b(str(number("secret key", seed, client)).encode(), digest_size=32).digest()
    return secret, public(secret)


@lru_cache(maxsize=2**20)
def agreed(seed: int, one: int, other: int) -> bytes:
    """What two clients agree on: one's secret key and the other's public one; in either order the same."""
    return agree(keys(seed, one)[0], keys(seed, other)[1])


def mask(secret: bytes, numbers: int, *purpose: object) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """So many numbers modulo 2^64, of a secret and what they are for."""
    stream = shake_256(secret + "/".join(map(str, purpose)).encode()).digest(8 * numbers)
    return np.frombuffer(stream, dtype="<u8")


@dataclass(frozen=True)
class SecureSum(Mean):
    """The weighted mean, of which the server sees nothing but the sum; equal to it to 2^-fraction_bits a message.

    ``compare(..., mean=fm.SecureSum())``. It is a choice of the server's mean since it excludes the others: a median
    needs to see each message. 8 bytes a number. Raises ValueError in a round where a number of a message is too large
    for the fixed point (clip messages, or lower ``fraction_bits``), or where a single client answers, whose message
    would be the sum.
    """

    weighs: ClassVar[bool] = True

    fraction_bits: int = hyper(32, symbol="b", low=1, high=52, whole=True, text="bits behind the point")

    def check(self, clients: int) -> None:
        if clients < 2:
            raise ValueError("SecureSum of 1 client a round is its message; raise clients_per_round to 2 or more")

    def wire(self, wire: Wire) -> Wire:
        return wire._replace(bits=64.0)

    def __call__(self, sent: Tree, weight: Tensor | None, batch: Batch) -> Tree:
        runs, clients = batch.who.shape
        relative = torch.ones(runs, clients, dtype=torch.float64)
        if weight is not None:  # relative to the largest, so that without dropout or sizes it is 1
            whole = weight[..., 0].to("cpu", torch.float64)
            relative = whole / whole.amax(1, keepdim=True).clamp(min=torch.finfo(whole.dtype).tiny)
        found = {}
        for name, t in sent.items():
            weighted = t.to("cpu", torch.float64) * relative[..., None]
            rows = [self._sum(r, name, weighted[r], relative[r] > 0, batch) for r in range(runs)]
            mean = torch.stack(rows)[:, None] / relative.sum(1).clamp(min=1e-300)[:, None, None]
            found[name] = mean.to(t)
        return found

    def _sum(self, run: int, name: str, m: Tensor, here: Tensor, batch: Batch) -> Tensor:
        """The sum (P,) of one run's messages m (C, P), of those who are ``here``."""
        if not bool(here.any()):  # nobody answered; the server stays as it was
            return torch.zeros(m.shape[1], dtype=torch.float64)
        if int(here.sum()) == 1:
            raise ValueError(
                f"SecureSum: in round {batch.round + 1} only one client of {len(m)} answered, whose message would be "
                "the sum; raise clients_per_round or lower dropout"
            )
        if not bool(m[here].isfinite().all()):  # diverged: nothing that fixed point can hold
            return torch.full((m.shape[1],), torch.nan, dtype=torch.float64)
        masked = self.masked(run, name, m, batch)
        total = masked[here.numpy()].sum(0, dtype=np.uint64)
        for i, j, s in self._pairs(run, name, m.shape[1], batch):  # those who answered name what did not cancel
            if here[i] and not here[j]:
                total -= s
            elif here[j] and not here[i]:
                total += s
        return torch.from_numpy(total.view(np.int64) * 2.0**-self.fraction_bits)

    def masked(self, run: int, name: str, m: Tensor, batch: Batch) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
        """What the server sees (C, P), uint64, of one run's messages m (C, P), float64: entry ``name``."""
        largest, limit = float(m.nan_to_num(0.0).abs().max()), 2.0 ** (62 - self.fraction_bits) / len(m)
        if largest > limit:
            raise ValueError(
                f"SecureSum.fraction_bits = {self.fraction_bits}: of {len(m)} clients, a number of a message is at "
                f"most {limit:.3g}, and in round {batch.round + 1} one is {largest:.3g}; clip messages by fm.Clip, or "
                "take fewer bits"
            )
        y = (m.nan_to_num(0.0).numpy() * 2.0**self.fraction_bits).round().astype(np.int64).view(np.uint64)
        for i, j, s in self._pairs(run, name, m.shape[1], batch):
            y[i] += s
            y[j] -= s
        return y

    def _pairs(
        self, run: int, name: str, numbers: int, batch: Batch
    ) -> Iterator[tuple[int, int, np.ndarray[tuple[int], np.dtype[np.uint64]]]]:
        """Every two clients of a round and their mask."""
        seed, ids = batch.seeds[run % len(batch.seeds)], batch.who[run].tolist()
        for i, j in combinations(range(len(ids)), 2):
            secret = agreed(seed, min(ids[i], ids[j]), max(ids[i], ids[j]))
            s = mask(secret, numbers, batch.round, batch.phase, name)
            yield (i, j, s) if ids[i] < ids[j] else (j, i, s)
