"""Steps and meta-gradients in closed form against autograd's, and step sizes that differ by parameter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from fmlab import gradients
from fmlab.closed_form import programs
from fmlab.objective import Empirical, Objective

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
RATES = ("number", "of runs", "of clients", "of parameters", "of clients' parameters", "head", "body", "runs' head")
shapes = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 5), min_size=3, max_size=4).map(tuple),
        "runs": st.integers(1, 3),
        "clients": st.integers(1, 3),
        "support": st.integers(1, 4),
        "query": st.integers(1, 4),
        "classes": st.booleans(),
        "ragged": st.booleans(),
        "seed": st.integers(0, 1000),
    }
)


def step_size(kind, f, w, seed):
    """A step size of this kind below 0.2; of parameters' own, about half are 0."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.2 * torch.rand(shape, generator=g, dtype=w.dtype)

    some = torch.rand(w.shape, generator=g) < 0.5
    return {
        "number": 0.1,
        "of runs": draw(len(w), 1, 1),
        "of clients": draw(*w.shape[:2], 1),
        "of parameters": draw(w.shape[-1]) * some[0, 0],
        "of clients' parameters": draw(*w.shape) * some,
        "head": 0.1 * f.head,
        "body": 0.1 * ~f.head,
        "runs' head": draw(len(w), 1, 1) * f.head,
    }[kind]


@pytest.fixture(scope="session")
def pair(problem):
    """The closed form of a problem, and the same objective by autograd."""

    def make(**shape):
        f, w, batch = problem(**shape)
        return f, Empirical(f.model, f.loss, closed_form=False), w, batch

    return make


@settings(deadline=None, max_examples=60)
@given(shapes, st.sampled_from(RATES), st.integers(0, 3), st.booleans())
def test_steps_are_autograds(pair, shape, kind, steps, pulled):
    f, slow, w, batch = pair(**shape)
    lr, to = step_size(kind, f, w, shape["seed"]), w.flip(1) if pulled else None
    assert_close(f.descend(w, batch.both, lr, steps, 0.3, to), slow.descend(w, batch.both, lr, steps, 0.3, to), **TIGHT)
    for ours, theirs in zip(f.path(w, batch.both, lr, steps), slow.path(w, batch.both, lr, steps), strict=True):
        assert_close(ours, theirs, **TIGHT)


@settings(deadline=None, max_examples=60)
@given(shapes, st.sampled_from(RATES), st.integers(0, 3), st.booleans())
def test_meta_gradients_are_autograds(pair, shape, kind, steps, first_order):
    f, slow, w, batch = pair(**shape)
    how = batch.support, batch.query, step_size(kind, f, w, shape["seed"]), steps, first_order
    assert_close(f.meta_gradient(w, *how), slow.meta_gradient(w, *how), **TIGHT)
    for ours, theirs in zip(f.meta_gradients(w, *how), slow.meta_gradients(w, *how), strict=True):
        assert_close(ours, theirs, **TIGHT)


@settings(deadline=None, max_examples=20)
@given(shapes, st.sampled_from(["head", "body", "runs' head"]), st.booleans())
def test_what_does_not_move_stays_to_the_last_bit(pair, shape, kind, pulled):
    f, _, w, batch = pair(**shape)
    lr, to = step_size(kind, f, w, shape["seed"]), w + 1 if pulled else None
    still = f.head if kind == "body" else ~f.head
    after = f.descend(w, batch.both, lr, 3, 0.3, to)
    assert torch.equal(after[..., still], w[..., still])
    moved = after[..., ~still] != w[..., ~still]
    assert moved.all() or not pulled  # an error may be 0, the pull is not
    *_, last = f.path(w, batch.both, lr, 3)
    assert torch.equal(last[..., still], w[..., still])


def test_a_descent_sees_new_examples_and_new_step_sizes(pair):
    """One program serves every call of a shape: nothing of the last call may be left in it, nor of the last step."""
    f, slow, w, batch = pair(sizes=(2, 4, 4, 2), support=5, query=5)
    parts = [batch.support, batch.query, batch.query._replace(x=-batch.query.x)]
    for scale in (1.0, 2.0):
        for kind in RATES:
            lr = scale * step_size(kind, f, w, 0)
            ours = f.descend(w, parts.__getitem__, lr, 3)
            assert_close(ours, slow.descend(w, parts.__getitem__, lr, 3), **TIGHT)
            for support, query in ((parts[0], parts[1]), (parts[1], parts[2])):
                how = support, query, lr, 2
                assert_close(f.meta_gradient(w, *how), slow.meta_gradient(w, *how), **TIGHT)


