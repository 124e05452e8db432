"""Identities between the algorithms, and closed forms: float64; "bit for bit" where two formulas are the same."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import fmlab as fm
from fmlab.algorithms.perfedavg import safe_delta
from fmlab.data import Batch, Clients, examples
from fmlab.engine import participants, rounds
from fmlab.gradients import grad
from fmlab.objective import Objective

SERVERS = (fm.SGD(), fm.SGD(lr=0.5, momentum=0.9), fm.Adam(), fm.Yogi())
POPULATION = fm.Sines(n_clients=6, n_validation=2, n_unseen=3)


def everything(e):
    """A batch whose support and query are the same examples, so that all methods train on the same."""
    return Batch(e, e)


class Quadratic(Objective):
    """f_i(w) = mean over the client's points m of (w - m)' A_i (w - m) / 2, with A (R, C, P, P)."""

    def __init__(self, a):
        self.a = a

    def __call__(self, w, data):
        away = w[..., None, :] - data.x
        return (0.5 * (away @ self.a * away).sum(-1) * data.weight).sum(-1)


@pytest.fixture
def quadratic():
    """(f, w, A, m, batch): one point m a client, support and query alike."""
    g = torch.Generator().manual_seed(3)
    root = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)
    a = root @ root.mT / 4 + torch.eye(4, dtype=torch.float64)
    m, w = torch.randn(2, 2, 3, 4, generator=g, dtype=torch.float64)
    points = examples(m[..., None, :].repeat(1, 1, 5, 1), torch.zeros(2, 3, 5, 1, dtype=torch.float64))
    return Quadratic(a), w, a, m, everything(points)


def sends(algorithm, f, w, batch, name="model", **kept):
    """What clients send from w, one entry of it."""
    return algorithm.local(f, {"model": w}, kept, batch)[0][name]


def times(a, v):
    return (a @ v[..., None])[..., 0]


@pytest.mark.parametrize("server", SERVERS, ids=repr)
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("other", [fm.FedProx(mu=0.0), fm.FedReptile(epsilon=1.0)], ids=["FedProx", "FedReptile"])
def test_are_fedavg_bit_for_bit(train, other, server, batch_size):
    common = {"local_steps": 3, "lr": 0.02, "batch_size": batch_size, "server": server}
    ours, _ = train(replace(other, **common), POPULATION, per_round=4)
    theirs, _ = train(fm.FedAvg(**common), POPULATION, per_round=4)
    assert torch.equal(ours.server, theirs.server)


class SecondOfThree(Batch):
    """The minibatches D' that Per-FedAvg takes its outer gradient on."""

    def minibatch(self, step, size, share=1.0):
        return super().minibatch(3 * step + 1, size, share)


@pytest.mark.parametrize("variant", ["FO", "HF"])
def test_perfedavg_without_an_inner_step_is_fedavg_on_its_outer_minibatches(problem, variant):
    """Bit for bit where both are computed as written; FedAvg's closed form adds each product to the weights instead."""
    f, w, batch = problem()
    ours = fm.PerFedAvg(variant=variant, local_steps=4, inner_lr=0.0, lr=0.05, batch_size=3)
    theirs = fm.FedAvg(local_steps=4, lr=0.05, batch_size=3)
    second = SecondOfThree(batch.support, batch.query, batch.seeds)
    plain = replace(f, closed_form=False)
    assert torch.equal(sends(ours, plain, w, batch), sends(theirs, plain, w, second))
    assert_close(sends(ours, f, w, batch), sends(theirs, f, w, second), rtol=1e-12, atol=1e-14)


def test_perfedavgs_three_minibatches_are_different_and_half_of_each_client(problem):
    _, _, batch = problem(support=4, query=8, ragged=True)
    d = [batch.minibatch(k, None, share=0.5) for k in range(3)]
    real = (batch.both.weight > 0).sum(-1)
    assert real.unique().tolist() == [8, 10, 12]
    for part in d:
        assert torch.equal((part.weight > 0).sum(-1), real // 2)
        assert_close(part.weight.sum(-1), torch.ones_like(part.weight[..., 0]))
    assert not torch.equal(d[0].x, d[1].x)
    assert not torch.equal(d[1].x, d[2].x)


def test_one_full_local_step_is_a_gradient_step_on_the_weighted_mean_loss(train):
    state, setup = train(fm.FedAvg(local_steps=1, lr=0.05), POPULATION, 1, weights="size")
    sizes = torch.tensor([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0]], dtype=torch.float64)
    clients = replace(setup.training, sizes=sizes)
    run = rounds(fm.FedAvg(local_steps=1, lr=0.05), setup.objective, clients, setup.start,
                 seeds=(0,), per_round=6, weights="size")  # fmt: skip
    next(run)
    w = setup.start.clone().requires_grad_()
    loss = setup.objective(w[:, None].expand(-1, 6, -1), Batch(*clients.everyone()).both)
    (g,) = torch.autograd.grad((loss * sizes).sum() / sizes.sum(), w)
    assert_close(next(run).held["model"][:, 0], setup.start - 0.05 * g)
    assert not torch.allclose(next(run).held["model"], state.server)  # unequal sizes do matter


