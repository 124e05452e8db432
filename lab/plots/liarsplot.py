"""What is lost by how the server takes the mean, against how many clients lie or how much they differ."""

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
LEAST, MOST = 1e-4, 1e4  # what is lost is drawn between them


def liars(
    ax: Axes | Marks,
    across: Sequence[float],
    lost: Mapping[str, NDArray[Any]],
    here: float,
    x: str,
    title: str = "",
) -> Marks:
    """lost: name of a mean -> (values, seeds) over ``across``, the mean loss above the least possible, drawn from LEAST
    to MOST; the line is the mean over seeds of its logarithm, the band all seeds. here: the value on show; x: what it
    is of."""
    m = Marks.on(ax)
    legend, high = [], 0.0
    with m:
        for i, (name, values) in enumerate(lost.items()):
            logs = np.log10(np.clip(values, LEAST, MOST))
            high = max(high, float(logs.max()))
            look: dict[str, Any] = {
                "color": COLORS[i % 4],
                "linestyle": LINES[i % 4],
                "marker": MARKERS[i % 4],
                "markersize": 6 * m.theme.scale,
                "linewidth": 2 * m.theme.scale,
            }
            m.line(name, across, logs.mean(1), **look)
            m.band(name, across, logs.min(1), logs.max(1), look["color"])
            legend.append((name, look))
        m.line("here", [here, here], [-9, 9], color=m.theme.middle, linewidth=1.5 * m.theme.scale)
        m.frame(
            title=title,
            x=x,
            y="log10 of the loss above the least",
            xlim=(float(across[0]), float(across[-1])),
            ylim=(float(np.log10(LEAST)) - 0.2, high + 0.2),
            legend=legend,
        )
    return m
