"""Clients that lie, and a server that takes another mean.

FedAvg with one local step on `fm.Quadratics`, all clients in every round, with clients that send a lie. Drawn is the
mean loss of all clients above the least possible, known in closed form, of the mean and of three robust ones, which the
server has to choose before it knows who lies. On the left against the share of liars; on the right where nobody lies,
against how clients differ: that is what a robust mean costs, since it leaves out clients whose data are unlike the
others'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch

import fmlab as fm
from fmlab.declare import Declared, choice, hyper
from fmlab.means import Mean
from fmlab.setup import prepare
from lab import plots
from lab.lessons.sliding import Sliders, opened
from lab.panel.canvas import Draw
from lab.plots.marks import Marks

CLIENTS, ROUNDS, SEEDS, LR = 20, 40, 3, 0.2
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
DIFFERENCES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MEANS: dict[str, Mean | None] = {
    "mean": None,
    "median": fm.Median(),
    "trimmed mean": fm.TrimmedMean(0.3),
    "Krum": fm.Krum(6),
}  # both of the last are made for up to 6 of 20 liars
HOW = ("noise", "opposite", "scaled")


@dataclass(frozen=True)
class Setting(Declared):
    """What the controls say. ValueError for a value out of range."""

    share: float = hyper(0.2, symbol="p", low=0.0, high=0.5, text="share of the clients that lie")
    heterogeneity: float = hyper(0.3, symbol="h", low=0.0, high=1.0, text="how honest clients differ")
    factor: float = hyper(10.0, symbol="a", low=1.0, high=100.0, log=True, text="size of a lie, in honest messages")
    how: str = choice("noise", HOW, text="what a liar sends, see fm.Liars")


@cache
def lost(share: float, heterogeneity: float, factor: float, how: str, mean: str) -> tuple[float, ...]:
    """By seed: the mean loss of all clients above the least possible after ROUNDS rounds; infinite: it diverged."""
    clients = fm.Quadratics(heterogeneity=heterogeneity, n_clients=CLIENTS, n_unseen=1, n_validation=1)
    fedavg = fm.FedAvg(1, lr=LR, adapt_lr=LR)
    liars = fm.Liars(share, how, factor)
    setup = prepare(
        [fedavg],
        clients,
        seeds=SEEDS,
        clients_per_round=CLIENTS,
        transforms=[liars],
        mean=MEANS[mean],
        dtype=torch.float64,
    )
    last = next(islice(setup.run(fedavg), ROUNDS, None)).held["model"]
    found = []
    for seed in range(SEEDS):
        m, curvature = clients.losses("training", seed)
        both = torch.stack([last[seed, 0], clients.optimum(seed)])[:, None] - m
        loss = 0.5 * torch.einsum("wid,ide,wie->wi", both, curvature, both).mean(1)
        above = float(loss[0] - loss[1])
        found.append(above if np.isfinite(above) else float("inf"))
    return tuple(found)


@dataclass(frozen=True)
class Lies:
    """Names of means -> arrays of the loss above the least: by_share (shares, seeds) over SHARES; honest (., seeds)
    over DIFFERENCES, where nobody lies; here (seeds,) at the setting on show; price (seeds,) there if nobody lied."""

    by_share: dict[str, np.ndarray[Any, Any]]
    honest: dict[str, np.ndarray[Any, Any]]
    here: dict[str, np.ndarray[Any, Any]]
    price: dict[str, np.ndarray[Any, Any]]


def run(setting: Setting) -> Lies:
    """Train with every mean, at every share and every difference; float64."""
    p, h, lie = setting.share, setting.heterogeneity, (setting.factor, setting.how)

    def by_mean(*where: tuple[float, float]) -> dict[str, np.ndarray[Any, Any]]:
        # Nobody's lie has a size or a kind: those runs are made once.
        runs = [(q, d, *(lie if q else (1.0, "noise"))) for q, d in where]
        return {name: np.array([lost(*one, name) for one in runs]) for name in MEANS}

    here, price = by_mean((p, h)), by_mean((0.0, h))
    return Lies(
        by_share=by_mean(*((q, h) for q in SHARES)),
        honest=by_mean(*((0.0, d) for d in DIFFERENCES)),
        here={name: values[0] for name, values in here.items()},
        price={name: values[0] for name, values in price.items()},
    )


def sentence(found: Lies, setting: Setting) -> str:
    """What the pictures say."""
    here = {name: float(values.mean()) for name, values in found.here.items()}
    price = {name: float(values.mean()) for name, values in found.price.items()}
    best, dearest = (min(here, key=lambda n: here[n]), max(price, key=lambda n: price[n]))
    lies, costs = setting.share > 0, price[dearest] >= 1e-6
    who, how = (
        f"{dearest} {'would still end' if lies else 'ends'} {_much(price[dearest])} above",
        "who differs looks like a liar",
    )
    if not costs:
        who, how = (
            f"all {'would reach' if lies else 'reach'} the least loss",
            "honest clients are alike, and nobody is left out",
        )
    if not lies:
        return f"Nobody lies. {who[0].upper()}{who[1:]}: {how}."
    other = f"{best} is best here, with {_much(here[best])}" if best != "mean" else "no other is better"
    share = f"With {setting.share:.0%} liars the mean ends {_much(here['mean'])} above the least loss"
    return f"{share}; {other}. If nobody lied, {who}: {how}."


def _much(value: float) -> str:
    return f"{value:.2g}" if value < 1e6 else "without bound"


class LiarsPanel(Sliders):
    """Controls for the share of liars, how honest clients differ, and the lie. ``result`` is on show."""

    labels: ClassVar = {"share": "share of liars", "factor": "size of a lie", "how": "a liar sends"}
    pictures: ClassVar = ("liars", "honest")
    width: ClassVar = 1120
    height: ClassVar = 360

    def __init__(self, setting: Setting, **options: Any) -> None:
        super().__init__("liars", setting, **options)

    def answer(self, setting: Setting) -> Lies:
        return run(setting)

    def draws(self, found: Lies, setting: Setting) -> dict[str, Draw]:
        h = setting.heterogeneity

        def liars(m: Marks) -> None:
            plots.liars(m, SHARES, found.by_share, setting.share, "share of clients that lie", f"Heterogeneity {h:g}")

        def honest(m: Marks) -> None:
            plots.liars(m, DIFFERENCES, found.honest, h, "heterogeneity of the clients", "Nobody lies")

        return {"liars": liars, "honest": honest}

    def says(self, found: Lies, setting: Setting) -> str:
        return sentence(found, setting)


def liars(**options: Any) -> LiarsPanel:
    """Clients that lie, against robust means. Options: ``theme``, ``size``, ``synchronous``, and any field of the first
    setting: ``share``, ``heterogeneity``, ``factor``, ``how``."""
    panel: LiarsPanel = opened(LiarsPanel, Setting, options)
    return panel
