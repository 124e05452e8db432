"""Three ways to one model: the closed-form MLP, the lifted ``nn.Module``, and autograd; and what ``lift`` refuses."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import fmlab as fm
from fmlab.closed_form.programs import CAPACITY
from fmlab.data import Examples
from fmlab.gradients import autograd
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.objective import Empirical
from fmlab.randomness import generator

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
networks = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)


def sequential(sizes):
    layers = []
    for d, o in itertools.pairwise(sizes):
        layers += [nn.Linear(d, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lifted_order(sizes, w):
    """A row of the MLP's parameters in nn.Linear's order: weights (outputs, inputs), then bias."""
    parts, at = [], 0
    for d, o in itertools.pairwise(sizes):
        block = w[..., at : at + (d + 1) * o].unflatten(-1, (d + 1, o))
        at += (d + 1) * o
        parts += [block[..., :-1, :].mT.flatten(-2), block[..., -1, :]]
    return torch.cat(parts, -1)


@settings(deadline=None, max_examples=30)
@given(networks, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_the_mlp_and_the_lifted_module_are_one_model(problem, sizes, runs, clients, classes, seed):
    f, w, batch = problem(sizes, runs=runs, clients=clients, classes=classes, seed=seed)
    lifted = fm.lift(sequential(sizes))
    other, w2 = Empirical(lifted, f.loss), lifted_order(sizes, w)
    assert lifted.size == f.model.size == w.shape[-1]
    assert_close(other(w2, batch.both), f(w, batch.both), **TIGHT)
    assert_close(other.gradient(w2, batch.both), lifted_order(sizes, f.gradient(w, batch.both)), **TIGHT)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed), dtype=w.dtype)
    ours, theirs = f.linearize(w, batch.both)[1], other.linearize(w2, batch.both)[1]
    assert_close(theirs(lifted_order(sizes, v)), lifted_order(sizes, ours(v)), **TIGHT)


@settings(deadline=None, max_examples=30)
@given(networks, st.booleans(), st.booleans(), st.integers(0, 1000))
def test_the_closed_form_is_autograd(problem, sizes, classes, ragged, seed):
    f, w, batch = problem(sizes, classes=classes, ragged=ragged, seed=seed)
    slow = Empirical(f.model, f.loss, closed_form=False)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed), dtype=w.dtype)
    (g, product), (g2, product2) = f.linearize(w, batch.both), slow.linearize(w, batch.both)
    assert_close(f.gradient(w, batch.both), slow.gradient(w, batch.both), **TIGHT)
    assert_close(g, g2, **TIGHT)
    assert_close(product(v), product2(v), **TIGHT)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("classes", [False, True])
def test_a_shared_model_takes_the_short_cut_to_the_same_numbers(problem, classes, runs):
    f, w, batch = problem(runs=runs, clients=4, classes=classes)
    shared = w[:, :1].expand(-1, 4, -1)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=w.dtype)
    (g, product), (g2, product2) = f.linearize(shared, batch.both), f.linearize(shared.clone(), batch.both)
    assert_close(g, g2, **TIGHT)
    assert_close(product(v), product2(v), **TIGHT)


@pytest.mark.parametrize("classes", [False, True])
def test_padding_counts_for_nothing(problem, classes):
    f, w, batch = problem(classes=classes)
    e = batch.support
    rubbish = torch.full_like(e.x, 1e3)
    padded = Examples(torch.cat([e.x, rubbish], 2), torch.cat([e.y, e.y], 2), torch.cat([e.weight, 0 * e.weight], 2))
    assert_close(f(w, padded), f(w, e))
    assert_close(f.gradient(w, padded), f.gradient(w, e))
    assert_close(next(f.scores([w], padded))[0], next(f.scores([w], e))[0])
    assert_close(f.trivial(padded, batch.query), f.trivial(e, batch.query))


def test_what_is_computed_side_by_side_is_what_is_computed_one_by_one(problem):
    """Paths and scores that take turns, a descent within a path, and more shapes than are remembered."""
    f, w, batch = problem((3, 5, 2))
    support, query = batch.support, batch.query.map(lambda t: t[:, :, : batch.support.x.shape[2]])
    alone = [list(f.path(w, support, 0.1, 3)), list(f.path(-w, query, 0.2, 3))]
    for step, both in enumerate(zip(f.path(w, support, 0.1, 3), f.path(-w, query, 0.2, 3), strict=True)):
        assert all(torch.equal(u, separate[step]) for u, separate in zip(both, alone, strict=True))
        f.descend(w + step, support, 0.3, 2)
    models = [w, 2 * w, -w]
    pairs = zip(f.scores(models, support), f.scores(models, query), strict=True)
    for u, (one, two) in zip(models, pairs, strict=True):
        assert_close(one[0], f(u, support))
        assert_close(two[0], f(u, query))
    for n in range(1, 2 * CAPACITY):
        wide = support.map(lambda t, n=n: t[:, :, :1].repeat(1, 1, n, *[1] * (t.ndim - 3)))
        assert_close(f.gradient(w, wide), autograd(f, w, wide))
    assert len(f.programs.remembered) == CAPACITY


def test_a_used_objective_can_be_copied_and_asked_for_a_gradient_with_a_graph(problem):
    f, w, batch = problem((3, 5, 2))
    expected = f.gradient(w, batch.support)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(other.gradient(w, batch.support), expected)
    f.gradient(w.clone().requires_grad_(), batch.support)
    assert torch.equal(f.gradient(w, batch.support), expected)
    step = torch.tensor(0.1, dtype=w.dtype)
    assert_close(f.descend(w, batch.support, step, 2), f.descend(w, batch.support, 0.1, 2))


def test_scores_are_the_loss_and_the_share_correct(problem):
    f, w, batch = problem((3, 4), classes=True, ragged=True)
    loss, accuracy = next(f.scores([w], batch.query))
    assert torch.equal(loss, f(w, batch.query))
    for r, c in ((0, 0), (1, 2)):
        x, y, weight = (t[r, c] for t in batch.query)
        right = f.model(w[r, c].view(1, 1, -1), x[None, None])[0, 0].argmax(-1) == y
        assert_close(accuracy[r, c], right[weight > 0].double().mean())
    assert Empirical(fm.MLP((3, 4)), SquaredError()).loss.correct(None, None) is None


@pytest.mark.parametrize("loss", [SquaredError(), CrossEntropy()], ids=lambda loss: loss.name)
def test_slope_and_curve_are_the_losss_derivatives(loss):
    g = torch.Generator().manual_seed(0)
    p = torch.randn(2, 5, 4, generator=g, dtype=torch.float64, requires_grad=True)
    dp = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
    classes = loss.name == "cross entropy"
    y = torch.randint(4, (2, 5), generator=g) if classes else torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
    (slope,) = torch.autograd.grad(loss.each(p, y).sum(), p, create_graph=True)
    scale = torch.rand(2, 5, 1, generator=g, dtype=torch.float64)
    times, out = scale * loss.factor(4), torch.empty_like(dp)
    shift = loss.shift(y, times, torch.empty_like(dp))
    assert_close(loss.slope(p.detach(), times, shift, out), scale * slope)
    expected = torch.autograd.functional.hvp(lambda q: loss.each(q, y).sum(), p.detach(), dp)[1]
    assert_close(loss.curve(p.detach(), dp, times, out), scale * expected)


def test_fresh_models_are_torchs_default_and_a_function_of_the_seed():
    mlp = fm.MLP((25, 400, 3))
    w = mlp.init(generator("model", 0))
    assert torch.equal(w, mlp.init(generator("model", 0)))
    assert not torch.equal(w, mlp.init(generator("model", 1)))
    hidden = w[: 26 * 400]
    assert hidden.abs().max() <= 1 / 5
    assert abs(hidden.std() - 1 / 5 / 3**0.5) < 2e-3


def test_known_sizes():
    assert fm.MLP((1, 40, 40, 1)).size == 1761
    assert fm.softmax(60, 10).size == 610
    assert fm.MLP((60, 20, 10)).size == 1430


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (0, 2)])
def test_an_mlp_without_layers_is_refused(sizes):
    with pytest.raises(ValueError, match=r"MLP\.sizes"):
        fm.MLP(sizes)


def test_lifted_models_start_by_the_seed_and_leave_torchs_stream_alone():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    lifted = fm.lift(module, fresh=True)
    before = torch.random.get_rng_state()
    w = lifted.init(generator("model", 0))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(w, lifted.init(generator("model", 0)))
    assert not torch.equal(w, lifted.init(generator("model", 1)))
    x = torch.randn(2, 3, 5, 1, 6, 6, dtype=torch.float64)
    assert lifted(w.expand(2, 3, -1), x).shape == (2, 3, 5, 3)


def test_lift_copies_the_module_and_never_changes_it():
    module = nn.Linear(2, 1)
    before = [p.clone() for p in module.parameters()]
    lifted = fm.lift(module)
    w = lifted.start.double().expand(1, 1, -1)
    x = torch.ones(1, 1, 4, 2, dtype=torch.float64)
    f = Empirical(lifted, SquaredError())
    f.gradient(w, Examples(x, x[..., :1], torch.full((1, 1, 4), 0.25, dtype=torch.float64)))
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(module.parameters(), before, strict=True))
    assert_close(lifted(w, x)[0, 0], module(x[0, 0]), rtol=1e-6, atol=1e-6)
    module.weight.data += 1.0
    assert not torch.allclose(lifted(w, x)[0, 0], module(x[0, 0]))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), r"1 \(BatchNorm1d\) mixes the examples.*GroupNorm"),
        (nn.BatchNorm2d(3), r"the module \(BatchNorm2d\) mixes.*\.eval\(\)"),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), "mixes the examples"),
        (nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5)), r"Dropout\) draws at random.*\.eval\(\)"),
        (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), "track_running_stats=False"),
        (nn.Sequential(nn.ReLU()), "no parameters"),
    ],
)
def test_lift_says_what_it_cannot_carry_and_what_to_use(module, says):
    with pytest.raises(ValueError, match=f"(?s){says}"):
        fm.lift(module)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(),
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval(),
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.0)),
        nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4)),
    ],
    ids=["frozen BatchNorm", "frozen Dropout", "LayerNorm", "GroupNorm"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lift_carries_what_treats_examples_one_by_one(module, dtype):
    lifted = fm.lift(module)
    x = torch.randn(2, 2, 5, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    w = lifted.start.to(dtype).expand(2, 2, -1)
    alone = lifted(w, x[:, :, :1])
    assert_close(lifted(w, x)[:, :, :1], alone, rtol=1e-5, atol=1e-5)
    assert_close(alone[0, 0], module.to(dtype)(x[0, 0, :1]).detach(), rtol=1e-4, atol=1e-4)
