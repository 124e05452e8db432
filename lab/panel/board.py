"""The controls and buttons of a panel, made from declarations, in named groups."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

import fmlab as fm
from fmlab.declare import Hyper, step_sizes
from lab import plots
from lab.panel.controls import Changed, Control, switch, valid
from lab.panel.setting import (
    METHODS,
    PRESETS,
    SERVERS,
    TASKS,
    WORK,
    Setting,
    Task,
    all_of_them,
    classifies,
    declaration,
    default,
    recorded,
)
from lab.panel.views import Viewpoint
from lab.plots.style import Look

RANGES: dict[str, tuple[float, float]] = {  # what a slider spans, where its declaration allows more
    "inner_steps": (1, 10),
    "inner_lr": (0.001, 2.0),
    "shots": (1, 20),
    "clients_per_round": (1, 100),
    "rounds": (10, 1000),
    "seeds": (1, 8),
}
GROUPS = {
    "clients": ("task", "heterogeneity", "shots", "clients_per_round"),
    "learning": ("inner_steps", "inner_lr", "rounds", "seeds", "server", "work"),
    "methods": ("methods",),
    "view": ("k", "x", "quantity", "clients"),
}
BUTTONS = {
    "preset": "set all controls at once",
    "play / pause": "stop the training between two rounds, go on, or train again from the start",
    "one round": "train one round more and stop",
    "reset": "all controls as they were at first",
    "another client": "show the next unseen client; trains nothing",
    "copy as code": "a cell that computes this very study with fm.compare",
    "save picture": "the picture as a file, in twice the resolution",
}


class Board:
    """Controls of the fields ``wanted``, in their groups. ``changed(field, value)`` is called where a hand moves one.

    looks: of every method that can be switched on. every_event: follow a slider while it moves, not only where it
    comes to rest.
    """

    def __init__(
        self,
        wanted: Sequence[str],
        setting: Setting,
        looks: Mapping[str, Look],
        changed: Changed,
        every_event: bool,
    ) -> None:
        self._changed = changed
        self._quiet = False
        self._looks = looks
        self.controls: dict[str, Control] = {}
        self.boxes: dict[str, widgets.Dropdown] = {}
        self.switches: dict[str, widgets.HBox] = {}
        self.difference = widgets.HTML()  # how unlike the clients are, beside what moves it
        self.difference.add_class("fmlab-difference")
        groups = [_group(t, [self._row(f, setting) for f in fields if f in wanted]) for t, fields in GROUPS.items()]
        self.root = widgets.HBox([g for g in groups if g is not None], layout=widgets.Layout(flex_flow="row wrap"))
        self.root.add_class("fmlab-groups")
        for control in self.controls.values():
            control.slider.continuous_update = every_event
        self.show(setting, Viewpoint())

    def show(self, setting: Setting, viewpoint: Viewpoint) -> None:
        """Bring every control to this setting, without calling back."""
        self._quiet = True
        try:
            for field in self.controls:
                self._bring(field, setting, viewpoint)
            self.difference.layout.display = "none" if _bounds("heterogeneity", setting) is None else None
            for name, row in self.switches.items():
                row.children[1].value = name in setting.methods
            for field, box in self.boxes.items():
                value = _shown(field, setting, viewpoint)
                if field == "task" and value not in [v for _, v in box.options]:
                    box.options = _tasks(value)
                box.value = value
        finally:
            self._quiet = False

    def _bring(self, field: str, setting: Setting, viewpoint: Viewpoint) -> None:
        control, bounds = self.controls[field], _bounds(field, setting)
        control.root.layout.display = "none" if bounds is None else None
        if bounds is not None:
            control.limits(*bounds, *recorded(field, setting))
            control.set(_shown(field, setting, viewpoint))

    def follow(self, moved: str, setting: Setting, viewpoint: Viewpoint) -> None:
        """After a control has moved: step sizes that are left to the record are others where the setting stands now."""
        for field in step_sizes(fm.FedMAML()):
            if field in self.controls and field != moved:
                self._bring(field, setting, viewpoint)

    def _row(self, field: str, setting: Setting) -> widgets.Widget:
        if field == "methods":
            for name, cls in METHODS.items():
                on = name in setting.methods
                self.switches[name] = switch(name, self._looks[name], on, _first_line(cls), self._switched)
            return widgets.HBox(list(self.switches.values()), layout=widgets.Layout(flex_flow="row wrap"))
        if field in DROPDOWNS:
            return self._dropdown(field, setting)
        bounds = _bounds(field, setting)
        h, low, high = bounds or _bounds(field, Setting())  # not shown where these clients have none
        shown = low if bounds is None else _shown(field, setting, Viewpoint())
        control = Control(field, h, shown, low, high, self._changed)
        self.controls[field] = control
        return control.root if field != "heterogeneity" else widgets.VBox([control.root, self.difference])

    def _dropdown(self, field: str, setting: Setting) -> widgets.Dropdown:
        label, options, hint = DROPDOWNS[field]
        options = _tasks(setting.task) if field == "task" else options
        value = _shown(field, setting, Viewpoint())
        # Style and layout at once: one that is replaced stays in the kernel.
        look = {"style": {"description_width": "112px"}, "layout": widgets.Layout(width="auto")}
        box = widgets.Dropdown(options=options, value=value, description=label, tooltip=f"{label}: {hint}", **look)
        box.add_class(f"fmlab-{field}")
        box.observe(lambda change: None if self._quiet else self._changed(field, change["new"]), "value")
        self.boxes[field] = box
        return box

    def _switched(self, *_: Any) -> None:
        if not self._quiet:
            self._changed("methods", tuple(n for n, row in self.switches.items() if row.children[1].value))


class Buttons:
    """Buttons of ``BUTTONS``: ``calls`` has what each does, ``preset`` takes the name of a preset."""

    def __init__(
        self, wanted: Sequence[str], calls: Mapping[str, Callable[[], None]], preset: Callable[[str], None]
    ) -> None:
        self.row: list[widgets.Widget] = []
        self.presets: widgets.Dropdown | None = None
        if "preset" in wanted:
            self.presets = widgets.Dropdown(
                options=["preset ...", *PRESETS],
                tooltip=f"preset: {BUTTONS['preset']}",
                layout=widgets.Layout(width="190px"),
            )
            self.presets.add_class("fmlab-preset")
            self.presets.observe(lambda change: preset(change["new"]) if change["new"] in PRESETS else None, "value")
            self.row.append(self.presets)
        for label in (name for name in calls if name in wanted):
            button = widgets.Button(description=label, tooltip=BUTTONS[label], layout=widgets.Layout(width="auto"))
            button.add_class("fmlab-" + "-".join(w for w in label.split() if w != "/"))
            button.on_click(lambda _, call=calls[label]: call())
            self.row.append(button)
        if "save picture" in wanted:
            self.link = widgets.HTML()  # where the saved picture can be fetched
            self.row.append(self.link)

    def forget_preset(self) -> None:
        """The menu of presets, where there is one, names none."""
        if self.presets is not None:
            self.presets.value = "preset ..."


DROPDOWNS: dict[str, tuple[str, list[Any], str]] = {
    "task": ("task", [], "what the clients learn"),
    "server": (
        "server",
        list(SERVERS),
        "what steps on the clients' mean: one optimiser for all, or for each method the one that scored better when "
        "step sizes were searched, or its own",
    ),
    "work": (
        "local steps",
        list(WORK),
        "of methods without inner steps: as many as cost a client the same, or as many as others have inner ones",
    ),
    "x": ("horizontal axis", list(plots.AXES), "learning curves against what"),
    "quantity": ("measure", list(plots.QUANTITIES), "accuracy: classification only"),
    "clients": (
        "clients",
        list(plots.CLIENTS),
        "whose scores adaptation and gains show; of participating ones also their own models, where methods keep some",
    ),
}


def _tasks(task: Task) -> list[tuple[str, Task]]:
    """What the menu offers: every task, and before them the clients of the reader's own."""
    own = [] if isinstance(task, str) else [(f"{type(task).__name__} (yours)", task)]
    return [*own, *((name, name) for name in TASKS)]


