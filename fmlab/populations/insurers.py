"""How will a year's paid losses develop? Loss triangles of insurers (a new insurer with one or two years of its own).

    Meyers and Shi: CAS loss reserve database, schedule P of US insurers, accident years 1988 to 1997 as known at the
    end of 1997. The data is part of chainladder 0.10.1 (MPL-2.0); ``tools/extract_clients.py`` takes it from there.

A client is an insurer in one line of business, with net premiums of a million dollars or more in every year. An
example is one step of one accident year's development: with P_j what is paid up to the end of year j (j = 1: the
accident year), as a share of the premium earned,

    x = j as one of nine, the line as one of six, P_j, P_j - P_(j-1)        y = P_(j+1) - P_j

all standardised. In time, accident years go from old to new: a support set of 9 is all that is known of 1988, one of
17 holds 1989 too. So an insurer shows how one or two years developed, and is scored on the years that followed.
Clients with more than ``WILD`` premiums paid in one step are left out. An insurer's lines all stand in one part of
the clients.

Limits: net of reinsurance, and 1997 is what was known then. Few insurers write premiums in every year and line, so
those who came or went are not among them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from fmlab.declare import choice, hyper
from fmlab.populations.base import Labels
from fmlab.populations.collection import Collection, Rows, packaged

YEARS, LEAST, WILD = 10, 1000, 1.5  # thousands of dollars; of a premium
FIRST = 1988


@dataclass(frozen=True, kw_only=True)
class Insurers(Collection):
    source: Any = field(default=None, init=False, repr=False)
    n_clients: int = hyper(140, symbol="N", low=1, high=210, whole=True, text="triangles that train")
    n_validation: int = hyper(20, symbol="N_v", low=1, high=210, whole=True, text="triangles to choose step sizes on")
    n_unseen: int = hyper(45, symbol="N_u", low=1, high=210, whole=True, text="triangles of insurers never in training")
    shots: int = hyper(17, symbol="n_S", low=1, high=44, whole=True, text="steps it adapts on: 9 a year, then 8")
    support: float = hyper(1.0, symbol="s", low=0.0, high=1.0, text="share of a client's examples it adapts on")
    standardise: bool = choice(True, (False, True), "inputs and targets in units of the training clients' spread")

    def read(self) -> tuple[Rows, list[str]]:
        return _rows(), []

    def labels(self) -> Labels:
        return Labels(y="share of the premium paid next year (standardised)")


@cache
def _rows() -> Rows:
    held = packaged("insurers.npz")
    steady = held["premium"].min(1) >= LEAST
    paid, premium, line = held["paid"][steady], held["premium"][steady], held["line"][steady]
    ratio = np.where(paid < 0, np.nan, paid / premium[:, :, None])  # (clients, years, lags)
    step = np.diff(ratio, axis=2, prepend=0.0)
    tame = ~(np.abs(step) > WILD).any((1, 2))
    ratio, step, line, company = ratio[tame], step[tame], line[tame], held["company"][steady][tame]
    lines = np.unique(line)
    who, year, lag = np.nonzero(~np.isnan(step[:, :, 1:]))
    x = [lag[:, None] == np.arange(YEARS - 1), line[who, None] == lines]
    x += [t[who, year, lag][:, None] for t in (ratio, step)]
    columns = [*(f"year {j + 1}" for j in range(YEARS - 1)), *lines.tolist(), "paid so far", "paid last"]
    return Rows(
        torch.from_numpy(np.concatenate(x, 1, dtype=np.float64)),
        torch.from_numpy(step[who, year, lag + 1][:, None]),
        torch.from_numpy(np.bincount(who)),
        tuple(f"{code} {kind}" for code, kind in zip(company.tolist(), line.tolist(), strict=True)),
        tuple(columns),
        plain=torch.arange(len(columns)) < len(columns) - 2,
        time=torch.from_numpy(year),
        group=torch.from_numpy(np.unique(company, return_inverse=True)[1]),
    )