def test_local_steps_are_the_sum_of_the_first_order_meta_gradients_on_the_way(problem):
    """Jiang et al. 2019: g_FedAvg(K) = g_FedSGD + sum of g_FOMAML(j), j = 1 .. K-1."""
    f, w, batch = problem()
    batch, eta = everything(batch.both), 0.05
    pseudo = sends(fm.FedAvg(local_steps=5, lr=eta), f, w, batch) / eta
    total = grad(f, w, batch.both)
    for j in range(1, 5):
        total = total + sends(fm.FedMAML(inner_steps=j, inner_lr=eta, first_order=True), f, w, batch)
    assert_close(pseudo, total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_on_quadratics_has_its_closed_form(quadratic, steps):
    f, w, a, m, batch = quadratic
    shrink = torch.eye(4, dtype=torch.float64) - 0.1 * a
    outer = times(a, times(torch.linalg.matrix_power(shrink, steps), w - m))
    maml = fm.FedMAML(inner_steps=steps, inner_lr=0.1)
    assert_close(sends(replace(maml, first_order=True), f, w, batch), outer)
    exact = times(torch.linalg.matrix_power(shrink, steps), outer)
    assert_close(sends(maml, f, w, batch), exact)
    assert not torch.allclose(exact, outer)


def test_hessian_free_perfedavg_is_exact_on_quadratics(quadratic):
    f, w, _, _, batch = quadratic
    g = sends(fm.FedMAML(inner_steps=1, inner_lr=0.1), f, w, batch)
    hf = sends(fm.PerFedAvg(variant="HF", local_steps=1, inner_lr=0.1, lr=0.3), f, w, batch)
    assert_close(hf, 0.3 * g, rtol=1e-9, atol=1e-9)
    fo = sends(fm.PerFedAvg(variant="FO", local_steps=1, inner_lr=0.1, lr=0.3), f, w, batch)
    assert not torch.allclose(fo, hf, rtol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-3), (torch.float64, 1e-8)])
@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_the_difference_of_hf_is_no_noise_for_any_gradient(problem, dtype, tolerance, length):
    f, w, batch = problem((3, 4), classes=True)
    w, data = w.to(dtype), batch.both._replace(x=batch.both.x.to(dtype), weight=batch.both.weight.to(dtype))
    g, hessian = f.linearize(w, data)
    g = g / g.norm(dim=-1, keepdim=True) * length
    delta = safe_delta(w, g)
    d = (grad(f, w + delta * g, data) - grad(f, w - delta * g, data)) / (2 * delta)
    exact = hessian(g)
    assert (d - exact).norm() < tolerance * exact.norm()


def test_hf_with_a_zero_gradient_stays_where_it_is(quadratic):
    f, _, _, m, batch = quadratic
    sent = sends(fm.PerFedAvg(variant="HF", inner_lr=0.1, lr=0.3), f, m, batch)
    assert_close(sent, torch.zeros_like(m))


def test_metasgd_one_step_has_its_closed_form_and_the_model_part_of_maml(problem):
    f, w, batch = problem()
    a = 0.02 + 0.01 * torch.rand(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(0))
    da = fm.FedMetaSGD().local(f, {"model": w, "rates": a}, {}, batch)[0]["rates"]
    g = grad(f, w, batch.support)
    assert_close(da, -g * grad(f, w - a * g, batch.query))
    same = {"model": w, "rates": torch.full_like(w, 0.02)}
    dw = fm.FedMetaSGD(inner_steps=3).local(f, same, {}, batch)[0]["model"]
    assert_close(dw, sends(fm.FedMAML(inner_steps=3, inner_lr=0.02), f, w, batch))


def test_metasgd_adapts_with_what_it_learned_and_sends_twice_the_bytes(train):
    meta, setup = train(fm.FedMetaSGD(inner_lr=0.01), POPULATION)
    maml, _ = train(fm.FedMAML(inner_lr=0.01), POPULATION)
    assert meta.up == 2 * maml.up == 8 * setup.model.size
    assert (meta.down, maml.down) == (meta.up, maml.up)
    held = {name: t.expand(-1, 3, -1) for name, t in meta.held.items()}
    assert held["rates"].unique().numel() > 100
    support, _ = setup.unseen.everyone()
    *_, u = fm.FedMetaSGD().adapt(setup.objective, held, support, 1)
    w, a = held["model"], held["rates"]
    assert_close(u, w - a * grad(setup.objective, w, support), rtol=1e-12, atol=1e-14)


