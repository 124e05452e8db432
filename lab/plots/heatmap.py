"""The map: heterogeneity x inner steps, the colour says who is ahead and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from numpy.typing import ArrayLike

from lab.plots import style
from lab.plots.marks import Marks
from lab.plots.style import Look


def advantage_map(
    ax: Axes | Marks,
    heterogeneity: ArrayLike,
    inner_steps: ArrayLike,
    percent: ArrayLike,
    *,
    flown: ArrayLike = False,
    here: tuple[float, float] | None = None,
    names: tuple[str, str] = ("FedAvg", "FedMAML"),
    looks: Mapping[str, Look] | None = None,
    title: str = "",
    x: str = "heterogeneity",
    y: str = "inner steps",
    rows: Sequence[str] = (),
) -> Marks:
    """The map: ``percent`` (inner steps, heterogeneity) is the `advantage` of the second method over the first, NaN
    where not computed yet; its colour is the winner's. ``flown`` (the same shape) gives a star to cells in which
    clients flew away, so that the median stands for the mean. ``here`` marks the current setting, also between the
    cells; ``rows`` are the names of the rows where their numbers do not say enough."""
    h, steps, values = (np.asarray(a, dtype=np.float64) for a in (heterogeneity, inner_steps, percent))
    stars = np.broadcast_to(np.asarray(flown, dtype=bool), values.shape)
    m = Marks.on(ax)
    looks = looks or style.looks(names)
    colors = [looks[n].color(m.theme) for n in names]
    cmap = LinearSegmentedColormap.from_list("who wins", [colors[0], m.theme.paper, colors[1]])
    rgb = cmap(np.clip(0.5 + values / 200, 0, 1))[..., :3]
    rgb[~np.isfinite(values)] = to_rgb(m.theme.faint)
    with m:
        m.image("cells", rgb[::-1], (-0.5, len(h) - 0.5, -0.5, len(steps) - 0.5))
        for row in range(len(steps)):
            for column in range(len(h)):
                value = values[row, column]
                says = "…" if np.isnan(value) else f"{value:+.0f} %".replace("-", "−")
                says = ("0 %" if says in ("+0 %", "−0 %") else says) + " *" * bool(stars[row, column])
                bright = np.dot(rgb[row, column], (0.3, 0.59, 0.11)) > 0.5
                color = m.theme.middle if np.isnan(value) else "#000000" if bright else "#ffffff"
                m.text((row, column), column, row, says, ha="center", va="center", color=color, zorder=3)
        if here is not None:
            at = np.interp(here[0], h, np.arange(len(h))), np.interp(here[1], steps, np.arange(len(steps)))
            corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 0.47 + at
            m.line("here", *corners.T, color=m.theme.ink, linewidth=2.5 * m.theme.scale, zorder=4, clip_on=False)
        m.frame(
            title=title or f"The map: {names[1]} against {names[0]} fine-tuned",
            x=x,
            y=y,
            xlim=(-0.5, len(h) - 0.5),
            ylim=(-0.5, len(steps) - 0.5),
            ticks=(h.tolist(), list(rows) or steps.tolist()),
        )
    return m
