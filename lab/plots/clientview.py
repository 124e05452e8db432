"""One unseen client: what it holds, and what each method predicts for it after 0, 1, ..., steps adaptation steps.

`look_at` asks the study once; `client` draws any number of steps k from it, so that a slider for k needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmlab.study import Study
from lab.plots import style
from lab.plots.marks import Marks
from lab.plots.style import Look

Array = NDArray[np.float64]
PICTURES, ROOM = 8, 4.5  # pictures of each set at most, and the room at their right, in pictures


@dataclass(frozen=True)
class View:
    """Support and query set of one client, and predictions by method (steps + 1, n, outputs): for regression on a grid
    of inputs, for classification on the query set. ``truth`` (n,) on the grid, where the population knows it."""

    support: tuple[Array, Array]
    query: tuple[Array, Array]
    predictions: dict[str, Array]
    grid: Array | None = None
    truth: Array | None = None


@torch.no_grad()
def look_at(study: Study, client: int = 0, seed: int = 0, value: int = 0) -> View:
    """Unseen client number ``client`` of the ``seed``-th seed. Raises IndexError for one that is not there."""
    if not 0 <= client < study.unseen.number:
        raise IndexError(
            f"client {client} is not one of the {study.unseen.number} unseen ones: 0 to {study.unseen.number - 1}"
        )
    ids = torch.full((len(study.config["seeds"]), 1), client)
    support, query = (e.map(lambda t: t[seed, 0]) for e in study.unseen.take(ids.to(study.unseen.sizes.device))[:2])
    support, query = (e.map(lambda t, real=e.weight > 0: t[real]) for e in (support, query))  # without padding
    regression = query.y.dtype.is_floating_point
    grid = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)[:, None] if regression else None
    x = query.x if grid is None else grid
    predictions = {n: study.predict(n, x, seed, client, value).cpu().numpy() for n in study.names}
    known = regression and hasattr(study.population, "curves")
    return View(
        support=(support.x.cpu().numpy(), support.y.cpu().numpy()),
        query=(query.x.cpu().numpy(), query.y.cpu().numpy()),
        predictions=predictions,
        grid=None if grid is None else grid[:, 0].numpy(),
        truth=_truth(study, client, seed, grid) if known and grid is not None else None,
    )


def _truth(study: Study, client: int, seed: int, grid: torch.Tensor) -> Array:
    amplitude, phase = study.population.curves("unseen", study.config["seeds"][seed])  # type: ignore[attr-defined]
    truth: Array = (amplitude[client] * (grid - phase[client]).sin())[:, 0].numpy()
    return truth


def client(ax: Axes | Marks, view: View, k: int, title: str = "", looks: Mapping[str, Look] | None = None) -> Marks:
    """The client with every method before (thin) and after k adaptation steps; pictures for classification. ``looks``:
    of the methods (None: by their order in the view, which is the study's)."""
    draw = _curve if view.grid is not None else _pictures
    return draw(Marks.on(ax), view, k, title, looks or style.looks(view.predictions))


def unseen_client(ax: Axes | Marks, study: Study, k: int | None = None, client_number: int = 0, seed: int = 0) -> Marks:
    """``client`` in one call; k None: all steps that the study took."""
    return client(ax, look_at(study, client_number, seed), study.steps if k is None else k)


def steps_in_words(k: int) -> str:
    return "before adaptation" if k == 0 else f"after {k} adaptation step{'s' * (k > 1)}"


def _curve(m: Marks, view: View, k: int, title: str, looks: Mapping[str, Look]) -> Marks:
    x, y = view.support
    ink, scale = m.theme.ink, m.theme.scale
    truth = {"color": m.theme.middle, "linewidth": 5 * scale, "alpha": 0.45, "linestyle": "solid"}
    support = {"color": ink, "marker": "o", "markersize": 8 * scale, "linestyle": "none"}
    with m:
        legend = [("its examples", support)]
        if view.truth is not None:
            m.line("truth", view.grid, view.truth, zorder=1.5, **truth)
            legend.insert(0, ("truth", truth))
        for name, predicted in view.predictions.items():
            line = looks[name].line(m.theme)
            if k > 0:
                before = line | {"linewidth": 1.1 * scale, "alpha": 0.6}
                m.line((name, "before"), view.grid, predicted[0, :, 0], zorder=2, **before)
            m.line(name, view.grid, predicted[k, :, 0], zorder=3, **line)
            legend.append((name, line))
        m.points("support", x[:, 0], y[:, 0], color=ink, markersize=8 * scale, zorder=4)
        # The published curves reach 5; a client whose model blows up must not squeeze the others flat.
        highest = 5.0 if np.abs(y).max() <= 5 else style.nice(float(np.abs(y).max()))
        m.frame(
            title=title or f"An unseen client {steps_in_words(k)}",
            x="input x",
            y="output y",
            xlim=(-5.0, 5.0),
            ylim=(-1.2 * highest, 1.2 * highest),
            legend=legend,
        )
    return m


def _pictures(m: Marks, view: View, k: int, title: str, looks: Mapping[str, Look]) -> Marks:
    """Its support pictures with their labels, then query pictures with every method's predicted labels."""
    names = list(view.predictions)
    (sx, sy), (qx, qy) = view.support, view.query
    shown = [_spread(labels, PICTURES) for labels in (sy, qy)]
    size = 10.5 * m.theme.scale
    box, line_height = m.ax.get_position(original=True), 1.35 * size / 72  # inches
    width, height = (m.ax.get_figure(root=True).get_size_inches() * (box.width, box.height)).tolist()
    across, lines = PICTURES + ROOM, 3 + len(names)
    picture = max(min(width / across, (height - lines * line_height) / 2), 0.1)  # inches
    row = line_height / picture
    second = 1 + 1.5 * row  # where the query pictures begin
    left = {"fontsize": size, "va": "center"}
    middle = left | {"ha": "center"}
    with m:
        for part, words, pictures, labels, rows, top in (
            ("s", "support", sx, sy, shown[0], 0.0),
            ("q", "query", qx, qy, shown[1], second),
        ):
            m.text(part, PICTURES + 0.1, top + 0.5, words, color=m.theme.middle, **left)
            m.text((part, "label"), PICTURES + 0.1, top + 1 + row / 2, "true label", **left)
            for column, i in enumerate(rows):
                _tile(m, (part, "picture", column), pictures[i], column, top)
                m.text((part, column), column + 0.46, top + 1 + row / 2, str(labels[i]), **middle)
        for line, name in enumerate(names):
            guesses, color = view.predictions[name][k].argmax(-1), looks[name].color(m.theme)
            at = second + 1 + row * (line + 1.5)
            for column, i in enumerate(shown[1]):
                right = guesses[i] == qy[i]
                says, weight = (f"{guesses[i]}", "bold") if right else (f"{guesses[i]}✗", "normal")
                m.text((name, column), column + 0.46, at, says, color=color, weight=weight, **middle)
            share = f"{name} {100 * (guesses == qy).mean():.0f} %"
            m.text(name, PICTURES + 0.1, at, share, color=color, weight="bold", **left)
        m.frame(
            title=title or f"An unseen client {steps_in_words(k)}",
            xlim=(0.0, float(across)),
            ylim=(2 + row * lines, 0.0),
            bare=True,
        )
    return m


def _tile(m: Marks, key: tuple[object, ...], pixels: Array, column: int, top: float) -> None:
    """One picture, grey or colour, from (h w,), (h, w), (1, h, w) or (3, h, w), as ink on a sheet a little darker than
    the paper: strokes that reach the edge of one picture are not taken for a part of the next."""
    if pixels.ndim == 1:
        pixels = pixels.reshape(math.isqrt(pixels.size), -1)
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    extent = (column + 0.03, column + 0.89, top + 0.91, top + 0.05)
    m.image(key, pixels, extent, cmap="gray" if m.theme.dark else "gray_r", clim=(-0.1, 1.0))


def _spread(labels: Array, most: int) -> list[int]:
    """Up to ``most`` examples, taking the labels in turn, so that every label is on show."""
    rank = {int(i): int((labels[:i] == labels[i]).sum()) for i in range(len(labels))}
    return sorted(sorted(rank, key=lambda i: (rank[i], labels[i]))[:most], key=lambda i: (labels[i], i))
