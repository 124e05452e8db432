"""The live panels: controls that train again when they move, plots that fill as rounds are computed.

One class, ``Panel``; the playground has every control and view, the panels of the lessons some of them. A callback
only notes the new setting and hands it to the panel's worker (worker.py); the worker trains and draws.
"""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch

import fmlab as fm
from lab import plots, style
from lab.advantage import AdvantageMap
from lab.cache import LRU
from lab.canvas import Canvas, Draw
from lab.controls import Control, switch, words
from lab.css import STYLE
from lab.setting import METHODS, PRESETS, TASKS, Setting, declaration, recorded_inner_lr, shots_field
from lab.words import sentence
from lab.worker import Checkpoint, Superseded, Worker
from lab.worker import synchronous as chosen_synchronous

FRAME = 0.05  # seconds from frame to frame of a running study; drawing takes half of the time at most
FIRST = ("client", "learning")  # the first of these that a panel has is drawn before the others
REST = 0.1  # seconds without a new event after which the full answer is computed
PATIENCE = 0.06  # seconds that a coarse answer may train
RANGES: dict[str, tuple[float, float]] = {  # what a slider spans, where its declaration allows more
    "inner_steps": (1, 10),
    "inner_lr": (0.001, 1.0),
    "shots": (1, 20),
    "clients_per_round": (1, 100),
    "rounds": (10, 500),
    "seeds": (1, 8),
}
GROUPS = {
    "clients": ("task", "heterogeneity", "shots", "clients_per_round"),
    "learning": ("inner_steps", "inner_lr", "rounds", "seeds"),
    "methods": ("methods",),
    "view": ("k", "x", "quantity"),
}
CELLS = {"client": 2, "adaptation": 1, "learning": 1, "helps": 1, "map": 1}  # columns that a view spans
BUTTONS = {
    "preset": "set all controls at once",
    "play / pause": "stop the training between two rounds, go on, or train again from the start",
    "one round": "train one round more and stop",
    "reset": "all controls as they were at first",
    "another client": "show the next unseen client; trains nothing",
    "copy as code": "a cell that computes this very study with fm.compare",
    "save picture": "the picture as a file, in twice the resolution",
}
_studies: LRU[fm.Study] = LRU(48)
_baselines: LRU[dict[str, float]] = LRU(64)


@dataclass(frozen=True)
class Look:
    """What is looked at in a study; changing it needs no training."""

    k: int | None = None  # adaptation steps; None: all
    client: int = 0
    x: str = "rounds"
    quantity: str = "loss"


