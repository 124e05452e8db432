"""Who the clients are: what heterogeneity means at both ends, what a client's data depends on, closed forms."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlab as fm
from fmlab.data import Examples
from fmlab.engine import rounds
from fmlab.gradients import autograd, autograd_linearize, meta_grad
from fmlab.optimisers import SGD
from fmlab.populations import POPULATIONS, SCENARIOS
from fmlab.populations.collection import Collection
from fmlab.populations.fewshot import FewShot

SPLITS = ("training", "participating", "validation", "unseen")
SMALL = {"n_clients": 6, "n_validation": 4, "n_unseen": 5}


@pytest.fixture(params=[*POPULATIONS, *SCENARIOS], ids=lambda p: p.__name__)
def population(request):
    return request.param(**SMALL)


def tensors(clients):
    return [*clients.support, *clients.query, clients.sizes]


# --- every population ---------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("h", [0.0, 0.4, 1.0])
def test_draws_are_well_formed(population, split, h):
    population = replace(population, heterogeneity=h)
    clients = population.draw(split, 3)
    n = population.count(split)
    assert clients.sizes.shape == (1, n)
    assert clients.number == n
    for e in (clients.support, clients.query):
        assert e.x.shape[:2] == e.y.shape[:2] == e.weight.shape[:2] == (1, n)
        torch.testing.assert_close(e.weight.sum(-1), torch.ones(1, n, dtype=torch.float64))
    model = population.model()
    support, *_ = clients.to(torch.float64, torch.device("cpu")).take(torch.arange(n)[None])
    w = model.init(torch.Generator().manual_seed(0)).expand(1, n, -1)
    assert w.shape[-1] == model.size
    loss = population.objective(model)(w, support)
    assert loss.shape == (1, n)
    assert loss.isfinite().all()


@pytest.mark.parametrize("split", SPLITS)
def test_a_draw_is_a_function_of_the_seed(population, split):
    again, other = population.draw(split, 0), population.draw(split, 1)
    first = tensors(population.draw(split, 0))
    assert all(torch.equal(a, b) for a, b in zip(first, tensors(again), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, tensors(other), strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_a_client_does_not_depend_on_how_many_there_are(population, split):
    """Of real clients there are only so many: more unseen ones leave others for validation, and training clients give
    the units."""
    n, real = population.count(split), isinstance(population, Collection)
    grown = {"n_clients": 8, "n_unseen": 6 if split == "unseen" else 5}
    more = replace(population, **(grown if real else {"n_clients": 11, "n_validation": 9, "n_unseen": 7}))
    for part in ("support", "query"):
        a, b = (getattr(p.draw(split, 2), part) for p in (population, more))
        for name in ("x", "weight") if real else ("x", "y", "weight"):
            assert torch.equal(getattr(a, name), getattr(b, name)[:, :n, : a.weight.shape[2]]), name
    assert torch.equal(population.draw(split, 2).sizes, more.draw(split, 2).sizes[:, :n])


def test_splits_differ_and_participating_clients_keep_their_support_set(population):
    drawn = {split: population.draw(split, 0) for split in SPLITS}
    for a, b in zip(drawn["training"].support, drawn["participating"].support, strict=True):
        assert torch.equal(a, b)
    for split in ("validation", "unseen"):
        a, b = drawn["training"].support, drawn[split].support
        assert not all(torch.equal(s[:, :4], t[:, :4]) for s, t in zip(a, b, strict=True))


def test_every_end_of_every_range_draws_or_says_why(population):
    for f in fields(population):
        h = f.metadata.get("hyper")
        if h is None or f.name.startswith("n_") or h.high > 1000:
            continue
        for value in (h.low, h.high):
            value = int(value) if h.whole else float(value)
            changed = replace(population, **{f.name: value})
            most = changed.bank().training.shape[-1] if isinstance(changed, FewShot) else None
            if most and changed.shots + max(changed.query, changed.test) > most:
                with pytest.raises(ValueError, match="give shots and"):
                    changed.draw("training", 0)
            else:
                assert changed.draw("training", 0).number == SMALL["n_clients"]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), "1", None])
def test_heterogeneity_outside_its_range(population, value):
    with pytest.raises(ValueError, match=rf"{type(population).__name__}\.heterogeneity = .* \[0, 1\]"):
        replace(population, heterogeneity=value)


# --- Quadratics ---------------------------------------------------------------------------------

QUADRATICS = fm.Quadratics(n_clients=12, n_unseen=4, dim=3)


def test_quadratics_alike_at_zero():
    m, a = replace(QUADRATICS, heterogeneity=0.0).losses("training", 0)
    torch.testing.assert_close(m, torch.ones_like(m), rtol=0, atol=0)
    torch.testing.assert_close(a, torch.eye(3, dtype=a.dtype).expand(12, 3, 3))


@given(h=st.floats(0.01, 1.0), seed=st.integers(0, 50), dim=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_spread_of_quadratics_is_proportional_to_h(h, seed, dim):
    m, a = fm.Quadratics(n_clients=5, dim=dim, heterogeneity=h).losses("training", seed)
    full_m, full_a = fm.Quadratics(n_clients=5, dim=dim).losses("training", seed)
    torch.testing.assert_close(m - 1, h * (full_m - 1))
    torch.testing.assert_close(a, a.mT)
    values, full = torch.linalg.eigvalsh(a), torch.linalg.eigvalsh(full_a)
    assert values.min() > 0
    torch.testing.assert_close(values.log(), h * full.log())


def test_quadratic_objective_against_autograd():
    f = QUADRATICS.objective()
    g = torch.Generator().manual_seed(1)
    w, v = (torch.randn(2, 4, 3, generator=g, dtype=torch.float64) for _ in range(2))
    x = torch.randn(2, 4, 5, 3, generator=g, dtype=torch.float64)
    y = torch.randn(2, 4, 5, 3, 3, generator=g, dtype=torch.float64)
    weight = torch.rand(2, 4, 5, generator=g, dtype=torch.float64)
    data = Examples(x, y + y.mT, weight)
    expected, product = autograd_linearize(f, w, data)
    gradient, mine = f.linearize(w, data)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(f.gradient(w, data), autograd(f, w, data))
    torch.testing.assert_close(mine(v), product(v))
    by_hand = sum(
        0.5 * weight[1, 2, j] * (w[1, 2] - x[1, 2, j]) @ data.y[1, 2, j] @ (w[1, 2] - x[1, 2, j]) for j in range(5)
    )
    torch.testing.assert_close(f(w, data)[1, 2], by_hand)


def last(algorithm, population, number, seed=0):
    """The server's model after ``number`` rounds in which all clients take part."""
    clients = population.draw("training", seed)
    start = population.model().init(torch.Generator().manual_seed(0))[None]
    run = rounds(algorithm, population.objective(), clients, start, seeds=(seed,), per_round=clients.number)
    for state in run:
        if state.round == number:
            return state.held["model"][0, 0]


