"""Panels that train beside the kernel: bursts, pauses, the map in the background, the cache, and steady memory."""

import dataclasses
import gc
import sys
import threading

import pytest
from ipywidgets.widgets.widget import _instances

import fmlab as fm
from lab.panel import advantage
from lab.panel.session import Session

LIMIT = 120.0


def test_synchronous_and_threaded_panels_agree(make):
    here, there = make(), make(synchronous=False)
    for panel in (here, there):
        panel.set(heterogeneity=0.35)
        panel.wait(LIMIT)
    assert there._png == here._png
    assert there.sentence == here.sentence


def test_a_burst_of_300_ends_at_the_last_value(make, slider):
    panel = make(synchronous=False)
    for number in range(300):
        slider(panel, "heterogeneity").value = (number % 21) / 20
    panel.wait(LIMIT)
    assert panel._shown.heterogeneity == panel.setting.heterogeneity == slider(panel, "heterogeneity").value
    assert panel.study.population.heterogeneity == (299 % 21) / 20


def test_two_panels_at_once(make, slider):
    both = [make(synchronous=False), make(synchronous=False)]
    for step in range(5):
        for panel, h in zip(both, (0.1 * step, 1 - 0.1 * step), strict=True):
            slider(panel, "heterogeneity").value = h
    for panel in both:
        panel.wait(LIMIT)
    alone = make()
    for panel in both:
        alone.set(heterogeneity=panel.setting.heterogeneity)
        assert panel._png == alone._png


def test_a_closed_panel_ends_its_thread(make):
    panel = make(synchronous=False, rounds=500, seeds=3)
    thread = panel._worker._thread
    assert thread is not None
    panel.close()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_pause_one_round_and_play(make, press):
    panel = make(synchronous=False, rounds=30)
    panel.wait(LIMIT)
    seen = []
    for _ in range(3):
        press(panel, "one round")
        panel.wait(LIMIT)
        seen.append(int(panel.study.rounds[-1]))
    assert seen == [1, 2, 3]
    assert panel.study.learning["FedAvg"].shape[-2] == len(panel.study.rounds)
    press(panel, "play pause")
    panel.wait(LIMIT)
    assert int(panel.study.rounds[-1]) == 30


def test_one_round_in_synchronous_mode(make, press):
    panel = make()
    for expected in (1, 2):
        press(panel, "one round")
        assert int(panel.study.rounds[-1]) == expected


def test_the_map_stands_there_before_its_first_cell(make, monkeypatch):
    """Also where a part of the picture was drawn alone before it."""
    monkeypatch.setattr(Session, "cells", lambda *_: iter(()))
    panel = make(("client", "map"), synchronous=False)
    panel.wait(60, background=True)
    assert panel._canvas._marks["map"].ax.get_xlabel().startswith("heterogeneity")
    panel.set(heterogeneity=0.5)
    panel.wait(60)
    here = panel._canvas._marks["map"]["here"]
    assert here.get_xdata()[:4].mean() == pytest.approx(advantage.H.index(0.5))


def test_the_map_fills_in_the_background_and_serves_the_slider(make, small_map):
    panel = make(synchronous=False, views=("map",), methods=("FedAvg", "FedMAML"))
    panel.wait(LIMIT, background=True)
    assert len(panel.views.map.percent) == len(advantage.H) * len(advantage.K)
    cell = advantage.cell(panel.setting, 0.5, 2)
    assert panel.session.known(cell) is not None
    assert cell == dataclasses.replace(panel.setting, heterogeneity=0.5, inner_steps=2).single()


def test_a_setting_seen_before_is_not_trained_again(make, monkeypatch):
    panel = make()
    first = panel._png
    panel.set(heterogeneity=0.5)
    monkeypatch.setattr(fm, "stream", None)
    panel.set(heterogeneity=1.0)
    assert panel._png == first


def test_memory_is_steady_over_300_changes(make, slider):
    resource = pytest.importorskip("resource")  # not on Windows
    panel = make(views=("adaptation",))
    control = slider(panel, "k")

    def turn(times):
        for number in range(times):
            control.value = number % 5

    turn(10)
    gc.collect()
    objects, threads, known = len(gc.get_objects()), threading.active_count(), len(_instances)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turn(300)
    gc.collect()
    assert len(gc.get_objects()) - objects < 300, "less than one object a change"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit < 20e6
    assert threading.active_count() == threads
    assert len(_instances) == known
