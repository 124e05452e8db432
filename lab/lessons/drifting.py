"""Client drift in two dimensions: every client walks to its own minimum, and the server rests where they balance.

FedAvg is trained for real, on the quadratics of `fm.Quadratics` with all clients in every round, over the contours of
the mean loss. Marked are the minimum of the mean loss and the points where FedAvg and FedMAML (same number and size of
inner steps) come to rest, in closed form. The module is not named after its function, which importing it would hide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch

import fmlab as fm
from fmlab.declare import Declared, hyper
from fmlab.engine import rounds
from lab import plots
from lab.lessons.sliding import Sliders, opened
from lab.panel.canvas import Draw
from lab.plots.marks import Marks

CLIENTS, ROUNDS = 5, 30
ACROSS, UP = np.linspace(-1.8, 4.2, 61), np.linspace(-1.0, 3.2, 43)  # equal scales in a picture of WIDTH x HEIGHT
WIDTH, HEIGHT = 760, 560
START = torch.tensor([[-1.4, 2.8]], dtype=torch.float64)


@dataclass(frozen=True)
class Setting(Declared):
    """What the sliders say. ValueError for a value out of range."""

    heterogeneity: float = hyper(
        0.6, symbol="h", low=0.0, high=1.0, text="spread of the clients' minima and curvatures"
    )
    local_steps: int = hyper(10, symbol="K", low=1, high=30, whole=True, text="gradient steps a client takes a round")
    lr: float = hyper(0.1, symbol="η", low=0.01, high=0.5, log=True, text="size of a local step")
    round: int = hyper(ROUNDS, symbol="t", low=0, high=ROUNDS, whole=True, text="the round on show; trains nothing")


@dataclass(frozen=True)
class Drift:
    """One run. server (ROUNDS + 1, 2); local (ROUNDS + 1, CLIENTS, local steps + 1, 2), from the server's model after
    each round; points by name (2,); minima (CLIENTS, 2); surface (43, 61): the mean loss over
    UP and ACROSS. Where FedAvg diverges it is not among the points."""

    server: np.ndarray[Any, Any]
    local: np.ndarray[Any, Any]
    optimum: np.ndarray[Any, Any]
    points: dict[str, np.ndarray[Any, Any]]
    minima: np.ndarray[Any, Any]
    surface: np.ndarray[Any, Any]
    steepest: float  # the largest curvature of any client

    @property
    def diverges(self) -> bool:
        return "FedAvg" not in self.points


@torch.no_grad()
def run(setting: Setting, seed: int = 0) -> Drift:
    """Train FedAvg for ROUNDS rounds; float64."""
    clients = fm.Quadratics(heterogeneity=setting.heterogeneity, n_clients=CLIENTS)
    f, data = clients.objective(), clients.draw("training", seed)
    fedavg = fm.FedAvg(local_steps=setting.local_steps, lr=setting.lr, adapt_lr=setting.lr)
    states = rounds(fedavg, f, data, START, seeds=(seed,), per_round=CLIENTS)
    server = torch.cat([state.held["model"] for state in islice(states, ROUNDS + 1)])  # (rounds + 1, 1, 2)
    both = data.everyone()[0].map(lambda t: t.expand(ROUNDS + 1, *t.shape[1:]))  # support and query are alike here
    local = torch.stack(list(f.path(server.expand(-1, CLIENTS, -1), both, setting.lr, setting.local_steps)), 2)
    m, curvature = clients.losses("training", seed)
    x, y = np.meshgrid(ACROSS, UP)
    grid = torch.from_numpy(np.stack([x, y], -1)).flatten(0, 1)[:, None].expand(-1, CLIENTS, -1)
    everywhere = data.everyone()[0].map(lambda t: t.expand(len(grid), *t.shape[1:]))
    points = {"FedMAML": clients.fedmaml_point(seed, setting.lr, setting.local_steps)}
    # A round of FedAvg multiplies the distance to its fixed point by the mean of (I - lr A)^K.
    one = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - setting.lr * curvature, setting.local_steps)
    if torch.linalg.eigvalsh(one.mean(0)).abs().max() < 1:
        points["FedAvg"] = clients.fedavg_point(seed, setting.lr, setting.local_steps)
    return Drift(
        server=server[:, 0].numpy(),
        local=local.numpy(),
        optimum=clients.optimum(seed).numpy(),
        points={name: w.numpy() for name, w in points.items()},
        minima=m.numpy(),
        surface=f(grid, everywhere).mean(1).view(len(UP), len(ACROSS)).numpy(),
        steepest=float(torch.linalg.eigvalsh(curvature).max()),
    )


def sentence(d: Drift, setting: Setting) -> str:
    """What the picture says."""
    steps = f"{setting.local_steps} local step{'s' * (setting.local_steps > 1)} of {setting.lr:.2g}"
    if d.diverges:
        return (
            f"FedAvg diverges: step size times largest curvature is {setting.lr * d.steepest:.1f}; above 2 that client "
            "overshoots further with every step. Make the step size smaller."
        )
    away = {name: float(np.linalg.norm(w - d.optimum)) for name, w in d.points.items()}
    if max(away.values()) < 5e-3:
        return f"No drift: with {steps} both methods rest at the minimum of the mean loss."
    still = float(np.linalg.norm(d.server[setting.round] - d.points["FedAvg"]))
    rounds_done = f"{setting.round} round{'s' * (setting.round != 1)}"
    return (
        f"With {steps} FedAvg rests {away['FedAvg']:.2f} from the minimum of the mean loss, FedMAML "
        f"{away['FedMAML']:.2f}. After {rounds_done} FedAvg's server is {still:.2f} from where it will rest."
    )


class DriftPanel(Sliders):
    """Sliders for heterogeneity, local steps, step size, and the round on show. ``result`` is the run on show.
    options: ``theme``, ``size``, ``synchronous``, see ``Live``."""

    pictures: ClassVar = ("drift",)
    width: ClassVar = WIDTH
    height: ClassVar = HEIGHT

    def __init__(self, setting: Setting, **options: Any) -> None:
        self._trained: tuple[Setting, Drift] | None = None
        super().__init__("client drift", setting, **options)

    def answer(self, setting: Setting) -> Drift:
        asked = replace(setting, round=ROUNDS)
        if self._trained is None or self._trained[0] != asked:
            self._trained = asked, run(setting)
        return self._trained[1]

    def draws(self, d: Drift, setting: Setting) -> dict[str, Draw]:
        t = setting.round

        def draw(m: Marks) -> None:
            points = {name: tuple(w) for name, w in d.points.items()} | {"minimum of the mean loss": tuple(d.optimum)}
            title = f"Client drift: the local steps after round {t}"
            plots.drift(m, (ACROSS, UP, d.surface), d.local[t], d.server[: t + 1], points, d.minima, title)

        return {"drift": draw}

    def says(self, d: Drift, setting: Setting) -> str:
        return sentence(d, setting)


def drift(**options: Any) -> DriftPanel:
    """Client drift over the contours of the mean loss. Options: ``theme``, ``size``, ``synchronous``, and any field of
    the first setting: ``heterogeneity``, ``local_steps``, ``lr``, ``round``."""
    panel: DriftPanel = opened(DriftPanel, Setting, options)
    return panel
