"""Server optimisers against torch.optim, and Yogi against its formula; every one works with every algorithm."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab.optimisers import OPTIMISERS

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
rates = st.floats(1e-4, 1.0)
decays = st.floats(0.0, 0.99)
seeds = st.integers(0, 1000)


def gradients(seed, rounds=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rounds, 2, 1, 5, generator=g, dtype=torch.float64)


def run(server, gs):
    w = torch.ones(2, 1, 5, dtype=torch.float64)
    moments = server.init(w)
    for t, g in enumerate(gs, 1):
        w, moments = server.step(w, moments, g, t)
    return w


def run_torch(make, gs):
    p = torch.nn.Parameter(torch.ones(2, 1, 5, dtype=torch.float64))
    optimiser = make([p])
    for g in gs:
        p.grad = g.clone()
        optimiser.step()
    return p.detach()


@settings(deadline=None, max_examples=25)
@given(rates, decays, seeds)
def test_sgd_is_torchs(lr, momentum, seed):
    gs = gradients(seed)
    theirs = run_torch(lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum), gs)
    assert_close(run(fm.SGD(lr=lr, momentum=momentum), gs), theirs, **TIGHT)


@settings(deadline=None, max_examples=25)
@given(rates, decays, decays, st.sampled_from([1e-8, 1e-3, 0.1]), seeds)
def test_adam_is_torchs(lr, b1, b2, eps, seed):
    gs = gradients(seed)
    theirs = run_torch(lambda p: torch.optim.Adam(p, lr=lr, betas=(b1, b2), eps=eps), gs)
    assert_close(run(fm.Adam(lr=lr, b1=b1, b2=b2, eps=eps), gs), theirs, **TIGHT)


@settings(deadline=None, max_examples=25)
@given(rates, decays, decays, st.sampled_from([1e-3, 0.1]), seeds)
def test_yogi_is_algorithm_2_of_reddi_et_al(lr, b1, b2, eps, seed):
    gs = gradients(seed)
    ours = run(fm.Yogi(lr=lr, b1=b1, b2=b2, eps=eps), gs)
    for r in range(2):
        for j in range(5):
            x, m, v = 1.0, 0.0, eps**2
            for g in gs[:, r, 0, j].tolist():
                m = b1 * m + (1 - b1) * g
                v = v - (1 - b2) * g**2 * math.copysign(1.0, v - g**2)
                x = x - lr * m / (math.sqrt(v) + eps)
            assert ours[r, 0, j].item() == pytest.approx(x, rel=1e-9, abs=1e-9)


def test_one_plain_step_takes_the_mean_model_as_it_is():
    w, mean = torch.randn(2, 3, 1, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    server = fm.SGD()
    assert_close(server.step(w, server.init(w), w - mean, 1)[0], mean)


@pytest.mark.parametrize("server", OPTIMISERS)
def test_runs_of_a_batch_do_not_touch_each_other(server):
    gs = gradients(0)
    both = run(server(), gs)
    gs[:, 1] = float("nan")
    assert torch.equal(run(server(), gs)[0], both[0])


@pytest.mark.parametrize("server", [fm.SGD(lr=0.3, momentum=0.9), fm.Adam(), fm.Yogi()], ids=repr)
def test_moments_live_from_round_to_round(train, server):
    """A fresh optimiser every round, a known trap, ends elsewhere."""
    population = fm.Sines(n_clients=5, n_validation=2, n_unseen=2)
    state, setup = train(fm.FedMAML(inner_lr=0.01, server=server), population, 3)
    first, _ = train(fm.FedMAML(inner_lr=0.01, server=server), population, 1)
    clients, start = setup.training, first.server
    for t in (1, 2):
        batch = fm.data.Batch(*clients.everyone(), round=t)
        w = start.expand(-1, 5, -1)
        g = fm.FedMAML(inner_lr=0.01).local(setup.objective, {"model": w}, {}, batch)[0]["model"].mean(1, keepdim=True)
        start, _ = server.step(start, server.init(start), g, 1)
    assert not torch.allclose(start, state.server, rtol=1e-4)


@pytest.mark.parametrize("server", [fm.SGD(lr=0.2, momentum=0.5), fm.Adam(), fm.Yogi()], ids=repr)
@pytest.mark.parametrize("algorithm", [a for a in fm.ALGORITHMS if a not in (fm.LocalOnly, fm.FedMA)])
def test_every_server_moves_every_algorithm(train, filled, algorithm, server):
    population = fm.Sines(n_clients=4, n_validation=2, n_unseen=2)
    state, _ = train(filled(algorithm(server=server)), population, 2)
    assert state.server.isfinite().all()
    plain, _ = train(filled(algorithm(server=fm.SGD(lr=0.1))), population, 2)
    assert not torch.allclose(state.server, plain.server)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fm.SGD(lr=-1.0), r"SGD\.lr = -1\.0 is outside \[0, 10\]"),
        (lambda: fm.SGD(momentum=1.0), r"SGD\.momentum = 1\.0 is outside"),
        (lambda: fm.Adam(b2=1.0), r"Adam\.b2"),
        (lambda: fm.Yogi(eps=0.0), r"Yogi\.eps"),
    ],
)
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
