"""Step sizes that nobody recorded: ``fm.compare`` searches them once, for some seconds. A panel does it beforehand, so
that it can say so instead of standing still."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable

from fmlab import cache
from fmlab.declare import Validated, step_sizes
from fmlab.setup import prepare
from fmlab.tuning import Searched, at, cache_key, needed, number_of_steps
from fmlab.tuning import recorded as filled
from lab.panel.setting import METHODS, Setting, kind

KNOWN: set[str] = set()  # searched on this machine, as far as this kernel has looked


def missing(setting: Setting) -> list[str]:
    """The methods of a setting with a step size that is neither given, nor recorded for the task, nor searched yet."""
    return [name for name in setting.methods if _missing(setting, name)]


def search(setting: Setting, method: str) -> dict[str, float]:
    """The step sizes of one method on the setting's task, searched where they were not, and kept for later."""
    # The panel says what was searched; the warning would go to a log. This one alone: filters are the whole kernel's.
    message = re.escape(f"no step size is recorded for {METHODS[method].__name__}")
    warnings.filterwarnings("ignore", message, Searched)
    one = dataclasses.replace(setting, methods=(method,), rounds=1, seeds=1)
    methods, (population, clients), options = one.call()
    algorithms = {name: cls(**given) for name, (cls, given) in methods.items()}
    (algorithm,) = filled(prepare(algorithms, population(**clients), **options)).algorithms.values()
    values = {field: getattr(algorithm, field) for field in step_sizes(algorithm)}
    return {field: value.centre if isinstance(value, Validated) else value for field, value in values.items()}


def search_all(setting: Setting, say: Callable[[str], None], check: Callable[[], None]) -> dict[str, dict[str, float]]:
    """``search`` for every method that needs it; ``say`` gets words before each, ``check`` may end it between two."""
    found = {}
    for name in missing(setting):
        check()
        say(f"no step size is recorded for {name} on {kind(setting.task).__name__}: searching once, some seconds ...")
        found[name] = search(setting, name)
    return found


def _missing(setting: Setting, name: str) -> bool:
    methods, (population, clients), _ = dataclasses.replace(setting, methods=(name,)).call()
    cls, given = methods[name]
    algorithm = cls(**given)
    open_fields = {field for field in step_sizes(algorithm) if getattr(algorithm, field) is None}
    known = setting.look_up(algorithm)
    key = cache_key(population(**clients), searched := at(algorithm, number_of_steps(algorithm)))
    if not open_fields or (known is not None and open_fields <= known.found.keys()) or key in KNOWN:
        return False
    kept = cache.get(key)
    if kept is None or set(kept) != needed(searched):
        return True
    KNOWN.add(key)
    return False