def _group(title: str, rows: list[widgets.Widget]) -> widgets.VBox | None:
    if not rows:
        return None
    heading = widgets.HTML(f'<div class="fmlab-title">{title}</div>')
    if title == "view":
        for row in rows:
            row.layout.flex = "1 1 240px"
        rows = [widgets.HBox(rows, layout=widgets.Layout(flex_flow="row wrap", width="100%"))]
    wide = "100%" if title in ("view", "methods") else "330px"
    return widgets.VBox([heading, *rows], layout=widgets.Layout(flex=f"1 1 {wide}", min_width="300px"))


def check(setting: Setting, viewpoint: Viewpoint) -> Setting:
    """The setting with whole numbers as such. Raises ValueError for what no control could be set to."""
    for name in setting.methods:
        if name not in METHODS:
            raise ValueError(f"methods = {setting.methods!r}: {name!r} is not one of {tuple(METHODS)}")
    if not setting.methods:
        raise ValueError(f"methods is empty; name at least one of {tuple(METHODS)}")
    if setting.server not in SERVERS:
        raise ValueError(f"server = {setting.server!r} is not one of {tuple(SERVERS)}")
    if setting.work not in WORK:
        raise ValueError(f"work = {setting.work!r} is not one of {WORK}")
    if not isinstance(setting.task, fm.Population) and setting.task not in TASKS:
        raise ValueError(f"task = {setting.task!r} is neither one of {tuple(TASKS)} nor a population")
    found = {}
    for field in ("heterogeneity", "steps", "evaluations", *RANGES):
        value = getattr(setting, field)
        bounds = _bounds(field, setting)
        if bounds is not None and not (field == "shots" and value is None):
            found[field] = valid(field, *bounds, value)
    if viewpoint.x not in plots.AXES or viewpoint.quantity not in (None, *plots.QUANTITIES):
        raise ValueError(f"x is one of {tuple(plots.AXES)}, quantity one of {plots.QUANTITIES}; got {viewpoint}")
    if viewpoint.clients not in plots.CLIENTS:
        raise ValueError(f"clients = {viewpoint.clients!r} is not one of {plots.CLIENTS}: whose scores are shown")
    if viewpoint.k is not None and viewpoint.k not in range(setting.steps + 1):
        raise ValueError(f"k = {viewpoint.k!r} is not a whole number from 0 to {setting.steps}, or None for all")
    if not isinstance(viewpoint.client, int) or viewpoint.client < 0:
        raise ValueError(f"client = {viewpoint.client!r} is not a whole number from 0: which unseen client is shown")
    return dataclasses.replace(setting, **found)


