"""A panel's pictures: one Figure of fixed size, drawn by blitting, and of each plot its part in a ``widgets.Image``, so
that the page can place them side by side or, on a telephone, one below the other.

A full draw of five plots takes some 200 ms, most of it for ticks, labels and legends, which rarely change. So each
plot's frame is kept as a bitmap, and a new answer draws its lines alone over it; only a plot whose limits, labels or
legend changed draws its frame again. matplotlib is not thread-safe: one lock for all panels. No pyplot.
"""

from __future__ import annotations

import io
import struct
import textwrap
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from lab.plots.marks import Marks
from lab.plots.style import Picture, Theme

DRAWING = threading.RLock()
DPI = 80
WIDTH, ROW = 1120, 280  # pixels
Draw = Callable[[Marks], Any]


@dataclass
class Bitmaps:
    """Bitmaps of one plot: its frame, and its legend."""

    key: tuple[Any, ...]  # what the frame says
    frame: Any
    legend_key: tuple[Any, ...] = ()  # what the plot says with the legend
    legend: Any = None


class Spoken(widgets.Image):
    """An Image whose ``tooltip`` becomes its title, and so its name for a screen reader. The page's code sets it only
    where there is an empty description, a trait that Image lacks: without it every update is an error there."""

    description = traitlets.Unicode("").tag(sync=True)


