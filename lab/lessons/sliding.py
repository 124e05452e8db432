"""A small panel with a control for each field of a declaration, pictures, and a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any, ClassVar

import ipywidgets as widgets

from fmlab.declare import Declared
from lab.panel import address
from lab.panel.canvas import Canvas, Draw
from lab.panel.controls import Control, words
from lab.panel.css import head
from lab.panel.live import Live, check_look

SLOW = 0.3  # seconds that an answer takes, from which on the panel says that it computes


class Choice:
    """One of a few words, as a control: ``root`` is what is shown."""

    def __init__(self, f: Field[Any], value: Any, changed: Callable[[str, Any], None]) -> None:
        self.field, self.options = f.name, f.metadata["options"]
        self._quiet, text = False, f.metadata["text"]
        layout = widgets.Layout(width="auto", max_width="320px")
        self.slider = widgets.Dropdown(
            options=self.options, value=value, description=words(f.name), tooltip=text, layout=layout
        )
        self.slider.style.description_width = "112px"
        self.slider.observe(lambda change: self._quiet or changed(self.field, change["new"]), "value")
        self.root = widgets.VBox([self.slider], layout=widgets.Layout(width="100%"))
        self.root.add_class("fmlab-control")
        self.root.add_class(f"fmlab-{f.name}")

    def check(self, value: Any) -> Any:
        if value not in self.options:
            raise ValueError(f"{words(self.field)} = {value!r} is not one of {self.options}")
        return value

    def set(self, value: Any) -> None:
        """Show a value without calling back."""
        self._quiet = True
        try:
            self.slider.value = value
        finally:
            self._quiet = False


class Sliders(Live):
    """Abstract. ``answer`` computes what ``draws`` and ``says`` show of it; ``result`` is the one on show.

    options: ``theme``, ``size``, ``synchronous``, see ``Live``.
    """

    labels: ClassVar[Mapping[str, str]] = {}  # of controls, where a field's name says too little
    pictures: ClassVar[tuple[str, ...]] = ("picture",)  # side by side
    width: ClassVar[int] = 760
    height: ClassVar[int]

    def __init__(self, name: str, setting: Declared, **options: Any) -> None:
        self._setting: Any = setting
        self._found: tuple[Any, Any] | None = None
        self._took = SLOW  # seconds, by the last answer; of the first nobody knows
        self._status = widgets.HTML(layout=widgets.Layout(min_height="28px"))  # nothing moves when it is empty
        self._status.add_class("fmlab-computing")
        cells = [(picture, 1) for picture in self.pictures]
        super().__init__(name, lambda t: Canvas(cells, len(cells), t, width=self.width, row=self.height), **options)
        self._canvas.root.layout.max_width = f"{self.width}px"  # as drawn; the page would blow it up
        self._controls: dict[str, Any] = {f.name: self._control(f) for f in fields(setting)}
        parts = [c.root for c in self._controls.values()]
        rows = widgets.VBox(parts, layout=widgets.Layout(max_width=f"{min(self.width, 760)}px"))
        self.children = (head(), rows, self._error, self._status, self._canvas.root, self._summary)
        self._show()

    def answer(self, setting: Any) -> Any:
        raise NotImplementedError

    def draws(self, found: Any, setting: Any) -> Mapping[str, Draw]:
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

    def _control(self, f: Field[Any]) -> Any:
        def moved(name: str, value: Any) -> None:
            self.set(**{name: value})

        value = getattr(self._setting, f.name)
        if "options" in f.metadata:
            control: Any = Choice(f, value, moved)
        else:
            h = f.metadata["hyper"]
            control = Control(f.name, h, value, h.low, h.high, moved)
            control.slider.continuous_update = not self._sync
        control.slider.description = self.labels.get(f.name, control.slider.description)
        return control

    def _show(self) -> None:
        setting = self._setting
        if self._took >= SLOW:
            self._status.value = "computing ..."
        self._worker.submit(lambda checkpoint: self._compute(setting))

    def _compute(self, setting: Any) -> None:
        began = time.monotonic()
        found = self.answer(setting)
        self._took = time.monotonic() - began
        self._found = setting, found
        self._paint(self.draws(found, setting))
        self._say(self.says(found, setting))
        self._say_error("")
        if setting == self._setting:
            self._status.value = ""

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        self._status.value = ""


def opened(panel: Callable[..., Any], kind: type[Any], options: Mapping[str, Any]) -> Any:
    """``panel(setting, **rest)``: of the options, and of what the page's address asks for in their place, those that
    are fields of ``kind`` make the first setting."""
    known = {f.name for f in fields(kind)}

    def setting(options: Mapping[str, Any]) -> Any:
        return kind(**{k: v for k, v in options.items() if k in known})

    def check(options: Mapping[str, Any]) -> None:
        setting(options)
        check_look(options)

    options = address.over(options, {*known, "theme", "size"}, check)
    return panel(setting(options), **{k: v for k, v in options.items() if k not in known})
