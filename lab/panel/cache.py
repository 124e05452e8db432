"""A memory of what was computed: the one used longest ago goes first, by number and by bytes."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, Generic, TypeVar

from torch import Tensor

V = TypeVar("V")
MUCH = 16e6  # bytes; less is soon used again
LEAVES = (str, bytes, int, float, type, ModuleType, FunctionType, MethodType)


def storages(thing: Any) -> dict[int, int]:
    """Address -> bytes of the memory behind every tensor that is reached from ``thing`` through attributes, mappings,
    lists, tuples and prepared calls. Views of one memory count once."""
    found: dict[int, int] = {}
    seen, todo = set(), [thing]
    while todo:
        now = todo.pop()
        if now is None or isinstance(now, LEAVES) or id(now) in seen:
            continue
        seen.add(id(now))
        if isinstance(now, Tensor):
            memory = now.untyped_storage()
            found[memory.data_ptr()] = memory.nbytes()
        elif isinstance(now, Mapping):
            todo += now.values()
        elif isinstance(now, (list, tuple)):
            todo += now
        elif isinstance(now, partial):  # the closed form's calls hold the memory that they work on
            todo += (now.func, *now.args, *now.keywords.values())
        elif isinstance(now, BuiltinMethodType):
            todo.append(now.__self__)
        else:
            todo += getattr(now, "__dict__", {}).values()
    return found


def give_back() -> None:
    """Memory that was freed goes back to the system, where the C library (glibc) would keep it for later."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


class LRU(Generic[V]):
    """At most ``size`` values and, where ``room`` is given, ``room`` bytes in all, but always the newest; safe in
    threads. ``parts``: address -> bytes of a value; what several share counts once. A value may grow while it is held
    (a study draws clients when asked), so it is weighed again whenever it is used."""

    def __init__(
        self, size: int, room: float = float("inf"), parts: Callable[[V], dict[int, int]] = lambda value: {}
    ) -> None:
        self.size, self.room, self._parts = size, room, parts
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._weights: dict[Hashable, dict[int, int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> int:
        """Bytes that the values held together, each when it was last used."""
        together: dict[int, int] = {}
        for weight in list(self._weights.values()):
            together |= weight
        return sum(together.values())

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._use(key, value)
            return value

    def put(self, key: Hashable, value: V) -> None:
        with self._lock:
            self._use(key, value)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._weights.clear()
        give_back()

    def _use(self, key: Hashable, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        self._weights[key] = self._parts(value)
        before = self.weight
        while len(self._values) > 1 and (len(self._values) > self.size or self.weight > self.room):
            oldest = self._values.popitem(last=False)[0]
            del self._weights[oldest]
        if before - self.weight > MUCH:
            give_back()
