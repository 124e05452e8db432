"""Client drift: two parameters, the mean loss as contours, the clients' and the server's ways over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from lab.plots import style
from lab.plots.marks import Marks, numbers


def drift(
    ax: Axes | Marks,
    surface: tuple[ArrayLike, ArrayLike, ArrayLike],
    clients: ArrayLike,
    server: ArrayLike,
    points: Mapping[str, tuple[float, float]],
    minima: ArrayLike | None = None,
    title: str = "",
) -> Marks:
    """Two parameters: contours of the mean loss, paths and marked points.

    surface: x (a,), y (b,), loss (b, a); clients (C, local steps + 1, 2): their paths in one round; server
    (rounds + 1, 2); points: name of a method, or any words, -> where its server comes to rest; minima (C, 2): of the
    clients' own losses.
    """
    x, y, loss = (np.asarray(a, dtype=np.float64) for a in surface)
    m = Marks.on(ax)
    path, local = (np.where(np.abs(p) < 1e3, p, np.nan) for p in (numbers(server), numbers(clients)))  # diverged: a gap
    levels = np.quantile(loss, np.linspace(0.02, 0.9, 9))
    size, middle = m.theme.scale, m.theme.middle
    walked = {
        "color": style.LOOKS["FedAvg"].color(m.theme),
        "linewidth": 2.2 * size,
        "marker": ".",
        "markersize": 7 * size,
    }
    drifting = {"color": middle, "linewidth": 1.1 * size, "marker": ".", "markersize": 5 * size}
    legend: list[tuple[str, dict[str, Any]]] = [
        ("FedAvg's server, round by round", walked),
        ("clients, step by step", drifting),
    ]
    with m:
        m.contours(("surface", loss.tobytes()), x, y, loss, levels)
        for i, steps in enumerate(local):
            m.line(("client", i), steps[:, 0], steps[:, 1], zorder=2, **drifting)
        m.line("server", path[:, 0], path[:, 1], zorder=3, **walked)
        if minima is not None:
            own = {"color": middle, "marker": "x", "markersize": 9 * size, "markeredgewidth": 2.2 * size}
            m.points("minima", *numbers(minima).T, zorder=2.5, **own)
            legend.append(("clients' own minima", own | {"linestyle": "none"}))
        for name, (px, py) in points.items():
            known = style.LOOKS.get(name)
            color, marker = (known.color(m.theme), known.marker) if known else (m.theme.ink, "*")
            look = {
                "color": color,
                "marker": marker,
                "markersize": (12 if known else 17) * size,
                "markeredgecolor": m.theme.paper,
            }
            m.points(name, [px], [py], zorder=5, **look)
            legend.append((f"{name}: where it rests" if known else name, look | {"linestyle": "none"}))
        m.frame(
            title=title or "Client drift",
            x="parameter 1",
            y="parameter 2",
            xlim=(float(x[0]), float(x[-1])),
            ylim=(float(y[0]), float(y[-1])),
            legend=legend,
            over=True,  # room above would spoil the equal scales
        )
    return m
