"""Rounds: what a run may depend on, and what it may not. float64."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab import evaluation
from fmlab.data import Batch, Clients, Examples
from fmlab.engine import participants, rounds
from fmlab.evaluation import evaluate

POPULATION = fm.Sines(n_clients=7, n_validation=2, n_unseen=3, support=4, query=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=fm.ALGORITHMS, ids=lambda a: a.__name__)
def algorithm(request, filled):
    return filled(request.param())


def go(algorithm, setup, clients, last=3, per_round=None, seeds=(0,), weights="uniform"):
    run = rounds(algorithm, setup.objective, clients, setup.start, seeds=seeds,
                 per_round=per_round or clients.number, weights=weights)  # fmt: skip
    return next(islice(run, last, None))


def whole(algorithm):
    """Minibatches are drawn by a client's place in the round; these identities hold without them."""
    return replace(algorithm, batch_size=1000) if hasattr(algorithm, "batch_size") else algorithm


def test_the_same_call_gives_the_same_bits(train, algorithm):
    first, _ = train(algorithm, POPULATION, per_round=3)
    second, _ = train(algorithm, POPULATION, per_round=3)
    assert torch.equal(first.server, second.server)
    assert first.kept is None or torch.equal(first.kept, second.kept)


def test_every_round_is_yielded_and_counted(train):
    _, setup = train(fm.FedAvg(lr=0.01), POPULATION, 0)
    run = rounds(fm.FedAvg(lr=0.01), setup.objective, setup.training, setup.start, seeds=(0,), per_round=2)
    states = list(islice(run, 4))
    assert [s.round for s in states] == [0, 1, 2, 3]
    assert torch.equal(states[0].server, setup.start[:, None])
    assert states[0].participants is None
    for t, state in enumerate(states[1:]):
        assert torch.equal(state.participants, participants((0,), 7, 2, t))
    assert states[3].bytes_per_client == 4 * setup.model.size


def test_stacked_seeds_are_each_alone(train, algorithm):
    together, setup = train(algorithm, POPULATION, seeds=(0, 5, 2), per_round=3)
    scores = evaluate(algorithm, setup.objective, together.server, setup.unseen, 2).loss
    for i, seed in enumerate((0, 5, 2)):
        alone, one = train(algorithm, POPULATION, seeds=(seed,), per_round=3)
        assert_close(together.server[i : i + 1], alone.server, **CLOSE)
        assert_close(scores[i : i + 1], evaluate(algorithm, one.objective, alone.server, one.unseen, 2).loss, **CLOSE)
        if together.kept is not None:
            assert_close(together.kept[i : i + 1], alone.kept, **CLOSE)


def test_the_order_of_the_clients_does_not_matter(train, algorithm):
    a = whole(algorithm)
    straight, setup = train(a, POPULATION)
    order = torch.tensor([[3, 0, 6, 1, 5, 2, 4]])
    support, query, _ = setup.training.take(order)
    mixed = go(a, setup, Clients(support, query, setup.training.sizes.gather(1, order)))
    assert_close(mixed.server, straight.server, **CLOSE)
    if straight.kept is not None:
        assert_close(mixed.kept, straight.kept[:, order[0]], **CLOSE)


def test_padding_changes_nothing(train, algorithm):
    a = whole(algorithm)
    plain, setup = train(a, POPULATION)

    def pad(e):
        shape = (1, 7, 5)
        return Examples(
            torch.cat([e.x, torch.full((*shape, 1), 9.0, dtype=e.x.dtype)], 2),
            torch.cat([e.y, torch.full((*shape, 1), -7.0, dtype=e.y.dtype)], 2),
            torch.cat([e.weight, torch.zeros(shape, dtype=e.weight.dtype)], 2),
        )

    padded = replace(setup.training, support=pad(setup.training.support), query=pad(setup.training.query))
    state = go(a, setup, padded)
    assert_close(state.server, plain.server, **CLOSE)
    assert plain.kept is None or torch.allclose(state.kept, plain.kept, **CLOSE)


def test_scoring_every_round_changes_no_bit(train, algorithm):
    plain, setup = train(algorithm, POPULATION, 4, per_round=3)
    run = rounds(algorithm, setup.objective, setup.training, setup.start, seeds=(0,), per_round=3)
    for state in islice(run, 5):
        evaluate(algorithm, setup.objective, state.server, setup.unseen, 3)
        evaluate(algorithm, setup.objective, state.server, setup.participating, 3)
    assert torch.equal(state.server, plain.server)
    assert plain.kept is None or torch.equal(state.kept, plain.kept)


class Spy:
    """An objective that remembers the models it is asked to score."""

    def __init__(self, f):
        self.f, self.seen = f, []

    def __call__(self, w, data):
        return self.f(w, data)

    def __getattr__(self, name):
        return getattr(self.f, name)

    def scores(self, models, data):
        for w in models:
            self.seen.append(w)
            yield from self.f.scores([w], data)


def test_query_labels_leave_the_adapted_models_alone(train, algorithm):
    state, setup = train(algorithm, POPULATION, 2)
    support, query = setup.unseen.support, setup.unseen.query
    other = replace(setup.unseen, query=query._replace(y=query.y + 100.0, x=-query.x))
    spies = [Spy(setup.objective), Spy(setup.objective)]
    losses = [
        evaluate(algorithm, spy, state.server, clients, 3).loss
        for spy, clients in zip(spies, (setup.unseen, other), strict=True)
    ]
    assert len(spies[0].seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(spies[0].seen, spies[1].seen, strict=True))
    assert not torch.allclose(*losses)
    moved = replace(setup.unseen, support=support._replace(y=support.y + 100.0))
    spy = Spy(setup.objective)
    evaluate(algorithm, spy, state.server, moved, 3)
    assert torch.equal(spy.seen[0], spies[0].seen[0])
    assert not torch.allclose(spy.seen[1], spies[0].seen[1])


