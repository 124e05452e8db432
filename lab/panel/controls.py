"""Controls made from declarations: full-word label, tooltip, a slider, a number box, and words where a number is wrong.

The root of a control carries the CSS class ``fmlab-<field>``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from fmlab.declare import Hyper
from lab.plots.style import Look

WORDS = {
    "clients_per_round": "clients a round",
    "inner_lr": "inner step size",
    "k": "steps shown",
    "lr": "step size",
    "round": "round shown",
}
Changed = Callable[[str, Any], None]


def words(field: str) -> str:
    return WORDS.get(field, field.replace("_", " "))


def valid(field: str, h: Hyper, low: float, high: float, value: Any) -> Any:
    """The value as its own type. Raises ValueError, in words, for one that a control from low to high does not take."""
    if value is None and h.optional:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    kind = "a whole number" if h.whole else "a number"
    if not number or (h.whole and value != int(value)):
        raise ValueError(f"{words(field)} = {value!r} is not {kind} from {low:g} to {high:g}")
    if not low <= value <= high:
        raise ValueError(
            f"{words(field)} = {value:g} is outside {low:g} to {high:g}; give {kind} in that range: {h.text}"
        )
    return int(value) if h.whole else float(value)


class Control:
    """One number. ``value`` is the last valid one; ``root`` is what is shown."""

    def __init__(self, field: str, h: Hyper, value: Any, low: float, high: float, changed: Changed) -> None:
        self.field, self.hyper, self.low, self.high, self._changed = field, h, low, high, changed
        self.value = value
        self._quiet = False
        self._instead: float | None = None
        tooltip = self._tooltip()
        common = {"description": words(field), "tooltip": tooltip, "readout": False, "continuous_update": True}
        layout = widgets.Layout(width="auto", flex="1 1 auto", min_width="150px")
        style = {"description_width": "112px"}
        beside = {"tooltip": tooltip, "layout": widgets.Layout(width="76px", flex="0 0 76px")}
        shown = low if value is None else value
        if h.whole:
            self.slider: Any = widgets.IntSlider(shown, int(low), int(high), 1, layout=layout, style=style, **common)
            self.box: Any = widgets.IntText(shown, continuous_update=False, **beside)
        elif h.log:
            ends = {"min": math.log10(low), "max": math.log10(high), "step": 0.05}
            self.slider = widgets.FloatLogSlider(shown, base=10, layout=layout, style=style, **ends, **common)
            self.box = widgets.FloatText(shown, continuous_update=False, **beside)
        else:
            self.slider = widgets.FloatSlider(shown, min=low, max=high, step=0.05, layout=layout, style=style, **common)
            self.box = widgets.FloatText(shown, continuous_update=False, step=0.05, **beside)
        self.slider.observe(self._slid, "value")
        self.box.observe(self._typed, "value")
        self.message = widgets.HTML(layout=widgets.Layout(display="none"))
        self.message.add_class("fmlab-message")
        row = [self.slider, self.box]
        self.recorded: Any = None
        if h.optional:
            hint = f"{words(field)}: the value found by the recorded search on validation clients"
            small = widgets.Layout(width="max-content", flex="0 0 auto")
            self.recorded = widgets.Checkbox(
                value is None, description="recorded", tooltip=hint, indent=False, layout=small
            )
            self.recorded.observe(self._switched, "value")
            row.append(self.recorded)
        self.row = widgets.HBox(row, layout=widgets.Layout(width="100%", align_items="center"))
        self.note: Any = None  # where the recorded value was found
        if self.recorded is not None:
            self.note = widgets.HTML()
            self.note.add_class("fmlab-note")
        parts = [self.row, self.note, self.message]
        self.root = widgets.VBox([part for part in parts if part is not None], layout=widgets.Layout(width="100%"))
        self.root.add_class("fmlab-control")
        if h.log and not h.whole:
            self.root.add_class("fmlab-log")
        self.root.add_class(f"fmlab-{field}")
        self._enable()

    def set(self, value: Any) -> None:
        """Show a valid value without calling back."""
        self.value = self.check(value)
        self._quiet = True
        try:
            if self.recorded is not None:
                self.recorded.value = value is None
            shown = self._instead if self.value is None else self.value
            if shown is not None:
                if shown != self._legible(self.slider.value):  # else the handle stays under the hand
                    self.slider.value = shown
                self.box.value = shown
        finally:
            self._quiet = False
        self._say("")
        self._enable()

    def limits(self, h: Hyper, low: float, high: float, instead: float | None = None, found: str = "") -> None:
        """Another task, another declaration. ``instead``: the number to show while the recorded one is taken; ``found``
        says where it comes from."""
        self.hyper, self.low, self.high, self._instead = h, low, high, instead
        self._quiet = True
        try:
            if (not h.log) and (self.slider.min, self.slider.max) != (low, high):
                with self.slider.hold_trait_notifications():
                    self.slider.min, self.slider.max = low, high
            if self.note is not None and self.note.value != found:
                self.note.value = found
            self.slider.tooltip = self.box.tooltip = self._tooltip()
        finally:
            self._quiet = False

    def check(self, value: Any) -> Any:
        return valid(self.field, self.hyper, self.low, self.high, value)

    def _tooltip(self) -> str:
        return f"{words(self.field)} ({self.hyper.symbol}): {self.hyper.text}; from {self.low:g} to {self.high:g}"

    def _slid(self, change: dict[str, Any]) -> None:
        if not self._quiet and not self._echo(change["new"]):
            self._accept(self._legible(change["new"]))

    def _legible(self, value: float) -> float:
        """What the box can show of a place on a slider: three digits of a logarithmic one, of another ten, which is
        0.3 where six steps of 0.05 add up to 0.30000000000000004."""
        if self.hyper.whole:
            return value
        return min(max(float(f"{value:.{3 if self.hyper.log else 10}g}"), self.low), self.high)

    def _echo(self, value: float) -> bool:
        """Whether the page only moved a value to its own nearest step; a hand moves by a step at least."""
        if self.hyper.whole:
            return False
        if self.value is None:
            return True  # the slider is disabled: the recorded value is taken
        apart = math.log10(value / self.value) if self.hyper.log else value - self.value
        return abs(apart) < 0.51 * self.slider.step

    def _typed(self, change: dict[str, Any]) -> None:
        if not self._quiet:
            self._accept(change["new"])

    def _switched(self, change: dict[str, Any]) -> None:
        if not self._quiet:
            self._accept(None if change["new"] else self._legible(self.slider.value))

    def _accept(self, value: Any) -> None:
        try:
            value = self.check(value)
        except ValueError as problem:
            self._say(str(problem))
            return
        if value == self.value:
            self._say("")
            return
        self.set(value)
        self._changed(self.field, value)

    def _say(self, text: str) -> None:
        if text != self.message.value:
            self.message.value = text
            self.message.layout.display = "block" if text else "none"

    def _enable(self) -> None:
        if self.recorded is not None:
            self.slider.disabled = self.box.disabled = self.recorded.value


def switch(name: str, look: Look, on: bool, tooltip: str, changed: Callable[[str, bool], None]) -> widgets.HBox:
    """A method's switch beside a sample of its line."""
    dashes = ",".join(f"{2.2 * d:g}" for d in look.dashes)
    sample = widgets.HTML(
        f'<svg class="fmlab-sample" width="34" height="14" aria-hidden="true"><line x1="1" x2="33" y1="7" y2="7" '
        f'stroke="{look.light}" stroke-width="{1.36 * look.width:.2g}" stroke-dasharray="{dashes}"/></svg>',
        layout=widgets.Layout(width="38px", flex="0 0 38px"),
    )
    wide = widgets.Layout(width="auto", flex="1 1 auto", min_width="96px")
    box = widgets.Checkbox(on, description=name, tooltip=tooltip, indent=False, layout=wide)
    box.observe(lambda change: changed(name, change["new"]), "value")
    columns = 1 if len(name) <= 14 else 2
    row = widgets.HBox([sample, box], layout=widgets.Layout(align_items="center", flex=f"0 0 {158 * columns}px"))
    row.add_class("fmlab-method-" + re.sub(r"\W+", "-", name))  # a class has no spaces
    return row
