"""How unlike clients are: closed forms, chance by counting, and what heterogeneity does to it in every population."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab.populations.difference import _chance, of_labels, of_numbers
from fmlab.randomness import generator

SEEDS = range(6)


def grouped(*clients):
    values = torch.tensor([v for c in clients for v in c])
    return values, torch.tensor([i for i, c in enumerate(clients) for _ in c])


def information(labels, client):
    """The mutual information of two lists, by its definition."""
    n, found = len(labels), 0.0
    for a, b in set(zip(labels, client, strict=True)):
        p = sum(x == a and y == b for x, y in zip(labels, client, strict=True)) / n
        found += p * math.log(p / (labels.count(a) / n * client.count(b) / n))
    return found


@pytest.mark.parametrize(("labels", "sizes"), [([0, 0, 1, 1, 2], [2, 3]), ([0, 1, 1, 1], [1, 1, 2]), ([0, 1], [1, 1])])
def test_chance_is_the_mean_over_all_ways_to_deal(labels, sizes):
    client = [i for i, n in enumerate(sizes) for _ in range(n)]
    ways = [information(list(order), client) for order in itertools.permutations(labels)]
    found = _chance(torch.tensor(sizes), torch.tensor(labels).bincount())
    assert found == pytest.approx(sum(ways) / len(ways), rel=1e-10)


def test_chance_of_numbers_is_the_mean_over_all_ways_to_deal():
    y, client = [0.0, 1.0, 5.0, 7.0, 7.5], torch.tensor([0, 0, 1, 1, 1])

    def ratio(order):
        t = torch.tensor(order)
        means = torch.stack([t[client == i].mean() for i in range(2)])[client]
        return float((means - t.mean()).square().sum() / (t - t.mean()).square().sum())

    ways = [ratio(order) for order in itertools.permutations(y)]
    assert sum(ways) / len(ways) == pytest.approx(1 / 4)  # (N - 1) / (n - 1)
    chance = 1 / 4
    best = max(itertools.permutations(y), key=ratio)
    found = of_numbers(torch.tensor(best)[:, None], client).value
    assert found == pytest.approx((ratio(best) - chance) / (1 - chance))


def test_both_ends():
    assert of_labels(*grouped([0] * 4, [1] * 4, [2] * 9)).value == pytest.approx(1)
    assert of_labels(*grouped([0, 1, 2] * 2, [0, 1, 2] * 3)).value == 0
    assert of_labels(*grouped([3] * 5, [3] * 2)).value == 0  # one class: nothing to tell
    y, client = grouped([1.0] * 4, [2.0] * 7)
    assert of_numbers(y[:, None], client).value == pytest.approx(1)
    y, client = grouped([1.0, 2.0] * 4, [2.0, 1.0] * 7)
    assert of_numbers(y[:, None], client).value == 0


@pytest.mark.parametrize("p", [0.5, 0.6, 0.8, 0.95])
def test_two_clients_with_opposite_shares(p):
    """I = log 2 - h(p) of H = log 2; chance goes as 1 / n."""
    n = 100_000
    one = [0] * round(p * n) + [1] * round((1 - p) * n)
    labels, client = grouped(one, [1 - v for v in one])
    entropy = -sum(q * math.log(q) for q in (p, 1 - p))
    assert of_labels(labels, client).value == pytest.approx(1 - entropy / math.log(2), abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(4, 60), clients=st.integers(2, 5), classes=st.integers(2, 4))
def test_it_is_in_its_range_and_names_do_not_matter(data, n, clients, classes):
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    labels, client = torch.randint(classes, (n,), generator=draw), torch.randint(clients, (n,), generator=draw)
    y = torch.randn(n, 2, generator=draw)
    found = of_labels(labels, client).value, of_numbers(y, client).value
    assert all(0 <= v <= 1 for v in found)
    order, rename = torch.randperm(n, generator=draw), torch.randperm(clients, generator=draw)
    relabel = torch.randperm(classes, generator=draw)
    assert of_labels(relabel[labels[order]], rename[client[order]]).value == pytest.approx(found[0], abs=1e-9)
    moved = 3 - 2 * y[order]
    assert of_numbers(moved, rename[client[order]]).value == pytest.approx(found[1], abs=1e-9)


def natural(task):
    """Forty clients of 5 to 40 examples, unlike in what is to be predicted."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(40):
        own = rng.normal()
        for _ in range(rng.integers(5, 40)):
            y = own + rng.normal()
            rows.append((i, rng.normal(), y if task == "numbers" else "abc"[int(np.clip(y + 1.5, 0, 2))]))
    frame = pd.DataFrame(rows, columns=["who", "x", "y"])
    return fm.Table(frame, client="who", target="y")


