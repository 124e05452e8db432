"""What every live panel is made of: a picture, words under it, and a worker that computes both."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from lab.panel import cells
from lab.panel.canvas import Canvas, Draw
from lab.panel.worker import Worker
from lab.panel.worker import synchronous as chosen_synchronous
from lab.plots import style

THEMES = ("auto", "light", "dark")


def check_look(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a theme or a size that there is not."""
    theme, size = options.get("theme", "auto"), options.get("size", "notebook")
    if theme not in THEMES or size not in style.SIZES:
        raise ValueError(
            f"theme = {theme!r}, size = {size!r}: give theme 'auto', 'light' or 'dark', size {tuple(style.SIZES)}"
        )


class Live(widgets.VBox):
    """A picture, words under it, a worker.

    canvas: makes the picture for a theme. theme: "auto" follows JupyterLab's, else "light" or "dark". size: "notebook"
    or "projector". synchronous: compute in the calling thread (None: where needed).
    """

    def __init__(
        self,
        name: str,
        canvas: Callable[[style.Theme], Canvas],
        theme: str = "auto",
        size: str = "notebook",
        synchronous: bool | None = None,
    ) -> None:
        check_look({"theme": theme, "size": size})
        self.name = name
        self._sync = chosen_synchronous() if synchronous is None else synchronous
        self._worker = Worker(self._failed, self._sync)
        base = style.DARK if theme == "dark" else style.LIGHT
        self._canvas = canvas(replace(base, scale=style.SIZES[size]))
        self._said = ""
        self._summary, self._error = widgets.HTML(), widgets.HTML()
        self._summary.add_class("fmlab-summary")
        self._error.add_class("fmlab-error")
        super().__init__()
        cells.take(self)
        for css in ("fmlab-live", "fmlab-panel", f"fmlab-{size}", f"fmlab-{theme}"):
            self.add_class(css)

    def wait(self, timeout: float | None = None, background: bool = False) -> None:
        """Until the newest setting is computed and drawn (``background``: the map too). Raises TimeoutError, and the
        error that ended the computation."""
        if not self._worker.wait(timeout, background):
            raise TimeoutError(f"{self!r} still computes after {timeout} s")

    @property
    def sentence(self) -> str:
        """The sentence under the picture."""
        return self._said

    @property
    def _png(self) -> bytes:
        return self._canvas.whole()

    def save(self, path: str | Path) -> None:
        """Write the picture as a PNG in twice the resolution."""
        Path(path).write_bytes(self._canvas.png())

    def close(self) -> None:
        """End the worker and take the panel off the page, with all that it is made of."""
        if hasattr(self, "_worker"):  # not yet, where a wrong argument ended __init__
            self._worker.close()
        cells.leave(self)
        if self.comm is not None:
            for part in [*cells.parts(self)][1:]:
                part.close()
        super().close()

    def __repr__(self) -> str:
        return f"<fmlab panel: {self.name}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live panel, and for a page that has no kernel the picture over its sentence."""
        cells.take(self)
        with suppress(Exception):  # the panel says it itself
            self._worker.wait(None if self._sync else 3.0)
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        words = self._in_words()
        png = style.small(self._canvas.with_words(words))
        return {**bundle, "text/plain": repr(self), "image/png": png, "text/html": style.tag(png, words)}

    def _in_words(self) -> str:
        """What the stored picture says, beneath it and to who cannot see it."""
        return self.sentence or html.unescape(self._error.value) or repr(self)

    def _paint(self, draws: Mapping[str, Draw], calm: bool = False) -> None:
        self._canvas.paint(draws, calm)
        for name, image in [*self._canvas.images.items()][1:]:
            image.tooltip = self._canvas.title(name)

    def _say(self, text: str) -> None:
        """The first picture has it as its name, the others have their titles."""
        self._said = text
        next(iter(self._canvas.images.values())).tooltip = text
        self._summary.value = html.escape(text)

    def _say_error(self, text: str) -> None:
        if self._error.value != html.escape(text):
            self._error.value = html.escape(text)

    def _failed(self, error: BaseException) -> None:
        """Say it in the panel; the last good picture stays."""
        self._say_error(str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}")
