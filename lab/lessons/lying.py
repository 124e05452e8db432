"""Clients that lie, and a server that takes another mean.

FedAvg with one local step on `fm.Quadratics`, all clients in every round, for growing shares of clients that send a
lie. Drawn is the mean loss of all clients above the least possible, known in closed form, of the mean and of three
robust ones, which the server has to choose before it knows who lies. At 0 liars stands what a robust mean costs: where
honest clients differ, it leaves out some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

import fmlab as fm
from fmlab.declare import Declared, hyper
from fmlab.means import Mean
from lab import plots
from lab.lessons.sliding import Sliders, given
from lab.plots.marks import Marks

CLIENTS, ROUNDS, SEEDS, LR = 20, 60, 3, 0.2
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
MEANS: dict[str, Mean | None] = {
    "mean": None,
    "median": fm.Median(),
    "trimmed mean (30 % at either end)": fm.TrimmedMean(0.3),
    "Krum (6 liars)": fm.Krum(6),
}
HOW = ("noise", "opposite", "scaled")
HEIGHT = 400


@dataclass(frozen=True)
class Setting(Declared):
    """What the sliders say."""

    share: float = hyper(0.2, symbol="p", low=0.0, high=0.5, text="share of the clients that lie")
    heterogeneity: float = hyper(0.3, symbol="h", low=0.0, high=1.0, text="how honest clients differ")
    factor: float = hyper(10.0, symbol="a", low=1.0, high=100.0, log=True, text="size of a lie, in honest messages")


@cache
def lost(share: float, heterogeneity: float, size: float, how: str, mean: str) -> tuple[float, ...]:
    """By seed: the mean loss of all clients above the least possible after ROUNDS rounds; infinite: it diverged."""
    clients = fm.Quadratics(heterogeneity=heterogeneity, n_clients=CLIENTS, n_unseen=1, n_validation=1)
    study = fm.compare(
        [fm.FedAvg(1, lr=LR, adapt_lr=LR)],
        clients,
        rounds=ROUNDS,
        seeds=SEEDS,
        clients_per_round=CLIENTS,
        steps=1,
        evaluations=1,
        transforms=[fm.Liars(share, how, size)],
        mean=MEANS[mean],
        dtype=torch.float64,
    )
    found = []
    for seed in range(SEEDS):
        m, curvature = clients.losses("training", seed)
        both = torch.stack([study.held["FedAvg"]["model"][seed, 0], clients.optimum(seed)])[:, None] - m
        loss = 0.5 * torch.einsum("wid,ide,wie->wi", both, curvature, both).mean(1)
        above = float(loss[0] - loss[1])
        found.append(above if np.isfinite(above) else float("inf"))
    return tuple(found)


@dataclass(frozen=True)
class Liars:
    """lost: name of a mean -> (shares, seeds) over SHARES; here: the same (seeds,) at the share on show."""

    lost: dict[str, np.ndarray[Any, Any]]
    here: dict[str, np.ndarray[Any, Any]]


def run(setting: Setting, how: str = "noise") -> Liars:
    """Train with every mean and every share."""
    rest = setting.heterogeneity, setting.factor, how
    curves = {name: np.array([lost(p, *rest, name) for p in SHARES]) for name in MEANS}
    return Liars(curves, {name: np.array(lost(setting.share, *rest, name)) for name in MEANS})


def sentence(found: Liars, setting: Setting) -> str:
    """What the picture says."""
    here = {name: float(values.mean()) for name, values in found.here.items()}
    honest = {name: float(values[0].mean()) for name, values in found.lost.items()}
    best, worst = min(here, key=lambda n: here[n]), max(honest, key=lambda n: honest[n])
    differ = honest[worst] > 1e-6
    price = f"With none, {worst} loses {honest[worst]:.2g}: clients who differ look like liars"
    return (
        f"With {setting.share:.0%} liars the mean ends {_much(here['mean'])} above the least loss, the best here is {best} "
        f"with {_much(here[best])}. {price if differ else 'With none, all means agree'}."
    )


def _much(value: float) -> str:
    return f"{value:.2g}" if value < 1e6 else "without bound"


class LiarsPanel(Sliders):
    """Sliders for the share of liars, how honest clients differ, and the size of a lie. ``result`` is on show."""

    labels: ClassVar = {"share": "share of liars", "factor": "size of a lie"}

    def __init__(self, setting: Setting, how: str, **options: Any) -> None:
        if how not in HOW:
            raise ValueError(f"how = {how!r} is not one of {HOW}")
        self.how = how
        super().__init__("liars", setting, HEIGHT, **options)

    def answer(self, setting: Setting) -> Liars:
        return run(setting, self.how)

    def draws(self, found: Liars, setting: Setting) -> Any:
        def draw(m: Marks) -> None:
            plots.liars(m, SHARES, found.lost, setting.share, "What liars cost, by the server's mean")

        return draw

    def says(self, found: Liars, setting: Setting) -> str:
        return sentence(found, setting)


def liars(how: str = "noise", **options: Any) -> LiarsPanel:
    """Clients that lie, against robust means. how: "noise", "opposite" or "scaled", see ``fm.Liars``. Options:
    ``theme``, ``size``, ``synchronous``; ``share``, ``heterogeneity`` and ``factor`` of the first setting."""
    return LiarsPanel(given(Setting, options), how, **options)
