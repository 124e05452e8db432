"""Data of one's own: nothing leaks, nothing is lost, what heterogeneity does is exact, and a bad file is one error."""

import gzip
import json
import math
import warnings
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.data import Dataset, TensorDataset

import fmlab as fm
from fmlab import archive
from fmlab.archive import StudyError
from fmlab.populations.collection import DataError, Decided, Rows
from fmlab.setup import prepare
from fmlab.tuning import Searched

SPLITS = ("training", "participating", "validation", "unseen")
RATES = {"lr": 0.02, "adapt_lr": 0.02}
SHORT = {"rounds": 2, "seeds": 2, "clients_per_round": 2, "steps": 2, "evaluations": 1}


def frame(clients=12, low=4, high=20, seed=0):
    """Who, when, an input that is the row's own number, another, a category, a number and a class to predict."""
    rng = np.random.default_rng(seed)
    who = np.repeat([f"c{i:02}" for i in range(clients)], rng.integers(low, high, clients))
    rng.shuffle(who)
    n = len(who)
    kind = rng.choice(["red", "green", "blue"], n)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "who": who, "when": rng.permutation(n), "row": np.arange(n, dtype=float), "x": x, "kind": kind,
            "y": x + (kind == "red") + rng.normal(size=n), "good": rng.choice(["no", "yes"], n),
        }
    )  # fmt: skip


FRAME = frame()


def plain(f=FRAME, **options):
    """A table whose only input is the row's number, as it is."""
    return fm.Table(f, client="who", target="y", features=["row"], standardise=False, **options)


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Decided)
        return fm.Table(*args, **options)


def held(examples, client):
    """The row numbers that a client's set holds, of inputs that are such."""
    x, real = examples.x[0, client], examples.weight[0, client] > 0
    return x[real].flatten().long().tolist()


def looked_up(table, split, seed=0):
    """Support and query sets as models meet them."""
    return table.draw(split, seed).everyone()


def sets(table, seed=0):
    """What each client holds, by name and part, as row numbers."""
    found = {}
    for split in SPLITS:
        support, query = looked_up(table, split, seed)
        for i, name in enumerate(table.names(split, seed)):
            found[split, name] = held(support, i), held(query, i)
    return found


def same(a, b):
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


# --- Who holds what -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 30), min_size=3, max_size=12),
    h=st.sampled_from([0.0, 0.3, 1.0]),
    share=st.floats(0, 1),
    kept=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_every_example_is_in_one_place_and_sizes_stay(counts, h, share, kept, seed):
    who = np.repeat([f"c{i}" for i in range(len(counts))], counts)
    f = pd.DataFrame(
        {"who": who, "row": np.arange(len(who), dtype=float), "y": np.random.default_rng(0).random(len(who))}
    )
    table = plain(f, heterogeneity=h, support=share, held=kept)
    found = sets(table, seed)
    training = table.names("training", seed)
    names = [*training, *table.names("validation", seed), *table.names("unseen", seed)]
    assert sorted(names) == sorted(f"c{i}" for i in range(len(counts)))
    every = []
    for split in ("training", "validation", "unseen"):
        for i, name in enumerate(table.names(split, seed)):
            support, query = found[split, name]
            test = []
            if split == "training":
                assert found["participating", name][0] == support
                test = found["participating", name][1]
                if test == query:  # a client of two, or nothing is kept
                    assert counts[int(name[1:])] == 2 or kept == 0
                    test = []
            assert support
            assert query
            size = counts[int(name[1:])]
            assert len(support) + len(query) + len(test) == size
            assert table.draw(split, seed).sizes[0, i] == size
            every += support + query + test
    assert sorted(every) == list(range(len(who)))


def test_parts_have_their_shares():
    table = plain(frame(12, 100, 101), support=0.25, held=0.1)
    for (split, _), (support, query) in sets(table).items():
        if split == "training":
            assert (len(support), len(query)) == (22, 68)  # of 90, 22.5 to even
        elif split == "participating":
            assert len(query) == 10
        else:
            assert (len(support), len(query)) == (25, 75)
    few = sets(replace(table, shots=3, most=50))
    assert {len(s) for s, _ in few.values()} == {3}
    assert len(few["training", table.names("training", 0)[0]][1]) == 42
    assert torch.equal(replace(table, most=50).draw("unseen", 0).sizes, table.draw("unseen", 0).sizes)


@pytest.mark.parametrize("seed", [0, 1])
def test_more_training_clients_change_nobody_else(seed):
    few, many = plain(n_clients=3, n_validation=2, n_unseen=3), plain(n_clients=7, n_validation=2, n_unseen=3)
    a, b = sets(few, seed), sets(many, seed)
    assert all(b[key] == value for key, value in a.items())
    assert len(b) > len(a)


def test_who_is_where_is_a_function_of_the_seed():
    assert sets(plain(), 0) == sets(plain(), 0)
    assert {plain().names("unseen", s) for s in range(6)} != {plain().names("unseen", 0)}


def test_time_puts_a_client_s_past_before_its_future():
    for h in (1.0, 0.5, 0.0):
        table = plain(time="when", heterogeneity=h, most=12)
        when = dict(zip(FRAME["row"].astype(int), FRAME["when"], strict=True))
        for split in SPLITS:
            support, query = looked_up(table, split)
            for i in range(table.count(split)):
                early, late = ([when[r] for r in held(e, i)] for e in (support, query))
                assert max(early) < min(late)
                assert early == sorted(early)
    natural = plain(time="when", most=6)
    for name in natural.names("unseen", 0):
        last = FRAME[FRAME["who"] == name].sort_values("when")["row"].astype(int).tolist()[-6:]
        support, query = sets(natural)["unseen", name]
        assert support + query == last