def nearest(setting: Setting) -> Setting:
    """The setting with every number where its control ends, if it is beyond."""
    found = {field: getattr(setting, field) for field in RANGES}
    for field, value in found.items():
        bounds = _bounds(field, setting)
        if bounds is not None and value is not None:
            found[field] = min(max(value, bounds[1]), bounds[2])
    return dataclasses.replace(setting, **found)


def _bounds(field: str, setting: Setting) -> tuple[Hyper, float, float] | None:
    """The declaration of a control's field, and what it spans while the other controls stand as they do; None where
    there is nothing that it sets."""
    h = declaration("steps" if field == "k" else field, setting.task)
    if h is None:
        return None
    if field == "k":
        return dataclasses.replace(h, low=0), 0, setting.steps
    low, high = RANGES.get(field, (h.low, h.high))
    if field == "shots":
        high = h.high if all_of_them(field, setting.task) else max(high, 2 * default(field, setting.task))
    return h, *setting.within(field, max(low, h.low), min(high, h.high))


def _shown(field: str, setting: Setting, viewpoint: Viewpoint) -> Any:
    """What the control of a field shows."""
    if field == "k":
        return setting.steps if viewpoint.k is None else viewpoint.k
    if field == "quantity":
        return viewpoint.quantity or ("accuracy" if classifies(setting.task) else "loss")
    value = getattr(viewpoint if field in ("x", "quantity", "clients") else setting, field)
    return default(field, setting.task) if value is None else value


def _first_line(cls: type) -> str:
    return (sys.modules[cls.__module__].__doc__ or cls.__name__).strip().splitlines()[0]
