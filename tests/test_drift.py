"""The drift panel: what it draws is a training run, and where it says methods rest is where they rest."""

import dataclasses
import html
import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import fmlab as fm
import lab
from lab.lessons.drifting import ACROSS, ROUNDS, START, UP, DriftPanel, Setting, run, sentence
from lab.lessons.sliding import SLOW


@pytest.fixture
def panel():
    panel = lab.drift(synchronous=True)
    yield panel
    panel.close()


SETTINGS = [Setting(), Setting(1.0, 30, 0.1), Setting(0.3, 1, 0.3), Setting(0.0, 5, 0.2)]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_paths_agree_with_plain_loops(setting):
    d = run(setting)
    m, a = fm.Quadratics(heterogeneity=setting.heterogeneity, n_clients=len(d.minima)).losses("training", 0)
    w = START[0]
    for t in range(3):
        assert np.allclose(d.server[t], w)
        ends = []
        for i in range(len(m)):
            v = w
            for k in range(setting.local_steps):
                assert np.allclose(d.local[t, i, k], v)
                v = v - setting.lr * a[i] @ (v - m[i])
            assert np.allclose(d.local[t, i, -1], v)
            ends.append(v)
        w = torch.stack(ends).mean(0)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_server_comes_to_rest_at_the_marked_point(setting):
    """Each round brings it nearer, and a round from the marked point ends there."""
    d = run(setting)
    left = np.linalg.norm(d.server - d.points["FedAvg"], axis=1)
    assert (np.diff(left[left > 1e-12]) < 0).all()
    assert left[-1] < 0.1 * left[0]


def test_fedmaml_rests_where_its_gradient_vanishes():
    setting = Setting(0.7, 3, 0.1)
    d = run(setting)
    clients = fm.Quadratics(heterogeneity=0.7, n_clients=len(d.minima))
    data, _ = clients.draw("training", 0).everyone()
    w = torch.from_numpy(d.points["FedMAML"]).expand(1, len(d.minima), 2)
    g = fm.meta_grad(clients.objective(), w, data, data, 0.1, 3)
    assert g.mean(1).abs().max() < 1e-12
    assert g.abs().max() > 1e-2  # no single client is content there


def test_the_surface_has_its_minimum_at_the_optimum():
    d = run(Setting())
    row, column = np.unravel_index(d.surface.argmin(), d.surface.shape)
    assert np.abs(np.array([ACROSS[column], UP[row]]) - d.optimum).max() <= 0.1  # one cell of the grid


def test_without_heterogeneity_or_with_one_step_nothing_drifts():
    alike = run(Setting(heterogeneity=0.0))
    for point in alike.points.values():
        assert np.allclose(point, alike.optimum)
    assert "No drift" in sentence(alike, Setting(heterogeneity=0.0))
    one = run(Setting(local_steps=1))
    assert np.allclose(one.points["FedAvg"], one.optimum)
    assert np.linalg.norm(one.points["FedMAML"] - one.optimum) > 0.01


