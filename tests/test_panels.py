"""The panels without a browser: what a hand on a control, a burst of events or a wrong number does."""

import dataclasses
import gc
import json
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
import torch
from ipywidgets.widgets.widget import _instances

import fmlab as fm
import lab.panel
from lab import advantage
from lab.board import BUTTONS, GROUPS, RANGES, Look, check
from lab.cache import LRU
from lab.canvas import encode
from lab.panel import Panel
from lab.setting import METHODS, PRESETS, TASKS, Setting, declaration, default_shots, recorded_inner_lr, shots_field
from lab.words import sentence

SMALL = {"rounds": 10, "seeds": 1, "clients_per_round": 3, "inner_steps": 1}
EVERY = [field for fields in GROUPS.values() for field in fields]
LIMIT = 120.0


@pytest.fixture(autouse=True)
def nothing_remembered():
    lab.panel._studies.clear()
    yield
    lab.panel._studies.clear()


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(advantage, "H", (0.0, 0.5))
    monkeypatch.setattr(advantage, "K", (1, 2))


@pytest.fixture
def make():
    """Panels with every control and one view, closed at the end."""
    made = []

    def panel(views=("learning",), controls=EVERY, synchronous=True, **setting):
        first = Setting(**(SMALL | setting))
        how = {"setting": first, "buttons": tuple(BUTTONS), "synchronous": synchronous}
        made.append(Panel("test", controls, views, **how))
        return made[-1]

    yield panel
    for panel in made:
        panel.close()


def slider(panel, field):
    return panel.board.controls[field].slider


def press(panel, name):
    css = "fmlab-" + name.replace(" ", "-")
    (button,) = (w for w in walk(panel) if css in getattr(w, "_dom_classes", ()))
    button.click()


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


# --- what a panel is -----------------------------------------------------------------------------


def test_each_panel_of_a_lesson_and_the_playground():
    views = {
        "playground": ("client", "adaptation", "learning", "helps", "map"),
        "heterogeneity": ("learning", "adaptation"),
        "inner_steps": ("learning", "adaptation"),
        "one_client": ("client", "adaptation"),
    }
    for name, expected in views.items():
        panel = getattr(lab, name)(synchronous=True, **SMALL)
        assert panel.views == expected
        assert repr(panel) == f"<fmlab panel: {name.replace('_', ' ')}>"
        assert panel.study.names == ["FedAvg", "FedMAML"]
        assert panel.sentence in panel._summary.value
        panel.close()


def test_classes_of_the_page(make):
    panel = make(views=("learning", "adaptation"))
    classes = {c for w in walk(panel) for c in getattr(w, "_dom_classes", ())}
    fields = {f"fmlab-{f}" for f in EVERY if f != "methods"}
    assert {"fmlab-panel", "fmlab-summary", "fmlab-picture"} | fields <= classes


def test_every_control_has_words_a_tooltip_and_a_number_box(make):
    panel = make()
    for task in ("Sines", "Digits"):
        panel.set(task=task)
        for field, control in panel.board.controls.items():
            assert "_" not in control.slider.description
            assert len(control.slider.description) >= 5
            h = declaration("steps" if field == "k" else field, task)
            assert h.text in control.slider.tooltip
            assert h.text in control.box.tooltip
            assert control.box.value == pytest.approx(control.slider.value)


def test_what_is_stored_and_shown_without_a_kernel(make):
    bundle = make()._repr_mimebundle_()
    assert bundle["text/plain"] == "<fmlab panel: test>"
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_stored_playground_has_its_whole_map(make, small_map):
    panel = make(views=("client", "map"))
    panel._repr_mimebundle_()
    assert len(panel._map.percent) == len(advantage.H) * len(advantage.K)
    assert np.isfinite(list(panel._map.percent.values())).all()


# --- from a control to a study -------------------------------------------------------------------


@pytest.mark.parametrize("field", ["heterogeneity", *RANGES])
def test_both_ends_of_every_slider(make, field):
    panel = make(rounds=10)
    control = panel.board.controls[field]
    for end in (control.low, control.high):
        if field == "inner_lr":
            control.recorded.value = False
        if field in ("rounds", "seeds", "inner_steps", "clients_per_round") and end == control.high:
            # The setting and its check; training that long belongs to no test.
            assert control.check(end) == end
            continue
        control.slider.value = end
        assert getattr(panel.setting, field) == pytest.approx(end)
        assert panel._shown == panel.setting
        assert torch.isfinite(panel.study.rounds).all()


def test_a_slider_and_set_are_the_same(make):
    hand, code = make(), make()
    slider(hand, "heterogeneity").value = 0.3
    slider(hand, "clients_per_round").value = 4
    code.set(heterogeneity=0.3, clients_per_round=4)
    assert hand.setting == code.setting
    assert hand._png == code._png
    assert slider(code, "heterogeneity").value == 0.3