def test_dates_are_a_time_too():
    f = FRAME.assign(when=pd.Timestamp("2020-01-01") + pd.to_timedelta(FRAME["when"], unit="h"))
    text = f.assign(when=f["when"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    expected = sets(plain(time="when"))
    assert sets(plain(f, time="when")) == expected
    assert sets(plain(text, time="when")) == expected


# --- Heterogeneity --------------------------------------------------------------------------------------------------


def owners(table, seed=0):
    """Which of its own examples each place holds: (rows,) of client names now, beside those by nature."""
    order = table._order(seed)
    names = np.array(table.rows.names)
    return names[table.rows.owner], names[table.rows.owner[order]]


def test_one_is_the_natural_partition_and_kept_examples_stay_kept():
    kept = {}
    for h in (0.0, 0.2, 0.5, 0.8, 1.0):
        table = plain(heterogeneity=h)
        now, before = owners(table)
        assert sorted(table._order(0).tolist()) == list(range(len(FRAME)))
        kept[h] = set(table._order(0)[torch.from_numpy(now == before)].tolist())
    assert len(kept[1.0]) == len(FRAME)
    dealt = [kept[h] for h in (0.2, 0.5, 0.8)]
    assert len(kept[0.0]) < len(dealt[0]) < len(dealt[1]) < len(dealt[2])


@pytest.mark.parametrize("h", [0.0, 0.25, 0.7])
def test_an_example_stays_with_its_share(h):
    """An example of client i is at home with h + (1 - h) (places of i that are dealt out) / (all that are), about
    h + (1 - h) n_i / n; the mean of 60 seeds is within four standard errors."""
    table = plain(heterogeneity=h)
    found = [float(np.mean(np.equal(*owners(table, seed)))) for seed in range(60)]
    counts = FRAME["who"].value_counts().to_numpy()
    expected = h + (1 - h) * (counts**2).sum() / counts.sum() ** 2
    error = math.sqrt(0.25 / (60 * len(FRAME)))
    assert np.mean(found) == pytest.approx(expected, abs=4 * error + 0.02 * (0 < h < 1))


def test_at_zero_every_client_holds_the_pooled_distribution():
    """The mean target of a client is that of all, within four standard errors over seeds, whoever it is."""
    f = FRAME.assign(y=[float(w[1:]) for w in FRAME["who"]])
    table = fm.Table(f, client="who", target="y", features=["row"], standardise=False, heterogeneity=0.0)
    y = np.array([table.rows.y[table._order(s), 0].numpy() for s in range(200)])
    for i in range(len(table.rows.names)):
        mine = y[:, (table.rows.owner == i).numpy()]
        error = y.std() / math.sqrt(mine.size)
        assert abs(mine.mean() - y[0].mean()) < 4 * error


# --- Leaks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [1.0, 0.4])
@pytest.mark.parametrize("target", ["y", "good"])
def test_values_of_unseen_clients_change_nothing_in_training(target, h):
    """Nor do those of validation clients, nor what participating clients are scored on."""
    options = {"client": "who", "target": target, "features": ["row", "x", "kind"], "heterogeneity": h}
    table = fm.Table(FRAME, **options)
    held_in = [s + q for (split, _), (s, q) in sets(plain(heterogeneity=h)).items() if split == "training"]
    used = {row for rows in held_in for row in rows}
    f = FRAME.copy()
    others = ~f["row"].astype(int).isin(used)
    assert others.sum() > 20
    order = np.random.default_rng(0).permutation(np.flatnonzero(others))
    f.loc[others, "kind"] = f["kind"].to_numpy()[order]
    f.loc[others, ["row", "x", "y"]] *= 1000.0
    f.loc[others, "good"] = "yes"
    changed = fm.Table(f, **options)
    assert same(looked_up(table, "training"), looked_up(changed, "training"))
    assert torch.equal(table.draw("training", 0).standard, changed.draw("training", 0).standard)
    assert torch.equal(looked_up(table, "participating")[0].x, looked_up(changed, "participating")[0].x)
    assert not same(looked_up(table, "unseen"), looked_up(changed, "unseen"))
    study = [fm.compare([fm.FedAvg(**RATES)], t, **SHORT | {"seeds": [0]}) for t in (table, changed)]
    assert torch.equal(study[0].held["FedAvg"]["model"], study[1].held["FedAvg"]["model"])


def test_inputs_and_targets_are_in_units_of_training_examples():
    table = fm.Table(FRAME, client="who", target="y", features=["row", "x"])
    sets_ = [torch.cat([e.x[0][e.weight[0] > 0] for e in looked_up(table, "training", s)]) for s in (0, 1)]
    for x in sets_:
        assert_close(x.mean(0), torch.zeros(2), atol=1e-12, rtol=0)
        assert_close(x.std(0, correction=0), torch.ones(2))
    y = torch.cat([e.y[0][e.weight[0] > 0] for e in looked_up(table, "training")])
    assert_close(y.mean(), torch.zeros(()), atol=1e-12, rtol=0)
    mean, spread = table.target_scale(0)
    raw = fm.Table(FRAME, client="who", target="y", features=["row", "x"], standardise=False)
    for split in SPLITS:
        for scaled, own in zip(looked_up(table, split), looked_up(raw, split), strict=True):
            assert_close((scaled.y * spread + mean)[own.weight > 0], own.y[own.weight > 0])


def test_what_does_not_vary_in_training_is_zero_for_all():
    who = plain().names("unseen", 0)
    f = FRAME.assign(late=[100.0 if w in who else 7.0 for w in FRAME["who"]])
    f.loc[f["who"].isin(who), "kind"] = "violet"
    table = fm.Table(f, client="who", target="y", features=["late", "kind", "x"])
    names = table.rows.columns
    for split in SPLITS:
        for e in looked_up(table, split):
            assert not e.x[..., names.index("late")].any()
            assert not e.x[..., names.index("kind = violet")].any()


def test_large_numbers_keep_their_digits_in_single_precision():
    f = FRAME.assign(x=2e9 + FRAME["row"])
    far = fm.Table(f, client="who", target="y", features=["x"])
    near = fm.Table(FRAME, client="who", target="y", features=["row"])
    drawn = [t.draw("training", 0).to(torch.float32, torch.device("cpu")) for t in (far, near)]
    a, b = (c.everyone()[0] for c in drawn)
    assert a.x.dtype == torch.float32
    assert_close(a.x, b.x, atol=1e-6, rtol=0)
    assert_close(drawn[0].take(torch.tensor([[2, 0]]))[0].x, a.x[:, [2, 0]], atol=0, rtol=0)


# --- Columns --------------------------------------------------------------------------------------------------------


def test_columns_become_numbers():
    f = pd.DataFrame(
        {
            "c": [1, 1, 2, 2, 3, 3],
            "number": [1.5, np.nan, 3.0, 4.0, 5.0, 6.0],
            "whole": [1, 2, 3, 4, 5, 6],
            "flag": [True, False, True, True, False, False],
            "kind": ["b", "a", None, "a", "b", "b"],
            "digits": ["1", "2", " 3", "4", "5", "6"],
            "day": ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04", "2020-01-05", "2020-01-06"],
            "zip": [7, 7, 8, 8, 7, 8],
            "cat": pd.Categorical([5, 5, 6, 6, 5, 6]),
            "y": [0.5, 1, 2, 3, 4, 5],
        }
    )
    with pytest.warns(Decided) as said:
        table = fm.Table(f, client="c", target="y", categories=["zip"], standardise=False)
    (message,) = (str(w.message) for w in said)
    for part in ("1 missing value of 'number'", "1 missing value of 'kind'", "dates of 'day'"):
        assert part in message
    assert table.rows.columns == (
        "number", "number missing", "whole", "flag", "kind = a", "kind = b", "kind missing", "digits", "day",
        "zip = 7", "zip = 8", "cat = 5", "cat = 6",
    )  # fmt: skip
    expected = torch.tensor(
        [
            [1.5, 0, 1, 1, 0, 1, 0, 1, 18262, 1, 0, 1, 0],
            [math.nan, 1, 2, 0, 1, 0, 0, 2, 18263, 1, 0, 1, 0],
            [3, 0, 3, 1, 0, 0, 1, 3, 18264, 0, 1, 0, 1],
            [4, 0, 4, 1, 1, 0, 0, 4, 18265, 0, 1, 0, 1],
            [5, 0, 5, 0, 0, 1, 0, 5, 18266, 1, 0, 1, 0],
            [6, 0, 6, 0, 0, 1, 0, 6, 18267, 0, 1, 0, 1],
        ]
    )
    assert_close(table.rows.x, expected, equal_nan=True)
    assert table.rows.plain.tolist() == [False, True, False, True, True, True, True, False, False, *[True] * 4]
    assert table.rows.names == ("1", "2", "3")


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1, 1, 0, 2, 1], "auto", ("0", "1", "2")),
        ([3, 7, 7, 3, 3, 3], "auto", ("3", "7")),
        ([True, False, True, True, False, True], "auto", ("0", "1")),
        (["n", "y", "n", "y", "n", "y"], "auto", ("n", "y")),
        (pd.Categorical([2, 1, 1, 2, 2, 2]), "auto", ("1", "2")),
        ([0.5, 1, 2, 3, 4, 5], "auto", ()),
        ([1.0, 2.0, 3.0, 1.0, 2.0, 3.0], "auto", ()),
        ([1.0, 2.0, 3.0, 1.0, 2.0, 3.0], "classification", ("1", "2", "3")),
        ([0, 1, 1, 0, 2, 1], "regression", ()),
    ],
)
def test_the_target_says_what_is_learned(values, task, classes):
    f = pd.DataFrame({"c": [1, 1, 2, 2, 3, 3], "x": range(6), "y": values})
    table = fm.Table(f, client="c", target="y", task=task)
    assert table.rows.classes == classes
    assert table.rows.labels is bool(classes)
    if classes:
        assert [classes[i] for i in table.rows.y] == [str(int(v)) if not isinstance(v, str) else v for v in values]


