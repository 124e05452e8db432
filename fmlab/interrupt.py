"""Ctrl-C in a long comparison: the round in progress is finished, and what was computed is not lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmlab.study import Study


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; ``study`` is the comparison up to the last round that all its methods finished."""

    def __init__(self, study: Study) -> None:
        done, planned = int(study.rounds[-1]), study.config["rounds"]
        super().__init__(
            f"stopped after round {done} of {planned}; nothing is lost: fm.interrupted() is the study so far, and "
            f"fm.interrupted().resume(rounds={planned}) goes on"
        )
        self.study = study


def interrupted() -> Study:
    """The study that the last Ctrl-C of this session left. Raises LookupError where the last error was another one."""
    error = getattr(sys, "last_value", None)
    if not isinstance(error, Interrupted):
        raise LookupError("the last error of this session is no interrupted comparison")
    return error.study


@contextmanager
def noticed() -> Iterator[list[bool]]:
    """A list that is empty until Ctrl-C is pressed; a second Ctrl-C ends the round too. Elsewhere than in the main
    thread, and where somebody else handles the signal, nothing is changed."""
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