def test_the_code_reproduces_the_study(make):
    panel = make(heterogeneity=0.4, shots=7, inner_lr=0.01, methods=("FedAvg", "FedReptile", "FedMAML"))
    names = {}
    exec(panel.code().replace("print(", "str("), names)
    for name in panel.study.names:
        assert torch.equal(names["study"].adaptation[name], panel.study.adaptation[name])
        assert torch.equal(names["study"].learning[name], panel.study.learning[name])


@pytest.mark.parametrize("method", METHODS)
def test_the_slider_inner_steps_reaches_every_method(method):
    ((cls, given),), _, _ = Setting(methods=(method,), inner_steps=4).call()
    assert cls(**given) == METHODS[method](**given)
    assert 4 in given.values()


def test_a_method_switched_off_costs_nothing(make, monkeypatch):
    panel = make()
    met = []
    local = fm.FedMAML.local
    monkeypatch.setattr(fm.FedMAML, "local", lambda self, *a: met.append(1) or local(self, *a))
    panel.board.switches["FedMAML"].children[1].value = False
    assert panel.study.names == ["FedAvg"]
    assert met == []
    panel.board.switches["FedMAML"].children[1].value = True
    assert panel.study.names == ["FedAvg", "FedMAML"]


def test_the_last_method_stays_on(make):
    panel = make(methods=("FedAvg",))
    panel.board.switches["FedAvg"].children[1].value = False
    assert panel.setting.methods == ("FedAvg",)
    assert "last method" in panel._error.value
    assert panel.board.switches["FedAvg"].children[1].value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_setting_and_nothing_else(name):
    changed = dataclasses.replace(Setting(), **PRESETS[name])
    check(changed, Look())
    *_, study = dataclasses.replace(changed, rounds=1, seeds=1, clients_per_round=2).stream()
    assert study.names == list(changed.methods)


def test_a_preset_moves_the_controls(make):
    panel = make()
    panel.buttons.presets.value = "all clients alike"
    assert slider(panel, "heterogeneity").value == 0.0
    assert panel.study.population.heterogeneity == 0.0
    press(panel, "reset")
    assert slider(panel, "heterogeneity").value == 1.0
    assert panel.setting == Setting(**SMALL)


def test_the_recorded_step_size_is_shown_wherever_it_is_taken(make):
    panel = make()
    control, recorded = panel.board.controls["inner_lr"], recorded_inner_lr("Sines")
    panel.buttons.presets.value = "a step size too large"
    assert control.box.value != recorded
    press(panel, "reset")
    assert control.box.value == pytest.approx(recorded)
    control.recorded.value = False
    control.box.value = 0.5
    assert panel.setting.inner_lr == 0.5
    control.recorded.value = True
    assert panel.setting.inner_lr is None
    assert control.box.value == pytest.approx(recorded)


def test_adaptation_steps_bound_the_steps_shown(make):
    panel = make(controls=("k",), views=("adaptation",))
    panel.set(steps=2)
    assert panel.board.controls["k"].slider.max == 2
    for wrong in ({"steps": 0}, {"evaluations": 0}, {"k": 3}, {"client": 1.5}, {"rounds": 10.5}):
        before = panel.setting
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", " ")):
            panel.set(**wrong)
        assert panel.setting == before
    panel.set(rounds=20.0)
    assert panel.setting.rounds == 20
    assert isinstance(panel.setting.rounds, int)


def test_a_panel_whose_first_answer_fails_is_shown_and_says_why(make, monkeypatch):
    def fails(*_, **__):
        raise OSError("no such images")

    monkeypatch.setattr(fm, "stream", fails)
    panel = make(synchronous=False)
    assert "application/vnd.jupyter.widget-view+json" in panel._repr_mimebundle_()
    assert "no such images" in panel._error.value


# --- wrong numbers, wrong names, tasks that cannot run --------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("heterogeneity", 7.0, "outside 0 to 1"), ("seeds", 0, "outside 1 to 8"), ("k", 99, "outside 0 to 5")],
)
def test_a_typed_number_out_of_range_says_so_and_changes_nothing(make, field, value, words):
    panel = make()
    picture, setting, control = panel._png, panel.setting, panel.board.controls[field]
    control.box.value = value
    assert words in control.message.value
    assert (panel._png, panel.setting) == (picture, setting)
    control.box.value = control.low
    assert control.message.value == ""
    assert control.slider.value == control.low


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"heterogenity": 1.0}, TypeError),
        ({"heterogeneity": 1.5}, ValueError),
        ({"heterogeneity": float("nan")}, ValueError),
        ({"inner_steps": 2.5}, ValueError),
        ({"seeds": True}, ValueError),
        ({"task": "Cats"}, ValueError),
        ({"methods": ()}, ValueError),
        ({"methods": ("FedSomething",)}, ValueError),
        ({"k": 6}, ValueError),
        ({"x": "hours"}, ValueError),
    ],
)
def test_set_refuses_before_anything_moves(make, changes, error):
    panel = make()
    picture, setting = panel._png, panel.setting
    with pytest.raises(error):
        panel.set(rounds=20, **changes)
    assert (panel._png, panel.setting) == (picture, setting)


