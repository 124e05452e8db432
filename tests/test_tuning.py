"""Step sizes that nobody recorded: searched once, said, kept, and searched again only where something changed."""

import ast
import importlib.util
import json
import sys
import warnings
from dataclasses import dataclass

import pytest

import fmlab as fm
from fmlab import cache, tuning
from fmlab.populations.collection import Collection
from fmlab.setup import prepare
from fmlab.tuning import RECORDED, Searched, recorded

SMALL = {"n_clients": 25, "n_validation": 5, "n_unseen": 3}


@dataclass(frozen=True)
class Mine(fm.Sines):
    """A population of a reader's own."""


KEY = tuning.cache_key(Mine(**SMALL), fm.FedAvg())


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
    assert first.lr in tuning.COARSE
    assert first.adapt_lr.centre in tuning.COARSE
    assert first.server == fm.SGD(), "the plain mean is no open question"
    assert list(json.loads(empty.read_text())) == [KEY]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fill(fm.FedAvg(local_steps=4), Mine(**SMALL, heterogeneity=0.3))
        assert (again.lr, again.adapt_lr) == (first.lr, first.adapt_lr)
        assert fill(fm.FedAvg(lr=0.3), Mine(**SMALL)).lr == 0.3


@pytest.mark.parametrize("spoiled", ["{", "[]", '{"%s": {"lr": "a"}}', '{"%s": {"lr": 0.1}}'])
def test_a_damaged_cache_is_searched_anew(empty, spoiled):
    empty.parent.mkdir()
    empty.write_text(spoiled.replace("%s", KEY))
    with pytest.warns(Searched):
        fill(fm.FedAvg(), Mine(**SMALL))
    assert set(cache.get(KEY)) == {"lr", "adapt_lr", "server"}


def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMLAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(Searched):
        fill(fm.FedAvg(), Mine(**SMALL))


def test_the_key_follows_the_file_in_which_the_class_is_written(monkeypatch, tmp_path):
    def variant(step):
        (tmp_path / "own.py").write_text(f"class Own:\n    step = {step}\n")
        return load("own", tmp_path / "own.py").Own

    def load(name, path):
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    one = cache.key(variant(1))
    assert one.startswith("Own/")
    assert cache.key(variant(1)) == one != cache.key(variant(22))
    assert cache.key(fm.FedAvg) != cache.key(fm.FedProx)


def test_the_key_follows_the_code_of_a_class_that_was_typed_at_a_prompt():
    """As a new method in a notebook is, whose cell has another place in every run."""

    def typed(code, file="one"):
        space = {"__name__": "prompt"}
        exec(compile(code, file, "exec"), space)
        return cache.key(space["Own"])

    once = typed("class Own:\n    def local(self, w):\n        return w / 2\n")
    assert once.startswith("Own/")
    assert typed("\n\nclass Own:\n    def local(self, w):\n        return w / 2\n", "two") == once
    assert typed("class Own:\n    def local(self, w):\n        return w * 40\n") != once
    assert typed("class Own:\n    @property\n    def local(self):\n        return lambda w: w\n") != typed(
        "class Own:\n    @property\n    def local(self):\n        return lambda w: -w\n"
    )


def test_the_key_names_what_the_search_sees():
    """Else what is found hangs on what was searched before."""
    own = fm.Synthetic(**SMALL)
    key = tuning.cache_key(own, fm.FedAvg())
    for other in ({"n_clients": 2}, {"n_validation": 2}, {"alpha": 0.0}):
        assert tuning.cache_key(fm.Synthetic(**SMALL | other), fm.FedAvg()) != key
    assert tuning.cache_key(own, fm.FedAvg(), fm.MLP((60, 20, 10))) != key
    for same in ({"n_unseen": 2}, {"heterogeneity": 0.3}):  # which it does not see
        assert tuning.cache_key(fm.Synthetic(**SMALL | same), fm.FedAvg()) == key


def test_the_key_parses_nothing(monkeypatch):
    """Two threads that parse at once fail in Python 3.11, and panels ask for keys while cells run."""
    monkeypatch.setattr(ast, "parse", lambda *_, **__: pytest.fail("parsed"))
    assert cache.key(fm.Sines, fm.FedAvg).startswith("Sines/FedAvg/")


def test_what_is_recorded_needs_no_search(empty):
    for population, methods in RECORDED.items():
        for method, servers in methods.items():
            cls, first = getattr(fm, method.removesuffix(", first order")), method.endswith("first order")
            for server in servers:
                given = {"first_order": True} if first else {}
                if tuning.has_server(cls):
                    given["server"] = getattr(fm, server)()
                kind = getattr(fm, population)
                fill(cls(**given), kind(**({} if issubclass(kind, Collection) else SMALL)))  # as many as there are
    assert not empty.exists()


