"""Ctrl-C in a long comparison: the round in progress is finished, and what was computed is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from fmlab.study import Study


class Left:
    """What an interrupted comparison left: its study, which is scored when it is first asked for."""

    def __init__(self, score: Callable[[], Study]) -> None:
        self._score: Callable[[], Study] | None = score
        self._study: Study | None = None

    @property
    def study(self) -> Study:
        if self._score is not None:
            self._study, self._score = self._score(), None  # what it was scored from may go
        assert self._study is not None
        return self._study


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; ``study`` is the comparison up to the last round that all its methods finished."""

    last: ClassVar[Left | None] = None  # not the error, whose traceback would keep everything alive

    def __init__(self, score: Callable[[], Study], done: int, planned: int) -> None:
        so_far, on = f"round {done} of {planned}", f", and fm.interrupted().resume(rounds={planned}) goes on"
        if done == planned:
            so_far, on = f"the last of {planned} rounds", ""
        super().__init__(f"stopped after {so_far}; nothing is lost: fm.interrupted() is the study so far{on}")
        self._left = Interrupted.last = Left(score)

    @property
    def study(self) -> Study:
        return self._left.study


def interrupted() -> Study:
    """The study that the last Ctrl-C in a comparison left; it is kept until the next one. Raises LookupError where
    there was none."""
    if Interrupted.last is None:
        raise LookupError("no comparison of this session was interrupted")
    return Interrupted.last.study


@contextmanager
def noticed() -> Iterator[list[bool]]:
    """A list that is empty until Ctrl-C is pressed; a second Ctrl-C raises KeyboardInterrupt at once. Elsewhere than in
    the main thread, and where somebody else handles the signal, nothing is changed."""
    pressed: list[bool] = []
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return

    def note(number: int, frame: Any) -> None:
        if pressed:
            signal.default_int_handler(number, frame)
        pressed.append(True)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
