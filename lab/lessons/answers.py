"""What a reader hands in: read as numbers whatever its type, called with copies, stopped when it takes too long.

Every complaint here is about the answer, in words for whoever wrote it. A function runs in a thread of its own, so
that the kernel outlives a loop that never ends on every system, without signals: after ``LIMIT`` seconds the thread
is sent an exception again and again, until it ends. Code that stays inside one call of a compiled library for ever
cannot be reached that way; its thread is left behind.
"""

from __future__ import annotations

import copy
import ctypes
import inspect
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fmlab

LIMIT = 10.0  # seconds that one call of a reader's function may take
GRACE = 2.0  # seconds in which a thread that was told to end should have ended
PATHS = sysconfig.get_paths()
LIBRARIES = (
    *(Path(PATHS[key]) for key in ("stdlib", "purelib", "platlib")),
    Path(fmlab.__file__).parent,
    Path(__file__).parents[1],
)

IN_PLACE = ("inplace operation", "in-place operation", "single memory location")  # torch's words
WRITTEN_OVER = (
    "a tensor was written over (by `u -= ...`, `u[...] = ...` or `u.add_(...)`) that is still needed as it was. Write "
    "`u = u - ...`, which makes a new one."
)


class Wrong(Exception):
    """What an answer got wrong, as a sentence to its author."""


class Stopped(SystemExit):
    """Ends a thread; as a SystemExit it ends it without a word, also outside of any try."""


def kind(value: Any) -> str:
    """What this is, in words: "a str: 'fish'"."""
    if value is None:
        return "None"
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"a function, {getattr(value, '__name__', 'without a name')}: hand in what it returns"
    if isinstance(value, bool | str):
        text = repr(value)
        return f"a {type(value).__name__}: {text if len(text) < 40 else text[:36] + ' ...'}"
    name = type(value).__name__
    return f"a{'n' * (name[0].lower() in 'aeiou')} {name}"


def _tensor(value: Any) -> Tensor | None:
    """float64, detached; None for what is no number, nor made of numbers."""
    if isinstance(value, Tensor):
        return None if value.dtype == torch.bool or value.is_complex() else value.detach().to("cpu", torch.float64)
    if isinstance(value, list | tuple):
        parts = [_tensor(v) for v in value]
        rows = [p for p in parts if p is not None]
        if len(rows) < len(parts) or len({p.shape for p in rows}) > 1:
            return None
        return torch.stack(rows) if rows else torch.zeros(0, dtype=torch.float64)
    if isinstance(value, bool | str | bytes | dict | set) or callable(value):
        return None
    try:
        found = np.asarray(value)
        if found.dtype.kind == "O":  # a fraction, a decimal, a table of them
            found = np.vectorize(float)(found)
        return torch.tensor(found, dtype=torch.float64) if found.dtype.kind in "iuf" else None
    except Exception:  # whatever the value does when it is asked for its numbers
        return None


def number(value: Any, who: str = "this") -> Tensor:
    """One number as a float64 tensor of shape (); a list, an array or a tensor that holds one number will do. Raises
    Wrong for anything else. who: what the complaint is about, ``this`` or ``your function returns``."""
    found = _tensor(value)
    if found is None or found.numel() != 1:
        raise Wrong(f"One number is wanted; {_is(who)} {kind(value)}.{_hint(value, who)}")
    if found.isnan():
        raise Wrong(f"One number is wanted; {_is(who)} nan.")
    return found.reshape(())


def array(value: Any, shape: Sequence[int], wanted: str, who: str = "this") -> Tensor:
    """Numbers as a float64 tensor of this shape. Raises Wrong, which begins with ``wanted``."""
    found = _tensor(value)
    if found is None or found.shape != tuple(shape):
        raise Wrong(f"{wanted}; {_is(who)} {kind(value)}.{_hint(value, who)}")
    return found


def _is(who: str) -> str:
    return who if who.endswith("returns") else f"{who} is"


def _hint(value: Any, who: str) -> str:
    return " Is a line with return missing?" if value is None and who.endswith("returns") else ""


class Function:
    """A reader's function. Called with copies, within ``LIMIT`` seconds; what goes wrong in it is raised as Wrong.

    takes: what it is called with, for a complaint: "before, after".
    """

    def __init__(self, function: Any, takes: str) -> None:
        if not callable(function):
            raise Wrong(f"A function is wanted: pass its name, without calling it; this is {kind(function)}.")
        self._function, self._takes = function, takes

    def __call__(self, *given: Any) -> Any:
        try:
            inspect.signature(self._function).bind(*given)
        except TypeError:
            theirs = f"{getattr(self._function, '__name__', 'yours')}{inspect.signature(self._function)}"
            raise Wrong(f"Your function is called with ({self._takes}), but it is {theirs}.") from None
        except ValueError:  # a compiled function says nothing about its parameters
            pass
        return _within(LIMIT, self._function, [_copied(g) for g in given])

    def number(self, *given: Any) -> Tensor:
        return number(self(*given), "your function returns")

    def array(self, shape: Sequence[int], wanted: str, *given: Any) -> Tensor:
        return array(self(*given), shape, wanted, "your function returns")

    def names(self) -> set[str]:
        """Every global and attribute that its own code names."""
        code = getattr(self._function, "__code__", None)
        return set() if code is None else _names(code)


def _copied(given: Any) -> Any:
    """A copy of one's own: of a tensor with a place for every number, so that ``w -= ...`` can write there."""
    dense = torch.contiguous_format
    return given.clone(memory_format=dense) if isinstance(given, Tensor) else copy.deepcopy(given)


def _names(code: CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inner)


def _within(limit: float, function: Callable[..., Any], given: Sequence[Any]) -> Any:
    """function(*given), or Wrong: for its own error, and when it still runs after ``limit`` seconds."""
    ended: dict[str, Any] = {}

    def work() -> None:
        try:
            ended["value"] = function(*given)
        except BaseException as error:  # a SystemExit of the reader's, too
            ended["error"] = error

    thread = threading.Thread(target=work, daemon=True, name="lab.check")
    thread.start()
    try:
        thread.join(limit)
    except KeyboardInterrupt:
        _stop(thread)
        raise Wrong("You stopped your function before it returned.") from None
    if thread.is_alive():
        after = "" if _stop(thread) else " It cannot be stopped from here: restart the kernel before you go on."
        raise Wrong(f"Your function still runs after {limit:g} seconds. Is there a loop that never ends?{after}")
    if "error" in ended:
        raise Wrong(_complaint(ended["error"])) from None
    return ended["value"]


def _stop(thread: threading.Thread) -> bool:
    """End a thread from outside, also one that catches what it is sent. False if it is still there after GRACE."""
    late = time.monotonic() + GRACE
    while thread.is_alive() and time.monotonic() < late:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
        thread.join(0.003)
    return not thread.is_alive()


def _complaint(error: BaseException) -> str:
    """The error, and the reader's own line that set it off: the innermost that is in no library."""
    message = " ".join(str(error).split())
    said = f"{type(error).__name__}: {message[:200]}" if message else type(error).__name__
    if any(words in message for words in IN_PLACE):
        said = f"{type(error).__name__}: {WRITTEN_OVER}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(folder) for folder in LIBRARIES):
            line = f"`{frame.line}`" if frame.line else f"line {frame.lineno}"
            return f"Your function stops at {line} with {said}"
    return f"Your function stops with {said}"


def near(a: Tensor, b: Any, within: float = 1e-5) -> bool:
    """Same shape, and closer than ``within`` of b's size; 1e-5 leaves room for float32."""
    b = torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).norm() <= within * b.norm())
