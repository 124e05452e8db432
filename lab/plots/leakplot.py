"""Pictures that clients hold, above what was read of their messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lab.plots.marks import Marks


def leak(ax: Axes | Marks, truth: NDArray[Any], reading: NDArray[Any], title: str = "") -> Marks:
    """truth, reading (pictures, rows, columns): 0 is paper, 1 is ink."""
    m = Marks.on(ax)
    across = max(4, len(truth))
    with m:
        for row, (says, pictures) in enumerate((("held", truth), ("read", reading))):
            bottom = 1.05 * (1 - row)
            m.text(("row", row), -0.08, bottom + 0.5, says, ha="right", va="center")
            for i, picture in enumerate(pictures):
                grey = np.repeat(1 - np.clip(picture, 0, 1)[..., None], 3, -1)
                left = 1.05 * i
                m.image((row, i), grey, (left, left + 1, bottom, bottom + 1))
                edge = [left, left + 1, left + 1, left, left], [bottom, bottom, bottom + 1, bottom + 1, bottom]
                m.line(("edge", row, i), *edge, color=m.theme.middle, linewidth=m.theme.scale)
        m.frame(title=title, xlim=(-0.8, 1.05 * across + 0.05), ylim=(-0.05, 2.15), bare=True)
    return m
