"""Methods whose step sizes nobody recorded: the panel says that it searches, and what it found."""

import json
import warnings
from dataclasses import dataclass

import pytest

import fmlab as fm
from fmlab import tuning
from lab.panel import setting, stepsizes
from lab.panel.panel import Panel
from lab.panel.setting import Setting

SAYS = "no step size is recorded for Own on Sines: searching once, some seconds ..."


@dataclass(frozen=True)
class Own(fm.FedAvg):
    """FedAvg under a name that is recorded nowhere."""


@pytest.fixture(autouse=True)
def own_method(monkeypatch, tmp_path):
    """A method of a reader's own, nothing searched yet, and a short search."""
    monkeypatch.setattr(stepsizes, "KNOWN", set())
    monkeypatch.setitem(setting.METHODS, "Own", Own)
    monkeypatch.setenv("FMLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "COARSE", (0.01, 0.05))
    return tmp_path / "step_sizes.json"


@pytest.fixture
def said(monkeypatch):
    """Everything that the status line of a panel says."""
    lines = []
    submit = Panel._submit

    def watched(self, *args, **options):
        if not lines:
            lines.append("the panel begins")
            self._status.observe(lambda change: lines.append(change["new"]), "value")
        submit(self, *args, **options)

    monkeypatch.setattr(Panel, "_submit", watched)
    return lines


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_search_is_announced_and_its_result_is_shown_under_the_picture(make, said, own_method, capfd, synchronous):
    panel = make(synchronous=synchronous)
    panel.set(methods=("FedAvg", "Own"))
    panel.wait(120)
    assert said.count(SAYS) == 1
    assert panel._status.value == "round 10 of 10, 1 seed"
    (found,) = json.loads(own_method.read_text()).values()
    assert panel._note.value == (
        f"step sizes that were searched, on Sines: Own: lr {found['lr']:g}, adapt_lr {found['adapt_lr']:g}"
    )
    assert panel.study.config["algorithms"]["Own"].lr == found["lr"]
    panel.set(methods=("FedAvg",))
    panel.wait(120)
    assert panel._note.layout.display == "none"
    panel.set(methods=("Own",), heterogeneity=0.5)
    panel.wait(120)
    assert said.count(SAYS) == 1, "once"
    assert panel._note.layout.display == "block"
    assert capfd.readouterr().err == ""


def test_recorded_and_given_step_sizes_need_no_search(own_method):
    assert stepsizes.missing(Setting(methods=("FedAvg", "FedMAML", "Own"))) == ["Own"]
    assert stepsizes.search(Setting(), "Own").keys() == {"lr", "adapt_lr"}
    assert stepsizes.missing(Setting(methods=("FedAvg", "FedMAML", "Own"))) == []
    own_method.unlink()
    assert stepsizes.missing(Setting(methods=("Own",))) == [], "this kernel knows"


def test_other_warnings_of_a_search_are_still_given(own_method):
    """The panel silences one sentence about one method on one task."""

    @dataclass(frozen=True)
    class Other(Own):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepsizes.search(Setting(), "Own")
        with pytest.raises(tuning.Searched, match="Other on Sines"):
            fm.compare([Other()], fm.Sines(), rounds=1, seeds=1)


def test_something_newer_ends_the_searches_between_two(monkeypatch):
    monkeypatch.setitem(setting.METHODS, "Second", type("Second", (Own,), {}))
    said = []

    def check():
        if said:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stepsizes.search_all(Setting(methods=("Own", "Second")), said.append, check)
    assert said == [SAYS]