MANY = {"n_clients": 80, "n_validation": 2, "n_unseen": 3}
PLACES = {**{p.__name__: p(**MANY) for p in fm.POPULATIONS}, **{t: natural(t) for t in ("numbers", "classes")}}


@pytest.mark.parametrize("name", PLACES)
def test_it_rises_with_heterogeneity_from_nothing(name):
    values = {}
    for h in (0.0, 0.5, 1.0):
        found = [replace(PLACES[name], heterogeneity=h).difference(seed) for seed in SEEDS]
        values[h] = sum(d.value for d in found) / len(SEEDS)
        assert all(0 <= d.value <= 1 for d in found)
        assert len({d.what for d in found}) == 1
    assert values[0.0] < 0.01
    assert values[0.0] + 0.02 < values[0.5]
    assert values[0.5] + 0.02 < values[1.0]


@pytest.mark.parametrize("seed", SEEDS)
def test_identical_clients_differ_by_nothing(seed):
    for p in (fm.Sines(heterogeneity=0.0, **MANY), fm.Quadratics(heterogeneity=0.0, **MANY)):
        assert p.difference(seed).value == pytest.approx(0, abs=1e-12)
    for p in (fm.Digits, fm.Glyphs):  # the same number of examples of the same classes
        assert p(heterogeneity=0.0, skew=0.0, **MANY).difference(seed).value == 0


def test_sines_against_points():
    p = fm.Sines(n_clients=50)
    amplitude, phase = p.curves("training", 0)
    x = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    f = amplitude * (x - phase).sin()
    assert p.difference(0).value == pytest.approx(float(f.var(0, correction=0).mean() / f.var(correction=0)), rel=1e-3)


def test_sines_of_many_clients_have_the_analytic_share():
    """Var f = E A^2 E_x sin^2(x - phi) - (E f)^2 and its mean curve, over A in [0.1, 5] and phi in [0, pi]."""
    s = math.sin(10) / 10
    square = 2.55**2 + 4.9**2 / 12
    # E cos^2 phi = E sin^2 phi = 1/2;  E cos phi = 0, E sin phi = 2/pi:  the mean curve is -2.55 (2/pi) cos x
    total = square * ((1 - s) + (1 + s)) / 4 - (2.55 * 2 / math.pi * math.sin(5) / 5) ** 2
    between = square / 2 - (2.55 * 2 / math.pi) ** 2 * (1 + s) / 2
    assert fm.Sines(n_clients=50_000).difference(0).value == pytest.approx(between / total, abs=0.01)


def test_quadratics_against_models():
    p = fm.Quadratics(n_clients=20, dim=3)
    m, a = p.losses("training", 1)
    w = 6 * torch.rand(200_000, 3, generator=generator("models"), dtype=torch.float64) - 3
    g = torch.einsum("nij,bnj->bni", a, w[:, None] - m)
    expected = 1 - float(g.mean(1).square().sum(1).mean() / g.square().sum(2).mean())
    assert p.difference(1).value == pytest.approx(expected, abs=5e-3)


def test_other_clients_are_measured_too():
    p = natural("classes")
    for split in ("validation", "unseen"):
        labels, client = p._targets(split, 0)
        assert len(client.unique()) == p.count(split)
        assert_close(torch.tensor(p.difference(0, split).value), torch.tensor(of_labels(labels, client).value))
    assert f"{float(p.difference()):.2f}" == f"{p.difference().value:.2f}"