class Panel(widgets.VBox):
    """A live panel. ``set``, ``wait`` and ``study`` do from code what hands and eyes do.

    controls: fields that get a control, in named groups; the others stay as ``setting`` has them.
    views: of "client", "adaptation", "learning", "helps", "map". buttons: of ``BUTTONS``. theme: "auto" follows
    JupyterLab's, else "light" or "dark". size: "notebook" or "projector". synchronous: compute in the calling thread
    (None: where needed).
    """

    def __init__(
        self,
        name: str,
        controls: Sequence[str],
        views: Sequence[str],
        *,
        setting: Setting | None = None,
        buttons: Sequence[str] = (),
        theme: str = "auto",
        size: str = "notebook",
        synchronous: bool | None = None,
    ) -> None:
        if theme not in ("auto", "light", "dark") or size not in style.SIZES:
            raise ValueError(
                f"theme = {theme!r}, size = {size!r}: give theme 'auto', 'light' or 'dark', size {tuple(style.SIZES)}"
            )
        setting = setting or Setting()
        _check(setting, Look())
        self.name, self.views = name, tuple(views)
        self._first = setting
        self._setting, self._look = self._first, Look()
        self._study: fm.Study | None = None
        self._shown: Setting | None = None  # what the study on show answers
        self._view: tuple[Any, ...] = ()
        self._map = AdvantageMap()
        self._quiet = False
        self._play_from_start = False
        self._map_drawn: Any = None
        self._sync = chosen_synchronous() if synchronous is None else synchronous
        self._worker = Worker(self._failed, self._sync)

        base = style.DARK if theme == "dark" else style.LIGHT
        columns = 1 if len(views) == 1 else 2 if len(views) == 2 or size == "projector" else 3
        cells = [(v, min(CELLS[v], columns) if len(views) > 2 else 1) for v in self.views]
        self._canvas = Canvas(cells, columns, dataclasses.replace(base, scale=style.SIZES[size]))
        self._png = b""
        self._controls: dict[str, Control] = {}
        self._summary = widgets.HTML()
        self._summary.add_class("fmlab-summary")
        self._status = widgets.HTML()
        self._status.add_class("fmlab-status")
        self._error = widgets.HTML()
        self._error.add_class("fmlab-error")
        self._code = widgets.Textarea(layout=widgets.Layout(display="none", width="100%", height="240px"))
        self._code.add_class("fmlab-code")
        groups = [self._group(title, [c for c in fields if c in controls]) for title, fields in GROUPS.items()]
        shown = widgets.HBox([g for g in groups if g is not None], layout=widgets.Layout(flex_flow="row wrap"))
        shown.add_class("fmlab-groups")
        row = widgets.HBox([*self._buttons(buttons), self._status])
        row.layout = widgets.Layout(flex_flow="row wrap", align_items="center")
        # Words that come and go stand below the picture, so that it never moves.
        super().__init__([widgets.HTML(STYLE), shown, row, self._canvas.image, self._error, self._summary, self._code])
        self.add_class("fmlab-panel")
        self.add_class(f"fmlab-{size}")
        self.add_class(f"fmlab-{theme}")
        self._show_controls()
        self._draw_empty()
        self._submit()

    # --- for a reader's code ------------------------------------------------------------------------

    def set(self, **changes: Any) -> None:
        """Move controls as a hand would: ``set(heterogeneity=0.3, inner_steps=5)``; also ``k``, ``client``, ``x``,
        ``quantity``. Raises TypeError for a name, ValueError for a value, before anything moves."""
        looks = {f.name for f in dataclasses.fields(Look)}
        known = {f.name for f in dataclasses.fields(Setting)} | looks
        if set(changes) - known:
            raise TypeError(f"{sorted(set(changes) - known)} is not set in this panel; it knows {sorted(known)}")
        setting = dataclasses.replace(self._setting, **{k: v for k, v in changes.items() if k not in looks})
        look = dataclasses.replace(self._look, **{k: v for k, v in changes.items() if k in looks})
        _check(setting, look)
        before = self._setting, self._look
        self._setting, self._look = setting, look
        self._show_controls()
        if setting != before[0]:
            self._worker.resume()
            self._submit()
        elif look != before[1]:
            self._worker.soon("look", self._redraw)

    def wait(self, timeout: float | None = None, background: bool = False) -> None:
        """Until the newest setting is computed and drawn (``background``: the map too). Raises TimeoutError, and the
        error that ended the computation."""
        if not self._worker.wait(timeout, background):
            raise TimeoutError(f"{self!r} still computes after {timeout} s")

    @property
    def study(self) -> fm.Study:
        """The study on show."""
        if self._study is None:
            self.wait()
        if self._study is None:
            raise RuntimeError("no study could be computed; the panel says why")
        return self._study

    @property
    def setting(self) -> Setting:
        return self._setting

    @property
    def sentence(self) -> str:
        """The sentence under the plots."""
        return self._canvas.image.tooltip or ""

    def code(self) -> str:
        """A cell that computes the study of the present setting with ``fm.compare``."""
        return self._setting.code()

    def save(self, path: str | Path) -> None:
        """Write the picture as a PNG in twice the resolution."""
        Path(path).write_bytes(self._canvas.png())

    def close(self) -> None:
        """End the worker and take the panel off the page."""
        if hasattr(self, "_worker"):  # not yet, where a wrong argument ended __init__
            self._worker.close()
        super().close()

    def __repr__(self) -> str:
        return f"<fmlab panel: {self.name}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        self._worker.wait(None if self._sync else 3.0)
        if self._sync and "map" in self.views and self._shown is not None:
            self._fill_map(self._shown, lambda: None)  # what is stored is complete
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/plain": repr(self), "image/png": self._png}

    # --- controls -----------------------------------------------------------------------------------

    def _group(self, title: str, fields: Sequence[str]) -> widgets.VBox | None:
        if not fields:
            return None
        rows: list[widgets.Widget] = []
        for field in fields:
            if field == "task":
                rows.append(self._dropdown("task", list(TASKS), self._setting.task, "what the clients learn"))
            elif field == "x":
                rows.append(self._dropdown("x", list(plots.AXES), "rounds", "learning curves against what"))
            elif field == "quantity":
                rows.append(self._dropdown("quantity", list(plots.QUANTITIES), "loss", "accuracy: classification only"))
            elif field == "methods":
                looks = style.looks(METHODS)
                self._switches = {
                    n: switch(n, looks[n], n in self._setting.methods, _first_line(cls), self._switched)
                    for n, cls in METHODS.items()
                }
                switches = list(self._switches.values())
                rows.append(widgets.HBox(switches, layout=widgets.Layout(flex_flow="row wrap")))
            else:
                rows.append(self._number(field).root)
        heading = widgets.HTML(f'<div class="fmlab-title">{title}</div>')
        if title == "view":
            for row in rows:
                row.layout.flex = "1 1 240px"
            rows = [widgets.HBox(rows, layout=widgets.Layout(flex_flow="row wrap", width="100%"))]
        wide = "100%" if title == "view" else "330px"
        return widgets.VBox([heading, *rows], layout=widgets.Layout(flex=f"1 1 {wide}", min_width="300px"))

    def _number(self, field: str) -> Control:
        if field == "k":
            h, value = dataclasses.replace(declaration("steps"), low=0), self._setting.steps
            control = Control(field, h, value, 0, value, self._looked)
        else:
            h = declaration(field, self._setting.task)
            value = getattr(self._setting, field)
            value = self._default_shots(self._setting.task) if field == "shots" and value is None else value
            control = Control(field, h, value, *_range(field, h), self._moved)
        # Where every event is computed at once, as on Colab, only the slider's last place is.
        control.slider.continuous_update = not self._sync
        self._controls[field] = control
        return control

    def _dropdown(self, field: str, options: list[str], value: str, hint: str) -> widgets.Dropdown:
        label = {"x": "horizontal axis", "quantity": "measure"}.get(field, field)
        box = widgets.Dropdown(options=options, value=value, description=label, tooltip=f"{label}: {hint}")
        box.style = {"description_width": "112px"}
        box.layout = widgets.Layout(width="auto")
        box.add_class(f"fmlab-{field}")
        box.observe(lambda change: self._picked(field, change["new"]), "value")
        setattr(self, f"_{field}_box", box)
        return box

    def _buttons(self, wanted: Sequence[str]) -> list[widgets.Widget]:
        made: list[widgets.Widget] = []
        if "preset" in wanted:
            preset = widgets.Dropdown(options=["preset ...", *PRESETS], tooltip=f"preset: {BUTTONS['preset']}")
            preset.layout = widgets.Layout(width="190px")
            preset.add_class("fmlab-preset")
            preset.observe(self._preset, "value")
            self._preset_box = preset
            made.append(preset)
        calls = {
            "play / pause": self._play,
            "one round": self._one_round,
            "reset": self._reset,
            "another client": self._another,
            "copy as code": self._show_code,
            "save picture": self._save_picture,
        }
        for label in (name for name in calls if name in wanted):
            button = widgets.Button(description=label, tooltip=BUTTONS[label], layout=widgets.Layout(width="auto"))
            button.add_class("fmlab-" + "-".join(w for w in label.split() if w != "/"))
            button.on_click(self._clicked(calls[label]))
            made.append(button)
        self._link = widgets.HTML()
        return [*made, self._link] if "save picture" in wanted else made

    def _clicked(self, call: Callable[[], None]) -> Callable[[Any], None]:
        def clicked(_: Any) -> None:
            with self._errors():
                call()

        return clicked

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """An error of a callback is shown in the panel; in synchronous mode it is raised as well."""
        try:
            yield
        except Exception as error:
            self._failed(error)
            if self._sync:
                raise

    def _moved(self, field: str, value: Any) -> None:
        with self._errors():
            self._change(**{field: value})

    def _looked(self, field: str, value: Any) -> None:
        with self._errors():
            self._look = dataclasses.replace(self._look, **{field: value})
            self._worker.soon("look", self._redraw)

    def _picked(self, field: str, value: str) -> None:
        if self._quiet:
            return
        if field != "task":
            self._looked(field, value)
            return
        with self._errors():
            self._change(task=value, shots=None)

    def _switched(self, name: str, on: bool) -> None:
        if self._quiet:
            return
        with self._errors():
            wanted = tuple(n for n in METHODS if (on if n == name else n in self._setting.methods))
            if not wanted:
                self._say_error("The last method stays on: there would be nothing to train.")
                self._show_controls()
                return
            self._change(methods=wanted)

    def _change(self, **changes: Any) -> None:
        self._setting = dataclasses.replace(self._setting, **changes)
        if "task" in changes:
            self._show_controls()
        self._worker.resume()
        self._submit()

    def _show_controls(self) -> None:
        """Bring every control to the present setting, without calling back."""
        self._quiet = True
        try:
            for field, control in self._controls.items():
                if field == "k":
                    control.set(self._setting.steps if self._look.k is None else self._look.k)
                    continue
                h = declaration(field, self._setting.task)
                instead = recorded_inner_lr(self._setting.task) if field == "inner_lr" else None
                control.limits(h, *_range(field, h), instead)
                value = getattr(self._setting, field)
                control.set(self._default_shots(self._setting.task) if field == "shots" and value is None else value)
            for name, row in getattr(self, "_switches", {}).items():
                row.children[1].value = name in self._setting.methods
            for field, value in (("task", self._setting.task), ("x", self._look.x), ("quantity", self._look.quantity)):
                box = getattr(self, f"_{field}_box", None)
                if box is not None:
                    box.value = value
        finally:
            self._quiet = False

    @staticmethod
    def _default_shots(task: str) -> int:
        name = shots_field(task)
        return next(f.default for f in dataclasses.fields(TASKS[task]) if f.name == name)  # type: ignore[return-value]

    # --- buttons ------------------------------------------------------------------------------------

    def _preset(self, change: dict[str, Any]) -> None:
        if change["new"] in PRESETS and not self._quiet:
            with self._errors():
                self.set(**{**_as_changes(self._first), **PRESETS[change["new"]]})

    def _play(self) -> None:
        if self._worker.paused:
            self._worker.resume()
        elif self._worker.busy:
            self._worker.pause()
        else:
            self._submit(again=True)

    def _one_round(self) -> None:
        if self._sync:
            done = 0 if self._study is None else int(self._study.rounds[-1])
            goal = done + 1 if done < self._setting.rounds else 1
            self._submit(again=True, until=goal)
            return
        if not self._worker.busy:
            self._worker.pause()
            self._submit(again=True)
        else:
            self._worker.pause()
        self._worker.step()

    def _reset(self) -> None:
        self._worker.resume()
        self._setting, self._look = self._first, Look()
        if hasattr(self, "_preset_box"):
            self._quiet = True
            self._preset_box.value = "preset ..."
            self._quiet = False
        self._show_controls()
        self._submit()

    def _another(self) -> None:
        self._look = dataclasses.replace(self._look, client=self._look.client + 1)
        self._worker.soon("look", self._redraw)

    def _show_code(self) -> None:
        self._code.value = self.code()
        self._code.layout.display = None if self._code.layout.display == "none" else "none"

    def _save_picture(self) -> None:
        import base64

        def link() -> None:
            data = base64.b64encode(self._canvas.png()).decode()
            self._link.value = (
                f'<a download="fmlab-{self.name.replace(" ", "-")}.png" '
                f'href="data:image/png;base64,{data}">download fmlab-{self.name.replace(" ", "-")}.png</a>'
            )

        self._worker.soon("save", link)

    # --- the worker's part --------------------------------------------------------------------------

    def _submit(self, again: bool = False, until: int | None = None) -> None:
        setting = self._setting

        def job(checkpoint: Checkpoint) -> None:
            self._compute(setting, checkpoint, again, until)

        self._status.value = "training ..."
        with self._errors():
            self._worker.submit(job, lambda checkpoint: self._after(setting, checkpoint))
            if self._sync:
                self._after(setting, lambda: None)

    def _compute(self, setting: Setting, checkpoint: Checkpoint, again: bool, until: int | None) -> None:
        with _one_thread():
            known = None if again else _studies.get(setting)
            if known is None and not self._sync and not again:
                rough = self._coarse(setting)
                first = [v for v in FIRST if v in self.views][:1]
                self._show(rough, setting, views=first)
                self._redraw([v for v in self.views if v not in first], say=True)
                self._worker.rest(REST)
            if known is None:
                known = self._train(setting, checkpoint, until)
            self._show(known, setting, final=True)

    def _coarse(self, setting: Setting) -> fm.Study:
        """A rough answer within PATIENCE; a newer event does not end it, or a long drag would show nothing."""
        rough = setting.coarse()
        study = _studies.get(rough)
        if study is not None:
            return study
        end = time.monotonic() + PATIENCE
        for now in rough.stream(lambda t: time.monotonic() > end):
            study = now
            if time.monotonic() > end:
                break
        assert study is not None
        if int(study.rounds[-1]) == rough.rounds:
            _studies.put(rough, study)
        return study

    def _train(self, setting: Setting, checkpoint: Checkpoint, until: int | None) -> fm.Study:
        """All rounds. Every scheduled evaluation is shown; between two of them, frames with the models of the round."""
        shown, cost, light = time.monotonic(), 0.0, "models" if "client" in self.views else ""

        def wanted(t: int) -> Any:
            if self._sync:
                return t == until
            self._worker.check()
            if self._worker.paused:
                return True
            return light if time.monotonic() - shown > max(FRAME - cost, cost) else None

        study = None
        for now in setting.stream(wanted):
            if self._sync:
                if int(now.rounds[-1]) == until:
                    return now
            elif 0 < int(now.rounds[-1]) < setting.rounds or self._worker.paused:  # before: the rough answer stays
                began = time.monotonic()
                same = study is not None and torch.equal(now.rounds, study.rounds)
                self._show(now, setting, views=("client",) if same else None)
                shown = time.monotonic()
                cost = shown - began
                checkpoint()
            study = now
        assert study is not None
        _studies.put(setting, study)
        return study

    def _after(self, setting: Setting, checkpoint: Checkpoint) -> None:
        """What needs more time: the baselines of the adaptation curve, then the map."""
        study = self._study
        if study is None:
            return
        with _one_thread():
            if "adaptation" in self.views:
                self._baselines(study, setting, checkpoint)
                self._redraw(("adaptation",))
            if "map" in self.views and not self._sync:
                self._fill_map(setting, checkpoint)

    def _fill_map(self, setting: Setting, checkpoint: Checkpoint) -> None:
        for _ in self._map.fill(setting, _studies, checkpoint):
            self._redraw(("map",))
            checkpoint()

    def _baselines(self, study: fm.Study, setting: Setting, checkpoint: Checkpoint | None = None) -> dict[str, float]:
        quantity = self._quantity(study)
        key = (setting.task, setting.heterogeneity, setting.shots, setting.seeds, quantity)
        found = _baselines.get(key)
        if found is None and checkpoint is not None:
            study.find_baselines(checkpoint)
            found = plots.baselines(study, quantity)
            _baselines.put(key, found)
        return found or {}

    # --- drawing ------------------------------------------------------------------------------------

    def _quantity(self, study: fm.Study) -> str:
        return self._look.quantity if study.accuracy else "loss"

    def _show(self, study: fm.Study, setting: Setting, final: bool = False, views: Sequence[str] | None = None) -> None:
        self._study, self._shown = study, setting
        self._redraw(views)
        done, planned = int(study.rounds[-1]), study.config["rounds"]
        seeds = len(study.config["seeds"])
        says = f"round {done} of {planned}, {seeds} seed{'s' * (seeds > 1)}"
        if not final:
            says += ", training ..." if planned == setting.rounds else ", a first rough answer ..."
        self._status.value = says
        if self._error.value:
            self._say_error("")

    def _redraw(self, views: Sequence[str] | None = None, say: bool = False) -> None:
        """Draw these views anew (None: all); with all of them, or where asked, the sentence too."""
        study, setting = self._study, self._shown
        if study is None or setting is None:
            return
        look, quantity = self._look, self._quantity(study)
        k = study.steps if look.k is None else look.k
        draws: dict[str, Draw] = {
            "client": lambda m: plots.client(m, self._client(study, look.client), k),
            "adaptation": lambda m: plots.adaptation(m, study, quantity, k, self._baselines(study, setting)),
            "learning": lambda m: plots.learning(m, study, look.x, quantity, k),
            "helps": lambda m: plots.whom(m, study, k, quantity),
            "map": lambda m: self._map.draw(m, setting),
        }
        map_now = self._map.state(setting)
        same = {"map"} if map_now == self._map_drawn else set()
        painted = [v for v in self.views if v not in same and v in (views or self.views)]
        self._map_drawn = map_now if "map" in painted else self._map_drawn
        self._png = self._canvas.paint({v: draws[v] for v in painted})
        self._canvas.image.value = self._png
        if views is None or say:
            text = sentence(study, k, quantity)
            self._canvas.image.tooltip = text
            self._summary.value = html.escape(text)

    def _client(self, study: fm.Study, number: int) -> plots.View:
        number %= study.unseen.number
        if not self._view or self._view[0] is not study or self._view[1] != number:
            self._view = (study, number, plots.look_at(study, number))
        return self._view[2]  # type: ignore[no-any-return]

    def _draw_empty(self) -> None:
        self._png = self._canvas.paint({})
        self._canvas.image.value = self._png
        self._status.value = "training ..."

    def _failed(self, error: BaseException) -> None:
        """Say it in the panel; the last good picture stays."""
        text = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
        self._say_error(text)
        if self._study is not None:
            self._status.value = "the picture still shows the last setting that could be computed"

    def _say_error(self, text: str) -> None:
        self._error.value = html.escape(text)