def test_an_error_of_a_study_is_shown_and_raised_and_the_picture_stays(make, monkeypatch):
    panel = make()
    picture = panel._png

    def refuse(*args, **options):
        raise ValueError("no images here; give root=<folder>")

    monkeypatch.setattr(fm, "stream", refuse)
    with pytest.raises(ValueError, match="no images here"):
        slider(panel, "heterogeneity").value = 0.5
    assert "no images here; give root=&lt;folder&gt;" in panel._error.value
    assert panel._png == picture
    monkeypatch.undo()
    slider(panel, "heterogeneity").value = 0.6
    assert panel._error.value == ""
    assert panel._png != picture


def test_an_error_in_the_workers_thread_is_shown_and_raised_by_wait(make, monkeypatch):
    panel = make(synchronous=False)
    panel.wait(LIMIT)

    def refuse(*args, **options):
        raise ValueError("no images here")

    monkeypatch.setattr(fm, "stream", refuse)
    panel.set(heterogeneity=0.5)
    with pytest.raises(ValueError, match="no images here"):
        panel.wait(LIMIT)
    assert "no images here" in panel._error.value


def test_a_diverged_run_is_named(make):
    panel = make(inner_lr=1.0, methods=("FedAvg", "FedMAML"), inner_steps=10, rounds=20)
    gone = [n for n, rounds in panel.study.diverged.items() if (rounds >= 0).any()]
    infinite = [n for n, t in panel.study.adaptation.items() if not t.isfinite().all()]
    assert gone or infinite, "this step size is meant to be too large"
    for name in {*gone, *infinite}:
        assert f"{name} diverged" in panel.sentence


# --- the page of views ---------------------------------------------------------------------------


def test_looking_needs_no_training(make, monkeypatch):
    panel = make(views=("client", "adaptation", "learning"))
    monkeypatch.setattr(fm, "stream", None)
    pictures = {panel._png}
    for k in (0, 3):
        slider(panel, "k").value = k
        pictures.add(panel._png)
    panel.set(x="bytes")
    pictures.add(panel._png)
    panel.set(x="gradient evaluations")
    pictures.add(panel._png)
    press(panel, "another client")
    pictures.add(panel._png)
    assert len(pictures) == 6


def test_the_sentence_is_the_pictures_text(make):
    panel = make()
    assert panel._canvas.image.tooltip == panel.sentence == sentence(panel.study)
    assert panel.sentence


def test_drawing_twice_gives_the_same_picture(make):
    panel = make(views=("client", "adaptation", "learning", "helps"))
    first = panel._png
    slider(panel, "k").value = 0
    slider(panel, "k").value = panel.setting.steps
    assert panel._png == first


def test_blitting_draws_what_a_full_draw_does(make):
    """Moved artists over kept bitmaps, against a panel that starts at the same setting."""
    moved = make(views=("client", "adaptation", "learning", "helps"), heterogeneity=0.0)
    moved.set(heterogeneity=1.0)
    fresh = make(views=("client", "adaptation", "learning", "helps"), heterogeneity=1.0)
    pixels = [np.asarray(p._canvas.agg.buffer_rgba()).astype(int) for p in (moved, fresh)]
    apart = np.abs(pixels[0] - pixels[1]).max(-1)
    assert apart.max() < 16
    assert (apart > 0).sum() < 20  # a rounded edge


@pytest.mark.parametrize("task", [t for t in TASKS if t in ("Digits", "Glyphs")])
def test_pictures_are_a_task_too(make, task):
    panel = make(views=("client", "adaptation"), clients_per_round=2)
    panel.set(task=task)
    assert panel.study.accuracy
    assert panel.board.controls["shots"].value == default_shots(task)
    assert shots_field(task) == "shots"
    before = panel._png
    panel.set(quantity="accuracy")
    assert panel._png != before
    assert "correct" in panel.sentence