@pytest.mark.parametrize("k", [1, 5])
def test_fedavg_settles_on_its_fixed_point(k):
    point = QUADRATICS.fedavg_point(0, lr=0.1, local_steps=k)
    torch.testing.assert_close(last(fm.FedAvg(lr=0.1, adapt_lr=0.1, local_steps=k), QUADRATICS, 600), point)
    offset = (point - QUADRATICS.optimum(0)).norm()
    assert offset < 1e-12 if k == 1 else offset > 1e-3


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_fedmaml_settles_on_its_fixed_point(k, first_order):
    algorithm = fm.FedMAML(inner_steps=k, inner_lr=0.05, adapt_lr=0.05, first_order=first_order, server=SGD(lr=0.2))
    point = QUADRATICS.fedmaml_point(0, 0.05, k, first_order)
    torch.testing.assert_close(last(algorithm, QUADRATICS, 900), point)


def test_the_optimum_is_least():
    f, clients = QUADRATICS.objective(), QUADRATICS.draw("training", 0)
    w = QUADRATICS.optimum(0).expand(1, 12, -1)
    assert f.gradient(w, clients.support).mean(1).abs().max() < 1e-12


@given(alpha=st.floats(0.0, 0.5), seed=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_meta_gradient_on_quadratics(alpha, seed):
    f, clients = QUADRATICS.objective(), QUADRATICS.draw("training", seed)
    m, a = QUADRATICS.losses("training", seed)
    w = torch.linspace(-1, 2, 3, dtype=torch.float64)
    b = torch.eye(3, dtype=torch.float64) - alpha * a
    g = meta_grad(f, w.expand(1, 12, -1), clients.support, clients.query, alpha, 1)
    torch.testing.assert_close(g[0], (b @ a @ b @ (w - m)[..., None])[..., 0])


def test_noise_moves_what_clients_see_and_not_what_they_are_scored_on():
    noisy = replace(QUADRATICS, noise=0.5)
    m, _ = noisy.losses("unseen", 0)
    unseen, training = noisy.draw("unseen", 0), noisy.draw("training", 0)
    assert torch.equal(unseen.query.x[0, :, 0], m)
    assert not torch.equal(unseen.support.x[0, :, 0], m)
    assert not torch.equal(training.support.x, training.query.x)


# --- Synthetic ----------------------------------------------------------------------------------


def test_the_published_sizes():
    sizes = fm.Synthetic().sizes("training", 0)
    assert (len(sizes), int(sizes.sum()), int(sizes.min()), int(sizes.max())) == (100, 205_795, 250, 25_810)


def test_sizes_weigh_and_do_not_depend_on_heterogeneity():
    for h in (0.0, 1.0):
        clients = fm.Synthetic(heterogeneity=h).draw("training", 0)
        assert torch.equal(clients.sizes[0].long(), fm.Synthetic().sizes("training", 0))


def test_synthetic_alike_at_zero():
    w, b, v = fm.Synthetic(heterogeneity=0.0, **SMALL).laws("training", 0)
    unseen = fm.Synthetic(heterogeneity=0.0, **SMALL).laws("unseen", 0)
    for t, u in zip((w, b, v), unseen, strict=True):
        assert torch.equal(t, t[:1].expand_as(t))
        assert torch.equal(u[0], t[0])


@pytest.mark.parametrize("h", [0.5, 1.0])
def test_synthetic_has_the_documented_spread(h):
    """A client's mean entry spreads by h alpha; its entries around that by 1, of which h is its own."""
    population = fm.Synthetic(n_clients=400, alpha=2.0, beta=3.0, heterogeneity=h)
    w, b, v = population.laws("training", 0)
    entries = torch.cat([w, b[:, None]], 1)
    torch.testing.assert_close(entries.mean((1, 2)).std(), torch.tensor(h * 2.0, dtype=torch.float64), rtol=0.1, atol=0)
    torch.testing.assert_close(v.mean(1).std(), torch.tensor(h * 3.0, dtype=torch.float64), rtol=0.1, atol=0)
    within = entries.flatten(1).std(1).mean()
    torch.testing.assert_close(within, torch.ones((), dtype=torch.float64), rtol=0.1, atol=0)
    apart = (entries - entries.mean((1, 2), keepdim=True)).std(0).mean()
    torch.testing.assert_close(apart, torch.tensor(h, dtype=torch.float64), rtol=0.1, atol=0)


def test_inputs_and_labels_of_synthetic():
    population = fm.Synthetic(n_clients=3, support=1000, query=1000)
    clients, (w, b, v) = population.draw("training", 1), population.laws("training", 1)
    x, y = clients.support.x[0], clients.support.y[0]
    assert torch.equal(y, (x @ w + b[:, None]).argmax(-1))
    expected = torch.arange(1, 61, dtype=torch.float64) ** -1.2
    torch.testing.assert_close((x - v[:, None]).square().mean((0, 1)), expected, rtol=0.15, atol=0)


def test_small_clients_are_padded():
    population = fm.Synthetic(n_clients=100, support=300, query=700)
    clients = population.draw("training", 0)
    support, query = ((e.weight[0] > 0).sum(-1) for e in (clients.support, clients.query))
    sizes = clients.sizes[0].long()
    assert torch.equal(support + query, sizes.clamp(max=1000))
    assert torch.equal(support, (sizes * 3 // 10).clamp(max=300))
