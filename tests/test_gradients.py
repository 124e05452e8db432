"""``grad``, ``meta_grad`` and the steps: against autograd and against the formula as the paper writes it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fmlab.gradients import autograd, autograd_linearize, grad, meta_grad, meta_grads

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
shapes = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
        "runs": st.integers(1, 3),
        "clients": st.integers(1, 3),
        "support": st.integers(1, 4),
        "query": st.integers(1, 4),
        "classes": st.booleans(),
        "ragged": st.booleans(),
        "seed": st.integers(0, 1000),
    }
)


def nested(f, w, support, query, alpha, steps):
    """d/dw L_Q(u_K(w)) in one graph, each inner gradient written with ``grad``; alpha may ask for a gradient too."""

    def outer(v):
        for _ in range(steps):
            v = v - alpha * grad(f, v, support)
        return f(v, query)

    return outer


@settings(deadline=None, max_examples=40)
@given(shapes)
def test_the_gradient_is_autograds(problem, shape):
    f, w, batch = problem(**shape)
    assert_close(grad(f, w, batch.both), autograd(f, w, batch.both), **TIGHT)


@settings(deadline=None, max_examples=40)
@given(shapes)
def test_hessian_vector_products_are_autograds_and_symmetric(problem, shape):
    f, w, batch = problem(**shape)
    g = torch.Generator().manual_seed(1)
    u, v = (torch.randn(w.shape, generator=g, dtype=w.dtype) for _ in range(2))
    slope, product = f.linearize(w, batch.support)
    theirs, hessian = autograd_linearize(f, w, batch.support)
    assert_close(slope, theirs, **TIGHT)
    hv = product(v)
    assert_close(hv, hessian(v), **TIGHT)
    assert_close((u * hv).sum(), (product(u) * v).sum(), **TIGHT)


@settings(deadline=None, max_examples=30)
@given(shapes, st.integers(1, 4), st.floats(0.0, 0.3))
def test_the_meta_gradient_is_the_papers(problem, shape, steps, alpha):
    f, w, batch = problem(**shape)
    rate = torch.full_like(w, alpha).requires_grad_()
    leaf = w.clone().requires_grad_()
    outer = nested(f, leaf, batch.support, batch.query, rate, steps)(leaf)
    dw, da = torch.autograd.grad(outer.sum(), [leaf, rate])
    ours = meta_grads(f, w, batch.support, batch.query, alpha, steps)
    assert_close(ours[0], dw, **TIGHT)
    assert_close(ours[1], da, **TIGHT)
    assert_close(meta_grad(f, w, batch.support, batch.query, alpha, steps), dw, **TIGHT)
    assert_close(grad(nested(f, w, batch.support, batch.query, alpha, steps), w), dw, **TIGHT)


def test_first_order_is_the_gradient_where_the_steps_end(problem):
    f, w, batch = problem()
    end = f.descend(w, batch.support, 0.1, 3)
    assert torch.equal(meta_grad(f, w, batch.support, batch.query, 0.1, 3, True), grad(f, end, batch.query))


@pytest.mark.parametrize("first_order", [False, True])
def test_without_inner_steps_it_is_the_gradient_on_the_query_set(problem, first_order):
    f, w, batch = problem()
    assert_close(meta_grad(f, w, batch.support, batch.query, 0.1, 0, first_order), grad(f, w, batch.query), **TIGHT)
    assert torch.equal(f.descend(w, batch.support, 0.1, 0), w)


def test_no_inner_step_size_means_no_inner_step(problem):
    f, w, batch = problem()
    dw, da = meta_grads(f, w, batch.support, batch.query, 0.0, 2)
    assert torch.equal(dw, grad(f, w, batch.query))
    assert_close(da, -2 * grad(f, w, batch.support) * dw)  # the step sizes would still like to move


def test_a_step_size_swept_over_runs_is_each_alone(problem):
    f, w, batch = problem(runs=3)
    rate = torch.tensor([0.1, 0.03, 0.2], dtype=torch.float64).view(3, 1, 1)
    swept = f.meta_gradient(w, batch.support, batch.query, rate, 2)
    walked = f.descend(w, batch.support, rate, 2)
    for r in range(3):
        support, query = (e.map(lambda t, r=r: t[r : r + 1]) for e in (batch.support, batch.query))
        alone = f.meta_gradient(w[r : r + 1], support, query, rate[r].item(), 2)
        assert_close(swept[r : r + 1], alone, **TIGHT)
        assert_close(walked[r : r + 1], f.descend(w[r : r + 1], support, rate[r].item(), 2), **TIGHT)


def test_the_path_is_every_model_on_the_way(problem):
    f, w, batch = problem()
    models = list(f.path(w, batch.support, 0.1, 4))
    assert len(models) == 5
    for k, model in enumerate(models):
        assert torch.equal(model, f.descend(w, batch.support, 0.1, k))


def test_clients_do_not_touch_each_other(problem):
    f, w, batch = problem()
    before = meta_grad(f, w, batch.support, batch.query, 0.1, 2)
    w[0, 1] = float("nan")
    after = meta_grad(f, w, batch.support, batch.query, 0.1, 2)
    assert after[0, 1].isnan().any()
    after[0, 1] = before[0, 1]
    assert torch.equal(after, before)


def test_a_linear_loss_has_no_curvature():
    w = torch.ones(1, 2, 3, dtype=torch.float64)
    g, product = autograd_linearize(lambda v: (2.0 * v).sum(-1), w)
    assert torch.equal(g, 2.0 * w)
    assert torch.equal(product(w), torch.zeros_like(w))