def test_more_steps_take_the_step_size_of_the_next_number_above(monkeypatch):
    by_number = {str(n): {"lr": 1.0 / n, "adapt_lr": 0.1 * n, "server": 0.01 * n} for n in (1, 3, 10)}
    monkeypatch.setattr(tuning, "RECORDED", {"Sines": {"FedAvg": {"Adam": by_number}}})
    for asked, taken in ((1, 1), (2, 3), (3, 3), (4, 10), (10, 10), (25, 10)):
        a = fill(fm.FedAvg(local_steps=asked, server=fm.Adam()), fm.Sines(**SMALL))
        assert (a.lr, a.adapt_lr, a.server) == (1 / taken, fm.validated(0.1 * taken), fm.Adam(lr=0.01 * taken))
    given = fill(fm.FedAvg(lr=0.3, adapt_lr=0.2, server=fm.Adam(lr=0.5)), fm.Sines(**SMALL))
    assert (given.lr, given.adapt_lr, given.server) == (0.3, 0.2, fm.Adam(lr=0.5))
    other = fill(fm.FedAvg(local_steps=3), fm.Sines(**SMALL))  # nothing is recorded with the plain mean
    assert (other.lr, other.server) == (1 / 3, fm.SGD())
    swept = fill(fm.FedAvg(local_steps=fm.sweep(1, 4), server=fm.Adam()), fm.Sines(**SMALL))
    assert (swept.lr, swept.server) == (fm.sweep(1.0, 0.1), fm.Adam(lr=fm.sweep(0.01, 0.1)))


def test_the_record_at_the_nearest_heterogeneity_is_taken(monkeypatch):
    def steps(lr):
        return {"lr": lr, "adapt_lr": 0.1, "server": 0.01}

    three = steps(1.0) | {"at": {"0": steps(0.1), "0.5": steps(0.5)}}
    monkeypatch.setattr(
        tuning, "RECORDED", {"Sines": {"FedAvg": {"Adam": {"1": steps(7.0), "3": three, "5": steps(2.0)}}}}
    )
    for h, lr in ((0.0, 0.1), (0.2, 0.1), (0.3, 0.5), (0.7, 0.5), (0.8, 1.0), (1.0, 1.0)):
        clients = fm.Sines(**SMALL | {"heterogeneity": h})
        assert fill(fm.FedAvg(local_steps=3, server=fm.Adam()), clients).lr == lr
        assert fill(fm.FedAvg(local_steps=1, server=fm.Adam()), clients).lr == (7.0 if h == 0.8 or h == 1 else lr)
        assert fill(fm.FedAvg(local_steps=5, server=fm.Adam()), clients).lr == 2.0  # no more steps with fewer's sizes


@pytest.mark.parametrize("k", [1, 2])
def test_first_order_has_step_sizes_of_its_own(monkeypatch, k):
    methods = {m: {"Adam": {"1": {"inner_lr": lr, "adapt_lr": 1, "server": 0.1}}}
               for m, lr in (("FedMAML", 0.5), ("FedMAML, first order", 0.25))}  # fmt: skip
    monkeypatch.setattr(tuning, "RECORDED", {"Sines": methods})
    for first_order, lr in ((False, 0.5), (True, 0.25)):
        assert fill(fm.FedMAML(inner_steps=k, first_order=first_order), fm.Sines(**SMALL)).inner_lr == lr


def test_a_step_size_whose_larger_neighbour_fails_is_not_taken():
    methods = [fm.FedAvg(lr=lr) for lr in (0.1, 0.2, 0.5)]

    def best(*scores):
        return tuning.best_of(((s, i, methods[i]) for i, s in enumerate(scores)), useless=10.0)[0].lr

    assert best(3.0, 2.0, 4.0) == 0.2
    assert best(3.0, 2.0, 14.0) == 0.1
    assert best(3.0, 2.0, 1.0) == 0.5, "nothing is known beyond the last"
    assert best(13.0, 12.0, 14.0) == 0.2, "the best of all where none can be used"


def test_tune_searches_the_servers_step_size_too():
    setup = prepare([fm.FedMAML(), fm.FedAvg()], fm.Sines(**SMALL), rounds=3, seeds=1)
    for a in tuning.tuned(setup).algorithms.values():
        assert a.server.lr in [factor * a.server.usual for factor in tuning.FACTORS]