def test_saved_picture_and_link(make, tmp_path):
    panel = make()
    before = panel._png
    panel.save(tmp_path / "picture.png")
    width, height = struct.unpack(">II", (tmp_path / "picture.png").read_bytes()[16:24])
    assert (width, height) == (2 * panel._canvas.width, 2 * panel._canvas.height)
    press(panel, "save picture")
    assert 'download="fmlab-test.png"' in panel.buttons.link.value
    panel.set(k=2)
    panel.set(k=5)
    assert panel._png == before, "saving must not disturb the live picture"


def test_copy_as_code_shows_the_cell(make):
    panel = make()
    press(panel, "copy as code")
    assert "fm.compare(" in panel._code.value
    assert panel._code.layout.display is None
    panel.set(heterogeneity=0.35)
    assert "heterogeneity=0.35" in panel._code.value


def test_encode_is_a_png_of_these_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    png, at, data = encode(pixels), 8, b""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(5, 1 + 7 * 4)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:].reshape(5, 7, 4) == pixels).all()


@pytest.mark.parametrize(("theme", "size"), [("dark", "notebook"), ("light", "projector")])
def test_themes_and_sizes(theme, size):
    panel = lab.one_client(theme=theme, size=size, synchronous=True, **SMALL)
    assert f"fmlab-{size}" in panel._dom_classes
    panel.close()
    with pytest.raises(ValueError, match="theme"):
        lab.one_client(theme="pink")


# --- threads -------------------------------------------------------------------------------------


def test_synchronous_and_threaded_panels_agree(make):
    here, there = make(), make(synchronous=False)
    for panel in (here, there):
        panel.set(heterogeneity=0.35)
        panel.wait(LIMIT)
    assert there._png == here._png
    assert there.sentence == here.sentence


def test_a_burst_of_300_ends_at_the_last_value(make):
    panel = make(synchronous=False)
    for number in range(300):
        slider(panel, "heterogeneity").value = (number % 21) / 20
    panel.wait(LIMIT)
    assert panel._shown.heterogeneity == panel.setting.heterogeneity == slider(panel, "heterogeneity").value
    assert panel.study.population.heterogeneity == (299 % 21) / 20


def test_two_panels_at_once(make):
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


def test_pause_one_round_and_play(make):
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


def test_one_round_in_synchronous_mode(make):
    panel = make()
    for expected in (1, 2):
        press(panel, "one round")
        assert int(panel.study.rounds[-1]) == expected


def test_the_map_stands_there_before_its_first_cell(make, monkeypatch):
    """Also where a part of the picture was drawn alone before it."""
    monkeypatch.setattr(advantage.AdvantageMap, "fill", lambda *_: iter(()))
    panel = make(("client", "map"), synchronous=False)
    panel.wait(60, background=True)
    assert panel._canvas._marks["map"].ax.get_xlabel().startswith("heterogeneity")
    panel.set(heterogeneity=0.5)
    panel.wait(60)
    here = panel._canvas._marks["map"]["here"]
    assert here.get_xdata()[:4].mean() == pytest.approx(advantage.H.index(0.5))


def test_the_map_fills_in_the_background_and_serves_the_slider(make, small_map):
    panel = make(synchronous=False, views=("map",))
    panel.wait(LIMIT, background=True)
    assert len(panel._map.percent) == len(advantage.H) * len(advantage.K)
    cell = advantage.cell(panel.setting, 0.5, 2)
    assert lab.panel._studies.get(cell) is not None
    assert cell == dataclasses.replace(panel.setting, heterogeneity=0.5, inner_steps=2).single()


def test_a_setting_seen_before_is_not_trained_again(make, monkeypatch):
    panel = make()
    first = panel._png
    panel.set(heterogeneity=0.5)
    monkeypatch.setattr(fm, "stream", None)
    panel.set(heterogeneity=1.0)
    assert panel._png == first


def test_the_cache_forgets_what_was_used_longest_ago():
    cache = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_memory_is_steady_over_300_changes(make):
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


def test_stream_shows_any_round_and_keeps_none_of_them():
    clients, options = fm.Sines(n_clients=10, n_unseen=5), {"rounds": 10, "seeds": 2, "evaluations": 2}
    options["clients_per_round"] = 5
    seen = [s.rounds.tolist() for s in fm.stream([fm.FedAvg()], clients, on_round=lambda t: t % 3 == 1, **options)]
    assert seen == [[0], [0, 1], [0, 4], [0, 5], [0, 5, 7], [0, 5, 10]]
    *_, asked = fm.stream([fm.FedAvg()], clients, on_round=lambda t: t % 3 == 1, **options)
    plain = fm.compare([fm.FedAvg()], clients, **options)
    assert torch.equal(asked.learning["FedAvg"], plain.learning["FedAvg"])
    assert json.dumps(asked.bytes["FedAvg"].tolist()) == json.dumps(plain.bytes["FedAvg"].tolist())