def test_many_whole_numbers_are_numbers_and_several_targets_are_a_row():
    f = FRAME.assign(count=np.arange(len(FRAME)))
    table = fm.Table(f, client="who", target=["count", "y"], features=["x"])
    assert table.rows.y.shape == (len(f), 2)
    assert table.model().sizes == (1, 32, 2)
    study = fm.compare([fm.FedAvg(**RATES)], table, **SHORT)
    assert study.adaptation["FedAvg"].isfinite().all()


def test_a_class_beside_missing_ones_is_still_a_class():
    f = pd.DataFrame({"c": [1, 1, 1, 2, 2, 3, 3], "x": range(7), "y": [0, 1, np.nan, 1, 0, 1, 0]})
    with pytest.warns(Decided, match="1 row without a finite 'y' left out"):
        table = fm.Table(f, client="c", target="y")
    assert table.rows.classes == ("0", "1")
    assert len(table.rows.y) == 6


# --- Random frames --------------------------------------------------------------------------------------------------

CELLS = {
    "numbers": st.floats(-1e6, 1e6) | st.none(),
    "wholes": st.integers(-5, 5),
    "texts": st.sampled_from(["a", "b", "ü", "", None]),
    "flags": st.booleans() | st.none(),
    "infinite": st.sampled_from([1.0, 2.0, math.inf, -math.inf, math.nan]),
}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_frame_trains_or_is_refused(data):
    n = data.draw(st.integers(6, 40))
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    columns = {f"{kind} {i}": data.draw(st.lists(CELLS[kind], min_size=n, max_size=n)) for i, kind in enumerate(kinds)}
    target = data.draw(st.sampled_from(["numbers", "wholes", "texts", "flags"]))
    f = pd.DataFrame(columns)
    f["y"] = data.draw(st.lists(CELLS[target], min_size=n, max_size=n))
    f["who"] = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, None]), min_size=n, max_size=n))
    try:
        table = quietly(f, client="who", target="y", heterogeneity=data.draw(st.floats(0, 1)))
    except DataError:
        assume(False)
    rows = table.rows
    assert rows.x.shape == (len(rows.y), len(rows.columns))
    assert not rows.x.isinf().any()
    for split in SPLITS:
        for e in looked_up(table, split):
            assert e.x.isfinite().all()
            assert_close(e.weight.sum(-1), torch.ones(1, table.count(split)))
    study = fm.compare([fm.FedAvg(**RATES)], table, **SHORT | {"clients_per_round": 1})
    assert study.adaptation["FedAvg"].shape == (2, table.n_unseen, 3)
    assert "FedAvg" in study.table()


