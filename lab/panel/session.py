"""Between a setting and its pictures: the studies that answer it, a rough one first. No widget, no thread of its own.

Nothing that was computed is computed again while there is room for it: ``STUDIES`` and ``BASELINES`` are shared by all
sessions of a kernel, and a cell of the map is the rough answer of the setting that it stands for, where just its two
methods are on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import fmlab as fm
from fmlab.populations.difference import Difference
from lab import plots
from lab.panel.advantage import Cell, cell, coarse_to_fine
from lab.panel.cache import LRU, storages
from lab.panel.setting import Setting
from lab.panel.stepsizes import search_all

FRAME = 0.06  # seconds from frame to frame of a running study; drawing takes a quarter of the time at most
PATIENCE = 0.06  # seconds that a rough answer may train
STUDIES: LRU[fm.Study] = LRU(48, room=200e6, parts=storages)
BASELINES: LRU[dict[str, float]] = LRU(64)
DIFFERENCES: LRU[Difference] = LRU(64)
Show = Callable[[fm.Study, bool], None]


def _nothing() -> None:
    """For a caller who never stops a run."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Session:
    """Studies for settings. ``check`` is called between rounds everywhere; what it raises ends the computation, and
    nothing of it is kept."""

    def __init__(self, studies: LRU[fm.Study] = STUDIES, baselines: LRU[dict[str, float]] = BASELINES) -> None:
        self._studies, self._baselines = studies, baselines

    def known(self, setting: Setting) -> fm.Study | None:
        """The finished study of this setting, where it is remembered."""
        return self._studies.get(setting)

    @one_thread()
    def rough(self, setting: Setting) -> fm.Study:
        """An answer within PATIENCE: one seed with all rounds where that is known, else one seed with the rounds that
        there is time for. Nothing ends it early: while a slider is dragged it is all that there is to see."""
        coarse = setting.coarse()
        for known in (setting.single(), coarse):
            study = self._studies.get(known)
            if study is not None:
                return study
        end = time.monotonic() + PATIENCE
        for now in coarse.stream(lambda t: time.monotonic() > end):
            study = now
            if time.monotonic() > end:
                break
        assert study is not None
        if int(study.rounds[-1]) == coarse.rounds:
            self._studies.put(coarse, study)
        return study

    @one_thread()
    def full(
        self,
        setting: Setting,
        check: Callable[[], None] = _nothing,
        *,
        show: Show | None = None,
        shown: Callable[[], None] = _nothing,
        paused: Callable[[], bool] = lambda: False,
        models: bool = False,
    ) -> fm.Study:
        """All rounds, trained afresh, and remembered.

        show: ``show(study, same)`` is called after every scheduled evaluation but the first and the last, and after
            every round while ``paused()``. ``same``: the evaluation is that of the call before.
        shown: called after each of them, and may wait.
        models: between two evaluations also show the round's models, as often as FRAME and the time that ``show``
            takes allow.
        """
        last, cost = time.monotonic(), 0.0

        def wanted(t: int) -> Any:
            check()
            if show is None:
                return None
            if paused():
                return True
            return "models" if models and time.monotonic() - last > max(FRAME - cost, 3 * cost) else None

        study = None
        for now in setting.stream(wanted):
            if show is not None and (0 < int(now.rounds[-1]) < setting.rounds or paused()):
                began = time.monotonic()
                show(now, study is not None and torch.equal(now.rounds, study.rounds))
                last = time.monotonic()
                cost = last - began
                shown()
            study = now
        assert study is not None
        self._studies.put(setting, study)
        return study

    @one_thread()
    def until(self, setting: Setting, last: int) -> fm.Study:
        """The study after round ``last``; not remembered. ValueError for a round that the setting does not have."""
        if not 0 <= last <= setting.rounds:
            raise ValueError(f"last = {last!r} is not a round of this setting: 0 to {setting.rounds}")
        return next(study for study in setting.stream(lambda t: t == last) if int(study.rounds[-1]) == last)

    @one_thread()
    def search_step_sizes(
        self, setting: Setting, say: Callable[[str], None], check: Callable[[], None] = _nothing
    ) -> dict[str, dict[str, float]]:
        """Of the methods that have none on the task yet, before a study would search them; see ``stepsizes``."""
        return search_all(setting, say, check)

    @one_thread()
    def score_participating(self, study: fm.Study) -> None:
        """Once for a study, and at the end of its run only."""
        plots.after_steps(study, clients="participating")

    @one_thread()
    def difference(self, setting: Setting) -> Difference:
        """How unlike the training clients of the first seed are."""
        _, (population, clients), _ = setting.call()
        made = population(**clients)
        found = DIFFERENCES.get(made)
        if found is None:
            found = made.difference()
            DIFFERENCES.put(made, found)
        return found

    def known_baselines(self, setting: Setting, quantity: str) -> dict[str, float]:
        """The baselines of the setting's study; empty where they are not known yet."""
        return self._baselines.get(_clients(setting, quantity)) or {}

    @one_thread()
    def find_baselines(
        self, study: fm.Study, setting: Setting, quantity: str, check: Callable[[], None] = _nothing
    ) -> dict[str, float]:
        """The same, computed where they are not known: some 400 steps of training."""
        found = self.known_baselines(setting, quantity)
        if not found:
            try:
                study.find_baselines(check)
            finally:
                study.setup.forget()  # what the training needed; a study that is remembered holds it for long
            self._studies.get(setting)  # the study has drawn more clients: it is weighed again
            found = plots.baselines(study, quantity)
            self._baselines.put(_clients(setting, quantity), found)
        return found

    def cells(
        self, setting: Setting, check: Callable[[], None] = _nothing, but: Collection[Cell] = ()
    ) -> Iterator[tuple[Cell, fm.Study]]:
        """The map around this setting, the corners first, without the cells in ``but``; none where clients have no
        heterogeneity."""
        for at in coarse_to_fine() if setting.heterogeneous else ():
            if at not in but:
                wanted = cell(setting, *at)
                yield at, self.known(wanted) or self.full(wanted, check)


def _clients(setting: Setting, quantity: str) -> tuple[Any, ...]:
    """What baselines depend on: the unseen clients, and not how the methods are trained."""
    return setting.task, setting.heterogeneity, setting.shots, setting.seeds, quantity