def test_pfedme_on_quadratics_has_its_closed_form(quadratic):
    f, w, a, m, batch = quadratic
    lam, eta, eye = 2.0, 0.1, torch.eye(4, dtype=torch.float64)
    p = fm.PFedMe(lam=lam, beta=1.5, local_rounds=2, inner_steps=100, inner_lr=0.1, lr=eta, adapt_lr=0.1)
    v = w
    for _ in range(2):
        theta = torch.linalg.solve(a + lam * eye, times(a, m) + lam * v)
        v = v - eta * lam * (v - theta)
    sent, kept = p.local(f, {"model": w}, {}, batch)
    assert_close(sent["model"], w - v)
    assert_close(p.combine(f, {"model": w}, sent, None)["model"], 1.5 * (w - v).mean(1, keepdim=True))
    assert_close(kept["model"], theta)
    *_, adapted = p.adapt(f, {"model": w}, batch.support, 200)
    assert_close(adapted, torch.linalg.solve(a + lam * eye, times(a, m) + lam * w))


def test_pfedme_keeps_a_copy_of_the_personal_model_not_the_local_one(train):
    state, setup = train(fm.PFedMe(inner_lr=0.01, lr=0.005), POPULATION, 1, per_round=2)
    who = state.participants[0]
    batch = Batch(*setup.training.take(state.participants)[:2])
    fresh = setup.start[:, None].expand(-1, 2, -1)
    sent = sends(fm.PFedMe(inner_lr=0.01, lr=0.005), setup.objective, fresh, batch)
    assert not torch.allclose(state.kept["model"][:, who], fresh - sent)
    loss = setup.objective(state.kept["model"][:, who], batch.both)
    assert (loss < setup.objective(fresh - sent, batch.both)).all()
    others = [c for c in range(6) if c not in who.tolist()]
    assert torch.equal(state.kept["model"][:, others], setup.start[:, None].expand(-1, 4, -1))


def test_local_only_never_moves_the_server_and_goes_on_from_its_own_model(train):
    state, setup = train(fm.LocalOnly(local_steps=2, lr=0.02), POPULATION, 3)
    assert torch.equal(state.server, setup.start[:, None])
    assert (state.up, state.down) == (0, 0)
    both = Batch(*setup.training.everyone()).both
    alone = setup.objective.descend(setup.start[:, None].expand(-1, 6, -1), both, 0.02, 6)
    assert_close(state.kept["model"], alone)


def test_a_client_goes_on_from_its_own_model_whenever_it_takes_part_again(train):
    a = fm.LocalOnly(local_steps=2, lr=0.02)
    state, setup = train(a, POPULATION, 5, per_round=3)
    turns = torch.cat([participants((0,), 6, 3, t)[0] for t in range(5)]).bincount(minlength=6)
    assert turns.unique().numel() > 1
    both = Batch(*setup.training.everyone()).both
    alone = list(setup.objective.path(setup.start[:, None].expand(-1, 6, -1), both, 0.02, 10))
    for client, n in enumerate(turns.tolist()):
        assert_close(state.kept["model"][0, client], alone[2 * n][0, client])


def same_clients(setup, copies):
    """The first client ``copies`` times."""
    one = [e.map(lambda t: t[:, :1].repeat(1, copies, *[1] * (t.ndim - 2))) for e in setup.training.everyone()]
    return Clients(*one, setup.training.sizes[:, :copies], ids=torch.zeros(1, copies, dtype=torch.int64))


@pytest.mark.parametrize("algorithm", fm.ALGORITHMS)
def test_identical_clients_are_one_client(train, filled, algorithm):
    """Every method on N copies of a client, its id among them, is the same method, centralised, on that client."""
    a = filled(algorithm())
    _, setup = train(a, POPULATION, 0)
    ends = []
    for copies in (1, 5):
        run = rounds(a, setup.objective, same_clients(setup, copies), setup.start, seeds=(0,), per_round=copies)
        for _ in range(4):
            state = next(run)
        ends.append(torch.cat(list(state.held.values()), -1))
    assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_fedavg_with_identical_clients_is_gradient_descent(train):
    _, setup = train(fm.FedAvg(lr=0.02), POPULATION, 0)
    clients = same_clients(setup, 5)
    run = rounds(fm.FedAvg(local_steps=4, lr=0.02), setup.objective, clients, setup.start, seeds=(0,), per_round=5)
    for _ in range(4):
        state = next(run)
    one = Batch(*(e.map(lambda t: t[:, :1]) for e in clients.everyone())).both
    assert_close(state.held["model"], setup.objective.descend(setup.start[:, None], one, 0.02, 12))


def test_zero_predictor_on_sines_has_the_analytic_error():
    """E A^2 / 2 = (0.1^2 + 0.1 * 5 + 5^2) / 6; the mean of 20,000 clients has a standard error of about 0.03."""
    query = fm.Sines(n_unseen=20_000).draw("unseen", 0).query
    assert abs(query.y.square().mean() - (0.1**2 + 0.1 * 5 + 5**2) / 6) < 0.12
