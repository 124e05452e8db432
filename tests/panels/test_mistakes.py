"""Wrong numbers, wrong names, tasks that cannot run: said in words, and nothing is lost."""

import pytest

import fmlab as fm
import lab
from lab.install.button import doctor_button

LIMIT = 120.0


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
        ({"clients": "seen"}, ValueError),
    ],
)
def test_set_refuses_before_anything_moves(make, changes, error):
    panel = make()
    picture, setting = panel._png, panel.setting
    with pytest.raises(error):
        panel.set(rounds=20, **changes)
    assert (panel._png, panel.setting) == (picture, setting)


def test_an_error_of_a_study_is_shown_and_raised_and_the_picture_stays(make, monkeypatch, slider):
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


@pytest.mark.parametrize(("software", "words"), [("jupyter", "Run the cell again"), ("voila/0.5", "Reload the page")])
def test_what_to_do_without_a_kernel_is_there_before_it_is_gone(make, walk, monkeypatch, software, words):
    """A kernel that is gone can send nothing any more; the page shows the words by itself (tests/browser/test_gone)."""
    monkeypatch.setenv("SERVER_SOFTWARE", software)
    for live in (make(), lab.drift(), lab.predict("Which?", "ab"), doctor_button()):
        assert "fmlab-live" in live._dom_classes
        (head,) = (w for w in walk(live) if "fmlab-head" in w._dom_classes)
        assert "kernel is gone" in head.value
        assert words in head.value
        live.close()
