"""Rows of a client whom no table holds: predicted as if the table had held him."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import fmlab as fm

METHODS = {"FedAvg": fm.FedAvg(lr=0.05, adapt_lr=0.05), "FedMAML": fm.FedMAML(inner_lr=0.05, adapt_lr=0.1)}


def frame(target):
    g = np.random.default_rng(0)
    who = np.repeat([f"w{i}" for i in range(8)], 12)
    x = 50 + 20 * g.normal(size=(len(who), 2))
    x[g.random(len(who)) < 0.1, 1] = np.nan
    made = pd.DataFrame({"ward": who, "age": x[:, 0], "weight": x[:, 1], "kind": g.choice(list("abc"), len(who))})
    score = 3 * x[:, 0] + 100 * (made.kind == "a") + g.normal(size=len(who))
    made["out"] = score if target == "numbers" else np.where(score > score.mean(), "high", "low")
    made["day"] = np.arange(len(who))
    return made


def study(target, seed=3):
    clients = fm.Table(frame(target), client="ward", target="out", time="day")
    return fm.compare(METHODS, clients, rounds=4, seeds=[0, seed], steps=3, evaluations=1, dtype=torch.float64)


pytestmark = pytest.mark.filterwarnings("ignore::fmlab.Decided")  # of missing weights


@pytest.mark.parametrize("target", ["numbers", "classes"])
@pytest.mark.parametrize("place", [0, 1])
def test_rows_of_an_unseen_client_are_predicted_as_he_is(target, place):
    """Who is in the table and unseen, taken for new: the same models, the same predictions, in the target's units."""
    made = study(target)
    name = made.population.names("unseen", made.config["seeds"][place])[0]
    support, query = (e.map(lambda t: t[place, 0]) for e in made.unseen.take(torch.zeros(2, 1, dtype=torch.int64))[:2])
    mine = frame(target)[lambda f: f.ward == name]
    known, asked = mine[: len(support.x)], mine[len(support.x) :].drop(columns=["out", "ward", "day"])
    for method in METHODS:
        wanted = made.predict(method, query.x, place)
        if target == "numbers":
            mean, spread = made.population.target_scale(made.config["seeds"][place])
            wanted = wanted * spread + mean
        assert_close(made.predict(method, asked, place, support=known), wanted)
        assert_close(made.predict(method, asked, place), wanted[:1])


def test_a_file_and_rows_in_another_order_of_columns(tmp_path):
    made, mine = study("numbers"), frame("numbers")[:12]
    mine.to_csv(tmp_path / "new.csv", index=False)
    here = made.predict("FedMAML", mine, support=mine)
    assert_close(made.predict("FedMAML", tmp_path / "new.csv", support=mine[mine.columns[::-1]]), here)
    assert here.shape == (4, 12, 1)
    assert 50 < float(here.mean()) < 350, "in units of the column"


def test_texts_that_the_table_did_not_have_are_said():
    made, mine = study("numbers"), frame("numbers")[:5]
    with pytest.warns(fm.Decided, match="texts of 'kind' that the table did not have .* 'z'"):
        strange = made.predict("FedAvg", mine.assign(kind="z"))
    assert strange.isfinite().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="age"), "no column is called 'age'"),
        (lambda f: f.assign(age="old"), "'age' holds texts, and held numbers"),
        (lambda f: f.assign(out=None), "'out', the target, has missing values"),
        (lambda f: f.assign(out="higher"), "'higher'; the classes are 'high', 'low'"),
        (lambda f: f[:0], "no row below"),
        (lambda f: 7, "no data frame, nor a file"),
    ],
)
def test_rows_that_do_not_fit(change, says):
    made, mine = study("classes"), frame("classes")[:6]
    with pytest.raises(ValueError, match=says):
        made.predict("FedAvg", mine, support=change(mine))
    with pytest.raises(KeyError, match="FedSomething"):
        made.predict("FedSomething", mine)
    with pytest.raises(IndexError, match="seed = 2"):
        made.predict("FedAvg", mine, seed=2)


def test_only_tables_have_rows():
    made = fm.compare(METHODS, fm.Sines(n_clients=3, n_unseen=2), rounds=1, seeds=1, evaluations=1)
    with pytest.raises(TypeError, match="this study is on Sines"):
        made.predict("FedAvg", pd.DataFrame({"x": [1.0]}))
