"""The adaptation step size that validation clients choose: which one, for whom, and that everything takes the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab.adaptation import pick, settled
from fmlab.declare import Validated
from fmlab.setup import prepare

SMALL = fm.Sines(n_clients=12, n_validation=7, n_unseen=5)
SHORT = {"rounds": 4, "seeds": 2, "clients_per_round": 4, "steps": 3, "evaluations": 2}
AROUND = {"lr": 0.02, "adapt_lr": fm.validated(0.04)}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_the_best_or_where_it_is_no_better_by_a_standard_error_the_smallest(candidates, runs, clients, seed):
    losses = torch.randn(candidates, runs, clients, generator=torch.Generator().manual_seed(seed))
    found = pick(losses)
    for r in range(runs):
        own = losses[:, r].numpy()
        best = own.mean(1).argmin()
        gain = own[0] - own[best]
        assert found[r] == (best if gain.mean() > gain.std() / np.sqrt(clients) else 0)


def test_where_clients_cannot_tell_the_smallest_is_taken():
    assert pick(torch.ones(4, 3, 6)).tolist() == [0, 0, 0]
    clear = torch.tensor([4.0, 3.0, 1.0, 2.0])[:, None, None].expand(4, 3, 6)
    assert pick(clear).tolist() == [2, 2, 2]
    assert pick(clear[..., :1]).tolist() == [2, 2, 2], "a client alone has no spread"


def test_each_run_has_the_step_size_that_scores_best_on_its_own_validation_clients():
    """A study with the choice left open is, seed by seed, the study with the chosen one given."""
    study = fm.compare([fm.FedAvg(**AROUND)], SMALL, **SHORT)
    chosen = study.adapt_lr["FedAvg"]
    assert chosen.shape == (2,)
    assert set(chosen.tolist()) <= set(Validated(0.04).candidates)
    for i, lr in enumerate(chosen.tolist()):
        given_ = fm.compare([fm.FedAvg(lr=0.02, adapt_lr=lr)], SMALL, **SHORT | {"seeds": [i]})
        for kind in ("adaptation", "learning"):
            ours, theirs = getattr(study, kind)["FedAvg"][i], getattr(given_, kind)["FedAvg"][0]
            last = ours if kind == "adaptation" else ours[-1]  # earlier evaluations choose for themselves
            assert_close(last, theirs if kind == "adaptation" else theirs[-1])
        assert_close(study.participating["FedAvg"][i], given_.participating["FedAvg"][0])
        assert_close(study.adapted("FedAvg", seed=i), given_.adapted("FedAvg"))


@pytest.mark.parametrize("sweep", [{"lr": fm.sweep(0.01, 0.05)}, {"local_steps": fm.sweep(1, 3)}], ids=str)
def test_every_value_of_a_sweep_chooses_for_itself(sweep):
    study = fm.compare({"A": fm.FedAvg(**AROUND | sweep)}, SMALL, **SHORT)
    assert study.adapt_lr["A"].shape == (2, 2)
    for v in range(2):
        one = {name: values.values[v] for name, values in sweep.items()}
        alone = fm.compare({"A": fm.FedAvg(**AROUND | one)}, SMALL, **SHORT)
        assert torch.equal(study.adapt_lr["A"][v], alone.adapt_lr["A"])
        assert_close(study.adaptation["A"][v], alone.adaptation["A"])
        assert_close(study.adapted("A", value=v), alone.adapted("A"))


def test_a_step_size_that_lets_a_client_fly_away_is_not_chosen():
    """Twice and once this centre end in infinity, and NaN, for some."""
    setup = prepare([fm.FedAvg(lr=0.01, adapt_lr=fm.validated(1.5))], SMALL, **SHORT | {"steps": 30})
    (a,) = setup.algorithms.values()
    _, chosen = settled(setup, a, {"model": setup.start[:, None]})
    assert chosen.isfinite().all()
    assert (chosen < 1.5).all()


def test_methods_without_such_a_step_size_have_none():
    study = fm.compare([fm.LocalOnly(lr=0.01), fm.FedMetaSGD(inner_lr=0.01), fm.FedAvg(**AROUND)], SMALL, **SHORT)
    assert list(study.adapt_lr) == ["FedAvg"]
    assert study.adapted("FedMetaSGD").shape == study.adapted("FedAvg").shape
    assert set(study.participating) == {*study.names}


def test_it_is_saved_and_goes_on_the_same(tmp_path):
    whole = fm.compare([fm.FedAvg(**AROUND)], SMALL, **SHORT | {"rounds": 8, "evaluations": (0, 4, 8)})
    fm.compare([fm.FedAvg(**AROUND)], SMALL, **SHORT | {"evaluations": (0, 4)}).save(tmp_path)
    later = fm.load(tmp_path).resume(rounds=8)
    assert torch.equal(later.adapt_lr["FedAvg"], whole.adapt_lr["FedAvg"])
    assert torch.equal(later.adaptation["FedAvg"], whole.adaptation["FedAvg"])
    again = fm.compare(**whole.config)
    assert torch.equal(again.adaptation["FedAvg"], whole.adaptation["FedAvg"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert '"validated": 0.04' in json.dumps(config)


def test_a_study_holds_only_what_its_config_allows(tmp_path):
    study = fm.compare([fm.FedAvg(**AROUND)], SMALL, **SHORT)
    replace(study, adapt_lr={"FedAvg": study.adapt_lr["FedAvg"] * 1.1}).save(tmp_path)
    with pytest.raises(ValueError, match=r"adapt_lr/0 \(FedAvg\) holds .* the config allows \[0\.01, 0\.02, 0\.04, 0"):
        fm.load(tmp_path)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: fm.FedAvg(adapt_lr=fm.validated(11.0)), r"adapt_lr = 11\.0 is outside \[0, 10\]"),
        (lambda: fm.FedAvg(adapt_lr=fm.validated("a")), r"adapt_lr = 'a' is not a number"),
        (lambda: fm.FedAvg(lr=fm.validated(0.1)), r"lr = validated\(0\.1\) is not a number"),
    ],
)
def test_bad_input(made, says):
    with pytest.raises(ValueError, match=says):
        made()
