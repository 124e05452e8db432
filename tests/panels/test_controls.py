"""What a panel is, and the way from a control to a study."""

import dataclasses
import html
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

import fmlab as fm
import lab
from lab.panel import advantage
from lab.panel.board import GROUPS, RANGES, check
from lab.panel.setting import METHODS, PLAIN, PRESETS, WORK, Setting, declaration, recorded
from lab.panel.views import Viewpoint
from lab.plots import style

EVERY = [field for fields in GROUPS.values() for field in fields]


def test_each_panel_of_a_lesson_and_the_playground(small):
    views = {
        "playground": ("client", "adaptation", "learning", "helps", "map"),
        "heterogeneity": ("learning", "adaptation"),
        "inner_steps": ("learning", "adaptation"),
        "one_client": ("client", "adaptation"),
    }
    for name, expected in views.items():
        panel = getattr(lab, name)(synchronous=True, **small)
        assert panel.views.names == expected
        assert repr(panel) == f"<fmlab panel: {name.replace('_', ' ')}>"
        assert panel.study.names == ["FedAvg", PLAIN, "FedMAML"]
        assert html.escape(panel.sentence) in panel._summary.value
        panel.close()


def test_a_panel_starts_and_starts_again_from_what_was_given(small):
    panel = lab.one_client(synchronous=True, k=1, **small)
    assert "after 1 adaptation step," in panel.sentence
    assert panel.board.controls["k"].slider.value == 1
    panel.set(k=3)
    panel._reset()
    panel.wait()
    assert "after 1 adaptation step," in panel.sentence
    panel.close()
    with pytest.raises(ValueError, match="k = 9 is not a whole number from 0 to 5"):
        lab.one_client(synchronous=True, k=9, **small)


def test_classes_of_the_page(make, walk):
    panel = make(views=("learning", "adaptation"))
    classes = {c for w in walk(panel) for c in getattr(w, "_dom_classes", ())}
    fields = {f"fmlab-{f}" for f in EVERY if f != "methods"}
    assert {"fmlab-panel", "fmlab-summary", "fmlab-picture", "fmlab-method-FedAvg-plain-mean"} | fields <= classes
    assert not [c for c in classes if c != "".join(c.split())], "a browser takes no class with a space"


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
            assert control.box.value == pytest.approx(control.slider.value), (task, field)


