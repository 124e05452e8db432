"""`predict` asks for a guess before the result is seen, and its `answer` comes back to it.

A guess that is written down first makes the result that follows memorable; nothing is graded and nothing leaves the
machine. Choice and commitment live in the page: both work while the kernel is busy with other cells, which tells it
later. The module that reads and keeps guesses is `record`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from lab.lessons import record as records
from lab.lessons.css import STYLE
from lab.panel import cells
from lab.panel.css import head

FIRST = "Commit to a guess first; the question stands under “Predict before you look”."
HELD_BACK = "What follows appears here once you have committed to a guess."


class Prediction(widgets.VBox):
    """A question, its choices, and a button that commits to one. ``guess`` is the committed choice, or None.

    then: what is held back until then, shown below; a widget, or a function that returns one.
    """

    def __init__(self, question: str, choices: Sequence[str], then: Any = None) -> None:
        choices = [str(c) for c in choices]
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(f"choices = {choices!r} needs two or more that differ")
        self.question, self.choices = question, choices
        known = records.record.guess(question)
        self.guess = known if known in choices else None
        self._told: list[Callable[[], None]] = []
        done = self.guess is not None
        # Each button of the page's radio buttons is reached by Tab and chosen by the space bar.
        self.options = widgets.RadioButtons(options=choices, value=self.guess, disabled=done)
        self.button = widgets.ToggleButton(
            done, description="Commit to this guess", tooltip="After this it stays as it is", disabled=done
        )
        self.button.add_class("fmlab-commit")
        self._said = widgets.HTML(_paragraph("Your guess is kept. Now see.", role="status"))
        self._said.add_class("fmlab-kept")
        asked = widgets.HTML(_paragraph(question))
        asked.add_class("fmlab-asked")
        super().__init__([widgets.HTML(STYLE), asked, head(), self.options, self.button, self._said])
        self.add_class("fmlab-live")
        self.add_class("fmlab-predict")
        # In the page itself: the button locks the choices and opens what is held back; a pressed one is not shown.
        self._links = [widgets.jsdlink((self.button, "value"), (self.options, "disabled"))]
        self.held = None if then is None else self._hold(then() if callable(then) else then)
        self.button.observe(self._pressed, "value")
        cells.take(self)

    def commit(self, choice: str | None = None) -> None:
        """Commit from code, to ``choice`` or to what is chosen. ValueError for what is no choice. A guess that was
        committed to stays."""
        if choice is not None and choice not in self.choices:
            raise ValueError(f"{choice!r} is not one of {self.choices}")
        if self.guess is None:
            self.options.value = self.options.value if choice is None else choice
            self.button.value = True

    def answer(self, right: str, measured: str, because: Mapping[str, str] | Sequence[str]) -> Answer:
        """What came out, beside the guess. right: the choice that the measurement bears out. measured: the numbers, in
        a sentence. because: for each choice, by name or in order, why it is right or what is wrong with it.

        Raises ValueError for another choice, or where a choice has no reason.
        """
        given = because if isinstance(because, Mapping) else dict(zip(self.choices, because, strict=False))
        if right not in self.choices:
            raise ValueError(f"right = {right!r} is not one of {self.choices}")
        if [*given] != self.choices or (not isinstance(because, Mapping) and len(because) != len(self.choices)):
            raise ValueError(f"because needs a reason for each of {self.choices}, in this order; it has {[*because]}")
        return Answer(self, right, measured, given)

    def when_committed(self, call: Callable[[], None]) -> None:
        """Call it when the guess comes, or at once where it is there."""
        if self.guess is None:
            self._told.append(call)
        else:
            call()

    def close(self) -> None:
        cells.leave(self)
        if self.comm is not None:
            for part in [*self._links, *[*cells.parts(self)][1:]]:
                part.close()
        super().close()

    def _hold(self, then: Any) -> widgets.VBox:
        if not isinstance(then, widgets.Widget):
            raise TypeError(f"then = {then!r} is no widget; give a panel, or a function that returns one")
        mirror = widgets.ToggleButton(self.button.value, description="held back", disabled=True)
        mirror.add_class("fmlab-mirror")
        waits = widgets.HTML(_paragraph(HELD_BACK))
        waits.add_class("fmlab-waits")
        self._links.append(widgets.jsdlink((self.button, "value"), (mirror, "value")))
        held = widgets.VBox([mirror, waits, then])
        held.add_class("fmlab-held")
        return held

    def _pressed(self, change: dict[str, Any]) -> None:
        if self.guess is not None or not change["new"]:
            return
        if self.options.value is None:  # nothing is chosen: not a guess
            self.button.value = False
            return
        self.guess = self.options.value
        self.options.disabled = self.button.disabled = True
        records.record.keep_guess(self.question, self.guess)
        for call in self._told:
            call()

    def __repr__(self) -> str:
        return "\n".join([self.question, *(f"  ( ) {c}" for c in self.choices)])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        # Without a kernel the text is what a reader sees; ipywidgets would cut it short. No guess is stored.
        cells.take(self)
        data: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        return data | {"text/plain": repr(self)}

    def _ipython_display_(self) -> None:
        display(self._repr_mimebundle_(), raw=True)
        if self.held is not None:
            then = self.held.children[-1]
            # A panel's own picture and text stand for it without a kernel, the widget's view is the one that waits.
            own = then._repr_mimebundle_() if hasattr(then, "_repr_mimebundle_") else {}
            display({**own, **(self.held._repr_mimebundle_() or {}), "text/plain": repr(then)}, raw=True)


class Answer(widgets.VBox):
    """The answer to a prediction: folded until there is a guess, then beside it."""

    def __init__(self, asked: Prediction, right: str, measured: str, because: Mapping[str, str]) -> None:
        self.asked, self.right, self.measured, self.because = asked, right, measured, because
        self.text = widgets.HTML(f"{_paragraph(FIRST)}{self._folded()}")
        super().__init__([widgets.HTML(STYLE), self.text])
        self.add_class("fmlab-answer")
        cells.take(self)
        asked.when_committed(self._show)

    def _show(self) -> None:
        guess = str(self.asked.guess)
        records.record.keep_measured(self.asked.question, self.right)
        found = html.escape(self.measured)
        if guess == self.right:
            lines = [f"You guessed: <b>{html.escape(guess)}</b>. Measured: {found} <b>So it is.</b>", self._why(guess)]
        else:
            lines = [
                f"You guessed: <b>{html.escape(guess)}</b>. Measured: {found} "
                f"<b>So it is another one: {html.escape(self.right)}.</b>",
                self._why(self.right),
                f"Your guess: {self._why(guess)}",
            ]
        self.text.value = "".join(f"<p>{line}</p>" for line in lines) + self._others({guess, self.right})

    def _why(self, choice: str) -> str:
        return html.escape(self.because[choice])

    def _others(self, but: set[str]) -> str:
        rest = [c for c in self.asked.choices if c not in but]
        listed = "".join(f"<p><i>{html.escape(c)}</i>: {self._why(c)}</p>" for c in rest)
        return f"<details><summary>The other choices</summary>{listed}</details>" if rest else ""

    def _folded(self) -> str:
        """For who does not guess, and for a page without a kernel."""
        listed = "".join(f"<p><i>{html.escape(c)}</i>: {self._why(c)}</p>" for c in self.asked.choices)
        asked, found, right = (html.escape(t) for t in (self.asked.question, self.measured, self.right))
        said = f"<p>{asked}</p><p>Measured: {found} So it is: <b>{right}</b>.</p>{listed}"
        return f"<details><summary>The answer to the prediction</summary>{said}</details>"

    def close(self) -> None:
        cells.leave(self)
        super().close()

    def __repr__(self) -> str:
        """Whatever the guess was: what is stored and compared must not depend on it."""
        lines = [self.asked.question, f"  measured: {self.measured}", f"  so it is: {self.right}"]
        return "\n".join([*lines, *(f"  {c}: {why}" for c, why in self.because.items())])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        cells.take(self)
        data: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        return data | {"text/plain": repr(self), "text/html": self._folded()}


def _paragraph(text: str, role: str = "") -> str:
    return f"<p{role and f' role={role}'}>{html.escape(text)}</p>"


def predict(question: str, choices: Sequence[str], then: Any = None) -> Prediction:
    """A question to commit to before reading on. ``then``: a panel, or a function that returns one, which stands below
    and shows once the guess is made.

    The guess is kept beside the notebook, also when the kernel starts anew, and ``lab.report()`` lists it;
    ``prediction.guess`` is its text, ``prediction.answer(...)`` what came out. Raises ValueError for fewer than two
    choices, or two that are alike.
    """
    return Prediction(question, choices, then)
