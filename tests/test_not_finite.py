"""A loss or a prediction that is not finite is an event: it counts, and it is said."""

import math

import numpy as np
import pytest
import torch

import fmlab as fm
from fmlab.losses import CrossEntropy
from fmlab.report import FLOWN, flown, hurt
from lab import plots
from lab.plots import style
from lab.plots.words import sentence


@pytest.fixture(scope="module")
def study():
    """FedMAML whose adaptation step size is far too large for Sines: most clients fly away, the server is well."""
    methods = [fm.FedMAML(inner_lr=0.01, adapt_lr=0.3), fm.FedAvg(lr=0.02, adapt_lr=0.001)]
    clients = fm.Sines(n_clients=30, n_unseen=20)
    return fm.compare(methods, clients, rounds=20, seeds=2, clients_per_round=10, steps=30, dtype=torch.float32)


def test_whoever_ends_without_a_finite_loss_is_hurt(study):
    loss = study.adaptation["FedMAML"].flatten(0, 1)
    assert (study.diverged["FedMAML"] < 0).all()
    one_by_one = [not math.isfinite(c[-1]) or c[-1] > c[0] for c in loss.tolist()]
    assert sum(not math.isfinite(c[-1]) for c in loss.tolist()) > len(loss) / 2
    (row,) = (line for line in study.table().splitlines() if line.startswith("FedMAML"))
    assert f"  {100 * sum(one_by_one) / len(loss):.0f} %  " in row
    inf, nan = math.inf, math.nan
    losses = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, nan], [1.0, inf], [inf, inf], [inf, 1.0]])
    assert hurt(losses).tolist() == [True, False, False, True, True, True, False]


def test_the_plot_counts_clients_that_flew_away_as_worse_off(study):
    ours, theirs = (study.adaptation[n][..., -1].flatten().tolist() for n in ("FedMAML", "FedAvg"))
    worse = sum(not math.isfinite(a) or a > b for a, b in zip(ours, theirs, strict=True))
    ax = style.figure().axes[0]
    plots.whom(ax, study)
    says = f"FedMAML: worse for {100 * worse / len(ours):.0f} %"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [says]
    mirrored = plots.gains(study, against="FedMAML")["FedAvg"]
    assert np.array_equal(mirrored, -plots.gains(study)["FedMAML"])


def test_who_flew_away_is_said_beside_the_median(study):
    loss = study.adaptation["FedMAML"]
    fresh = float(study.learning["FedMAML"][:, 0, 0].mean())
    away = [[not c <= FLOWN * fresh for c in client] for client in loss.flatten(0, 1).tolist()]
    assert flown(study, "FedMAML").flatten(0, 1).tolist() == away
    shown = sum(c[0] or c[1] or c[-1] for c in away)
    (row,) = (line for line in study.table().splitlines() if line.startswith("FedMAML"))
    assert f"[flew away: {shown} of 40 clients]" in row
    assert ", median " in row
    assert f"FedMAML flew away while adapting on {sum(map(any, away))} of 40 unseen clients." in sentence(study)
    m = plots.adaptation(style.figure().axes[0], study, base={})
    assert "FedMAML flew away while adapting" in m["diverged"].get_text()
    well = [line for line in study.table().splitlines() if line.startswith("FedAvg ")]
    assert "flew" not in well[0]
    assert "median" not in well[0]


def test_numbers_of_the_table_stay_readable(study):
    assert max(map(len, study.table().split())) < 20


def test_a_prediction_that_is_not_finite_is_wrong():
    inf, nan = math.inf, math.nan
    p = torch.tensor([[2.0, 1.0], [nan, 1.0], [nan, nan], [inf, 1.0], [1.0, -inf], [1.0, 2.0]])
    assert CrossEntropy().correct(p, torch.zeros(6, dtype=torch.int64)).tolist() == [1, 0, 0, 0, 0, 0]


def test_a_diverged_server_has_no_accuracy():
    clients = fm.Digits(n_clients=5, n_unseen=10, n_validation=2)
    model = fm.MLP((64, 64, 64, 64, 64, 3))
    study = fm.compare(
        [fm.FedAvg(lr=10.0, adapt_lr=10.0)], clients, model=model, rounds=6, seeds=1, clients_per_round=5,
        evaluations=6, steps=1, dtype=torch.float32,
    )  # fmt: skip
    gone = int(study.diverged["FedAvg"])
    assert gone > 0
    assert (study.learning_accuracy["FedAvg"][0, gone:] == 0).all()


def test_meta_sgd_takes_the_steps_it_learned_and_stays():
    clients = fm.Sines(n_clients=5, n_unseen=3)
    few, many = (
        fm.compare([fm.FedMetaSGD(inner_steps=2)], clients, rounds=3, seeds=2, clients_per_round=5, steps=k)
        for k in (2, 6)
    )
    assert torch.equal(many.adaptation["FedMetaSGD"][..., :3], few.adaptation["FedMetaSGD"])
    assert (many.adaptation["FedMetaSGD"][..., 3:] == few.adaptation["FedMetaSGD"][..., 2:]).all()
