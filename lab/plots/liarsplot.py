"""What is lost against the share of clients that lie, by how the server takes the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lab.plots.marks import Marks

LINES = ("-", "--", "-.", ":")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito, apart for the colour-blind
MARKERS = ("o", "s", "^", "D")
LEAST = 1e-4  # what is lost is drawn from here on


def liars(
    ax: Axes | Marks, shares: Sequence[float], lost: Mapping[str, NDArray[Any]], share: float, title: str = ""
) -> Marks:
    """lost: name of a mean -> (shares, seeds), the mean loss above the least possible; share: the one on show."""
    m = Marks.on(ax)
    legend, high = [], 0.0
    with m:
        for i, (name, values) in enumerate(lost.items()):
            logs = np.log10(np.clip(values, LEAST, 1e4))
            high = max(high, float(logs.max()))
            look: dict[str, Any] = {
                "color": COLORS[i % 4],
                "linestyle": LINES[i % 4],
                "marker": MARKERS[i % 4],
                "markersize": 6 * m.theme.scale,
                "linewidth": 2 * m.theme.scale,
            }
            m.line(name, shares, logs.mean(1), **look)
            m.band(name, shares, logs.min(1), logs.max(1), look["color"])
            legend.append((name, look))
        m.line("share", [share, share], [-9, 9], color=m.theme.middle, linewidth=1.5 * m.theme.scale)
        m.frame(
            title=title,
            x="share of clients that lie",
            y="log10 of the loss above the least",
            xlim=(float(shares[0]), float(shares[-1])),
            ylim=(float(np.log10(LEAST)) - 0.2, high + 0.2),
            legend=legend,
        )
    return m
