"""The playground with every control and view, and the panels of the lessons with some of them (see panel.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import fmlab as fm
from lab.panel.board import BUTTONS, GROUPS
from lab.panel.panel import FIELDS, Panel
from lab.panel.setting import Setting
from lab.panel.views import CELLS


def playground(**options: Any) -> Panel:
    """The panel for exploring: every control, every view. Options: ``theme``, ``size``, ``synchronous``, and any
    field of the first setting, for example ``heterogeneity=0.5``. ``clients`` takes any population, in this panel and
    in the others: ``lab.playground(clients=fm.Table("visits.csv", client="hospital", target="outcome"))``."""
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


def _panel(
    name: str, controls: Sequence[str], views: Sequence[str], clients: fm.Population | None = None, **options: Any
) -> Panel:
    given = {k: options.pop(k) for k in list(options) if k in FIELDS}
    if clients is None:
        return Panel(name, controls, views, setting=Setting(**given), **options)
    if not isinstance(clients, fm.Population):
        raise TypeError(f"clients = {clients!r} is no population; give for example fm.Table(...) or fm.Sines()")
    setting = dataclasses.replace(Setting().on(clients), **given)
    return Panel(name, controls, views, setting=setting, **options)