class Canvas:
    """Plots in a grid of ``columns``; a cell is (name, columns that it spans), left to right, top to bottom. Sizes in
    pixels on a desk; a projector's pictures have as many more as their text is larger."""

    def __init__(
        self, cells: Sequence[tuple[str, int]], columns: int, theme: Theme, width: int = WIDTH, row: int = ROW
    ) -> None:
        self.theme, self.cells = theme, list(cells)
        self.dpi = DPI * theme.scale
        places, at = {}, 0
        for name, span in self.cells:
            at += (-at % columns) if at % columns + span > columns else 0  # no room left in the row
            places[name] = (at // columns, at % columns, span)
            at += span
        rows = -(-at // columns)
        width, row = round(width * theme.scale), round(row * theme.scale**1.5)
        self.width, self.height = width, rows * row
        self.images: dict[str, Spoken] = {}
        with DRAWING:
            size = (width / self.dpi, self.height / self.dpi)
            self.figure = Picture(figsize=size, dpi=self.dpi, facecolor=theme.paper)
            self.figure.theme = theme
            self.agg = FigureCanvasAgg(self.figure)
            self.agg.draw()
            self._marks: dict[str, Marks] = {}
            self._boxes: dict[str, Bbox] = {}
            self._bitmaps: dict[str, Bitmaps] = {}
            for name, (line, column, span) in places.items():
                left, right = width * column / columns, width * (column + span) / columns
                top = self.height - line * row
                box = self._boxes[name] = Bbox([[round(left), top - row], [round(right), top]])
                self._marks[name] = Marks(self.figure.add_axes(self._inside(box)))
                image = Spoken(format="png", width=str(round(box.width)), height=str(row))
                image.add_class("fmlab-picture")
                image.add_class(f"fmlab-span-{span}")
                self.images[name] = image
        self.root = widgets.Box([*self.images.values()])
        for css in ("fmlab-pictures", f"fmlab-columns-{columns}", f"fmlab-rows-{rows}"):
            self.root.add_class(css)

    def _inside(self, box: Bbox) -> tuple[float, float, float, float]:
        """The axes in its cell, in parts of the figure, with room for its labels."""
        left, right, bottom, top = (self.dpi * self.theme.scale * inches for inches in (0.72, 0.2, 0.6, 0.42))
        x, y = box.x0 + left, box.y0 + bottom
        return (
            x / self.width,
            y / self.height,
            (box.width - left - right) / self.width,
            (box.height - bottom - top) / self.height,
        )

    def paint(self, draws: Mapping[str, Draw], calm: bool = False) -> None:
        """Draw the named plots anew, and show them; those that were never drawn are blank. ``calm``: see Marks."""
        with DRAWING:
            for name, draw in draws.items():
                self._marks[name].calm = calm
                draw(self._marks[name])
                self._blit(name, self._marks[name])
            parts = {
                n: encode(self._pixels(self._boxes[n])) for n, i in self.images.items() if n in draws or not i.value
            }
        for name, png in parts.items():
            self.images[name].value = png

    def title(self, name: str) -> str:
        return self._marks[name].ax.get_title(loc="left")

    def whole(self) -> bytes:
        """All plots in one PNG, as they are shown."""
        with DRAWING:
            return encode(np.asarray(self.agg.buffer_rgba()))

    def _blit(self, name: str, marks: Marks) -> None:
        artists, box, legend = marks.artists, self._boxes[name], marks.ax.get_legend()
        for artist in artists:
            artist.set_animated(True)  # left out when the axes draw themselves
        ax = marks.ax
        key = (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel(), ax.get_xlim(), ax.get_ylim(), ax.axison)
        bitmaps = self._bitmaps.get(name)
        if bitmaps is None or bitmaps.key != key:
            self._paper_over(box)
            ax.draw(self.agg.get_renderer())
            bitmaps = self._bitmaps[name] = Bitmaps(key, self.agg.copy_from_bbox(box))
        else:
            self.agg.restore_region(bitmaps.frame)
        if legend is not None and bitmaps.legend_key != marks.framed:  # a legend costs more than all the lines
            ax.draw_artist(legend)
            bitmaps.legend_key = marks.framed
            bitmaps.legend = self.agg.copy_from_bbox(legend.get_window_extent().padded(2))
            self.agg.restore_region(bitmaps.frame)
        for artist in artists:
            if artist is legend:
                self.agg.restore_region(bitmaps.legend)
            else:
                ax.draw_artist(artist)

    def _pixels(self, box: Bbox) -> np.ndarray[Any, Any]:
        top, bottom = round(self.height - box.y1), round(self.height - box.y0)
        return np.asarray(self.agg.buffer_rgba())[top:bottom, round(box.x0) : round(box.x1)]

    def _paper_over(self, box: Bbox) -> None:
        self._pixels(box)[:] = [*(int(self.theme.paper[i : i + 2], 16) for i in (1, 3, 5)), 255]

    def with_words(self, words: str) -> bytes:
        """The picture as it is, as PNG, over these words in its own width."""
        with DRAWING:
            above = np.asarray(self.agg.buffer_rgba())
            size = 11 * self.theme.scale  # points; a letter is some half as wide as high
            lines = textwrap.wrap(words, int(self.width / (0.55 * size * DPI / 72)))
            height = round((1.5 * len(lines) + 1) * size * DPI / 72)
            below = Picture(figsize=(self.width / DPI, height / DPI), dpi=DPI, facecolor=self.theme.paper)
            where = {"x": 0.01, "y": 0.5, "va": "center", "linespacing": 1.4, "parse_math": False}
            below.text(s="\n".join(lines), fontsize=size, color=self.theme.ink, **where)
            drawn = FigureCanvasAgg(below)
            drawn.draw()
            return encode(np.concatenate([above, np.asarray(drawn.buffer_rgba())]))

    def png(self, zoom: float = 2.0) -> bytes:
        """The picture in a higher resolution, for a slide or a paper."""
        with DRAWING:
            out = io.BytesIO()
            # A canvas of its own: saving resizes the bitmap, and the live one holds the frames' bitmaps.
            FigureCanvasAgg(self.figure).print_figure(out, format="png", dpi=self.dpi * zoom)
            self.figure.set_canvas(self.agg)
        return out.getvalue()


def encode(rgba: np.ndarray[Any, Any]) -> bytes:
    """(height, width, 4) as PNG. Without row filters, which plots do not need: a third of Pillow's time."""
    height, width, _ = rgba.shape
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row begins with its filter's number, 0: none
    rows[:, 1:] = rgba.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
