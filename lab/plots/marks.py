"""What a plot has drawn, by key, so that drawing again moves the same artists instead of adding new ones.

A plot function says all that shall be seen, every time it is called; what it no longer mentions is hidden::

    with Marks.on(ax) as m:
        m.line("truth", x, y, color="black")
        m.frame(title="An unseen client", x="x", y="y", xlim=(-5, 5), ylim=(-5, 5))

A live panel keeps the Marks, blits ``m.artists`` over a cached background, and draws that background again only
when ``m.framed`` (limits, labels, legend) has changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from lab.plots import style

FAR = 1e6  # a diverging run's numbers: still drawn as a line that leaves the plot, without overflow


def numbers(values: ArrayLike) -> NDArray[np.float64]:
    """float64, with whatever is not finite as a gap and whatever is huge cut to +-FAR."""
    array = np.array(values, dtype=np.float64)  # a copy: never the caller's
    array[~np.isfinite(array)] = np.nan
    return np.clip(array, -FAR, FAR)


class Marks:
    """The artists of one plot on one axes."""

    def __init__(self, ax: Axes) -> None:
        style.dress(ax)
        self.ax = ax
        self.theme = style.theme_of(ax)
        self.framed: tuple[Any, ...] = ()
        self._ylim = (0.0, 1.0)  # without the legend's room
        self._worded = False  # whether ticks are words
        self.calm = False  # limits only grow, for the frames of a running study
        self._made: dict[Hashable, Any] = {}
        self._named: set[Hashable] = set()

    @classmethod
    def on(cls, ax: Axes | Marks) -> Marks:
        return ax if isinstance(ax, Marks) else cls(ax)

    @property
    def artists(self) -> list[Artist]:
        """The artists on show, in drawing order, the legend among them: lines pass behind it."""
        legend = self.ax.get_legend()
        shown = [a for a in self._made.values() if a.get_visible()] + ([legend] if legend else [])
        return sorted(shown, key=lambda a: a.get_zorder())

    def __getitem__(self, key: Hashable) -> Any:
        """The artist that was last drawn under this name, whatever its kind. Raises KeyError if there is none."""
        for made, artist in self._made.items():
            if made in self._named and isinstance(made, tuple) and made[1:] == (key,):
                return artist
        raise KeyError(key)

    def __enter__(self) -> Marks:
        self._named.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for key, artist in self._made.items():
            artist.set_visible(key in self._named)

    def line(self, key: Hashable, x: ArrayLike, y: ArrayLike, **look: Any) -> Line2D:
        line = self._artist(("line", key), lambda: self.ax.add_line(Line2D([], [])))
        line.set(xdata=np.asarray(x, dtype=np.float64), ydata=numbers(y), **look)
        return line

    def points(self, key: Hashable, x: ArrayLike, y: ArrayLike, **look: Any) -> Line2D:
        return self.line(key, x, y, linestyle="none", **({"marker": "o", "markersize": 7 * self.theme.scale} | look))

    def band(self, key: Hashable, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: str) -> None:
        band = self._artist(
            ("band", key), lambda: FillBetweenPolyCollection("x", *(np.zeros((3, 1))), linewidth=0, zorder=1)
        )
        if band.axes is None:
            self.ax.add_collection(band, autolim=False)
        edges = (np.ma.masked_invalid(numbers(t)) for t in (low, high))
        band.set_data(np.asarray(x, dtype=np.float64), *edges)
        band.set(color=color, alpha=0.22)

    def text(self, key: Hashable, x: float, y: float, says: str, *, inside: bool = False, **look: Any) -> Text:
        """``inside``: x and y count from 0 to 1 over the axes instead of in data."""
        text = self._artist(("text", key), lambda: self.ax.text(0, 0, "", clip_on=False))
        where = self.ax.transAxes if inside else self.ax.transData
        size = 11 * self.theme.scale
        text.set(position=(x, y), text=says, transform=where, **({"color": self.theme.ink, "fontsize": size} | look))
        return text

    def image(
        self, key: Hashable, pixels: NDArray[Any], extent: tuple[float, float, float, float], **look: Any
    ) -> AxesImage:
        """pixels (rows, columns[, 3]); extent (left, right, bottom, top) in data."""
        image = self._artist(
            ("image", key), lambda: self.ax.add_image(AxesImage(self.ax, zorder=0.5, interpolation="nearest"))
        )
        image.set_data(pixels)
        image.set_extent(extent)
        image.set(**look)
        return image

    def contours(self, key: Hashable, x: ArrayLike, y: ArrayLike, z: ArrayLike, levels: ArrayLike) -> None:
        """Contour lines; made anew where ``key`` is new, for they cannot be moved."""
        if key not in self._made:
            for old in [k for k in self._made if isinstance(k, tuple) and k[:1] == ("surface",)]:
                self._made.pop(old).remove()
        self._artist(key, lambda: self.ax.contour(x, y, z, levels=levels, colors=[self.theme.faint], zorder=0.8))

    def settle(self, limits: tuple[float, float]) -> tuple[float, float]:
        """``limits`` of y, where the plot is calm with the present ones in them: axes that jump with every frame are
        hard to read, and to draw them takes longest."""
        if not (self.calm and self.framed):
            return limits
        low, high = self._ylim
        return min(low, limits[0]), max(high, limits[1])

    def frame(
        self,
        *,
        title: str = "",
        x: str = "",
        y: str = "",
        xlim: tuple[float, float],
        ylim: tuple[float, float],
        legend: Sequence[tuple[str, dict[str, Any]]] = (),
        over: bool = False,
        ticks: tuple[Sequence[float | str], Sequence[float | str]] | None = None,
        bare: bool = False,
    ) -> None:
        """Labels, limits and legend (text, keyword arguments of a line); only touched where they changed. The legend
        gets room of its own above ``ylim``, or lies ``over`` the plot.

        ``ticks``: the words at 0, 1, ... on both axes in place of numbers; ``bare``: pictures, no axes, equal scales.
        """
        now = (title, x, y, xlim, ylim, over, tuple((t, str(look)) for t, look in legend), str(ticks), bare)
        if now == self.framed:
            return
        self.framed, self._ylim = now, ylim
        if ticks is None and self._worded:
            style.dress(self.ax)
        self._worded = ticks is not None
        if ticks is not None:
            across, up = ([v if isinstance(v, str) else f"{v:g}" for v in side] for side in ticks)
            self.ax.set_xticks(range(len(across)), across)
            self.ax.set_yticks(range(len(up)), up)
            self.ax.grid(False)
        (self.ax.set_axis_off if bare else self.ax.set_axis_on)()
        self.ax.set_aspect("equal" if bare else "auto", anchor="NW")
        self.ax.set(xlabel=x, ylabel=y, xlim=xlim, ylim=ylim)
        self.ax.set_title(title, loc="left", color=self.theme.ink, fontsize=12.5 * self.theme.scale)
        if self.ax.get_legend() is not None:
            self.ax.get_legend().remove()
        if legend:
            style.legend(self.ax, [Line2D([], [], label=label, **look) for label, look in legend], over)

    def _artist(self, key: Hashable, make: Any) -> Any:
        self._named.add(key)
        if key not in self._made:
            self._made[key] = make()
        self._made[key].set_visible(True)
        return self._made[key]