def test_more_local_steps_and_larger_ones_drift_further():
    """To first order the offset is proportional to lr (K - 1)."""
    offset = {}
    for steps, lr in ((2, 0.01), (3, 0.01), (5, 0.01), (3, 0.02)):
        d = run(Setting(0.6, steps, lr))
        offset[steps, lr] = np.linalg.norm(d.points["FedAvg"] - d.optimum)
    assert offset[3, 0.01] / offset[2, 0.01] == pytest.approx(2, rel=0.1)
    assert offset[5, 0.01] / offset[2, 0.01] == pytest.approx(4, rel=0.1)
    assert offset[3, 0.02] / offset[3, 0.01] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("lr", [0.05, 0.3, 0.42, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_divergence_is_said_exactly_where_it_happens(lr, steps):
    setting = Setting(1.0, steps, lr)
    d = run(setting)
    moved = np.linalg.norm(np.diff(d.server[:10], axis=0), axis=1)
    assert d.diverges == bool(moved[8] > moved[7])
    assert ("diverges" in sentence(d, setting)) == d.diverges
    if d.diverges:
        assert setting.lr * d.steepest > 2


def test_every_slider_reaches_both_ends(panel):
    """Every corner of the three ranges draws without a warning, and says something; both ends of the rounds."""
    declared = [(f.name, f.metadata["hyper"]) for f in dataclasses.fields(Setting)]
    names, ends = [name for name, _ in declared], [(h.low, h.high) for _, h in declared]
    for corner in [(*three, sum(three) % 2) for three in np.ndindex(2, 2, 2)]:
        panel.set(**{n: e[c] for n, e, c in zip(names, ends, corner, strict=True)})
        assert panel.sentence
        assert panel._error.value == ""


def test_moving_a_slider_changes_picture_and_sentence(panel):
    seen = {(panel._png, panel.sentence)}
    for name, value in (("local_steps", 25), ("lr", 0.2), ("heterogeneity", 0.9)):
        panel._controls[name].slider.value = value
        assert getattr(panel.setting, name) == value
        seen.add((panel._png, panel.sentence))
    assert len({picture for picture, _ in seen}) == len({text for _, text in seen}) == 4


def test_the_round_on_show_trains_nothing(panel, monkeypatch):
    before = panel.result
    monkeypatch.setattr("lab.lessons.drifting.run", lambda *_: pytest.fail("trained again"))
    picture = panel._png
    panel.set(round=2)
    assert panel.result is before
    assert panel._png != picture
    assert "After 2 rounds FedAvg's server is" in panel.sentence
    far = [float(panel.sentence.split("server is ")[1].split()[0])]
    panel.set(round=1)
    far.append(float(panel.sentence.split("server is ")[1].split()[0]))
    assert "After 1 round " in panel.sentence
    assert far[1] > far[0]
    panel.set(round=ROUNDS)
    assert panel._png == picture  # drawn again, pixel by pixel the same


def test_bad_values_are_said_and_change_nothing(panel):
    before = panel.setting
    with pytest.raises(ValueError, match="local steps = 31 is outside 1 to 30"):
        panel.set(lr=0.2, local_steps=31)
    with pytest.raises(TypeError, match="momentum"):
        panel.set(momentum=0.9)
    assert panel.setting == before
    panel.set(round=5.0)
    assert panel.result.server is not None
    panel.set(round=before.round)
    assert panel._controls["lr"].slider.value == before.lr
    panel._controls["lr"].box.value = 7.0
    assert "outside" in panel._controls["lr"].message.value
    assert panel.setting == before
    with pytest.raises(ValueError, match="theme"):
        lab.drift(theme="pink")
    with pytest.raises(ValueError, match="heterogeneity"):
        lab.drift(heterogeneity=2.0, synchronous=True)


def test_it_can_be_stored_without_a_kernel(panel):
    shown = panel._repr_mimebundle_()
    assert shown["text/plain"] == "<fmlab panel: client drift>"
    assert Image.open(io.BytesIO(shown["image/png"])).width == panel._canvas.width
    assert f'alt="{html.escape(panel.sentence)}"' in shown["text/html"]
    assert {"fmlab-panel"} <= set(panel._dom_classes)
    assert all(f"fmlab-{n}" in c.root._dom_classes for n, c in panel._controls.items())


def test_in_a_thread_a_burst_ends_at_the_last_value():
    panel = lab.drift(synchronous=False)
    try:
        for steps in range(1, 31):
            panel.set(local_steps=steps)
        panel.wait(60)
        assert len(panel.result.local[0, 0]) == 31
        assert "30 local steps" in panel.sentence
    finally:
        panel.close()


def test_a_slow_answer_is_announced_and_a_quick_one_does_not_flicker(monkeypatch):
    go, answer = threading.Event(), DriftPanel.answer

    def slow(panel, setting):
        assert go.wait(60)
        time.sleep(SLOW)
        return answer(panel, setting)

    monkeypatch.setattr(DriftPanel, "answer", slow)
    panel = lab.drift(synchronous=False)
    try:
        assert panel._status.value == "computing ..."  # of the first nobody knows how long it takes
        panel._took = 0.0
        go.set()
        panel.wait(60)
        assert panel._status.value == ""
        assert panel._took >= SLOW
        go.clear()
        panel.set(local_steps=9)
        assert panel._status.value == "computing ..."
        go.set()
        panel.wait(60)
        monkeypatch.setattr(DriftPanel, "answer", lambda *_: time.sleep(SLOW) or 1 / 0)
        panel.set(local_steps=8)
        with pytest.raises(ZeroDivisionError):
            panel.wait(60)
        assert panel._status.value == ""
        monkeypatch.setattr(DriftPanel, "answer", answer)
        panel.set(local_steps=7)
        panel.wait(60)
        panel._took = 0.0
        panel.set(local_steps=6)
        assert panel._status.value == ""
        panel.wait(60)
    finally:
        panel.close()
