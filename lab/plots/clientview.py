"""One unseen client: what it holds, and what each method predicts for it after 0, 1, ..., steps adaptation steps.

`look_at` asks the study once; `client` draws any number of steps k from it, so that a slider for k needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmlab.populations.base import Labels
from fmlab.populations.fewshot import FewShot
from fmlab.study import Study
from lab.plots import style
from lab.plots.marks import Marks
from lab.plots.style import Look

Array = NDArray[np.float64]
PICTURES, ROOM = 8, 4.5  # pictures of each set at most, and the room at their right, in pictures
CLASSES = 8  # classes on show at most, the most frequent ones


@dataclass(frozen=True)
class View:
    """Support and query set of one client, and predictions by method (steps + 1, n, outputs): for regression of one
    input on a grid, else on the query set. ``truth`` (n,) on the grid, where the population knows it. ``pictures``:
    whether inputs are images."""

    support: tuple[Array, Array]
    query: tuple[Array, Array]
    predictions: dict[str, Array]
    grid: Array | None = None
    truth: Array | None = None
    pictures: bool = False
    labels: Labels = field(default_factory=Labels)


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
    curve = regression and query.x[0].numel() == 1 and query.y.shape[1] == 1
    known = curve and hasattr(study.population, "curves")
    ends = (-5.0, 5.0) if known else _ends(support.x, query.x)
    grid = torch.linspace(*ends, 101, dtype=torch.float64).reshape(-1, *query.x.shape[1:]) if curve else None
    x = query.x if grid is None else grid
    labels = study.population.labels()
    middle, unit = labels.y_scale if regression else (0, 1)
    predictions = {n: middle + unit * study.predict(n, x, seed, client, value).cpu().numpy() for n in study.names}
    return View(
        support=(support.x.cpu().numpy(), middle + unit * support.y.cpu().numpy()),
        query=(query.x.cpu().numpy(), middle + unit * query.y.cpu().numpy()),
        predictions=predictions,
        grid=None if grid is None else grid.flatten().numpy(),
        truth=_truth(study, client, seed, grid) if known and grid is not None else None,
        pictures=not regression and (isinstance(study.population, FewShot) or _image(query.x.shape[1:])),
        labels=labels,
    )


def _ends(*xs: torch.Tensor) -> tuple[float, float]:
    """Where a grid of inputs begins and ends: a little beyond all of them."""
    x = torch.cat([t.flatten() for t in xs])
    room = 0.03 * float(x.max() - x.min()) or 1.0
    return float(x.min()) - room, float(x.max()) + room


def _image(shape: torch.Size) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def _truth(study: Study, client: int, seed: int, grid: torch.Tensor) -> Array:
    amplitude, phase = study.population.curves("unseen", study.config["seeds"][seed])  # type: ignore[attr-defined]
    truth: Array = (amplitude[client] * (grid - phase[client]).sin())[:, 0].numpy()
    return truth


def client(ax: Axes | Marks, view: View, k: int, title: str = "", looks: Mapping[str, Look] | None = None) -> Marks:
    """The client with every method before (thin) and after k adaptation steps: a curve of one input, else predicted
    against true numbers, pictures, or how many of each class are right. ``looks``: of the methods (None: by their order
    in the view, which is the study's)."""
    numbers = view.query[1].dtype.kind == "f"
    draw = _curve if view.grid is not None else _numbers if numbers else _pictures if view.pictures else _classes
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
        m.points("support", x.reshape(len(x)), y[:, 0], color=ink, markersize=8 * scale, zorder=4)
        if view.truth is None:
            qx, qy = view.query
            m.points("query", qx.reshape(len(qx)), qy[:, 0], color=ink, markersize=5 * scale, mfc="none", zorder=4)
            legend.insert(1, ("to be predicted", support | {"markersize": 5 * scale, "mfc": "none"}))
            y = np.concatenate([y, qy])
        # The published curves reach 5; a client whose model blows up must not squeeze the others flat.
        highest = 5.0 if view.truth is not None and np.abs(y).max() <= 5 else style.nice(float(np.abs(y).max()))
        m.frame(
            title=title or f"An unseen client {steps_in_words(k)}",
            x=view.labels.x,
            y=view.labels.y,
            xlim=(float(view.grid[0]), float(view.grid[-1])),
            ylim=(-0.2 * highest if (y >= 0).all() else -1.2 * highest, 1.2 * highest),
            legend=legend,
        )
    return m


def _numbers(m: Marks, view: View, k: int, title: str, looks: Mapping[str, Look]) -> Marks:
    """Predicted against true numbers of the query set; of several outputs all."""
    true = view.query[1].ravel()
    low, high = float(true.min()), float(true.max())
    room = 0.15 * (high - low) or 1.0
    ends, scale = (low - room, high + room), m.theme.scale
    legend = []
    with m:
        m.line("right", ends, ends, color=m.theme.middle, linewidth=1.5 * scale, linestyle="solid", zorder=1)
        for name, predicted in view.predictions.items():
            look = {"color": looks[name].color(m.theme), "marker": looks[name].marker, "markersize": 5.5 * scale}
            m.points(name, true, predicted[k].ravel(), zorder=3, **look)
            legend.append((name, look | {"linestyle": "none"}))
        m.frame(
            title=title or f"An unseen client {steps_in_words(k)}",
            x=f"true {view.labels.y}",
            y=f"predicted {view.labels.y}",
            xlim=ends,
            ylim=ends,
            legend=legend,
        )
    return m


def _classes(m: Marks, view: View, k: int, title: str, looks: Mapping[str, Look]) -> Marks:
    """Which share of the query examples of each class is right, before (small) and after k steps."""
    true, scale = view.query[1], m.theme.scale
    classes, counts = np.unique(true, return_counts=True)
    shown = classes[np.argsort(-counts, kind="stable")[:CLASSES]][::-1]
    named = view.labels.classes
    rows = [f"{named[c] if c < len(named) else c} ({(true == c).sum()})" for c in shown.tolist()]
    legend, n = [], len(view.predictions)
    with m:
        for i, (name, predicted) in enumerate(view.predictions.items()):
            right = predicted.argmax(-1) == true  # (steps + 1, n)
            share = np.array([[4 * right[step][true == c].mean() for c in shown] for step in (0, k)])
            y = np.arange(len(shown)) + 0.5 * ((n - 1) / 2 - i) / max(n, 2)
            look = {"color": looks[name].color(m.theme), "marker": looks[name].marker}
            for row in range(len(shown)):
                m.line((name, row), share[:, row], [y[row]] * 2, color=look["color"], linewidth=1.1 * scale, zorder=2)
            m.points((name, "before"), share[0], y, zorder=3, **look | {"markersize": 3 * scale})
            m.points(name, share[1], y, zorder=4, **look | {"markersize": 6.5 * scale})
            legend.append((f"{name} {100 * right[k].mean():.0f} %", look | {"linestyle": "none"}))
        m.frame(
            title=title or f"An unseen client {steps_in_words(k)}",
            x="right, of a class (small: before)" if k else "right, of a class",
            y="",
            xlim=(-0.15, 4.15),
            ylim=(-0.6, len(shown) - 0.4),
            legend=legend,
            ticks=(["0", "25", "50", "75", "100 %"], rows),
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
