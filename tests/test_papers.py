"""The papers' clients and formulas, before anything is trained on them. float64."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

import fmlab as fm
from benchmarks.papers import cheng, collins, fedma, fedmeta, pfedme
from benchmarks.papers.ledger import Ledger, markdown, spread
from benchmarks.papers.linear import Factored, LeastSquares, Regressions, SharedSpan
from fmlab.data import examples
from fmlab.gradients import autograd, autograd_linearize
from lab.lessons.theory import angle, perfedavg_point, slope, track

G = torch.Generator().manual_seed(0)


def test_what_is_known_is_not_run_again_and_survives(tmp_path):
    ledger, runs = Ledger("paper", tmp_path), []

    def run():
        runs.append(1)
        return {"score": [1.0, 3.0]}

    assert ledger("a", run)["score"] == Ledger("paper", tmp_path)("a", run)["score"] == [1.0, 3.0]
    assert len(runs) == 1
    with pytest.raises(RuntimeError):
        ledger("b", lambda: (_ for _ in ()).throw(RuntimeError))
    assert list(json.loads((tmp_path / "paper.json").read_text())) == ["a"]
    assert ledger.seconds == ledger.known["a"]["seconds"]
    assert spread([1.0, 3.0]) == "2.00 ± 1.41"
    assert markdown([["a", "b"], [1, 2]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_gradients_of_linear_clients_are_autograds():
    f, w = Factored(6, 2), torch.randn(1, 3, 14, generator=G, dtype=torch.float64)
    theta = torch.randn(1, 3, 1, 6, generator=G, dtype=torch.float64)
    data = examples(theta, theta)
    assert_close(f.gradient(w, data), autograd(f, w, data))
    x, y = (torch.randn(1, 3, 5, n, generator=G, dtype=torch.float64) for n in (4, 1))
    data, w, g = examples(x, y), w[..., :4], LeastSquares()
    assert_close(g.gradient(w, data), autograd(g, w, data))
    assert_close(g.linearize(w, data)[1](w), autograd_linearize(g, w, data)[1](w))


def test_clients_that_share_a_span():
    clients = SharedSpan(n_clients=9, d=12, k=3)
    theta, span = clients.draw("training", 0).support.x[0, :, 0], clients.span(0)
    assert_close(theta @ span @ span.mT, theta)
    assert torch.linalg.matrix_rank(theta) == 3
    alike = SharedSpan(n_clients=9, d=12, k=3, heterogeneity=0.0).draw("training", 0).support.x[0, :, 0]
    assert torch.linalg.matrix_rank(alike) == 1


def test_one_local_step_never_turns_the_span_and_five_do():
    """Collins et al.'s finding, on clients small enough for a test."""
    few = {steps: collins._run(steps, 0.1, False, 40, 1)["angles"] for steps in (1, 5)}
    assert few[1][-1][0] > 0.99
    assert few[5][-1][0] < 0.01


@pytest.mark.parametrize("gamma", [0.5, 2.0, 4.0])
def test_limits_are_those_of_ridge_and_of_interpolators(gamma):
    """Against draws with d = 200: no code in common with the formulas."""
    d, square = 200, 1.3
    n = int(d / gamma)
    risks = {None: [], cheng.NOISE**2 * gamma / square: []}
    for _ in range(12):
        x = torch.randn(n, d, generator=G, dtype=torch.float64)
        theta = torch.randn(d, generator=G, dtype=torch.float64)
        theta *= square**0.5 / theta.norm()
        y = x @ theta + cheng.NOISE * torch.randn(n, generator=G, dtype=torch.float64)
        for lam, found in risks.items():
            inverse = (
                torch.linalg.pinv(x) if lam is None else torch.linalg.solve(x.mT @ x + n * lam * torch.eye(d), x.mT)
            )
            found.append((inverse @ y - theta).square().sum().item())
    means = [sum(r) / len(r) for r in risks.values()]
    assert means == pytest.approx([cheng.interpolator(gamma, square), cheng.ridge(gamma, square)], rel=0.06)
    assert cheng.ridge(gamma, square) < cheng.interpolator(gamma, square)


