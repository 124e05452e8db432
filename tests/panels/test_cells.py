"""A cell that runs again ends the panel that it replaces, and no other."""

import itertools
import subprocess
import sys
import time

import pytest
from ipywidgets.widgets.widget import _instances

from lab.lessons.drifting import drift
from lab.panel import cells
from lab.panel.cells import leave, take
from lab.panel.worker import _workers


class Panel:
    closed = False

    def close(self):
        self.closed = True
        leave(self)


@pytest.fixture
def run(monkeypatch):
    """``run(cell)``: that cell now runs, once more."""
    numbers = itertools.count()
    now = [None, ""]
    monkeypatch.setattr(cells, "_now", lambda: tuple(now))
    monkeypatch.setattr(cells, "_there", {})

    def set_now(cell):
        now[:] = [cell, f"run {next(numbers)}"]

    return set_now


def made(number=1):
    panels = [Panel() for _ in range(number)]
    for panel in panels:
        take(panel)
    return panels


def test_the_same_cell_again(run):
    run("A")
    first = made(2)  # in one run: both stay
    assert not any(p.closed for p in first)
    run("B")
    (other,) = made()
    run("A")
    (second,) = made()
    assert all(p.closed for p in first)
    assert not other.closed
    assert not second.closed


def test_made_in_one_cell_and_shown_in_another(run):
    run("A")
    (old,) = made()
    run("B")
    take(old)
    run("B")
    take(old)  # shown again: no new one
    assert not old.closed
    run("A")
    (new,) = made()
    assert not old.closed  # B still shows it
    run("B")
    take(new)
    assert old.closed
    assert not new.closed


def test_made_and_never_shown(run):
    panels = []
    for _ in range(5):
        run("A")
        panels += made()
    assert [p.closed for p in panels] == [True] * 4 + [False]


def test_no_cell_is_known(run):
    run(None)
    (first,) = made()
    made()
    assert not first.closed
    assert cells._there == {}


@pytest.mark.parametrize("kind", ["panel", "drift"])
def test_thirty_runs_hold_the_widgets_of_one_and_train_for_one(run, make, kind):
    """Every panel starts a training that would take minutes."""
    counts = []
    for _ in range(30):
        run("A")
        panel = drift() if kind == "drift" else make(synchronous=False, rounds=500, seeds=8, clients_per_round=100)
        counts.append(len(_instances))
    assert len(set(counts[1:])) == 1
    assert len(cells._there["A"]) == 1
    end = time.monotonic() + 60
    while sum(worker.alive for worker in _workers) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    panel.close()
    assert cells._there == {}


def test_a_closed_panel_leaves_no_widget(make):
    before = len(_instances)
    panel = make()
    assert len(_instances) > before + 100
    panel.close()
    panel.close()  # again: nothing
    assert len(_instances) == before


SOAK = """
import psutil, torch
from lab.panel.cache import LRU, storages
me = psutil.Process()
cache = LRU(1, parts=lambda value: storages(value[0]))
big, kept = [], []
for _ in range(8_000):  # pieces so small that libc takes them from its heap, each beside one that stays
    big.append(torch.ones(5000))
    kept.append(torch.ones(8))
cache.put("big", (big,))
del big
full = me.memory_info().rss
cache.put("small", ([torch.ones(8)],))
print(full - me.memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libc gives memory back itself or cannot be asked to")
def test_a_big_study_that_is_dropped_gives_its_memory_back():
    """160 MB are dropped; without being asked glibc keeps them."""
    freed = int(subprocess.run([sys.executable, "-c", SOAK], check=True, capture_output=True, text=True).stdout)
    assert freed > 80e6
