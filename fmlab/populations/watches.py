"""Which exercise? Motion of a smart watch on one arm, while people did shoulder exercises (a new person's arm).

    Burns, Leung, Hardisty, Whyne, Henry and McLachlin 2018 (1802.01489): seven exercises, ten people, both arms, 20
    repetitions of each, accelerometer (g) and gyroscope (radians a second) at 50 Hz. The data is part of seglearn 1.2.5
    (BSD licence, D. M. Burns); ``tools/extract_clients.py`` takes it from there and averages it to 10 Hz.

A client is one arm: 20 clients. An example is a window of 2 seconds, of each of its six channels the mean and the
magnitudes of the first ten frequencies (0.5 to 5 Hz), 66 inputs, standardised; windows of a series do not overlap. In
time, windows of the seven series go side by side, so a support set of 7 is the first 2 seconds of each exercise, one of
14 the first 4. What is to be told apart, and by whom, is in ``collection``, heterogeneity too.

Nobody has one arm in one part of the clients and the other in another one.

Limits: ten people, so a seed's unseen clients are two of them; a look at all needs several seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from fmlab.declare import choice, hyper
from fmlab.populations.collection import Collection, Rows, packaged
from fmlab.populations.difference import Difference, of_inputs

WINDOW, FREQUENCIES = 20, 10  # samples, 2 seconds; 0.5 Hz apart
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")


@dataclass(frozen=True, kw_only=True)
class Watches(Collection):
    source: Any = field(default=None, init=False, repr=False)
    n_clients: int = hyper(12, symbol="N", low=1, high=18, whole=True, text="arms that train")
    n_validation: int = hyper(4, symbol="N_v", low=1, high=18, whole=True, text="arms that step sizes are chosen on")
    n_unseen: int = hyper(4, symbol="N_u", low=1, high=18, whole=True, text="arms never seen in training")
    shots: int = hyper(14, symbol="n_S", low=1, high=60, whole=True, text="windows of 2 seconds an arm adapts on")
    standardise: bool = choice(True, (False, True), "inputs in units of the training arms' spread")

    def read(self) -> tuple[Rows, list[str]]:
        return _rows(), []

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """Of the inputs: every arm does all exercises, for about as long."""
        clients = self.draw(split, seed)
        x = [e.x[0] for e in clients.everyone()]
        labels, who = self._targets(split, seed)
        real = [e.weight[0] > 0 for e in (clients.support, clients.query)]
        return of_inputs(torch.cat([t[r] for t, r in zip(x, real, strict=True)]), labels, who)


@cache
def _rows() -> Rows:
    held = packaged("watches.npz")
    ends = np.cumsum(held["lengths"])
    motion = held["motion"].astype(np.float64) / 1000
    inputs, exercise, owner, time = [], [], [], []
    for start, end, person, right, what in zip(
        ends - held["lengths"], ends, held["person"], held["right"], held["exercise"], strict=True
    ):
        n = (end - start) // WINDOW
        windows = motion[start : start + n * WINDOW].reshape(n, WINDOW, len(CHANNELS))
        waves = np.abs(np.fft.rfft(windows, axis=1))[:, 1 : FREQUENCIES + 1] / WINDOW
        inputs.append(np.concatenate([windows.mean(1)[:, None], waves], 1).reshape(n, -1))
        exercise.append(np.full(n, what))
        owner.append(np.full(n, 2 * (person - 1) + right))
        time.append(np.arange(n))
    who = np.concatenate(owner)
    order = np.argsort(who, kind="stable")
    columns = [f"{c} {'mean' if f == 0 else f'{f / 2:g} Hz'}" for f in range(FREQUENCIES + 1) for c in CHANNELS]
    return Rows(
        torch.from_numpy(np.concatenate(inputs)[order]).float(),
        torch.from_numpy(np.concatenate(exercise)[order].astype(np.int64)),
        torch.from_numpy(np.bincount(who)),
        tuple(f"person {p + 1}, {side} arm" for p in range(len(np.unique(who)) // 2) for side in ("left", "right")),
        tuple(columns),
        tuple(held["exercises"].tolist()),
        time=torch.from_numpy(np.concatenate(time)[order]),
        group=torch.arange(len(np.unique(who))) // 2,
    )
