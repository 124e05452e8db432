"""The session: studies for settings, without a widget. Rough and full answers, frames, what is remembered, and ends."""

import dataclasses
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fmlab as fm
from fmlab.study import Study
from lab import plots
from lab.panel import advantage, session
from lab.panel.cache import LRU, storages
from lab.panel.session import Session
from lab.panel.setting import Setting
from lab.panel.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0
EIGHT = Setting(rounds=8, seeds=2, clients_per_round=3, inner_steps=1, evaluations=2)


@pytest.fixture
def memory():
    return LRU(20)


@pytest.fixture
def ours(memory):
    """A session that shares nothing with the panels."""
    return Session(memory, LRU(20))


def equal(a, b):
    return a.names == b.names and all(
        torch.equal(getattr(a, part)[name], getattr(b, part)[name])
        for part in ("adaptation", "learning", "bytes_up")
        for name in a.names
    )


def test_it_needs_no_widgets():
    """It is imported, and computes, where ipywidgets is not installed; so are the plots."""
    program = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "from lab import plots\n"
        "from lab.panel.session import Session\n"
        "from lab.panel.setting import Setting\n"
        "setting = Setting(rounds=1, seeds=1, clients_per_round=2)\n"
        "assert Session().full(setting) is Session().known(setting)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_full_answer_is_what_compare_gives_and_is_remembered(ours, monkeypatch):
    study = ours.full(EIGHT)
    methods, (population, clients), options = EIGHT.call()
    assert equal(
        study, fm.compare({n: cls(**given) for n, (cls, given) in methods.items()}, population(**clients), **options)
    )
    monkeypatch.setattr(fm, "stream", None)  # nothing is computed again
    assert ours.known(EIGHT) is study
    assert ours.known(dataclasses.replace(EIGHT, heterogeneity=0.5)) is None


def test_sessions_of_one_kernel_share_what_they_know():
    study = Session().full(EIGHT)
    assert Session().known(EIGHT) is study


def test_watching_changes_nothing(ours, memory):
    watched = ours.full(EIGHT, show=lambda *_: None, models=True, paused=lambda: True)
    memory.clear()
    assert equal(watched, ours.full(EIGHT))


def test_evaluations_between_the_first_and_the_last_are_shown(ours):
    seen = []
    study = ours.full(EIGHT, show=lambda s, same: seen.append((s.rounds.tolist(), same)))
    assert seen == [([0, 4], False)]
    assert study.rounds.tolist() == [0, 4, 8]


def test_frames_bring_the_rounds_models(ours, monkeypatch):
    monkeypatch.setattr(session, "FRAME", 0.0)
    seen = []
    ours.full(EIGHT, show=lambda s, same: seen.append((s, same)), models=True)
    frames = [(before, now) for (before, _), (now, same) in itertools.pairwise(seen) if same]
    assert frames
    for before, now in frames:
        assert torch.equal(before.rounds, now.rounds)
        assert not torch.equal(before.held["FedAvg"]["model"], now.held["FedAvg"]["model"])


def test_a_paused_run_shows_every_round_and_waits_after_each(ours):
    seen, waits = [], []
    ours.full(
        EIGHT, show=lambda s, _: seen.append(int(s.rounds[-1])), shown=lambda: waits.append(len(seen)),
        paused=lambda: True,
    )  # fmt: skip
    assert seen == [*range(9)]
    assert waits == [*range(1, 10)]


@pytest.mark.parametrize("where", ["check", "shown"])
def test_what_a_callback_raises_ends_the_run_and_nothing_is_remembered(ours, memory, where):
    calls = []

    def enough():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.full(EIGHT, show=lambda *_: None, paused=lambda: True, **{where: enough})
    assert len(memory) == 0


def test_a_newer_job_of_the_worker_ends_a_study(ours, memory):
    long = dataclasses.replace(EIGHT, rounds=100_000)
    worker, began = Worker(print), threading.Event()

    def first(checkpoint):
        def check():
            began.set()
            worker.check()

        ours.full(long, check)

    try:
        worker.submit(first)
        assert began.wait(LIMIT)
        worker.submit(lambda checkpoint: ours.full(EIGHT, worker.check))
        assert worker.wait(LIMIT)
    finally:
        worker.close()
    assert ours.known(EIGHT) is not None
    assert len(memory) == 1


def test_a_rough_answer_ends_when_patience_does(ours, memory, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE", 0.0)
    study = ours.rough(dataclasses.replace(EIGHT, rounds=1000))
    assert int(study.rounds[-1]) < 500
    assert len(study.config["seeds"]) == 1
    assert len(memory) == 0


def test_a_rough_answer_that_came_to_its_end_is_remembered(ours, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE", LIMIT)
    study = ours.rough(EIGHT)
    assert equal(study, ours.full(EIGHT.coarse()))
    monkeypatch.setattr(fm, "stream", None)
    assert equal(ours.rough(EIGHT), study)


def test_one_seed_with_all_rounds_is_the_better_rough_answer(ours, monkeypatch):
    single = ours.full(EIGHT.single())
    monkeypatch.setattr(fm, "stream", None)
    assert ours.rough(EIGHT) is single


def test_a_study_up_to_a_round_is_not_remembered(ours, memory):
    for last in (0, 3, 8):
        study = ours.until(EIGHT, last)
        assert int(study.rounds[-1]) == last
        shorter = ours.until(dataclasses.replace(EIGHT, rounds=max(last, 1), evaluations=1), last)
        assert torch.equal(study.adaptation["FedMAML"], shorter.adaptation["FedMAML"])
    assert len(memory) == 0
    with pytest.raises(ValueError, match="0 to 8"):
        ours.until(EIGHT, 9)


def test_baselines_are_found_once_for_the_same_clients(ours, monkeypatch):
    study = ours.full(EIGHT)
    assert ours.known_baselines(EIGHT, "loss") == {}
    found = ours.find_baselines(study, EIGHT, "loss")
    *_, afresh = EIGHT.stream()
    assert found == pytest.approx(plots.baselines(afresh))
    monkeypatch.setattr(Study, "find_baselines", None)
    other = dataclasses.replace(EIGHT, rounds=2, inner_steps=3)  # neither reaches the unseen clients
    assert ours.find_baselines(ours.full(other), other, "loss") == ours.known_baselines(other, "loss") == found
    assert ours.known_baselines(dataclasses.replace(EIGHT, heterogeneity=0.0), "loss") == {}


def test_the_maps_cells_come_corners_first_and_are_remembered(ours, small_map, monkeypatch):
    cells = dict(ours.cells(EIGHT))
    assert [*cells] == advantage.coarse_to_fine()
    for at, study in cells.items():
        h, steps = at
        assert study.population.heterogeneity == h
        assert study.config["algorithms"]["FedMAML"].inner_steps == steps
        assert ours.known(advantage.cell(EIGHT, *at)) is study
    monkeypatch.setattr(fm, "stream", None)
    assert dict(ours.cells(EIGHT)) == cells
    corner = advantage.coarse_to_fine()[0]
    assert corner not in dict(ours.cells(EIGHT, but=[corner]))


def test_baselines_leave_no_working_memory_behind_and_what_they_drew_is_weighed():
    memory = LRU(20, parts=storages)
    ours = Session(memory, LRU(20))
    study = ours.full(EIGHT)
    before = memory.weight
    ours.find_baselines(study, EIGHT, "loss")
    held = storages(study)
    assert sum(held.values()) == memory.weight > before
    study.setup.forget()
    assert storages(study) == held
