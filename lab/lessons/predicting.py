"""`predict` asks for a guess before the result is seen.

A guess that is written down first makes the result that follows memorable; nothing is graded and nothing leaves the
kernel.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from lab.panel.css import head

_guesses: dict[tuple[str, ...], str] = {}  # guesses of this kernel, so that a cell run again still shows its own


class Prediction(widgets.VBox):
    """A question, its choices, and a button that commits to one. ``guess`` is the committed choice, or None."""

    def __init__(self, question: str, choices: Sequence[str], then: Any = None) -> None:
        choices = [str(c) for c in choices]
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(f"choices = {choices!r} needs two or more that differ")
        self.question, self.choices = question, choices
        self._key = (question, *choices)
        # A button a choice: Tab reaches every one and the space bar presses it. In radio buttons only the arrow keys
        # choose, and those JupyterLab takes for itself.
        full = widgets.Layout(width="max-content", max_width="100%", min_width="12em")
        self.options = [widgets.Button(description=c, tooltip=c, layout=full, icon="circle-o") for c in choices]
        for option, choice in zip(self.options, choices, strict=True):
            option.on_click(lambda _, choice=choice: self.choose(choice))
        self.chosen: str | None = None
        self.button = widgets.Button(
            description="Commit to this guess",
            tooltip="Choose an answer first; after this it stays as it is",
            disabled=True,
            layout=widgets.Layout(width="14em"),
        )
        self.said = widgets.HTML()
        self._then = then
        asked = widgets.HTML(f"<p style='font-weight:600;line-height:1.4;margin:0'>{html.escape(question)}</p>")
        super().__init__([asked, head(), widgets.VBox(self.options), self.button, self.said])
        self.add_class("fmlab-live")
        self.add_class("fmlab-predict")
        self.button.on_click(self.commit)
        if self.guess is not None:
            self.choose(self.guess)
            self._shut()

    @property
    def guess(self) -> str | None:
        return _guesses.get(self._key)

    def choose(self, choice: str) -> None:
        """Choose without committing. ValueError for what is no choice."""
        if choice not in self.choices:
            raise ValueError(f"{choice!r} is not one of {self.choices}")
        self.chosen = self.guess or choice
        for option in self.options:
            taken = option.description == self.chosen
            option.icon = "dot-circle-o" if taken else "circle-o"
            option.style.font_weight = "bold" if taken else "normal"
        self.button.disabled = self.guess is not None

    def commit(self, _: Any = None) -> None:
        """Keep the chosen answer for good, and show what was held back."""
        if self.guess is None and self.chosen is not None:
            _guesses[self._key] = self.chosen
            self._shut()

    def _shut(self) -> None:
        for button in (*self.options, self.button):
            button.disabled = True
        self.said.value = f"<p role='status'>Your guess: <b>{html.escape(str(self.guess))}</b>. Now see.</p>"
        if self._then is not None:
            self.children = (*self.children[:5], self._then)

    def __repr__(self) -> str:
        return "\n".join([self.question, *(f"  ( ) {c}" for c in self.choices)])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        # Without a kernel the text is what a reader sees; ipywidgets would cut it short.
        data: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return data | {"text/plain": repr(self)}


def predict(question: str, choices: Sequence[str], then: Any = None) -> Prediction:
    """A question to commit to before reading on. ``then``: a widget (a panel) that appears once the guess is made.

    The guess stays while the kernel runs, also when the cell is run again; ``prediction.guess`` is its text.
    Raises ValueError for fewer than two choices, or two that are alike.
    """
    return Prediction(question, choices, then)
