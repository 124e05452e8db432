"""How long calls take, beside each other."""

import statistics
from collections.abc import Callable
from typing import Any


def medians(calls: list[Callable[[], Any]], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Median milliseconds of each call; the rest as in ``turns``."""
    return [statistics.median(times) for times in turns(calls, seconds, clock)]


def turns(calls: list[Callable[[], Any]], seconds: float, clock: Callable[[], float]) -> list[list[float]]:
    """Milliseconds of each call, in turns, so that a slow spell of the machine meets all alike.

    At least 3 turns, and ``seconds`` for each call, after one turn to warm up. clock: ``time.perf_counter``, or
    ``time.process_time`` for the processor's time alone.
    """
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    while len(taken[0]) < 3 or sum(map(sum, taken)) < 1e3 * seconds * len(calls):
        for call, times in zip(calls, taken, strict=True):
            if not times or times[-1] < 100:
                call()  # the caches still hold the peer's data
            began = clock()
            call()
            times.append(1e3 * (clock() - began))
    return taken
