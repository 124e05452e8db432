"""The live panel: controls that train again when they move, plots that fill as rounds are computed.

A callback only notes the new setting and hands it to the panel's worker (worker.py); the worker trains and draws.
The playground has every control and view, the panels of the lessons some of them (panels.py).
"""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import torch

import fmlab as fm
from lab import plots
from lab.panel.advantage import AdvantageMap
from lab.panel.board import Board, Buttons, Look, check
from lab.panel.cache import LRU
from lab.panel.canvas import Canvas, Draw
from lab.panel.css import STYLE
from lab.panel.live import Live
from lab.panel.setting import PRESETS, Setting
from lab.panel.worker import Checkpoint
from lab.plots.words import sentence

FRAME = 0.06  # seconds from frame to frame of a running study; drawing takes half of the time at most
FIRST = ("client", "learning")  # the first of these that a panel has is drawn before the others
REST = 0.1  # seconds without a new event after which the full answer is computed
PATIENCE = 0.06  # seconds that a coarse answer may train
CELLS = {"client": 2, "adaptation": 1, "learning": 1, "helps": 1, "map": 1}  # columns that a view spans
_studies: LRU[fm.Study] = LRU(48)
_baselines: LRU[dict[str, float]] = LRU(64)


class Panel(Live):
    """A live panel. ``set``, ``wait`` and ``study`` do from code what hands and eyes do.

    controls: fields that get a control; the others stay as ``setting`` has them. views: of ``CELLS``. buttons: of
    ``board.BUTTONS``. options: ``theme``, ``size``, ``synchronous``, see ``Live``.
    """

    def __init__(
        self,
        name: str,
        controls: Sequence[str],
        views: Sequence[str],
        *,
        setting: Setting | None = None,
        buttons: Sequence[str] = (),
        **options: Any,
    ) -> None:
        setting = check(setting or Setting(), Look())
        self.views = tuple(views)
        self._first = self._setting = setting
        self._look = Look()
        self._study: fm.Study | None = None
        self._shown: Setting | None = None  # what the study on show answers
        self._view: tuple[Any, ...] = ()
        self._map = AdvantageMap()
        self._map_drawn: Any = None
        columns = 1 if len(views) == 1 else 2 if len(views) == 2 or options.get("size") == "projector" else 3
        cells = [(v, min(CELLS[v], columns) if len(views) > 2 else 1) for v in self.views]
        super().__init__(name, lambda theme: Canvas(cells, columns, theme), **options)

        # Where every event is computed at once, as on Colab, only the slider's last place is.
        self.board = Board(controls, setting, self._moved, every_event=not self._sync)
        calls = {
            "play / pause": self._play,
            "one round": self._one_round,
            "reset": self._reset,
            "another client": self._another,
            "copy as code": self._show_code,
            "save picture": self._save_picture,
        }
        self.buttons = Buttons(buttons, {label: self._guarded(call) for label, call in calls.items()}, self._preset)
        self._status = widgets.HTML()
        self._status.add_class("fmlab-status")
        self._code = widgets.Textarea(layout=widgets.Layout(display="none", width="100%", height="240px"))
        self._code.add_class("fmlab-code")
        row = widgets.HBox([*self.buttons.row, self._status])
        row.layout = widgets.Layout(flex_flow="row wrap", align_items="center")
        # Words that come and go stand below the picture, so that it never moves.
        below = [self._error, self._summary, self._code]
        self.children = (widgets.HTML(STYLE), self.board.root, row, self._canvas.image, *below)
        self._paint({})
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
        setting = check(setting, look)
        before = self._setting, self._look
        self._setting, self._look = setting, look
        self.board.show(setting, look)
        if setting != before[0]:
            self._worker.resume()
            self._submit()
        elif look != before[1]:
            self._worker.soon("look", self._redraw)

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

    def code(self) -> str:
        """A cell that computes the study of the present setting with ``fm.compare``."""
        return self._setting.code()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        if self._sync and "map" in self.views and self._shown is not None:
            self._fill_map(self._shown, lambda: None)  # what is stored is complete
        return super()._repr_mimebundle_(**kwargs)

    # --- what controls and buttons do ---------------------------------------------------------------

    def _moved(self, field: str, value: Any) -> None:
        with self._errors():
            if field in {f.name for f in dataclasses.fields(Look)}:
                self._look = dataclasses.replace(self._look, **{field: value})
                self._worker.soon("look", self._redraw)
            elif field == "methods" and not value:
                self._say_error("The last method stays on: there would be nothing to train.")
                self.board.show(self._setting, self._look)
            else:
                afresh = {"shots": None} if field == "task" else {}
                self._setting = dataclasses.replace(self._setting, **{field: value}, **afresh)
                if field == "task":
                    self.board.show(self._setting, self._look)
                self._worker.resume()
                self._submit()

    def _guarded(self, call: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            with self._errors():
                call()

        return guarded

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """An error of a callback is shown in the panel; in synchronous mode it is raised as well."""
        try:
            yield
        except Exception as error:
            self._failed(error)
            if self._sync:
                raise

    def _preset(self, name: str) -> None:
        with self._errors():
            first = {f.name: getattr(self._first, f.name) for f in dataclasses.fields(Setting)}
            self.set(**{**first, **PRESETS[name]})

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
        self.buttons.presets.value = "preset ..."
        self.board.show(self._setting, self._look)
        self._submit()

    def _another(self) -> None:
        self._look = dataclasses.replace(self._look, client=self._look.client + 1)
        self._worker.soon("look", self._redraw)

    def _show_code(self) -> None:
        self._code.layout.display = None if self._code.layout.display == "none" else "none"
        self._code.value = self.code()

    def _save_picture(self) -> None:
        def link() -> None:
            data = base64.b64encode(self._canvas.png()).decode()
            self.buttons.link.value = (
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
        if self._code.layout.display is None:
            self._code.value = self.code()
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
                self._show(rough, setting, rough=True, views=first)
                self._redraw([v for v in self.views if v not in first], say=True)
                self._worker.rest(REST)
            if known is None:
                known = self._train(setting, checkpoint, until)
            self._show(known, setting, final=True)

    def _coarse(self, setting: Setting) -> fm.Study:
        """A rough answer within PATIENCE; a newer event does not end it, or a long drag would show nothing."""
        rough = setting.coarse()
        for known in (setting.single(), rough):
            study = _studies.get(known)
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

    def _show(
        self,
        study: fm.Study,
        setting: Setting,
        *,
        final: bool = False,
        rough: bool = False,
        views: Sequence[str] | None = None,
    ) -> None:
        self._study, self._shown = study, setting
        done, planned = int(study.rounds[-1]), study.config["rounds"]
        seeds = len(study.config["seeds"])
        self._redraw(views, calm=not (final or rough))
        says = f"round {done} of {planned}, {seeds} seed{'s' * (seeds > 1)}"
        if not final:
            says += ", a first rough answer ..." if rough else ", training ..."
        self._status.value = says
        self._say_error("")

    def _redraw(self, views: Sequence[str] | None = None, say: bool = False, calm: bool = False) -> None:
        """Draw these views anew (None: all); with all of them, or where asked, the sentence too."""
        study, setting = self._study, self._shown
        if study is None or setting is None:
            return
        look, quantity = self._look, self._quantity(study)
        k = study.steps if look.k is None else look.k
        draws: dict[str, Draw] = {
            "client": lambda m: plots.client(m, self._client(study, look.client), k),
            "adaptation": lambda m: plots.adaptation(m, study, quantity, k, self._baselines(study, setting)),
            "learning": lambda m: plots.learning(m, study, look.x, quantity, k, up_to=setting.rounds),
            "helps": lambda m: plots.whom(m, study, k, quantity),
            "map": lambda m: self._map.draw(m, setting),
        }
        map_now = self._map.state(setting)
        same = {"map"} if map_now == self._map_drawn else set()
        painted = [v for v in self.views if v not in same and v in (self.views if views is None else views)]
        self._map_drawn = map_now if "map" in painted else self._map_drawn
        self._paint({v: draws[v] for v in painted}, calm)
        if views is None or say:
            self._say(sentence(study, k, quantity))

    def _client(self, study: fm.Study, number: int) -> plots.View:
        number %= study.unseen.number
        if not self._view or self._view[0] is not study or self._view[1] != number:
            self._view = (study, number, plots.look_at(study, number))
        return self._view[2]  # type: ignore[no-any-return]

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        if self._study is not None:
            self._status.value = "the picture still shows the last setting that could be computed"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