@pytest.mark.parametrize("kind", RATES)
def test_no_step_size_leaves_the_closed_form(pair, kind, monkeypatch):
    f, _, w, batch = pair()

    def refuse(*_, **__):
        raise AssertionError("autograd was asked")

    for name in ("autograd", "autograd_linearize"):
        monkeypatch.setattr(f"fmlab.gradients.{name}", refuse)
        monkeypatch.setattr(f"fmlab.objective.{name}", refuse)
    for name in ("descend", "path", "meta_gradient", "meta_gradients"):
        monkeypatch.setattr(Objective, name, refuse)
    monkeypatch.setattr(gradients, "grad", refuse)
    lr = step_size(kind, f, w, 0)
    f.descend(w, batch.both, lr, 2, 0.1, w)
    assert len(list(f.path(w, batch.both, lr, 2))) == 3
    f.meta_gradient(w, batch.support, batch.query, lr, 2)
    f.meta_gradients(w, batch.support, batch.query, lr, 2)


def test_who_asks_for_a_graph_gets_one(pair):
    f, slow, w, batch = pair()
    lr = torch.full(w.shape[-1:], 0.1, dtype=w.dtype)
    for leaf in (w.clone(), lr):
        leaf.requires_grad_()
        sums = [g.descend(leaf if leaf is not lr else w, batch.both, lr, 2).square().sum() for g in (f, slow)]
        ours, theirs = (torch.autograd.grad(s, leaf)[0] for s in sums)
        assert_close(ours, theirs, **TIGHT)
        leaf.requires_grad_(False)


def test_what_a_program_returns_is_a_tensor_like_any_other(pair):
    """Programs run in torch's inference mode, whose tensors autograd refuses."""
    f, _, w, batch = pair(sizes=(2, 3, 2))
    g, product = f.linearize(w, batch.both)
    halves, walked = (batch.support, batch.query), list(f.path(w, batch.both, 0.1, 2))
    results = [f.gradient(w, batch.both), g, product(w), f.descend(w, batch.both, 0.1, 2), *walked[1:]]
    results += [*f.meta_gradients(w, *halves, 0.1, 1), next(f.scores([w], batch.query))[0]]
    results += [f.meta_gradient(w, *halves, lr, 2) for lr in (0.1, 0.1 * f.head)]
    for t in results:
        twice = 2 * t
        leaf = t.requires_grad_()
        assert torch.equal(*torch.autograd.grad(leaf.square().sum(), leaf), twice)
        t.detach().add_(1.0)  # nor is it the program's own memory
    assert_close(f.gradient(w, batch.both), results[0].detach() - 1.0)


def test_a_minibatch_of_every_step_is_drawn_outside(pair):
    f, _, w, batch = pair()
    seen = []
    f.descend(w, lambda k: seen.append(torch.ones(1).is_inference()) or batch.minibatch(k, 2), 0.1, 3)
    assert seen == [False] * 3


@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("size", [None, 2])
def test_many_clients_go_block_by_block_to_the_same_numbers(pair, kind, size, monkeypatch):
    f, _, w, batch = pair(sizes=(2, 4, 3), runs=2, clients=7)
    lr, half = step_size(kind, f, w, 0), (batch.support, batch.query)

    def everything():
        yield f.descend(w, lambda k: batch.minibatch(k, size), lr, 3, 0.1, w.flip(1))
        for first_order in (False, True):
            yield f.meta_gradient(w, *half, lr, 2, first_order)
        yield from f.meta_gradients(w, *half, lr, 2)

    whole = list(everything())
    for blocks, bytes_ in ((7, 1), (4, 2 * 2 * 8 * (f.model.size + 3 * 10 * 9))):
        monkeypatch.setattr(programs, "BLOCK", bytes_)
        assert len(f.programs._blocks(w, batch.both)) == blocks
        for ours, theirs in zip(everything(), whole, strict=True):
            assert_close(ours, theirs, **TIGHT)