def test_scoring_in_chunks_is_scoring_at_once(train, algorithm, monkeypatch):
    state, setup = train(algorithm, POPULATION, 1)
    at_once = evaluate(algorithm, setup.objective, state.server, setup.participating, 2).loss
    monkeypatch.setattr(evaluation, "CHUNK", 2 * state.server.numel())
    assert_close(evaluate(algorithm, setup.objective, state.server, setup.participating, 2).loss, at_once, **CLOSE)


def test_a_diverged_run_is_recorded_and_the_others_go_on(train):
    swept = fm.FedAvg(lr=fm.sweep(0.01, 10.0, 0.02))
    state, _ = train(swept, POPULATION, 20, seeds=(0, 1))
    good = [0, 1, 4, 5]
    assert (state.diverged[good] == -1).all()
    assert (state.diverged[[2, 3]] > 0).all()
    assert state.server[good].isfinite().all()
    for run in (2, 3):
        when = state.diverged[run].item()
        before, _ = train(swept, POPULATION, when - 1, seeds=(0, 1))
        after, _ = train(swept, POPULATION, when, seeds=(0, 1))
        assert before.server[run].isfinite().all()
        assert not after.server[run].isfinite().all()
    alone, _ = train(fm.FedAvg(lr=0.02), POPULATION, 20, seeds=(0, 1))
    assert_close(state.server[4:], alone.server, **CLOSE)


def test_a_model_that_a_client_keeps_diverges_too(train):
    state, _ = train(fm.LocalOnly(adapt_lr=fm.sweep(0.01, 10.0)), POPULATION, 20)
    assert state.server.isfinite().all()
    assert state.kept.isfinite().flatten(1).all(1).tolist() == [True, False]
    assert state.diverged[0] == -1
    assert 0 < state.diverged[1] <= 20


def test_the_mean_is_uniform_or_by_size(train):
    a = fm.FedAvg(local_steps=3, lr=0.02)
    _, setup = train(a, POPULATION, 0)
    sizes = torch.arange(1.0, 8.0, dtype=torch.float64)[None]
    clients = replace(setup.training, sizes=sizes)
    sent, _ = a.local(setup.objective, setup.start[:, None].expand(-1, 7, -1), None, Batch(*clients.everyone()))
    start = setup.start[:, None]
    assert_close(go(a, setup, clients, 1).server, start - sent.mean(1, keepdim=True))
    by_size = start - (sent * sizes[..., None]).sum(1, keepdim=True) / sizes.sum()
    assert_close(go(a, setup, clients, 1, weights="size").server, by_size)


def test_single_precision_agrees_with_double(train, algorithm):
    single, _ = train(algorithm, POPULATION, 2, dtype=torch.float32)
    double, _ = train(algorithm, POPULATION, 2)
    assert single.server.dtype == torch.float32
    # Adam's first steps go by the sign of a gradient, so single numbers that are almost 0 may differ by two steps
    assert (single.server - double.server).abs().mean() < 1e-3


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.data())
def test_participation_is_a_sample_without_replacement_by_seed_and_round(n, data):
    m = data.draw(st.integers(1, n))
    who = participants((0, 4), n, m, 3)
    assert who.shape == (2, m)
    assert all(len(set(row.tolist())) == m and row.min() >= 0 and row.max() < n for row in who)
    assert torch.equal(who, participants((0, 4), n, m, 3))
    assert torch.equal(who[1:], participants((4,), n, m, 3))


def test_participation_differs_between_rounds_and_seeds():
    assert not torch.equal(participants((0,), 50, 20, 1), participants((0,), 50, 20, 2))
    assert not torch.equal(participants((0,), 50, 20, 1), participants((1,), 50, 20, 1))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(1, 13), st.integers(0, 3))
def test_minibatches_are_real_examples_without_replacement(problem, support, query, ragged, size, step):
    _, _, batch = problem(support=support, query=query, ragged=ragged)
    part = batch.minibatch(step, size)
    assert_close(part.weight.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    for r in range(2):
        for c in range(3):
            own = {tuple(x) for x, k in zip(batch.both.x[r, c].tolist(), batch.both.weight[r, c], strict=True) if k > 0}
            got = [tuple(x) for x, k in zip(part.x[r, c].tolist(), part.weight[r, c], strict=True) if k > 0]
            assert len(got) == len(set(got)) == min(size, len(own))
            assert set(got) <= own
            used = part.weight[r, c][part.weight[r, c] > 0]
            assert_close(used, torch.full_like(used, 1 / len(got)))


def test_minibatches_are_a_function_of_seed_round_and_step(problem):
    _, _, batch = problem(runs=4, support=10, query=10)
    batch = Batch(batch.support, batch.query, seeds=(0, 1), round=2)
    rows = [batch.minibatch(k, 4).x for k in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    later = Batch(batch.support, batch.query, seeds=(0, 1), round=3)
    assert not torch.equal(later.minibatch(0, 4).x, rows[0])
    same_data = batch.support.map(lambda t: t[:1].repeat(4, *[1] * (t.ndim - 1)))
    swept = Batch(same_data, same_data, seeds=(0, 1)).minibatch(0, 4).x
    assert torch.equal(swept[:2], swept[2:])  # every swept value of a seed meets the same minibatches
    assert not torch.equal(swept[0], swept[1])