# --- Everything works on it -----------------------------------------------------------------------------------------


def test_federated_averaging_of_all_is_least_squares_on_all():
    """A linear model, one local step, all clients weighed by size and nothing kept back: gradient descent on the pooled
    examples, whose end has a closed form."""
    table = fm.Table(FRAME, client="who", target="y", features=["x", "row", "kind"], held=0.0)
    n, d = table.n_clients, len(table.rows.columns)
    options = {"rounds": 1500, "seeds": [3], "clients_per_round": n, "weights": "size", "evaluations": 1}
    study = fm.compare([fm.FedAvg(lr=0.3, adapt_lr=0.1, local_steps=1)], table, model=fm.MLP((d, 1)), **options)
    sets_ = looked_up(table, "training", 3)
    x, y = (torch.cat([getattr(e, k)[0][e.weight[0] > 0] for e in sets_]) for k in "xy")
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y, driver="gelsd").solution
    w = study.held["FedAvg"]["model"].view(-1, 1)
    design = torch.cat([x, torch.ones(len(x), 1)], 1)
    assert_close(design @ w, design @ best, atol=1e-6, rtol=0)
    assert study.baselines["trivial"].mean() == pytest.approx(float(table_trivial(table, 3)))


def table_trivial(table, seed):
    """The mean over unseen clients of their mean square, in units of training: what predicting its mean loses."""
    _, query = looked_up(table, "unseen", seed)
    return torch.stack([y[w > 0].square().mean() for y, w in zip(query.y[0], query.weight[0], strict=True)]).mean()


