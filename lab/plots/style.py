"""How everything looks: a colour, a line style and a marker a method, the same in every plot of a study or a panel.

The two methods that are compared most have Okabe and Ito's vermilion and blue; the other colours were moved in hue and
lightness until every two stay apart under each kind of colour blindness, with a contrast of at least 3:1 to the paper
(tests/test_style.py computes both). Eight is about as many as there are; from the ninth method on colours come again,
with other dashes and another marker. No two share those, so a plot also reads in grey. `figure(...)` makes
a Figure without pyplot that shows as a PNG; `dress(ax)` gives any axes, also pyplot's, the same look, `legend(ax)` a
legend that lies over no curve.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image


@dataclass(frozen=True)
class Theme:
    """Colours of paper and ink, and ``scale``, which sizes text and lines: 1 on a desk, 1.5 on a projector."""

    paper: str
    ink: str
    faint: str  # grid lines
    middle: str  # baselines, notes
    dark: bool
    scale: float = 1.0


LIGHT = Theme("#ffffff", "#1a1a1a", "#dddddd", "#6b6b6b", dark=False)
DARK = Theme("#111111", "#eeeeee", "#3a3a3a", "#9a9a9a", dark=True)
SIZES = {"notebook": 1.0, "projector": 1.5}


@dataclass(frozen=True)
class Look:
    """One method's colour on light and on dark paper, dashes (on, off, ... in line widths; empty: solid) and marker."""

    light: str
    dark: str
    dashes: tuple[float, ...]
    marker: str | tuple[int, int, int]
    width: float = 2.2

    def color(self, theme: Theme = LIGHT) -> str:
        return self.dark if theme.dark else self.light

    def line(self, theme: Theme = LIGHT) -> dict[str, Any]:
        """Keyword arguments for ``ax.plot``."""
        style = (0, self.dashes) if self.dashes else "solid"
        return {"color": self.color(theme), "linestyle": style, "linewidth": self.width * theme.scale}

    def marked(self, theme: Theme = LIGHT) -> dict[str, Any]:
        """The same with a marker at every point."""
        return self.line(theme) | {"marker": self.marker, "markersize": 5.5 * theme.scale}


# On light and on dark paper. The first two are FedMAML's and FedAvg's.
COLOURS = (
    ("#d55e00", "#f07d1a"),
    ("#0072b2", "#3d9bd6"),
    ("#b38c35", "#ffc83d"),
    ("#006b45", "#00b083"),
    ("#8f2f6b", "#e07ab8"),
    ("#0096f5", "#a9dcff"),
    ("#4a3500", "#d8d06a"),
    ("#7a7a7a", "#777777"),
)
# Twice as many: the second eight stand under the colours of the first eight, and differ from them in kind.
DASHES = (
    (), (5, 1.6), (6, 1.5, 1, 1.5), (2.5, 1.2), (9, 2), (1, 1), (3, 1, 1, 1, 1, 1), (1, 2.2),
    (3, 3), (1, 1, 1, 3.5), (2, 4), (7, 1, 1, 1, 1, 1), (2, 1, 2, 3), (5, 4), (8, 1, 2, 1), (4, 1.2, 4, 1.2, 1, 1.2),
)  # fmt: skip
MARKERS = ("o", "s", "D", "^", "P", "v", "X", "d", "*", "<", "p", "8", ">", (4, 1, 0), "h", (3, 1, 0))

DIFFERENT = len(COLOURS) * len(DASHES)


def numbered(i: int) -> Look:
    """The i-th look. Of the first 8 no two share a colour, of the first 16 dashes or a marker; the first DIFFERENT
    differ in colour or dashes, so that they are told apart without markers too."""
    light, dark = COLOURS[i % len(COLOURS)]
    again, n = divmod(i, len(DASHES))
    shift = (0, 4, 2, 6, 1, 3, 5, 7)[again % 8]  # dashes n and n + 8 stand under one colour already
    return Look(light, dark, DASHES[(n + shift) % len(DASHES)], MARKERS[(n + again) % len(MARKERS)])


