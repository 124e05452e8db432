"""Robust means, each beside a slow version by hand, and what liars can do to them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlab as fm
from fmlab.data import Batch, Examples

POPULATION = fm.Sines(n_clients=8, n_validation=2, n_unseen=3, support=4, query=3)
RUN = {"rounds": 3, "seeds": 2, "clients_per_round": 7, "steps": 1, "evaluations": 1}
SGD = [fm.FedAvg(2, lr=0.02, adapt_lr=0.02), fm.FedReptile(0.5, 2, lr=0.02, adapt_lr=0.02)]


def compare(methods=SGD, **options):
    return fm.compare(methods, POPULATION, **RUN | options)


def empty(runs, clients):
    x = torch.zeros(runs, clients, 1, 1)
    return Batch(Examples(x, x, x[..., 0] + 1), Examples(x, x, x[..., 0] + 1), seeds=tuple(range(runs)))


@st.composite
def rounds(draw):
    """Messages (R, C, .) of two entries, with ties, and the weights of those who answered."""
    runs, clients, seed = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(0, 999))
    g = torch.Generator().manual_seed(seed)
    sent = {name: torch.randn(runs, clients, n, generator=g) for name, n in (("model", 4), ("rates", 2))}
    if draw(st.booleans()):
        sent = {name: t.round() for name, t in sent.items()}
    if draw(st.booleans()):
        return sent, None
    here = torch.rand(runs, clients, 1, generator=g) < 0.7
    here[:, 0] = True
    return sent, here / here.sum(1, keepdim=True)


def by_hand(mean, sent, weight):
    """Run by run, in plain Python. ``mean`` takes the whole messages, a list of lists, of those who answered."""
    whole, out = torch.cat(list(sent.values()), -1), []
    for r in range(len(whole)):
        here = [c for c in range(whole.shape[1]) if weight is None or weight[r, c, 0] > 0]
        out.append(mean(whole[r, here].tolist()))
    return torch.tensor(out)[:, None]


def median(rows):
    found = []
    for column in zip(*rows, strict=True):
        ranked, n = sorted(column), len(column)
        found.append(ranked[n // 2] if n % 2 else (ranked[n // 2 - 1] + ranked[n // 2]) / 2)
    return found


def trimmed(share):
    def mean(rows):
        found = []
        for column in zip(*rows, strict=True):
            ranked, out = sorted(column), int(share * len(rows) + 1e-9)
            inside = ranked[out : len(ranked) - out]
            found.append(sum(inside) / len(inside))
        return found

    return mean


def krum(liars):
    def mean(rows):
        scores = []
        for i, a in enumerate(rows):
            apart = sorted(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for j, b in enumerate(rows) if j != i)
            scores.append(sum(apart[: max(1, len(rows) - liars - 2)]))
        best = min(scores)
        return next(row for row, score in zip(rows, scores, strict=True) if score <= best * (1 + 1e-12))

    return mean


SLOW = [(fm.Median(), median), *((fm.TrimmedMean(b), trimmed(b)) for b in (0.0, 0.2, 0.3, 0.49))]
SLOW += [(fm.Krum(f), krum(f)) for f in (0, 1, 3)]


@pytest.mark.parametrize(("mean", "slow"), SLOW, ids=lambda m: str(m) if isinstance(m, fm.means.Mean) else "")
@settings(max_examples=40, deadline=None)
@given(rounds())
def test_each_is_what_it_is_by_hand(mean, slow, case):
    sent, weight = case
    found = mean(sent, weight, empty(*sent["model"].shape[:2]))
    assert [(name, t.shape) for name, t in found.items()] == [(n, (len(t), 1, t.shape[-1])) for n, t in sent.items()]
    fast, hand = torch.cat(list(found.values()), -1), by_hand(slow, sent, weight)
    if isinstance(mean, fm.Krum):  # of equals, rounding may choose another
        assert_as_near(fast, hand, sent, weight, mean.liars)
    else:
        assert torch.allclose(fast, hand, rtol=1e-12, atol=1e-12)


def assert_as_near(fast, hand, sent, weight, liars):
    whole = torch.cat(list(sent.values()), -1)
    for r in range(len(whole)):
        rows = [whole[r, c] for c in range(whole.shape[1]) if weight is None or weight[r, c, 0] > 0]

        def score(m, rows=rows):
            apart = sorted(float((m - x).square().sum()) for x in rows)[1:]  # the first is itself
            return sum(apart[: max(1, len(rows) - liars - 2)])

        assert any(torch.equal(fast[r, 0], x) for x in rows)
        assert score(fast[r, 0]) == pytest.approx(score(hand[r, 0]), abs=1e-9)


@pytest.mark.parametrize("mean", [fm.Median(), fm.TrimmedMean(0.3), fm.Krum(2)], ids=str)
@pytest.mark.parametrize("lie", [1e9, -1e9, float("inf"), float("nan")])
def test_two_liars_of_seven_stay_within_what_the_honest_sent(mean, lie):
    g = torch.Generator().manual_seed(0)
    sent = {"model": torch.randn(3, 7, 5, generator=g)}
    sent["model"][:, 5:] = lie
    honest = sent["model"][:, :5]
    found = mean(sent, None, empty(3, 7))["model"]
    assert (found >= honest.amin(1, keepdim=True)).all()
    assert (found <= honest.amax(1, keepdim=True)).all()


def test_clients_who_agree_are_heard_by_every_mean():
    """Where all send the same, each is the plain mean."""
    sent = {"model": torch.randn(2, 1, 6).expand(-1, 5, -1)}
    for mean in (fm.Median(), fm.TrimmedMean(0.4), fm.Krum(1)):
        assert torch.allclose(mean(sent, None, empty(2, 5))["model"], sent["model"][:, :1], rtol=1e-12)


def test_nothing_trimmed_is_the_mean_also_with_dropout():
    plain, trimmed = compare(dropout=0.3), compare(dropout=0.3, mean=fm.TrimmedMean(0.0))
    for name in plain.names:
        assert torch.allclose(plain.adaptation[name], trimmed.adaptation[name], rtol=1e-9)


def test_reptiles_share_of_the_way_is_taken_of_the_median():
    study = compare(mean=fm.Median(), rounds=1)
    w = study.setup.start[:, None]
    away = {name: study.held[name]["model"] - w for name in study.names}
    assert torch.allclose(away["FedReptile"], 0.5 * away["FedAvg"], rtol=1e-9, atol=1e-12)


def test_opposite_liars_stop_the_mean_and_not_the_median():
    """With every client alike, four in ten who send ten times the opposite turn the mean round, and the median not."""
    alike = fm.Quadratics(heterogeneity=0.0, n_clients=40)
    fedavg = fm.FedAvg(1, lr=0.1, adapt_lr=0.1)
    options = {"rounds": 30, "seeds": 2, "clients_per_round": 40, "steps": 1, "evaluations": 1}
    lies = [fm.Liars(0.3, "opposite"), fm.Liars(0.3, "scaled"), fm.Liars(0.0)]
    honest = fm.compare([fedavg], alike, **options)
    for mean in (fm.Median(), fm.TrimmedMean(0.49), fm.Krum(18)):
        robust = fm.compare([fedavg], alike, **options, mean=mean, transforms=[lies[0]])
        assert torch.allclose(robust.adaptation["FedAvg"], honest.adaptation["FedAvg"], rtol=1e-6)
    ten = [fm.Liars(0.3, "scaled", 10.0), lambda sent, batch: sent]
    spoiled = fm.compare([fedavg], alike, **options, transforms=ten)
    assert (spoiled.adaptation["FedAvg"] != honest.adaptation["FedAvg"]).all()


def test_a_study_with_a_mean_is_saved_and_resumed(tmp_path):
    whole, first = compare(SGD[:1], mean=fm.Krum(2)), compare(SGD[:1], mean=fm.Krum(2), rounds=2)
    first.save(tmp_path)
    resumed = fm.load(tmp_path).resume(3)
    for name in whole.names:
        assert torch.equal(whole.adaptation[name], resumed.adaptation[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": fm.Krum(3)}, r"Krum\.liars = 3 of 7 clients a round: it needs 2 liars \+ 2 < clients; .* most 2"),
        ({"mean": fm.Krum(0), "clients_per_round": 2}, "it takes at least 3 clients"),
        ({"mean": fm.Median(), "weights": "size"}, "counts every client once; give weights = 'uniform'"),
        ({"mean": fm.TrimmedMean(fm.sweep(0.1, 0.2))}, r"a mean cannot be swept \(share\)"),
        (
            {"mean": fm.Median(), "methods": [fm.FedMA(1, 0.02, 0.02)]},
            r"mean = Median\(\) does not go with FedMA.*; give mean = None, or leave FedMA out",
        ),
        ({"transforms": [fm.Noise(1.0, by="server")], "methods": [fm.FedMA(1, 0.02, 0.02)]}, "Noise by the server"),
    ],
)
def test_bad_input_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        compare(**options)


def test_what_is_no_mean_is_said():
    with pytest.raises(TypeError, match=r"make one: fm\.Median\(\)"):
        compare(mean=fm.Median)
    with pytest.raises(TypeError, match="mean = 'median' is not a mean of the server's"):
        compare(mean="median")
    with pytest.raises(ValueError, match=r"TrimmedMean\.share = 0\.5 is outside \[0, 0\.49\]"):
        fm.TrimmedMean(0.5)
