"""The map: heterogeneity x inner steps, the colour is the advantage of federated meta-learning over fine-tuned FedAvg.

The advantage is in per cent of the trivial predictor's loss: in per cent of the losses themselves it would be largest
where all clients are alike and both losses small. A cell is its setting's study with one seed, computed in the
background from the corners to the middles and remembered; where just these two methods are on, it is the first
rough answer when a slider comes by.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

import fmlab as fm
from lab import plots
from lab.panel.setting import ALIKE, PLAIN, Setting
from lab.plots.style import Look

H = (0.0, 0.25, 0.5, 0.75, 1.0)
K = (1, 2, 3, 5)
Cell = tuple[float, int]  # heterogeneity, inner steps


def pair(setting: Setting) -> tuple[str, str]:
    """FedAvg and the federated meta-learning method on show: FedMAML unless only others are on."""
    others = [n for n in setting.methods if n not in ("FedAvg", PLAIN, "LocalOnly", "FedProx")]
    return "FedAvg", "FedMAML" if "FedMAML" in others or not others else others[0]


def cell(setting: Setting, h: float, steps: int) -> Setting:
    return dataclasses.replace(setting.single(), heterogeneity=h, inner_steps=steps, methods=pair(setting))


def coarse_to_fine() -> list[Cell]:
    """Every cell, the corners first, then the middles."""

    def ranks(n: int) -> list[int]:
        order = [0, n - 1, n // 2, *range(n)]
        return [order.index(i) for i in range(n)]

    column, row = ranks(len(H)), ranks(len(K))
    cells = itertools.product(range(len(H)), range(len(K)))
    return [(H[i], K[j]) for i, j in sorted(cells, key=lambda c: max(column[c[0]], row[c[1]]))]


class AdvantageMap:
    """The cells that it was given, in percent; all of one kind of setting."""

    def __init__(self) -> None:
        self.percent: dict[Cell, float] = {}
        self.flown: set[Cell] = set()  # where the median client stands for the mean
        self.kind: Setting | None = None
        self.unit = ""

    def has(self, setting: Setting) -> Collection[Cell]:
        """The cells of this setting's map that stand there."""
        return self.percent if self._fits(setting) else ()

    def put(self, setting: Setting, at: Cell, study: fm.Study) -> None:
        """One cell of this setting's map; cells of another kind of setting go."""
        if not self._fits(setting):
            self.kind, self.percent, self.flown = cell(setting, 0.0, 1), {}, set()
        quantity = "accuracy" if study.accuracy else "loss"
        self.unit = "points of accuracy" if quantity == "accuracy" else "% of trivial loss"
        self.percent[at] = plots.advantage(study, pair(setting)[1], quantity=quantity)
        if quantity == "loss" and plots.flew(study, pair(setting)[1]):
            self.flown.add(at)

    def state(self, setting: Setting) -> Any:
        """Changes whenever the picture would."""
        return cell(setting, 0.0, 1), len(self.percent), setting.heterogeneity, setting.inner_steps

    def draw(self, marks: plots.Marks, setting: Setting, looks: Mapping[str, Look] | None = None) -> None:
        known = self.percent if self._fits(setting) else {}
        percent = np.array([[known.get((h, k), math.nan) for h in H] for k in K])
        flown = np.array([[(h, k) in self.flown and (h, k) in known for h in H] for k in K])
        names, here = pair(setting), (setting.heterogeneity, setting.inner_steps)
        title = f"{names[1]}'s gain" + (f", {self.unit}" if known else "")
        how = "1 seed; * flew away: median" if flown.any() else f"{setting.rounds} rounds, 1 seed"
        x = f"heterogeneity ({how})"
        if not setting.heterogeneous:
            x = "these clients have no heterogeneity to move"
        alike = setting.work == ALIKE
        y = "inner steps" if alike else "inner steps; FedAvg at equal work"
        rows = [f"{k}\nFedSGD" if alike and k == 1 else str(k) for k in K]  # FedAvg with one local step
        said = {"names": names, "looks": looks, "title": title, "x": x, "y": y, "rows": rows}
        plots.advantage_map(marks, H, K, percent, flown=flown, here=here, **said)

    def _fits(self, setting: Setting) -> bool:
        return self.kind == cell(setting, 0.0, 1)