def test_compare_sweep_tune_resume_save_and_load(tmp_path):
    table = fm.Table(FRAME, client="who", target="good", features=["x", "kind", "row"])
    methods = {"avg": fm.FedAvg(lr=fm.sweep(0.01, 0.1), adapt_lr=0.02), "maml": fm.FedMAML(inner_lr=0.1, adapt_lr=0.1)}
    study = fm.compare(methods, table, **SHORT)
    assert study.adaptation["avg"].shape == (2, 2, table.n_unseen, 3)
    assert torch.equal(fm.compare(**study.config).adaptation["maml"], study.adaptation["maml"])
    assert "unseen clients" in study.table()
    assert len(study.to_dataframe()) == 3 * 2 * table.n_unseen * 3
    tuned = fm.compare([fm.FedAvg()], table, **SHORT, tune=True)
    assert tuned.config["algorithms"]["FedAvg"].lr is not None
    with pytest.warns(UserWarning, match=r"does not hold its clients; fm\.load\(folder, clients=\.\.\.\)"):
        study.save(tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 60_000
    with pytest.raises(StudyError, match=rf"the {len(FRAME)} examples of 12 clients are not saved.*clients=\.\.\."):
        fm.load(tmp_path)
    anew = fm.Table(FRAME.copy(), client="who", target="good", features=["x", "kind", "row"])
    loaded = fm.load(tmp_path, clients=anew)
    assert loaded.config == study.config
    assert loaded.table() == study.table()
    a, b = (s.resume(rounds=4).adaptation["maml"] for s in (study, loaded))
    assert torch.equal(a, b)
    other = FRAME.assign(x=FRAME["x"].where(FRAME["row"] > 0, 0.0))
    other = fm.Table(other, client="who", target="good", features=["x", "kind", "row"])
    with pytest.raises(StudyError, match=r"clients\.source\.sha256 = "):
        fm.load(tmp_path, clients=other)
    with pytest.raises(StudyError, match=r"clients\.heterogeneity = 1\.0, and 0\.5 is given"):
        fm.load(tmp_path, clients=replace(anew, heterogeneity=0.5))
    assert anew == table != other


@pytest.mark.parametrize("source", ["FRAME.csv", {"path": "FRAME.csv"}, None])
def test_a_saved_study_makes_nobody_read_a_file(tmp_path, monkeypatch, source):
    """Whoever wrote it: a place of data in it is not followed, also where both copies of the setting name it."""
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("FRAME.csv", index=False)
    study = fm.compare([fm.FedAvg(**RATES)], fm.Table(FRAME, **GOOD), **SHORT)
    encode = archive.encode
    monkeypatch.setattr(archive, "encode", lambda v, **how: source if isinstance(v, Rows) else encode(v, **how))
    study.save(tmp_path / "study")
    with pytest.raises(
        StudyError, match=r"clients: data are not saved with a study; .*fm\.load\(folder, clients=\.\.\.\)"
    ):
        fm.load(tmp_path / "study")


def test_a_step_size_is_searched_for_each_data_anew():
    one = fm.Table(FRAME, client="who", target="y", features=["x"])
    two = fm.Table(FRAME.assign(y=FRAME["x"]), client="who", target="y", features=["x"])
    for table in (one, two):
        with pytest.warns(Searched, match="FedReptile on Table"):
            fm.compare([fm.FedReptile()], table, **SHORT)
    fm.compare([fm.FedReptile()], replace(one, heterogeneity=0.2), **SHORT)  # known: says nothing


def test_a_change_of_heterogeneity_reads_nothing_again():
    table = plain()
    assert replace(table, heterogeneity=0.5).rows is table.rows
    with pytest.raises(DataError, match="make it anew"):
        replace(table, target="x")


def test_seeds_of_other_lengths_are_padded():
    table = plain(frame(5, 2, 40))
    setup = prepare([fm.FedAvg()], table, seeds=4, clients_per_round=1)
    assert setup.training.support.x.shape[0] == 4
    for s in range(4):
        alone, e = table.draw("training", s).support, setup.training.support
        n = alone.weight.shape[2]
        assert torch.equal(e.weight[s : s + 1, :, :n], alone.weight)
        assert not e.weight[s, :, n:].any()


# --- Files ----------------------------------------------------------------------------------------------------------


def rows_equal(a, b):
    assert_close(a.rows.x, b.rows.x, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(a.rows.y, b.rows.y)
    assert (a.rows.names, a.rows.columns) == (b.rows.names, b.rows.columns)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_is_its_frame(tmp_path, separator, encoding):
    f = FRAME.assign(kind=FRAME["kind"].replace("red", 'Zürich, "alt"'))
    path = tmp_path / "t.csv"
    f.to_csv(path, sep=separator, encoding=encoding, index=False)
    options = {"client": "who", "target": "y"}
    rows_equal(fm.Table(path, **options), fm.Table(f, **options))
    assert fm.Table(path, **options) == fm.Table(str(path), **options)


def test_what_is_not_utf_8_is_read_as_windows_1252_and_said(tmp_path):
    f = FRAME.assign(kind=FRAME["kind"].replace("red", "Zürich €"))
    f.to_csv(tmp_path / "t.csv", encoding="cp1252", index=False)
    with pytest.warns(Decided, match=r"t\.csv is not UTF-8 and is read as Windows-1252"):
        table = fm.Table(tmp_path / "t.csv", client="who", target="y")
    assert "kind = Zürich €" in table.rows.columns


def test_a_folder_of_files_is_one_client_each_in_mixed_encodings(tmp_path):
    f = FRAME.assign(kind=FRAME["kind"].replace("red", "Zürich"))
    for i, (who, part) in enumerate(f.groupby("who")):
        part.drop(columns="who").to_csv(tmp_path / f"{who}.csv", encoding=("utf-8", "cp1252")[i % 2], index=False)
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.csv").write_text("x")
    with pytest.warns(Decided) as said:
        table = fm.Table(tmp_path, target="y")
    message = str(said[0].message)
    assert "files of another kind are left out: 'README.md'" in message
    assert "c01.csv is not UTF-8" in message
    rows_equal(table, fm.Table(f, client="who", target="y"))
    for file in tmp_path.glob("*.csv"):  # the same with the column
        file.unlink()
    f.iloc[:50].to_csv(tmp_path / "a.csv", index=False)
    f.iloc[50:].to_csv(tmp_path / "b.csv", index=False)
    (tmp_path / "README.md").unlink()
    rows_equal(fm.Table(tmp_path, client="who", target="y"), fm.Table(f, client="who", target="y"))


def test_parquet_or_how_to_read_it(tmp_path):
    path = tmp_path / "t.parquet"
    if find_spec("pyarrow") is None:
        path.write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"need pyarrow; install it with pip install pyarrow"):
            fm.Table(path, client="who", target="y")
        return
    FRAME.to_parquet(path)
    rows_equal(fm.Table(path, client="who", target="y"), fm.Table(FRAME, client="who", target="y"))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is no Parquet file, or a damaged one"):
        fm.Table(path, client="who", target="y")


def test_numbers_of_rows_that_a_frame_wrote_are_no_input(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv")
    with pytest.warns(Decided, match="1 column without a name in t.csv left out"):
        table = fm.Table(tmp_path / "t.csv", client="who", target="y")
    rows_equal(table, fm.Table(FRAME, client="who", target="y"))


def test_names_of_clients_keep_their_zeros(tmp_path):
    f = FRAME.assign(who=FRAME["who"].str.replace("c", "0"))
    f.to_csv(tmp_path / "t.csv", index=False)
    assert fm.Table(tmp_path / "t.csv", client="who", target="y").rows.names[0] == "000"


# --- Bad input ------------------------------------------------------------------------------------------------------

GOOD = {"client": "who", "target": "y"}


def tenth(column, value):
    """FRAME with every tenth value of a column replaced."""
    f = FRAME.copy()
    f[column] = f[column].astype(object)
    f.loc[::10, column] = value
    return f


REFUSED = {
    "no such column": (FRAME, {"target": "Y"}, r"no column is called 'Y'; did you mean 'y'; the columns are 'who',"),
    "no such client": (FRAME, {"client": "hospital"}, "no column is called 'hospital'"),
    "no such feature": (FRAME, {"features": ["x", "z"]}, "no column is called 'z'"),
    "no client named": (FRAME, {"client": None}, "client = None; name the column"),
    "no target": (FRAME, {"target": ()}, "names no column to predict"),
    "a target by number": (FRAME, {"target": 3}, "target = 3 is no name of a column"),
    "the target as a feature": (FRAME, {"features": ["x", "y"]}, "'y' is an input and the client or the target too"),
    "the client as the target": (FRAME, {"target": "who"}, "'who' is the client and the target too"),
    "categories that are none": (FRAME, {"features": ["x"], "categories": ["kind"]}, "which is no input"),
    "one client": (FRAME.assign(who="a"), {}, "'who' names one client, 'a'; three or more"),
    "no client": (FRAME.assign(who=None), {}, "'who' names no client"),
    "two clients": (FRAME.assign(who=np.arange(len(FRAME)) % 2), {}, "2 clients with two or more rows; three are"),
    "one row each": (FRAME.assign(who=np.arange(len(FRAME))), {}, "0 clients with two or more rows"),
    "one class": (FRAME.assign(good="yes"), {"target": "good"}, "target 'good' has one class, 'yes'"),
    "one number": (FRAME.assign(y=2.5), {}, "target 'y' is 2.5 in every row"),
    "no target value": (FRAME.assign(y=np.nan), {}, "column 'y' holds nothing"),
    "an infinite target alone": (FRAME.assign(y=np.inf), {}, "column 'y' holds nothing that is finite"),
    "texts for numbers": (FRAME, {"target": "good", "task": "regression"}, "'good' holds texts, and regression wants"),
    "classes of two": (FRAME, {"target": ["good", "kind"], "task": "classification"}, "several classes"),
    "texts among classes": (FRAME, {"target": ["y", "kind"]}, "target 'kind' holds texts"),
    "texts among numbers": (tenth("x", "12 kg"), {}, r"'x' holds numbers, and \d+ texts among them: '12 kg'; correct"),
    "texts in the target": (tenth("y", "?"), {}, r"'y' holds numbers, and .*missing=\('\?',\)"),
    "an empty frame": (FRAME.iloc[:0], {}, "no row below"),
    "two of a name": (FRAME.rename(columns={"x": "y"}), {}, "two columns are called 'y'"),
    "nothing to learn from": (FRAME[["who", "y"]], {}, "no column is left for inputs"),
    "empty inputs": (FRAME.assign(x=np.nan), {"features": ["x"]}, "no column is left for inputs"),
    "lists": (FRAME.assign(x=[[1]] * len(FRAME)), {}, "'x' holds values of type list"),
    "complex numbers": (FRAME.assign(x=1j), {}, "'x' is of complex128"),
    "periods": (FRAME.assign(x=pd.period_range("2020", periods=len(FRAME))), {}, "'x' holds values of type Period"),
    "a time of texts": (FRAME, {"time": "kind"}, "time = 'kind' holds neither numbers nor dates"),
    "no frame": ([1, 2], {}, "source = list is no data frame"),
    "no file": ("nowhere.csv", {}, "nowhere.csv does not exist"),
    "too many unseen": (FRAME, {"n_unseen": 12}, "n_unseen = 12 of 12 clients"),
    "too many in all": (FRAME, {"n_clients": 8, "n_unseen": 3, "n_validation": 2}, "n_clients = 8, .* of 12 clients"),
    "another task": (FRAME, {"task": "ranking"}, "task = 'ranking' is not one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_read_is_one_clear_error(case):
    source, options, message = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Decided)
        with pytest.raises(ValueError, match=message) as refused:
            fm.Table(source, **GOOD | options)
    assert refused.traceback[-1].path.parts[-3] != "site-packages"
    assert "fmlab" in refused.traceback[-1].path.parts


SAID = {
    "a client of one row": (
        pd.concat([FRAME, FRAME.iloc[:1].assign(who="lonely")]), {},
        "1 client with one row left out, which cannot adapt and be scored: 'lonely'",
    ),
    "rows of nobody": (tenth("who", None), {}, r"\d+ rows without a client \('who'\) left out"),
    "rows of a blank": (tenth("who", "  "), {}, r"\d+ rows without a client"),
    "blanks around names": (tenth("who", " c00 "), {}, "names differ in blanks or in type alone are one: 'c00'"),
    "a number and its text": (
        FRAME.assign(who=[w if i % 2 else str(w) for i, w in enumerate(FRAME["who"].str[1:].astype(int))]), {},
        "names differ in blanks or in type alone are one: '0', '1'",
    ),
    "rows without a target": (tenth("y", np.nan).astype({"y": float}), {}, "rows without a finite 'y' left out"),
    "an infinite target": (tenth("y", np.inf).astype({"y": float}), {}, "rows without a finite 'y' left out"),
    "an infinite input": (tenth("x", np.inf).astype({"x": float}), {}, "infinite values of 'x' taken as missing"),
    "a time that is missing": (
        tenth("when", np.nan).astype({"when": float}), {"time": "when"}, "without a finite 'when' left out",
    ),
    "an empty input": (FRAME.assign(x=np.nan), {}, "column 'x' holds nothing and is left out"),
    "texts of all kinds": (
        FRAME.assign(kind=[f"note {i}" for i in range(len(FRAME))]), {}, r"\d+ different texts, more than 100",
    ),
    "dates": (FRAME.assign(x=pd.date_range("2020", periods=len(FRAME))), {}, "dates of 'x' are read as days"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_is_decided_is_said(case):
    source, options, message = SAID[case]
    with pytest.warns(Decided, match=message) as said:
        table = fm.Table(source, **GOOD | options)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert fm.compare([fm.FedAvg(**RATES)], table, **SHORT).adaptation["FedAvg"].isfinite().all()


@pytest.mark.parametrize("mark", ["?", -999, -999.0])
def test_marks_that_stand_for_a_missing_value(tmp_path, mark):
    f, expected = tenth("x", mark), tenth("x", None).astype({"x": float})
    f.to_csv(tmp_path / "t.csv", index=False)
    for source in (f, tmp_path / "t.csv"):
        with pytest.warns(Decided, match="missing values of 'x'"):
            table = fm.Table(source, **GOOD, missing=["?", "-999"])
        rows_equal(table, quietly(expected, **GOOD))


BYTES = {
    "empty": (b"", "is empty"),
    "blank lines": (b"\n\n", "is empty"),
    "names only": (b"who,x,y\n", "no row below"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text, whatever its name says"),
    "half of UTF-16": (b"\xff\xfea\0,", "damaged: it starts like UTF-16"),
    "UTF-32": ("who,x,y\na,1,2\n".encode("utf-32"), "is UTF-32, which is not read here; save the table as UTF-8"),
    "a page": (b"<html><body><table><tr><td>who</td></tr></table></body></html>\n", "no column is called 'who'"),
    "JSON": (b'{\n "who": [\n  1,\n  2\n ]\n}\n', "no column is called 'who'|is no table"),
    "packed": (gzip.compress(b"who,x,y\na,1,2\n" * 99), "is no text, whatever its name says"),
    "a line above the names": (b"My table\n\nwho,x,y\na,1,2\n", "is no table"),
    "longer rows": (b"who,x,y\na,1,2\na,1,2,3\n", "is no table: .*every line has the same number of cells"),
    "all rows longer": (b"who,x,y\na,1,2,3\na,1,2,3\n", "is no table"),
    "an open quote": (b'who,x,y\na,"1,2\n', "is no table"),
    "two of a name": (b"who,x,x,y\na,1,2,3\n", "two columns called 'x'"),
}


@pytest.mark.parametrize("case", BYTES)
def test_a_file_that_is_no_table(tmp_path, case):
    content, message = BYTES[case]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        fm.Table(path, **GOOD)
    assert str(path) in str(refused.value)


def test_a_folder_that_does_not_fit_together(tmp_path):
    with pytest.raises(DataError, match=r"no CSV or Parquet file in this folder; .*fm\.Leaf"):
        fm.Table(tmp_path, target="y")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n2,3\n")
    (tmp_path / "b.csv").write_text("x,z\n1,2\n2,3\n")
    with pytest.raises(DataError, match=r"b\.csv: no column is called 'y'"):
        fm.Table(tmp_path, target="y")
    (tmp_path / "b.csv").write_text("x,y,z\n1,2,3\n")
    with pytest.raises(DataError, match=r"b\.csv and a\.csv do not have the same columns: 'z'"):
        fm.Table(tmp_path, target="y")
    (tmp_path / "b.csv").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"b\.csv is no text"):
        fm.Table(tmp_path, target="y")
    (tmp_path / "b.csv").rename(tmp_path / "A.tsv")
    with pytest.raises(DataError, match=r"two files name the same client: 'A\.tsv', 'a\.csv'"):
        fm.Table(tmp_path, target="y")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"t\.xlsx is no table that is read here \(\.csv, .*save it as CSV"):
        fm.Table(tmp_path / "t.xlsx", client="who", target="y")


# --- LEAF -----------------------------------------------------------------------------------------------------------


def leaf(folder, data, name="data.json", **other):
    folder.mkdir(parents=True, exist_ok=True)
    held = {"users": list(data), "num_samples": [len(d["y"]) for d in data.values()], "user_data": data}
    (folder / name).write_text(json.dumps(held | other))


def users(n=5, first=0, examples=4, label=lambda i, j: (i + j) % 3):
    return {
        f"u{i}": {"x": [[i + 0.5, j] for j in range(examples)], "y": [label(i, j) for j in range(examples)]}
        for i in range(first, first + n)
    }


def test_leaf_s_users_are_clients(tmp_path):
    leaf(tmp_path / "train", users(3), "a.json")
    leaf(tmp_path / "train", users(2, 3), "b.json")
    leaf(tmp_path / "test", users(5, examples=2), "a.json")
    clients = fm.Leaf(tmp_path)
    assert clients.rows.names == ("u0", "u1", "u2", "u3", "u4")
    assert clients.rows.counts.tolist() == [6] * 5
    assert clients.rows.x[:6].tolist() == [[0.5, j] for j in (0, 1, 2, 3, 0, 1)]
    assert clients.rows.y[:6].tolist() == [0, 1, 2, 0, 0, 1]
    assert clients.rows.outputs == 3
    study = fm.compare([fm.FedAvg(**RATES)], clients, **SHORT)
    assert study.accuracy["FedAvg"].shape == (2, 1, 3)
    leaf(tmp_path / "texts", users(label=lambda i, j: "ba"[j % 2]))
    texts = fm.Leaf(tmp_path / "texts")
    assert texts.rows.classes == ("a", "b")
    assert texts.rows.y[:4].tolist() == [1, 0, 1, 0]
    leaf(tmp_path / "numbers", users(label=lambda i, j: i + j / 2))
    numbers = fm.Leaf(tmp_path / "numbers")
    assert numbers.rows.y.shape == (20, 1)


def test_leaf_s_users_with_one_example_are_left_out_and_said(tmp_path):
    leaf(tmp_path, users() | users(1, 7, 1))
    with pytest.warns(Decided, match="fewer than two examples left out.*: 'u7'"):
        assert len(fm.Leaf(tmp_path).rows.names) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": [4, 4, 4, 4, 5]}, r"user 'u4' has 4 x and 4 y, and num_samples says 5"),
        ({"num_samples": [4]}, "5 users and 1 num_samples"),
        ({"users": ["u0", "u0", "u1", "u2", "u3"]}, "do not name the same users once each"),
        ({"users": ["u0"]}, "do not name the same users"),
        ({"users": 3}, "users and num_samples are lists"),
        ({"user_data": users() | {"u1": {"x": [[1, 2]] * 4}}}, "user 'u1' has no lists"),
        (
            {"user_data": users() | {"u1": {"x": ["a.jpg"] * 4, "y": [1] * 4}}},
            r"'u1' has an x that is not numbers .*fm\.D",
        ),
        ({"user_data": users() | {"u1": {"x": [[1], [1, 2], [1], [1]], "y": [1] * 4}}}, "'u1' has an x that is not"),
        ({"user_data": users() | {"u1": {"x": [[1, math.nan]] * 4, "y": [1] * 4}}}, "'u1' has an x that is not"),
        ({"user_data": users() | {"u1": {"x": [[1]] * 4, "y": [1] * 4}}}, r"x of client 'u1' is \(1,\)"),
        ({"user_data": users() | {"u1": {"x": [[1, 2]] * 4, "y": [0.5] * 4}}}, "y of client 'u1' is"),
        (
            {"user_data": users() | {"u1": {"x": [[1, 2]] * 4, "y": ["a", 1, 1, 1]}}},
            "has a y that is no text, and elsewhere",
        ),
        ({"user_data": users() | {"u1": {"x": [[1, 2]] * 4, "y": [-1] * 4}}}, "a class is -1"),
    ],
)
def test_leaf_s_format_is_checked(tmp_path, change, message):
    leaf(tmp_path, users(), **change)
    with pytest.raises(DataError, match=message):
        fm.Leaf(tmp_path)


def test_leaf_s_files_are_checked(tmp_path):
    with pytest.raises(DataError, match="holds no JSON file"):
        fm.Leaf(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        fm.Leaf(tmp_path / "nowhere")
    for content in (b"{", b"\xff\xfe", b"[" * 10_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json is no JSON in UTF-8"):
            fm.Leaf(tmp_path)
    (tmp_path / "a.json").write_text('{"users": []}')
    with pytest.raises(DataError, match=r"a\.json is not of LEAF: 'num_samples' is missing"):
        fm.Leaf(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="it holds no object"):
        fm.Leaf(tmp_path)
    leaf(tmp_path, users(), "a.json")
    leaf(tmp_path, users(), "b.json")
    with pytest.raises(DataError, match=r"b\.json and a\.json both hold user 'u0'"):
        fm.Leaf(tmp_path)


# --- Datasets -------------------------------------------------------------------------------------------------------


class Own(Dataset):
    def __init__(self, n, shape=(3,), label=float):
        self.n, self.shape, self.label = n, shape, label

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return torch.full(self.shape, float(i)), self.label(i % 2)


def test_datasets_are_clients_as_they_are():
    x, y = torch.randn(5, 4, 3), torch.randn(5, 4)
    clients = fm.Datasets([TensorDataset(a, b) for a, b in zip(x, y, strict=True)])
    assert_close(clients.rows.x, x.flatten(0, 1))
    assert_close(clients.rows.y, y.reshape(-1, 1))
    slow = fm.Datasets([[(a, float(b)) for a, b in zip(xs, ys, strict=True)] for xs, ys in zip(x, y, strict=True)])
    assert slow == clients
    named = fm.Datasets({"a": Own(4), "b": Own(5), "c": Own(6)})
    assert named.rows.names == ("a", "b", "c")
    assert named.rows.counts.tolist() == [4, 5, 6]
    assert fm.Datasets([Own(4, label=int)] * 3).rows.y.tolist() == [0, 1, 0, 1] * 3


def test_any_module_trains_on_datasets():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4 * 4, 2))
    images = fm.Datasets([Own(n, (1, 6, 6), int) for n in (3, 6, 9, 4)])
    words = fm.Datasets([TensorDataset(torch.randint(5, (6, 4)), torch.randint(3, (6,))) for _ in range(4)])
    reads = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 3))
    for clients, module in ((images, net), (words, reads)):
        study = fm.compare(
            [fm.FedAvg(**RATES), fm.FedMAML(inner_lr=0.1, adapt_lr=0.1)], clients, model=fm.lift(module), **SHORT
        )
        assert study.adaptation["FedMAML"].isfinite().all()
    with pytest.raises(DataError, match=r"inputs of dtype torch\.int64.*nn\.Embedding: model=fm\.lift"):
        fm.compare([fm.FedAvg(**RATES)], words, **SHORT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "source = int is no list of torch Datasets"),
        ([Own(4)] * 2, "2 clients with two or more examples; three are the least"),
        ([], "0 clients with two or more"),
        ([iter([]), *[Own(4)] * 3], "client '0' is list_iterator, no Dataset with a length"),
        ([[1, 2], *[Own(4)] * 3], "client '0', example 0 is no pair"),
        ([[(1, 2), ("a", 2)], *[Own(4)] * 3], "client '0', example 1 is no pair"),
        ([Own(4), Own(4, (2,)), Own(4)], r"x of client '1' is \(2,\) of .*, and of client '0' \(3,\)"),
        ([Own(4), Own(4), Own(4, label=int)], "y of client '2' is"),
        ([[(torch.zeros(2), 1.0), (torch.zeros(3), 2.0)], *[Own(4)] * 3], r"example 1 has x of shape \(3,\)"),
        ([[(math.nan, 1.0), (0.0, 2.0)]] * 3, "an x holds NaN or infinite"),
        ([[(0.0, 1.0), (0.0, math.inf)]] * 3, "a y holds NaN or infinite"),
        ([[(0.0, 1), (1.0, 1)]] * 3, "y is the same in every example"),
        ({1: Own(4), "1": Own(4), 2: Own(4)}, "two clients have the same name"),
    ],
)
def test_datasets_that_do_not_fit(source, message):
    with pytest.raises(DataError, match=message):
        fm.Datasets(source)
