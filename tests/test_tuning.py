"""Step sizes that nobody recorded: searched once, said, kept, and searched again only where something changed."""

import json
import warnings
from dataclasses import dataclass

import pytest

import fmlab as fm
from fmlab import cache, tuning
from fmlab.setup import prepare
from fmlab.tuning import RECORDED, Searched, recorded

SMALL = {"n_clients": 25, "n_validation": 5, "n_unseen": 3}


@dataclass(frozen=True)
class Mine(fm.Sines):
    """A population of a reader's own."""


@pytest.fixture
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv("FMLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "step_sizes.json"


@pytest.fixture(autouse=True)
def few_values(monkeypatch):
    monkeypatch.setattr(tuning, "COARSE", (0.01, 0.1))


def fill(algorithm, clients):
    (a,) = recorded(prepare([algorithm], clients, seeds=1)).algorithms.values()
    return a


def test_a_coarse_search_is_made_once_and_says_so(empty):
    with pytest.warns(Searched, match=r"no step size is recorded for FedAvg on Mine; .* found lr=.*, adapt_lr="):
        first = fill(fm.FedAvg(), Mine(**SMALL))
    assert None not in (first.lr, first.adapt_lr)
    assert list(json.loads(empty.read_text())) == [cache.key(Mine, fm.FedAvg)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fill(fm.FedAvg(local_steps=2), Mine(**SMALL, heterogeneity=0.3))
        assert (again.lr, again.adapt_lr) == (first.lr, first.adapt_lr)
        assert fill(fm.FedAvg(lr=0.3), Mine(**SMALL)).lr == 0.3


@pytest.mark.parametrize("spoiled", ["{", "[]", '{"%s": {"lr": "a"}}', '{"%s": {"lr": 0.1}}'])
def test_a_damaged_cache_is_searched_anew(empty, spoiled):
    empty.parent.mkdir()
    empty.write_text(spoiled.replace("%s", cache.key(Mine, fm.FedAvg)))
    with pytest.warns(Searched):
        fill(fm.FedAvg(), Mine(**SMALL))
    assert set(cache.get(cache.key(Mine, fm.FedAvg))) == {"lr", "adapt_lr"}


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMLAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(Searched):
        fill(fm.FedAvg(), Mine(**SMALL))


def test_the_key_follows_the_code():
    def variant(step):
        space = {"__name__": __name__}
        exec(f"class Own:\n    step = {step}\n", space)
        return space["Own"]

    assert cache.key(fm.FedAvg) != cache.key(fm.FedProx)
    assert cache.key(fm.FedAvg).startswith("FedAvg/")
    assert cache.key(variant(1)).startswith("Own/"), "a class without a file of its own"


def test_what_is_recorded_needs_no_search(empty):
    for population, methods in RECORDED.items():
        for method in methods:
            fill(getattr(fm, method)(), getattr(fm, population)(**SMALL))
    assert not empty.exists()
