"""The playground with every control and view, and the panels of the lessons with some of them (see panel.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import fmlab as fm
from lab.panel import address, board
from lab.panel.board import BUTTONS, GROUPS
from lab.panel.live import check_look
from lab.panel.panel import FIELDS, LOOKED_AT, Panel
from lab.panel.setting import Setting
from lab.panel.views import CELLS, Viewpoint


def playground(**options: Any) -> Panel:
    """The panel for exploring: every control, every view. Options: ``theme``, ``size``, ``synchronous``, and any
    field of the first setting, for example ``heterogeneity=0.5``, or of what is looked at, ``k=1``. ``clients`` takes
    any population, in this panel and in the others:
    ``lab.playground(clients=fm.Table("visits.csv", client="hospital", target="outcome"))``."""
    controls = [field for fields in GROUPS.values() for field in fields]
    return _panel("playground", controls, list(CELLS), buttons=tuple(BUTTONS), **options)


def heterogeneity(**options: Any) -> Panel:
    """How unlike the clients are, and what that does to each method."""
    return _panel("heterogeneity", ["heterogeneity"], ["learning", "adaptation"], **options)


def inner_steps(**options: Any) -> Panel:
    """How many steps a client takes between two messages, and from a new client's start."""
    return _panel("inner steps", ["inner_steps", "heterogeneity"], ["learning", "adaptation"], **options)


def one_client(**options: Any) -> Panel:
    """One unseen client, before and after k adaptation steps."""
    return _panel("one client", ["k", "heterogeneity"], ["client", "adaptation"], buttons=["another client"], **options)


def _panel(name: str, controls: Sequence[str], views: Sequence[str], clients: Any = None, **options: Any) -> Panel:
    if clients is not None and not isinstance(clients, fm.Population):
        raise TypeError(f"clients = {clients!r} is no population; give for example fm.Table(...) or fm.Sines()")
    options = _asked_for(options, clients)
    setting, viewpoint = _taken(options, clients)
    rest = {k: v for k, v in options.items() if k not in FIELDS | LOOKED_AT}
    return Panel(name, controls, views, setting=setting, viewpoint=viewpoint, **rest)


def _asked_for(options: Mapping[str, Any], clients: fm.Population | None) -> dict[str, Any]:
    """The options of a panel, with those of the page's address in their place."""

    def check(wanted: Mapping[str, Any]) -> None:
        board.check(*_taken(wanted, clients))
        check_look(wanted)

    return address.over(options, {*FIELDS, *LOOKED_AT, "theme", "size"}, check)


def _taken(options: Mapping[str, Any], clients: fm.Population | None = None) -> tuple[Setting, Viewpoint]:
    parts = ({k: v for k, v in options.items() if k in names} for names in (FIELDS, LOOKED_AT))
    first = Setting() if clients is None else Setting().on(clients)
    return dataclasses.replace(first, **next(parts)), Viewpoint(**next(parts))