LOOKS = {"FedMAML": numbered(0), "FedAvg": numbered(1)}  # the two in every plot; the others go by their order


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for every method of a study. FedMAML and FedAvg have their own, also inside a longer name ("FedMAML, 5
    steps") as long as nobody else in the study has it; the others the next free one, by their order."""
    names = list(names)
    given = {name: LOOKS[name] for name in names if name in LOOKS}
    for name in names:
        if name not in given:
            own = [look for known, look in LOOKS.items() if name.startswith(known)]
            free = (look for look in (*own, *map(numbered, range(DIFFERENT))) if look not in given.values())
            given[name] = next(free, numbered(len(given)))
    return {name: given[name] for name in names}


class Picture(Figure):
    """A Figure that shows as a PNG without pyplot. ``theme`` is what the plots draw it in; ``says`` is its text."""

    theme: Theme = LIGHT
    says: str = ""

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        png = small(self.png())
        text = f"<Figure: {self.says}>" if self.says else "<Figure>"
        return {"image/png": png, "text/html": tag(png, self.says or "figure"), "text/plain": text}


def small(png: bytes) -> bytes:
    """The same picture in 256 colours, which are enough for lines on paper: a third of the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True
    )
    return buffer.getvalue()


def tag(png: bytes, says: str) -> str:
    """A picture as HTML. Neither JupyterLab nor nbconvert gives a bare PNG words for who cannot see it."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(says)}" src="data:image/png;base64,{data}">'


def figure(
    columns: int = 1,
    rows: int = 1,
    *,
    width: float | None = None,
    height: float = 3.6,
    theme: Theme = LIGHT,
    says: str = "",
    dpi: float = 80,
) -> Picture:
    """A styled Figure with ``rows`` x ``columns`` axes in ``figure.axes``; sizes in inches, ``height`` of one row.

    Without pyplot, hence safe in a thread. ``says`` is the text shown where the picture cannot be.
    """
    picture = Picture(figsize=(width or 5.2 * columns, height * rows), dpi=dpi, facecolor=theme.paper)
    FigureCanvasAgg(picture)
    picture.theme, picture.says = theme, says
    for ax in picture.subplots(rows, columns, squeeze=False).flat:
        dress(ax)
    margins(picture)
    return picture


def margins(picture: Figure) -> None:
    """Room for labels in inches by the text's size, so that nothing is cut off and nothing moves while running."""
    scale, (width, height) = theme_of(picture).scale, picture.get_size_inches()
    grid = picture.axes[0].get_gridspec()
    left, right, bottom, top, between = (t * scale for t in (0.75, 0.25, 0.62, 0.42, 1.0))
    cell = (width - left - right - between * (grid.ncols - 1)) / grid.ncols
    floor = (height - bottom - top - (bottom + top) * (grid.nrows - 1)) / grid.nrows
    picture.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, between / cell, (bottom + top) / floor
    )


def theme_of(thing: Figure | Axes) -> Theme:
    """The theme of a Picture or of its axes; LIGHT for a Figure made elsewhere."""
    return getattr(thing if isinstance(thing, Figure) else thing.get_figure(root=True), "theme", LIGHT)


def dress(ax: Axes) -> None:
    """Colours, text sizes, grid and plain tick labels (no mathtext, which is slow and not thread-safe) for one axes."""
    theme = theme_of(ax)
    ax.set_facecolor(theme.paper)
    ax.grid(True, color=theme.faint, linewidth=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=theme.middle)
    ax.tick_params(colors=theme.ink, labelsize=11 * theme.scale, color=theme.middle)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.label.set(color=theme.ink, fontsize=12 * theme.scale)
    for where in ("left", "center", "right"):
        ax.set_title(ax.get_title(loc=where), loc=where, color=theme.ink, fontsize=12.5 * theme.scale)


def legend(ax: Axes, lines: Sequence[Artist] | None = None, over: bool = False) -> None:
    """A legend along the top, in as few rows as fit (``lines``: None for all that have a label), smaller where it would
    take more than a third of the plot. The vertical axis grows by its height, so that nothing that was inside the
    limits lies under it: call it when they are set. ``over``: the axes stay as they are, and the legend lies over their
    upper right corner."""
    theme, (low, high) = theme_of(ax), ax.get_ylim()
    lines = ax.get_legend_handles_labels()[0] if lines is None else lines
    if not lines:
        return
    fewest = len(lines) if over else -(-len(lines) // 6)
    for size, rows in itertools.product((10.5, 8.0) if len(lines) > 3 else (10.5,), range(fewest, len(lines) + 1)):
        drawn = ax.legend(
            handles=lines, ncols=-(-len(lines) // rows), loc="upper right" if over else "upper left",
            fontsize=size * theme.scale, labelcolor=theme.ink, facecolor=theme.paper, edgecolor=theme.faint,
            framealpha=0.85, borderpad=0.3, labelspacing=0.25, handlelength=2.6, handletextpad=0.5, borderaxespad=0.3,
            columnspacing=1.0,
        )  # fmt: skip
        box = drawn.get_window_extent().transformed(ax.transAxes.inverted())
        if box.x1 <= 1 and (box.height < 1 / 3 or size < 10):
            break
    if not over:
        ax.set_ylim(low, low + (high - low) / max(box.y0, 0.1))


def nice(value: float) -> float:
    """The next round number up, so that limits rarely change while a run goes on."""
    if not 0 < value < math.inf:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(size * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if size * step >= value * (1 - 1e-9))


def short(value: float) -> str:
    """A number in few characters: 0.25, 1.5k, 20M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return "0" if abs(value) < 1e-12 else f"{value:.3g}".replace("-", "−")