def test_regressions_have_the_radius_and_the_noise_that_they_say():
    clients = Regressions(d=30, n=200, n_clients=50, n_validation=1, n_unseen=20, radius=0.7, noise=0.3, centre=2.0)
    theta, data = clients.thetas("unseen", 0), clients.draw("unseen", 0)
    middle = clients.thetas("training", 0).mean(0)
    assert (theta - middle).norm(dim=1).mean() == pytest.approx(0.7, abs=0.02)
    rest = (data.support.y[0] - data.support.x[0] @ theta[..., None]).std()
    assert rest == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(data.support.x, data.query.x)


def test_the_published_clients_are_split_without_overlap():
    clients = pfedme.Whole(alpha=0.5, beta=0.5, n_validation=2, n_unseen=2)
    training, taking = clients.draw("training", 0), clients.draw("participating", 0)
    assert int(training.sizes.sum()) == 205_795

    def rows(e, k):
        return set(e.x[0, k][e.weight[0, k] > 0].tolist())

    for k in (0, 57):
        size = int(training.sizes[0, k])
        parts = [rows(training.support, k), rows(training.query, k), rows(taking.query, k)]
        assert len(set.union(*parts)) == sum(map(len, parts)) == size
        assert len(parts[2]) == size - int(0.75 * size)
        assert rows(taking.support, k) == parts[0] | parts[1]
    assert_close(training.support.weight.sum(-1), torch.ones(1, 100, dtype=torch.float64))


@pytest.mark.parametrize("skewed", [False, True])
def test_digits_are_dealt_once_each(skewed):
    clients = fedma.Shared(skewed=skewed, n_validation=1, n_unseen=1)
    owners = clients.owners(0)
    rows = torch.cat(owners)
    assert len(rows.unique()) == len(rows) == 1500
    assert not torch.equal(clients.owners(1)[0][:9], owners[0][:9])
    _, y = fedma._digits()
    share = torch.stack([y[own].bincount(minlength=10) / len(own) for own in owners])
    assert (share.std(0).mean() > 0.08) == skewed
    drawn = clients.draw("training", 0)
    assert drawn.both.weight.gt(0).sum() == 1500


def test_matching_undoes_different_starts():
    """FedMA's claim, in one shot and small: naive averaging of networks from other starts loses more."""
    found = fedma._one_shot("MLP 64-32-10", False, 0)
    alone, naive, _, matched, _ = found.values()
    assert alone > matched > naive


def test_the_bytes_to_an_accuracy_are_those_from_which_it_stays():
    found = {"accuracy": [0.1, 0.5, 0.4, 0.6, 0.7], "megabytes": [0, 1, 2, 3, 4]}
    assert fedmeta._until(found, 0.45) == 3
    assert fedmeta._until(found, 0.05) == 0
    assert fedmeta._until(found, 0.75) is None


def test_what_the_lesson_measures_with():
    x = torch.tensor([1.0, 2.0, 7.0])
    assert slope(x, 5 * x**-1.5) == pytest.approx(-1.5)
    one = torch.eye(4)[:, :2]
    for turn in (0.0, 0.3, math.pi / 2):
        other = torch.stack([one[:, 0], math.cos(turn) * one[:, 1] + math.sin(turn) * torch.eye(4)[:, 2]], 1)
        assert float(angle(one, other)) == pytest.approx(math.sin(turn), abs=1e-6)


def test_per_fedavg_comes_to_rest_where_the_lesson_says():
    clients, alpha, beta = fm.Quadratics(n_clients=4), 0.05, 0.1
    m, a = clients.losses("training", 0)
    left = torch.eye(2, dtype=a.dtype) - alpha * a
    for variant, g in (("HF", left @ a @ left), ("FO", a @ left)):
        method = fm.PerFedAvg(variant, local_steps=3, inner_lr=alpha, lr=beta, adapt_lr=alpha)
        found = track(method, clients, 300)[-1].to(m)
        assert_close(found, perfedavg_point(m, g, beta, 3), rtol=1e-4, atol=1e-4)
