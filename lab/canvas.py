"""A panel's picture: one Figure of fixed size, drawn into a ``widgets.Image`` by blitting.

A full draw of five plots takes some 200 ms, most of it for ticks, labels and legends, which rarely change. So each
plot's frame is kept as a bitmap, and a new answer draws its lines alone over it; only a plot whose limits, labels or
legend changed draws its frame again. matplotlib is not thread-safe: one lock for all panels. No pyplot.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image

from lab.marks import Marks
from lab.style import Picture, Theme

DRAWING = threading.RLock()
DPI = 80
WIDTH, ROW = 1120, 280  # pixels
Draw = Callable[[Marks], Any]


class Spoken(widgets.Image):
    """An Image whose ``tooltip`` becomes its title, and so its name for a screen reader. The page's code sets it only
    where there is an empty description, a trait that Image lacks: without it every update is an error there."""

    description = traitlets.Unicode("").tag(sync=True)


class Canvas:
    """Plots in a grid of ``columns``; a cell is (name, columns that it spans), left to right, top to bottom."""

    def __init__(
        self, cells: Sequence[tuple[str, int]], columns: int, theme: Theme, width: int = WIDTH, row: int = ROW
    ) -> None:
        self.theme, self.cells = theme, list(cells)
        places, at = {}, 0
        for name, span in self.cells:
            at += (-at % columns) if at % columns + span > columns else 0  # no room left in the row
            places[name] = (at // columns, at % columns, span)
            at += span
        rows = -(-at // columns)
        row = round(row * theme.scale**0.5)
        self.width, self.height = width, rows * row
        with DRAWING:
            self.figure = Picture(figsize=(width / DPI, self.height / DPI), dpi=DPI, facecolor=theme.paper)
            self.figure.theme = theme
            self.agg = FigureCanvasAgg(self.figure)
            self.agg.draw()
            self._marks: dict[str, Marks] = {}
            self._boxes: dict[str, Bbox] = {}
            self._frames: dict[str, tuple[Any, Any]] = {}
            for name, (line, column, span) in places.items():
                left, right = width * column / columns, width * (column + span) / columns
                top = self.height - line * row
                self._boxes[name] = Bbox([[round(left), top - row], [round(right), top]])
                self._marks[name] = Marks(self.figure.add_axes(self._inside(self._boxes[name])))
        self.image = Spoken(format="png", width=str(width), height=str(self.height))
        self.image.add_class("fmlab-picture")

    def _inside(self, box: Bbox) -> tuple[float, float, float, float]:
        """The axes in its cell, in parts of the figure, with room for its labels."""
        left, right, bottom, top = (DPI * self.theme.scale * inches for inches in (0.72, 0.2, 0.6, 0.42))
        x, y = box.x0 + left, box.y0 + bottom
        return (
            x / self.width,
            y / self.height,
            (box.width - left - right) / self.width,
            (box.height - bottom - top) / self.height,
        )

    def paint(self, draws: dict[str, Draw]) -> bytes:
        """Draw the named plots anew, leave the others, and return the whole as PNG."""
        with DRAWING:
            for name, draw in draws.items():
                marks = self._marks[name]
                draw(marks)
                self._blit(name, marks)
            pixels = np.asarray(self.agg.buffer_rgba())[..., :3]
            out = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(out, "png", compress_level=1)
        return out.getvalue()

    def _blit(self, name: str, marks: Marks) -> None:
        artists, box = marks.artists, self._boxes[name]
        for artist in artists:
            artist.set_animated(True)
        frame, kept = self._frames.get(name, (None, None))
        if frame != marks.framed:
            self._paper_over(box)
            marks.ax.draw(self.agg.get_renderer())
            kept = self.agg.copy_from_bbox(box)
            self._frames[name] = (marks.framed, kept)
        else:
            self.agg.restore_region(kept)
        for artist in artists:
            marks.ax.draw_artist(artist)

    def _paper_over(self, box: Bbox) -> None:
        pixels = np.asarray(self.agg.buffer_rgba())
        top, bottom = round(self.height - box.y1), round(self.height - box.y0)
        paper = [int(self.theme.paper[i : i + 2], 16) for i in (1, 3, 5)]
        pixels[top:bottom, round(box.x0) : round(box.x1)] = [*paper, 255]

    def png(self, zoom: float = 2.0) -> bytes:
        """The picture in a higher resolution, for a slide or a paper."""
        with DRAWING:
            out = io.BytesIO()
            # A canvas of its own: saving resizes the bitmap, and the live one holds the kept frames.
            FigureCanvasAgg(self.figure).print_figure(out, format="png", dpi=DPI * zoom)
            self.figure.set_canvas(self.agg)
        return out.getvalue()
