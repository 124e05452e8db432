"""A small panel with a slider for each field of a declaration, a picture, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import ipywidgets as widgets

from fmlab.declare import Declared
from lab.panel.canvas import Canvas, Draw
from lab.panel.controls import Control
from lab.panel.css import STYLE
from lab.panel.live import Live

WIDTH = 760


class Sliders(Live):
    """Abstract. ``answer`` computes what ``draws`` and ``sentence`` show of it; ``result`` is the one on show.

    options: ``theme``, ``size``, ``synchronous``, see ``Live``.
    """

    labels: ClassVar[Mapping[str, str]] = {}  # of sliders, where a field's name says too little
    cell: ClassVar[str] = "picture"

    def __init__(self, name: str, setting: Declared, height: int, **options: Any) -> None:
        self._setting: Any = setting
        self._found: tuple[Any, Any] | None = None
        super().__init__(name, lambda t: Canvas([(self.cell, 1)], 1, t, width=WIDTH, row=height), **options)
        self._canvas.image.layout.max_width = f"{WIDTH}px"
        self._controls: dict[str, Control] = {}
        for f in fields(setting):
            h = f.metadata["hyper"]
            control = Control(f.name, h, getattr(setting, f.name), h.low, h.high, lambda n, v: self.set(**{n: v}))
            control.slider.continuous_update = not self._sync
            control.slider.description = self.labels.get(f.name, control.slider.description)
            self._controls[f.name] = control
        rows = widgets.VBox([c.root for c in self._controls.values()], layout=widgets.Layout(max_width=f"{WIDTH}px"))
        self.children = (widgets.HTML(STYLE), rows, self._error, self._canvas.image, self._summary)
        self._show()

    def answer(self, setting: Any) -> Any:
        raise NotImplementedError

    def draws(self, found: Any, setting: Any) -> Draw:
        raise NotImplementedError

    def says(self, found: Any, setting: Any) -> str:
        raise NotImplementedError

    def set(self, **changes: Any) -> None:
        """Move sliders as a hand would. Raises TypeError for a name, ValueError for a value, before anything moves."""
        if unknown := sorted(set(changes) - set(self._controls)):
            raise TypeError(f"{unknown} is not set in this panel; it knows {sorted(self._controls)}")
        changes = {name: self._controls[name].check(value) for name, value in changes.items()}
        self._setting = replace(self._setting, **changes)
        for name, value in changes.items():
            self._controls[name].set(value)
        self._show()

    @property
    def result(self) -> Any:
        self.wait()
        if self._found is None:
            raise RuntimeError("nothing could be computed; the panel says why")
        return self._found[1]

    @property
    def setting(self) -> Any:
        return self._setting

    def _show(self) -> None:
        setting = self._setting
        self._worker.submit(lambda checkpoint: self._compute(setting))

    def _compute(self, setting: Any) -> None:
        found = self.answer(setting)
        self._found = setting, found
        self._paint({self.cell: self.draws(found, setting)})
        self._say(self.says(found, setting))
        self._say_error("")


def given(kind: type[Any], options: dict[str, Any]) -> Any:
    """The first setting, of those options that are its fields, which are taken out."""
    known = {f.name for f in fields(kind)}
    return kind(**{k: options.pop(k) for k in list(options) if k in known})