def _check(setting: Setting, look: Look) -> None:
    """Raises ValueError for what no control could be set to."""
    for name in setting.methods:
        if name not in METHODS:
            raise ValueError(f"methods = {setting.methods!r}: {name!r} is not one of {tuple(METHODS)}")
    if not setting.methods:
        raise ValueError(f"methods is empty; name at least one of {tuple(METHODS)}")
    if setting.task not in TASKS:
        raise ValueError(f"task = {setting.task!r} is not one of {tuple(TASKS)}")
    for field in ("heterogeneity", *RANGES):
        value = getattr(setting, field)
        if not (field == "shots" and value is None):
            h = declaration(field, setting.task)
            Control.check(_bare(field, h, *_range(field, h)), value)
    if look.x not in plots.AXES or look.quantity not in plots.QUANTITIES:
        raise ValueError(f"x is one of {tuple(plots.AXES)}, quantity one of {plots.QUANTITIES}; got {look}")
    if look.k is not None and look.k not in range(setting.steps + 1):
        raise ValueError(f"k = {look.k!r} is not a whole number from 0 to {setting.steps}, or None for all")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_changes(setting: Setting) -> dict[str, Any]:
    return {f.name: getattr(setting, f.name) for f in dataclasses.fields(setting)}


def _range(field: str, h: Any) -> tuple[float, float]:
    low, high = RANGES.get(field, (h.low, h.high))
    return max(low, h.low), min(high, h.high)


def _bare(field: str, h: Any, low: float, high: float) -> Any:
    """A control's rules without its widgets."""
    bare = Control.__new__(Control)
    bare.field, bare.hyper, bare.low, bare.high = field, h, low, high
    return bare


def _first_line(cls: type) -> str:
    import sys

    return (sys.modules[cls.__module__].__doc__ or cls.__name__).strip().splitlines()[0]


def playground(**options: Any) -> Panel:
    """The panel for exploring: every control, every view. Options: ``theme``, ``size``, ``synchronous``, and any
    field of the first setting, for example ``heterogeneity=0.5``."""
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


def _panel(name: str, controls: Sequence[str], views: Sequence[str], **options: Any) -> Panel:
    known = {f.name for f in dataclasses.fields(Setting)}
    given = {k: options.pop(k) for k in list(options) if k in known}
    return Panel(name, controls, views, setting=Setting(**given), **options)


__all__ = [
    "PRESETS",
    "Look",
    "Panel",
    "Superseded",
    "heterogeneity",
    "inner_steps",
    "one_client",
    "playground",
    "words",
]
