"""The live panel: controls that train again when they move, plots that fill as rounds are computed.

A panel is a board of controls (board.py), a session that answers settings (session.py) and views of an answer
(views.py). A callback only notes the new setting and hands it to the worker (worker.py), which asks the session and
draws.
The playground has every control and view, the panels of the lessons some of them (panels.py).
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets

import fmlab as fm
from lab.panel.board import Board, Buttons, check, nearest
from lab.panel.css import head
from lab.panel.live import Live
from lab.panel.session import Session
from lab.panel.setting import METHODS, PLAIN, PRESETS, Setting, Task, kind
from lab.panel.views import Viewpoint, Views
from lab.panel.worker import Checkpoint
from lab.plots import style

MANY = 3  # controls that stand above the pictures on a projector; more stand beside them
REST = 0.1  # seconds without a new event after which the full answer is computed
FIELDS = {f.name for f in dataclasses.fields(Setting)}
LOOKED_AT = {f.name for f in dataclasses.fields(Viewpoint)}


class Panel(Live):
    """A live panel. ``set``, ``wait`` and ``study`` do from code what hands and eyes do.

    controls: fields that get a control; the others stay as ``setting`` and ``viewpoint`` have them. views: of
    ``views.CELLS``. buttons: of ``board.BUTTONS``. options: ``theme``, ``size``, ``synchronous``, see ``Live``.
    """

    def __init__(
        self,
        name: str,
        controls: Sequence[str],
        views: Sequence[str],
        *,
        setting: Setting | None = None,
        viewpoint: Viewpoint | None = None,
        buttons: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.session = Session()
        self._seen_first = self._viewpoint = viewpoint or Viewpoint()
        self._first = self._setting = setting = check(setting or Setting(), self._viewpoint)
        self._study: fm.Study | None = None
        self._shown: Setting | None = None  # what the study on show answers
        self._ended = False  # whether it is the end of a run, where participating clients can be scored
        self._scored: fm.Study | None = None  # the last one whose participating clients were
        looks = _looks()  # of every method, so that none changes when another is switched on or off
        self.views = Views(views, looks)
        super().__init__(name, lambda theme: self.views.canvas(theme, options.get("size", "notebook")), **options)
        # Where every event is computed at once, as on Colab, only the slider's last place is.
        self.board = Board(controls, setting, looks, self._moved, every_event=not self._sync)
        self.board.show(setting, self._viewpoint)
        calls = {
            "play / pause": self._play,
            "one round": self._one_round,
            "reset": self._reset,
            "another client": self._another,
            "copy as code": self._show_code,
            "save picture": self._save_picture,
        }
        self.buttons = Buttons(buttons, {label: self._guarded(call) for label, call in calls.items()}, self._preset)
        # So wide that beside many buttons it has a line of its own, whatever it says: the picture must not move.
        self._status = widgets.HTML(layout=widgets.Layout(flex="1 1 560px"))
        self._status.add_class("fmlab-status")
        self._note = widgets.HTML(layout=widgets.Layout(display="none"))
        self._note.add_class("fmlab-note")
        self._searched: dict[tuple[Task, str], dict[str, float]] = {}  # task, method -> step sizes
        self._code = widgets.Textarea(layout=widgets.Layout(display="none", width="100%", height="240px"))
        self._code.add_class("fmlab-code")
        wrapped = widgets.Layout(flex_flow="row wrap", align_items="center")
        row = widgets.HBox([*self.buttons.row, self._status], layout=wrapped)
        row.add_class("fmlab-row")
        if len(controls) > MANY:
            self.add_class("fmlab-many")
        # Words that come and go stand below the picture, so that it never moves.
        below = [self._error, self._summary, self._note, self._code]
        self.children = (head(), self.board.root, row, self._canvas.root, *below)
        self._paint({})
        self._submit()

    # --- for a reader's code ------------------------------------------------------------------------

    def set(self, **changes: Any) -> None:
        """Move controls as a hand would: ``set(heterogeneity=0.3, inner_steps=5)``; also ``k``, ``client``, ``x``,
        ``quantity``, ``clients``. Raises TypeError for a name, ValueError for a value, before anything moves."""
        unknown = set(changes) - FIELDS - LOOKED_AT
        if unknown:
            raise TypeError(f"{sorted(unknown)} is not set in this panel; it knows {sorted(FIELDS | LOOKED_AT)}")
        if isinstance(changes.get("clients"), fm.Population):
            changes["task"] = changes.pop("clients")
        setting = self._setting
        if "task" in changes and changes["task"] != setting.task:
            check(dataclasses.replace(Setting(), task=changes["task"], clients_per_round=1), self._viewpoint)
            setting = setting.on(changes["task"])
        setting = dataclasses.replace(setting, **{k: v for k, v in changes.items() if k in FIELDS})
        viewpoint = dataclasses.replace(self._viewpoint, **{k: v for k, v in changes.items() if k in LOOKED_AT})
        setting = check(setting, viewpoint)
        before = self._setting, self._viewpoint
        self._setting, self._viewpoint = setting, viewpoint
        self.board.show(setting, viewpoint)
        if setting != before[0]:
            self._worker.resume()
            self._submit()
        elif viewpoint != before[1]:
            self._worker.soon("viewpoint", self._redraw)

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
        if self._sync and "map" in self.views.names and self._shown is not None:
            self._fill_map(self._shown, lambda: None)  # what is stored is complete
        return super()._repr_mimebundle_(**kwargs)

    def _in_words(self) -> str:
        return f"{super()._in_words()} ({self._status.value})"  # it may be taken in the middle of a run

    # --- what controls and buttons do ---------------------------------------------------------------

    def _moved(self, field: str, value: Any) -> None:
        with self._errors():
            if field in LOOKED_AT:
                self._viewpoint = dataclasses.replace(self._viewpoint, **{field: value})
                self._worker.soon("viewpoint", self._redraw)
            elif field == "methods" and not value:
                self._say_error("The last method stays on: there would be nothing to train.")
                self.board.show(self._setting, self._viewpoint)
            else:
                if field == "task":
                    self._setting = self._setting.on(value)
                    self.board.show(self._setting, self._viewpoint)
                else:
                    self._setting = dataclasses.replace(self._setting, **{field: value})
                    self.board.follow(field, self._setting, self._viewpoint)
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
            wanted = PRESETS[name]
            first = self._first.on(wanted["task"]) if "task" in wanted else self._first
            setting = nearest(dataclasses.replace(first, **wanted))
            self.set(**{field: getattr(setting, field) for field in FIELDS})

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
        self._setting, self._viewpoint = self._first, self._seen_first
        self.buttons.forget_preset()
        self.board.show(self._setting, self._viewpoint)
        self._submit()

    def _another(self) -> None:
        self._viewpoint = dataclasses.replace(self._viewpoint, client=self._viewpoint.client + 1)
        self._worker.soon("viewpoint", self._redraw)

    def _show_code(self) -> None:
        self._code.layout.display = None if self._code.layout.display == "none" else "none"
        self._code.value = self.code()

    def _save_picture(self) -> None:
        def link() -> None:
            data = base64.b64encode(self._canvas.png()).decode()
            file = f"fmlab-{self.name.replace(' ', '-')}.png"
            address = f"data:image/png;base64,{data}"
            self.buttons.link.value = f'<a class="fmlab-file" download="{file}" href="{address}">download {file}</a>'

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
        self._search(setting)
        study = None if again else self.session.known(setting)
        if study is None and not self._sync and not again:
            self._show(self.session.rough(setting), setting, rough=True, views=self.views.first)
            self._redraw(self.views.others, say=True)
            self._worker.rest(REST)
        self._say_difference(setting)
        if study is None:
            study = self._train(setting, checkpoint) if until is None else self.session.until(setting, until)
        self._show(study, setting, final=True)

    def _search(self, setting: Setting) -> None:
        """Step sizes that are not recorded, which would otherwise be searched without a word."""

        def say(words: str) -> None:
            self._status.value = words

        for name, sizes in self.session.search_step_sizes(setting, say, self._worker.check).items():
            self._searched[setting.task, name] = sizes
        found = [
            f"{name}: {', '.join(f'{field} {value:g}' for field, value in sizes.items())}"
            for (task, name), sizes in self._searched.items()
            if task == setting.task and name in setting.methods
        ]
        name = kind(setting.task).__name__
        self._note.value = f"step sizes that were searched, on {name}: {'; '.join(found)}" if found else ""
        self._note.layout.display = "block" if found else "none"

    def _say_difference(self, setting: Setting) -> None:
        """How unlike the clients are, so that it is seen what the slider of heterogeneity moved."""
        if "heterogeneity" not in self.board.controls or not setting.heterogeneous:
            return
        found = self.session.difference(setting)
        self.board.difference.value = (
            f"how unlike they are: <b>{found.value:.2f}</b> of 1<br><small>{html.escape(found.what)}</small>"
        )

    def _train(self, setting: Setting, checkpoint: Checkpoint) -> fm.Study:
        def show(study: fm.Study, same: bool) -> None:
            self._show(study, setting, views=("client",) if same else None)

        return self.session.full(
            setting,
            self._worker.check,
            show=None if self._sync else show,
            shown=checkpoint,
            paused=lambda: self._worker.paused,
            models="client" in self.views.names,
        )

    def _after(self, setting: Setting, checkpoint: Checkpoint) -> None:
        """What needs more time: the baselines of the adaptation curve, then the map."""
        study = self._study
        if study is None:
            return
        if "adaptation" in self.views.names:
            self.session.find_baselines(study, setting, self._viewpoint.measure(study), checkpoint)
            self._redraw(("adaptation",))
        if "map" in self.views.names and not self._sync:
            self._fill_map(setting, checkpoint)

    def _fill_map(self, setting: Setting, checkpoint: Checkpoint) -> None:
        for at, study in self.session.cells(setting, checkpoint, self.views.map.has(setting)):
            self.views.map.put(setting, at, study)
            self._redraw(("map",))
            checkpoint()

    # --- drawing ------------------------------------------------------------------------------------

    def _show(
        self,
        study: fm.Study,
        setting: Setting,
        *,
        final: bool = False,
        rough: bool = False,
        views: Sequence[str] | None = None,
    ) -> None:
        self._study, self._shown, self._ended = study, setting, final and study.kept is not None
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
        study, setting, viewpoint = self._study, self._shown, self._viewpoint
        if study is None or setting is None:
            return
        if viewpoint.whose(self._ended) == "participating" and self._scored is not study:
            self._score(study)
        base = self.session.known_baselines(setting, viewpoint.measure(study))
        self._paint(self.views.draws(study, setting, viewpoint, base, views, self._ended), calm)
        if views is None or say:
            self._say(" ".join(filter(None, (viewpoint.sentence(study, self._ended), setting.says()))))

    def _score(self, study: fm.Study) -> None:
        """Participating clients, before a plot asks for them: plots are drawn one at a time."""
        self._worker.check()
        before, self._status.value = self._status.value, "scoring participating clients ..."
        self.session.score_participating(study)
        self._status.value, self._scored = before, study

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        if self._study is not None:
            self._status.value = "the picture still shows the last setting that could be computed"


def _looks() -> dict[str, style.Look]:
    """One for every method; FedAvg with the plain mean is a thinner FedAvg."""
    found = style.looks(name for name in METHODS if name != PLAIN)
    return found | {PLAIN: dataclasses.replace(found["FedAvg"], width=1.1, dashes=(), marker=".")}
