"""Panels of clients of the reader's own: any population, with the controls that it has a use for."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import fmlab as fm
import lab
from fmlab import tuning
from fmlab.data import Clients, examples
from fmlab.losses import SquaredError
from fmlab.objective import Empirical
from lab.panel.setting import TASKS, Setting, declaration, held
from lab.panel.views import CELLS

VIEWS = [v for v in CELLS if v != "map"]


def frame(clients=9, rows=14):
    g = np.random.default_rng(0)
    who = np.repeat(np.arange(clients), rows)
    x = g.normal(size=(len(who), 2))
    score = x[:, 0] * (1 + who % 3) + g.normal(size=len(who))
    kind = np.where(score > 0.5, "high", np.where(x[:, 1] > 0, "mid", "low"))
    return pd.DataFrame({"ward": who, "u": x[:, 0], "v": x[:, 1], "score": score, "kind": kind})


def table(target="score", features=("u", "v"), source=None, **fields):
    return fm.Table(frame() if source is None else source, client="ward", target=target, features=features, **fields)


@dataclass(frozen=True)
class Plain(fm.Population):
    """Clients without heterogeneity or shots."""

    n_clients: int = 4
    n_validation: int = 3
    n_unseen: int = 3

    def draw(self, split, seed):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(1, self.count(split), 6, 1, generator=g, dtype=torch.float64)
        return Clients(examples(x, 2 * x), examples(x, 2 * x), x.new_ones(1, self.count(split)))

    def model(self):
        return fm.MLP((1, 4, 1))

    def objective(self, model):
        return Empirical(model or self.model(), SquaredError())


@pytest.fixture(autouse=True)
def short_search(monkeypatch, filled):
    """That a search is announced and kept is tested in test_stepsizes."""
    monkeypatch.setattr(tuning, "search", lambda algorithm, setup, grid: (filled(algorithm, 0.05), 0.0))


@pytest.fixture
def shown(make, small):
    def panel(clients, views=VIEWS, **fields):
        setting = dataclasses.replace(Setting().on(clients), **(small | {"clients_per_round": 3} | fields))
        return make(views, **{f.name: getattr(setting, f.name) for f in dataclasses.fields(setting)})

    return panel


@pytest.mark.parametrize(
    "clients",
    [
        table(),
        table(features=("u",)),
        table(target="kind"),
        table(target=("score", "v"), features=("u",)),
        Plain(),
        fm.Sines(n_clients=7, noise=0.3),
    ],
    ids=["numbers", "a-curve", "classes", "two-targets", "plain", "sines"],
)
def test_every_view_of_any_population(shown, clients):
    """The study on show is the one that compare gives."""
    panel = shown(clients, methods=("FedAvg", "FedMAML"))
    assert panel.study.population == clients
    assert panel.sentence
    names = {"data": frame(), "Plain": Plain}
    code = panel.code().replace("print(", "str(").replace(f"from {__name__} import Plain\n", "")
    exec(code, names)
    for name in panel.study.names:
        assert torch.equal(names["study"].adaptation[name], panel.study.adaptation[name])


def test_code_of_a_file_reads_the_file(shown, tmp_path):
    frame().to_csv(tmp_path / "wards.csv", index=False)
    panel = shown(table(source=tmp_path / "wards.csv"), views=["learning"], heterogeneity=0.5)
    code = panel.code()
    assert f"fm.Table(source={str(tmp_path / 'wards.csv')!r}" in code
    assert "# data" not in code
    names = {}
    exec(code.replace("print(", "str("), names)
    assert names["study"].population == panel.study.population


def test_controls_are_those_that_the_clients_have_a_use_for(shown):
    panel = shown(table(), views=["learning"])
    controls = panel.board.controls
    assert controls["clients_per_round"].high == 7 - 1  # nine wards, two unseen, one for step sizes
    largest = table().draw("training", 0).support.weight.shape[-1]
    assert controls["shots"].high == controls["shots"].value == largest == 6
    panel.set(shots=2)
    assert panel.study.population.shots == 2
    assert panel.study.unseen.support.weight.shape[-1] == 2
    panel.set(task=Plain())
    for field, there in (("heterogeneity", False), ("shots", False), ("clients_per_round", True)):
        assert (controls[field].root.layout.display != "none") == there, field
    assert panel.board.difference.layout.display == "none"
    panel.set(task="Sines")
    assert controls["heterogeneity"].root.layout.display is None
    assert controls["shots"].value == 10
    with pytest.raises(ValueError, match="clients a round = 7 is outside 1 to 6"):
        panel.set(task=table(), clients_per_round=7)


def test_there_and_back_by_the_menu(shown):
    panel = shown(table(heterogeneity=0.4), views=["learning"])
    menu = panel.board.boxes["task"]
    assert [name for name, _ in menu.options] == ["Table (yours)", *TASKS]
    assert panel.setting.heterogeneity == 0.4, "as it was given"
    first = panel.sentence
    menu.value = "Digits"
    assert panel.study.accuracy
    menu.value = menu.options[0][1]
    assert panel.study.population == table(heterogeneity=0.4)
    assert panel.sentence == first
    panel.set(clients=Plain())
    assert isinstance(panel.study.population, Plain)
    assert menu.options[0][0] == "Plain (yours)"


def test_the_difference_stands_beside_the_slider_that_moves_it(shown):
    clients = table(target="kind")
    panel = shown(clients, views=["learning"])
    for h in (1.0, 0.0):
        panel.set(heterogeneity=h)
        found = dataclasses.replace(clients, heterogeneity=h).difference()
        assert f"<b>{found.value:.2f}</b>" in panel.board.difference.value
        assert found.what.replace("'", "&#x27;") in panel.board.difference.value


def test_lessons_panels_take_clients_too(small):
    panel = lab.one_client(clients=table(), synchronous=True, **small)
    assert panel.setting.task == table()
    panel.close()
    with pytest.raises(TypeError, match="no population"):
        lab.playground(clients="visits.csv")


def test_equal_work_counts_the_examples_that_clients_hold():
    """Eleven examples of a client train: five or six to adapt on."""
    drawn = table().draw("training", 0)
    support, query = ((e.weight > 0).double().sum(-1).mean() for e in (drawn.support, drawn.query))
    assert held(table()) == (float(support), float(query))
    assert held(fm.Sines(support=4)) == (4, 10)
    steps = Setting(task=table(), inner_steps=3).local_steps(fm.FedAvg)
    assert abs(steps - (9 * support + query) / (support + query)) <= 0.5


def test_pictures_of_ones_own_are_shown_as_such(shown):
    g = torch.Generator().manual_seed(0)
    sets = [TensorDataset(torch.rand(8, 1, 5, 7, generator=g), torch.arange(8) % 2) for _ in range(6)]
    panel = shown(fm.Datasets(sets), views=["client"])
    tile = panel._canvas._marks["client"]["s", "picture", 0]
    assert tile.get_array().shape[:2] == (5, 7)
    panel.set(task=table(target="kind"))
    words = [t.get_text() for t in panel._canvas._marks["client"].ax.get_yticklabels()]
    assert any(w.startswith("high (") for w in words)
    panel.set(task="Sines")
    ticks = [t.get_text() for t in panel._canvas._marks["client"].ax.get_xticklabels()]
    assert "100 %" not in ticks, "numbers again"


def test_a_field_of_its_own_name_goes_before_another_one():
    """``support`` of a table is a share; ``shots`` is what the control sets."""
    h = declaration("shots", table())
    assert (h.symbol, h.whole, h.optional) == ("n_S", True, False)
