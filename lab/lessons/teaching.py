"""`check` checks an exercise, `report` lists what was solved and guessed.

Nothing is graded and nothing leaves the machine. `check` never says the answer: it says what kind of thing to hand in,
and one hint.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from lab.lessons import exercises
from lab.lessons import record as records
from lab.lessons.answers import Wrong


def names() -> list[str]:
    """The exercises that can be checked."""
    return list(_exercises())


def _exercises() -> dict[str, Callable[[Any], exercises.Steps]]:
    return {f.__name__: f for lesson in exercises.LESSONS.values() for f in lesson}


def check(name: str, answer: Any) -> None:
    """Print whether ``answer`` solves the exercise; if not, a hint. A solved exercise is written into the record that
    ``lab.report()`` prints. Raises ValueError for an unknown name."""
    solved, says = verdict(name, answer)
    if solved:
        records.record.keep_solved(name)
    print(says)


def verdict(name: str, answer: Any) -> tuple[bool, str]:
    """(solved, what `check` prints); nothing is recorded. The tests of the solutions call this."""
    found = _exercises()
    if name not in found:
        near = [f"; did you mean {n!r}?" for n in difflib.get_close_matches(name, found, 1)]
        raise ValueError(f"there is no exercise {name!r}{''.join(near)} (there are: {', '.join(found)})")
    if answer is None:
        wanted = (inspect.getdoc(found[name]) or "").partition("\n\n")[0].replace("\n", " ")
        return False, f"{name}: not answered yet. Wanted: {wanted} Put it in place of None and run the cell again."
    try:
        hint = next((hint for passed, hint in found[name](answer) if not passed), None)
    except Wrong as wrong:
        hint = str(wrong)
    except Exception as error:  # an answer that nobody thought of
        return False, f"{name}: this answer could not be checked ({type(error).__name__}: {error})."
    return (True, f"{name}: yes.") if hint is None else (False, f"{name}: not yet. {hint}")


def report() -> None:
    """Print which exercises are solved and since when, lesson by lesson, then the predictions, each with what was
    measured where the answer has been read: a text to hand in."""
    known = records.record.read()
    solved, guesses, measured = known["solved"], known["guesses"], known["measured"]
    print(f"{sum(n in solved for n in names())} of {len(names())} exercises solved")
    for lesson, functions in exercises.LESSONS.items():
        print(f"\n{lesson}")
        for name in (f.__name__ for f in functions):
            print(f"  [{'x' if name in solved else ' '}] {name:24} {solved.get(name, '')}".rstrip())
    compared = [q for q in guesses if q in measured]
    alike = sum(guesses[q] == measured[q] for q in compared)
    print(f"\n{len(guesses)} predictions made, {len(compared)} compared with what was measured: {alike} alike")
    for question, choice in guesses.items():
        print(f"  {question}\n      guessed:  {choice}")
        if question in measured:
            print(f"      measured: {measured[question]}")
    where = "this kernel alone, and ends with it" if not records.record.kept else f"the file {records.NAME}"
    print(f"\nThis record is in {where}.")
