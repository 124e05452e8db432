"""Which notebook cell made or shows which panel, so that a cell that runs again ends the panel that it replaces.

JupyterLab leaves a replaced panel's widgets in the kernel, and its training goes on. A panel stays while any cell that
made or shows it has not run again without it. Where no cell is known (a terminal, Colab) nobody's panel is ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import ipywidgets as widgets
from IPython.core.getipython import get_ipython


class Closes(Protocol):
    def close(self) -> None: ...


_there: dict[str, dict[Closes, str]] = {}  # cell -> panel that it made or shows -> the run of the cell that did


def take(panel: Closes) -> None:
    """The cell that now runs makes or shows this panel; those of its earlier runs that are nowhere else are closed."""
    cell, run = _now()
    if cell is None:
        return
    here = _there.get(cell, {})
    for other in [p for p, of in here.items() if of != run and p is not panel]:
        del here[other]
        if not any(other in panels for panels in _there.values()):
            other.close()
    _there.setdefault(cell, {})[panel] = run


def leave(panel: Closes) -> None:
    """A closed panel is in no cell."""
    for cell, panels in list(_there.items()):
        panels.pop(panel, None)
        if not panels:
            _there.pop(cell, None)


def parts(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """The widget, its children, layouts and styles, and theirs."""
    todo, seen = [widget], set()
    while todo:
        now = todo.pop()
        if now.model_id in seen:
            continue
        seen.add(now.model_id)
        yield now
        values = [getattr(now, name) for name in now.keys]
        todo += [v for value in values for v in (value if isinstance(value, tuple) else (value,)) if _is_widget(v)]


def _is_widget(value: Any) -> bool:
    return isinstance(value, widgets.Widget)


def _now() -> tuple[str | None, str]:
    """The cell that now runs, and the number of its run; JupyterLab tells both with what is to be run."""
    parent: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)() or {}
    return parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id", "")
