"""Whatever the model, weights, dtype and names: a study is complete, runs again to the same, and its scores are its
models' own; a model that does not fit is refused before a round."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fmlab as fm
from fmlab.report import hurt, worst_tenth
from fmlab.setup import prepare

SMALL = {"n_clients": 5, "n_validation": 2, "n_unseen": 3}
TASKS = {"Sines": (fm.Sines(**SMALL), 1, 1), "Synthetic": (fm.Synthetic(**SMALL, test=5), 60, 10)}
RATES = {"lr": 0.01, "adapt_lr": 0.01}
METHODS = [
    fm.FedAvg(**RATES), fm.FedAvg(**RATES, batch_size=3), fm.FedMAML(inner_lr=0.01, adapt_lr=0.01),
    fm.FedMetaSGD(inner_lr=0.01), fm.PFedMe(local_rounds=2, inner_lr=0.01, **RATES), fm.Ditto(**RATES),
    fm.FedAvg(lr=fm.sweep(0.01, 0.02), adapt_lr=0.01),
]  # fmt: skip
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


def network(sizes, lifted):
    if not lifted:
        return fm.MLP(sizes)
    layers = []
    for d, o in pairwise(sizes):
        layers += [nn.Linear(d, o), nn.Tanh()]
    return fm.lift(nn.Sequential(*layers[:-1]), fresh=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), hidden=st.lists(st.integers(1, 9), max_size=3), lifted=st.booleans())
def test_any_study(data, hidden, lifted):
    clients, inputs, outputs = TASKS[data.draw(st.sampled_from(sorted(TASKS)))]
    methods = data.draw(st.dictionaries(names, st.sampled_from(METHODS), min_size=1, max_size=3))
    options = {
        "rounds": 2, "seeds": data.draw(st.integers(1, 2)), "clients_per_round": data.draw(st.integers(1, 5)),
        "steps": data.draw(st.integers(1, 3)), "evaluations": 1,
        "weights": data.draw(st.sampled_from(["uniform", "size"])),
        "dtype": data.draw(st.sampled_from([torch.float32, torch.float64])),
    }  # fmt: skip
    study = fm.compare(methods, clients, model=network((inputs, *hidden, outputs), lifted), **options)
    again = fm.compare(**study.config)
    _, query = study.unseen.everyone()
    assert study.names == list(methods)
    for name in methods:
        loss = study.adaptation[name]
        assert loss.dtype == options["dtype"]
        assert loss.isfinite().all()
        assert torch.equal(loss, again.adaptation[name])
        assert name in study.table()
        value = loss.ndim - 3  # the last of a sweep's
        last = loss[-1] if value else loss
        assert last.shape == (options["seeds"], 3, options["steps"] + 1)
        e = query.map(lambda t: t[-1:, 2:].expand(1, options["steps"] + 1, *t.shape[2:]))
        models = study.adapted(name, options["seeds"] - 1, 2, value)[None]
        torch.testing.assert_close(study.setup.objective(models, e)[0], last[-1, 2], rtol=1e-4, atol=1e-5)
    wrong = data.draw(st.sampled_from([outputs + 1, outputs + 2] if outputs == 1 else [1, outputs - 1]))
    with pytest.raises(ValueError, match="does not fit the training clients' support set"):
        prepare(methods, clients, model=network((inputs, *hidden, wrong), lifted), **options)


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 1e4, math.inf, math.nan]), min_size=3, max_size=3), min_size=1)
)
def test_hurt_is_whoever_has_not_at_least_what_it_had(losses):
    kept = [math.isfinite(last) and last <= first for first, _, last in losses]
    assert hurt(torch.tensor(losses)).tolist() == [not k for k in kept]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=45), st.randoms(use_true_random=False))
def test_the_worst_tenth_is_that_of_a_sorted_list(scores, random):
    tenth = max(1, len(scores) // 10)
    shuffled = random.sample(scores, len(scores))
    for accuracy in (False, True):
        wanted = sum(sorted(scores, reverse=not accuracy)[:tenth]) / tenth
        found = worst_tenth(torch.tensor([scores, shuffled], dtype=torch.float64), accuracy)
        assert found.tolist() == pytest.approx([wanted, wanted])


def test_who_flew_away_is_among_the_worst_tenth():
    assert worst_tenth(torch.tensor([[0.0] * 19 + [float("nan")]]), accuracy=False).isinf().all()