def test_what_is_stored_and_shown_without_a_kernel(make):
    panel = make()
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == "<fmlab panel: test>"
    assert f'alt="{html.escape(panel.sentence)} (round 10 of 10, 1 seed)"' in bundle["text/html"]
    drawn = (style.small(panel._png), bundle["image/png"])
    seen, stored = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in drawn)
    assert np.abs(stored[: len(seen)].astype(int) - seen).mean() < 1  # each has its own 256 colours
    words = stored[len(seen) :] < 128  # dark on light
    assert words[:, : len(words[0]) // 2].any()
    assert not words[[0, -1]].any()
    assert not words[:, [0, -1]].any(), "and not over its edges"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_the_stored_playground_has_its_whole_map(make, small_map):
    panel = make(views=("client", "map"))
    panel._repr_mimebundle_()
    assert len(panel.views.map.percent) == len(advantage.H) * len(advantage.K)
    assert np.isfinite(list(panel.views.map.percent.values())).all()
    assert panel.views.map.flown <= panel.views.map.percent.keys()


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


def test_a_slider_and_set_are_the_same(make, slider):
    hand, code = make(), make()
    slider(hand, "heterogeneity").value = 0.3
    slider(hand, "clients_per_round").value = 4
    code.set(heterogeneity=0.3, clients_per_round=4)
    assert hand.setting == code.setting
    assert hand._png == code._png
    assert slider(code, "heterogeneity").value == 0.3


def test_a_place_on_a_slider_is_the_number_that_is_shown(make, slider):
    """Steps as the page adds them up; some are not the number that they stand for: 6 * 0.05 = 0.30000000000000004."""
    panel = make(controls=("heterogeneity",), heterogeneity=1.0)
    panel._compute = lambda *_: None
    places = [place * 0.05 for place in range(21)]
    assert [h for h in places if h != round(h, 2)], "there is something to mend"
    for place, h in enumerate(places):
        slider(panel, "heterogeneity").value = h
        assert panel.setting.heterogeneity == panel.board.controls["heterogeneity"].box.value == place / 20
        assert re.search(rf"heterogeneity={place / 20}[,)]", panel.code())


def test_the_code_reproduces_the_study(make):
    panel = make(heterogeneity=0.4, shots=7, inner_lr=0.01, methods=("FedAvg", "FedReptile", "FedMAML"))
    names = {}
    exec(panel.code().replace("print(", "str("), names)
    for name in panel.study.names:
        assert torch.equal(names["study"].adaptation[name], panel.study.adaptation[name])
        assert torch.equal(names["study"].learning[name], panel.study.learning[name])


@pytest.mark.parametrize("method", METHODS)
def test_the_slider_inner_steps_reaches_every_method(method):
    ((cls, given),) = Setting(methods=(method,), inner_steps=4, work="steps alike").call()[0].values()
    assert cls(**given) == METHODS[method](**given)
    assert 4 in given.values()


@pytest.mark.parametrize("task", ["Sines", "Digits"])
@pytest.mark.parametrize("inner_steps", [1, 2, 3, 5, 10])
def test_equal_work_is_counted_in_gradients_of_examples(task, inner_steps):
    """By hand: FedMAML takes K gradients on the support set, K Hessian products there (two each), one on the query set;
    the rest is off by half of its own smallest step at most."""
    setting = Setting(task=task, shots=4, inner_steps=inner_steps, methods=tuple(METHODS))
    methods, (population, clients), _ = setting.call()
    made = population(**clients)
    support, query = (made.support, made.query) if task == "Sines" else (made.shots, made.query)
    wanted = 3 * inner_steps * support + query
    for name, (cls, given) in methods.items():
        algorithm = cls(**given)
        if "inner_steps" in given or "local_steps" not in given:
            continue
        one_more = dataclasses.replace(algorithm, local_steps=algorithm.local_steps + 1)
        step = (one_more.evaluations() - algorithm.evaluations()) * (support + query)
        spent = algorithm.evaluations() * (support + query)
        assert abs(spent - wanted) <= step / 2 or (algorithm.local_steps == 1 and spent > wanted), name
    assert Setting(inner_steps=3).call()[0]["FedAvg"][1]["local_steps"] == 5


def test_the_plain_mean_stands_beside_other_servers_only():
    methods = Setting().call()[0]
    assert methods[PLAIN] == (fm.FedAvg, {"local_steps": 5})
    assert methods["FedAvg"] == (fm.FedAvg, {"local_steps": 5, "server": fm.Adam()})
    assert list(Setting(server="each its own").call()[0]) == ["FedAvg", "FedMAML"]


def test_the_maps_first_row_is_fedsgd_where_it_is(make, small_map):
    rows = {}
    for work in WORK:
        panel = make(views=("map",), work=work)
        axes = panel._canvas._marks["map"].ax
        rows[work] = [t.get_text() for t in axes.get_yticklabels()], axes.get_ylabel()
    assert rows["steps alike"] == (["1\nFedSGD", "2"], "inner steps")
    assert rows["equal work"] == (["1", "2"], "inner steps; FedAvg at equal work")


def test_a_method_switched_off_costs_nothing(make, monkeypatch):
    panel = make(methods=("FedAvg", "FedMAML"))
    met = []
    local = fm.FedMAML.local
    monkeypatch.setattr(fm.FedMAML, "local", lambda self, *a: met.append(1) or local(self, *a))
    panel.board.switches["FedMAML"].children[1].value = False
    assert panel.study.names == ["FedAvg"]
    assert met == []
    panel.board.switches["FedMAML"].children[1].value = True
    assert panel.study.names == ["FedAvg", "FedMAML"]


def test_a_method_keeps_its_look_when_others_are_switched_and_has_it_in_every_view(make, small_map):
    """FedReptile beside one method, beside all, and alone with the map's other one: one colour, dashes and marker."""
    panel, seen = make(views=("client", "learning", "adaptation", "helps", "map")), set()
    for methods in (("FedAvg", "FedReptile"), tuple(METHODS), ("FedReptile",), ("LocalOnly", "FedReptile")):
        panel.set(methods=methods)
        marks = panel._canvas._marks
        for view in ("client", "learning", "adaptation"):
            line = marks[view]["FedReptile"]
            seen.add((line.get_color(), line._unscaled_dash_pattern))
        seen.add((panel.views._looks["FedReptile"].light, line._unscaled_dash_pattern))
        assert marks["learning"]["FedReptile"].get_marker() == marks["adaptation"]["FedReptile"].get_marker()
    assert len(seen) == 1
    ((color, _),) = seen
    assert f'stroke="{color}"' in panel.board.switches["FedReptile"].children[0].value
    panel._fill_map(panel.setting, lambda: None)
    panel.views.map.percent = dict.fromkeys(panel.views.map.percent, 100.0)  # it wins everywhere
    panel.views.map.draw(panel._canvas._marks["map"], panel.setting, panel.views._looks)
    cells = np.asarray(panel._canvas._marks["map"]["cells"].get_array())[..., :3]
    assert np.allclose(cells, to_rgb(color), atol=0.01)


def test_the_last_method_stays_on(make):
    panel = make(methods=("FedAvg",))
    panel.board.switches["FedAvg"].children[1].value = False
    assert panel.setting.methods == ("FedAvg",)
    assert "last method" in panel._error.value
    assert panel.board.switches["FedAvg"].children[1].value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_setting_and_nothing_else(name):
    changed = dataclasses.replace(Setting(), **PRESETS[name])
    check(changed, Viewpoint())
    *_, study = dataclasses.replace(changed, rounds=1, seeds=1, clients_per_round=2).stream()
    assert study.names == list(changed.methods)


def test_a_preset_moves_the_controls(make, slider, press, small):
    panel = make()
    panel.buttons.presets.value = "all clients alike"
    assert slider(panel, "heterogeneity").value == 0.0
    assert panel.study.population.heterogeneity == 0.0
    press(panel, "reset")
    assert slider(panel, "heterogeneity").value == 1.0
    assert panel.setting == Setting(**small)


def test_the_recorded_step_size_is_shown_wherever_it_is_taken(make, press):
    panel = make()
    control, found = panel.board.controls["inner_lr"], recorded("inner_lr", panel.setting)[0]
    panel.buttons.presets.value = "a step size too large"
    assert control.box.value != found
    press(panel, "reset")
    assert control.box.value == pytest.approx(found)
    control.recorded.value = False
    control.box.value = 0.5
    assert panel.setting.inner_lr == 0.5
    control.recorded.value = True
    assert panel.setting.inner_lr is None
    assert control.box.value == pytest.approx(found)


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


def test_a_recorded_step_size_follows_what_a_hand_moves():
    panel = lab.playground(rounds=10, seeds=1, synchronous=True)
    try:
        control, steps = panel.board.controls["inner_lr"], panel.board.controls["inner_steps"]
        for moved in (1, 5, 3):
            steps.slider.value = moved
            by_hand = control.slider.value, control.note.value
            panel.set(inner_steps=moved)
            assert (control.slider.value, control.note.value) == by_hand
            assert f"{moved} step" in control.note.value
        control.recorded.value = False
        own = control.slider.value
        steps.slider.value = 1
        assert control.slider.value == own
    finally:
        panel.close()
