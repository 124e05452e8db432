"""Rounds: what a run may depend on, and what it may not. float64."""

import copy
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab import evaluation
from fmlab.data import Batch, Clients, Examples, examples
from fmlab.engine import Store, answers, participants, rounds, serve, work
from fmlab.evaluation import evaluate
from fmlab.objective import Objective

POPULATION = fm.Sines(n_clients=7, n_validation=2, n_unseen=3, support=4, query=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=fm.ALGORITHMS, ids=lambda a: a.__name__)
def algorithm(request, filled):
    return filled(request.param())


@pytest.fixture(scope="session")
def go(after):
    def run(algorithm, setup, clients, last=3, **options):
        options = {"seeds": (0,), "per_round": clients.number} | options
        return after(last, algorithm, setup.objective, clients, setup.start, **options)

    return run


def same_kept(a, b, check):
    """``check`` holds for every entry that clients keep."""
    assert a.kept.keys() == b.kept.keys()
    for name, t in a.kept.items():
        check(t, b.kept[name])


def equal(a, b):
    assert torch.equal(a, b)


def close(a, b):
    assert_close(a, b, **CLOSE)


def test_the_same_call_gives_the_same_bits(train, algorithm):
    first, _ = train(algorithm, POPULATION, per_round=3)
    second, _ = train(algorithm, POPULATION, per_round=3)
    assert torch.equal(first.server, second.server)
    same_kept(first, second, equal)


def test_every_round_is_yielded_and_counted(train):
    _, setup = train(fm.FedAvg(lr=0.01), POPULATION, 0)
    run = rounds(fm.FedAvg(lr=0.01), setup.objective, setup.training, setup.start, seeds=(0,), per_round=2)
    states = list(islice(run, 4))
    assert [s.round for s in states] == [0, 1, 2, 3]
    assert torch.equal(states[0].held["model"], setup.start[:, None])
    assert states[0].participants is None
    for t, state in enumerate(states[1:]):
        assert torch.equal(state.participants, participants((0,), 7, 2, t))
    assert states[3].up == states[3].down == 4 * setup.model.size


def test_stacked_seeds_are_each_alone(train, algorithm):
    together, setup = train(algorithm, POPULATION, seeds=(0, 5, 2), per_round=3)
    scores = evaluate(algorithm, setup.objective, together.held, setup.unseen, 2).loss
    for i, seed in enumerate((0, 5, 2)):
        alone, one = train(algorithm, POPULATION, seeds=(seed,), per_round=3)
        assert_close(together.server[i : i + 1], alone.server, **CLOSE)
        assert_close(scores[i : i + 1], evaluate(algorithm, one.objective, alone.held, one.unseen, 2).loss, **CLOSE)
        for name, t in alone.kept.items():
            assert_close(together.kept[name][i : i + 1], t, **CLOSE)


def small_batches(algorithm):
    """With minibatches, where it can have them."""
    return replace(algorithm, batch_size=3) if hasattr(algorithm, "batch_size") else algorithm


def test_the_order_of_the_clients_does_not_matter(train, go, algorithm):
    a = small_batches(algorithm)
    straight, setup = train(a, POPULATION)
    order = torch.tensor([[3, 0, 6, 1, 5, 2, 4]])
    support, query, _ = setup.training.take(order)
    mixed = go(a, setup, Clients(support, query, setup.training.sizes.gather(1, order), ids=order))
    assert_close(mixed.server, straight.server, **CLOSE)
    for name, t in straight.kept.items():
        assert_close(mixed.kept[name], t[:, order[0]], **CLOSE)


def test_padding_changes_nothing(train, go, algorithm):
    a = small_batches(algorithm)
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
    same_kept(state, plain, close)


def test_a_client_alone_is_itself_in_company_with_minibatches(train, algorithm):
    """What it sends and keeps, in every exchange of a round, after two rounds in which clients came to keep their own:
    on real nodes, where a node has one client, the same run comes out."""
    a = small_batches(algorithm)
    state, setup = train(a, POPULATION, 2, per_round=5)
    f, everybody, store = a.objective(setup.objective), setup.training, Store(state.kept)

    def half_round(places, phase):
        support, query, _ = everybody.take(places)
        return work(a, f, state.held, store.take(places), Batch(support, query, (0,), 5, places, phase))

    for phase in range(a.phases(f)):
        together = half_round(torch.tensor([[4, 0, 6, 2]]), phase)
        for at, client in enumerate((4, 0, 6, 2)):
            for alone, all_ in zip(half_round(torch.tensor([[client]]), phase), together, strict=True):
                for name, t in alone.items():
                    assert_close(t[:, 0], all_[name][:, at], rtol=1e-12, atol=1e-14)


def test_scoring_every_round_changes_no_bit(train, algorithm):
    plain, setup = train(algorithm, POPULATION, 4, per_round=3)
    run = rounds(algorithm, setup.objective, setup.training, setup.start, seeds=(0,), per_round=3)
    for state in islice(run, 5):
        evaluate(algorithm, setup.objective, state.held, setup.unseen, 3)
        evaluate(algorithm, setup.objective, state.held, setup.participating, 3)
    for name, t in plain.held.items():
        assert torch.equal(state.held[name], t)


def test_states_are_values(train, algorithm):
    """An earlier state does not move while the run goes on."""
    _, setup = train(algorithm, POPULATION, 0)
    run = rounds(algorithm, setup.objective, setup.training, setup.start, seeds=(0,), per_round=3)
    states, copies = [], []
    for state in islice(run, 4):
        states.append(state)
        copies.append(copy.deepcopy(state))
    for state, then in zip(states, copies, strict=True):
        assert all(torch.equal(t, then.held[name]) for name, t in state.held.items())
        for name, moments in state.moments.items():
            assert all(torch.equal(a, b) for a, b in zip(moments, then.moments[name], strict=True))
        assert torch.equal(state.diverged, then.diverged)
        assert torch.equal(state.heard, then.heard)


def test_going_on_from_a_state_is_never_having_stopped(train, go, algorithm):
    a = small_batches(algorithm)
    whole, setup = train(a, POPULATION, 7, per_round=3, dropout=0.3)
    first = go(a, setup, setup.training, 4, per_round=3, dropout=0.3)
    left = {name: t.clone() for name, t in first.kept.items()}
    store = Store(first.kept)
    run = rounds(a, setup.objective, setup.training, setup.start, seeds=(0,), per_round=3, dropout=0.3,
                 store=store, state=first.state)  # fmt: skip
    *_, last = islice(run, 4)
    assert last.round == 7
    assert all(torch.equal(last.held[name], t) for name, t in whole.held.items())
    assert all(torch.equal(store.kept[name], t) for name, t in whole.kept.items())
    assert all(torch.equal(first.kept[name], t) for name, t in left.items()), "what the study keeps has moved"


@pytest.mark.parametrize("optimiser", [fm.SGD(lr=0.01, momentum=0.9), fm.Adam(), fm.Yogi()], ids=repr)
def test_who_does_not_answer_changes_nothing(train, filled, algorithm, optimiser):
    """The server moves as if only the others had been asked, and the silent keep what they had."""
    a = small_batches(algorithm)
    a = replace(a, server=optimiser) if "server" in {f.name for f in fields(a)} else a
    _, setup = train(a, POPULATION, 0)
    f, run = a.objective(setup.objective), {"seeds": (0,), "per_round": 7}
    states = rounds(a, setup.objective, setup.training, setup.start, dropout=0.6, store=(store := Store()), **run)
    before, steps = next(states), 0
    for t in range(6):
        kept = {name: m.clone() for name, m in store.kept.items()}
        after = next(states)
        there = answers((0,), torch.arange(7)[None], t, 0.6)[0].nonzero()[:, 0][None]
        silent = [c for c in range(7) if c not in there[0].tolist()]
        assert all(torch.equal(store.kept[name][:, silent], m[:, silent]) for name, m in kept.items())
        if there.shape[1] == 0:
            assert all(torch.equal(after.held[name], m) for name, m in before.held.items())
            continue
        support, query, _ = setup.training.take(there)
        mine = {name: m[:, there[0]] for name, m in kept.items()}
        held, moments = before.held, before.moments
        steps += 1
        for phase in range(a.phases(f)):
            sent, mine = work(a, f, held, mine, Batch(support, query, (0,), t, there, phase))
            held, moments = serve(a, f, held, moments, sent, None, there.shape[1] / 7, steps)
        for name, m in after.held.items():
            assert_close(m, held[name], rtol=1e-10, atol=1e-12)
        assert after.heard.item() == steps
        before = after


def test_a_round_in_which_nobody_answers_leaves_the_server_as_it_was(train, algorithm):
    """With one client a round and a dropout of 0.9 most rounds are such."""
    _, setup = train(algorithm, POPULATION, 0)
    run = rounds(algorithm, setup.objective, setup.training, setup.start, seeds=(0,), per_round=1, dropout=0.9)
    before, silent = next(run), 0
    for after in islice(run, 20):
        if after.heard == before.heard:
            silent += 1
            assert all(torch.equal(t, before.held[name]) for name, t in after.held.items())
            assert all(
                torch.equal(x, y)
                for name, m in after.moments.items()
                for x, y in zip(m, before.moments[name], strict=True)
            )
        before = after
    assert 10 <= silent < 20
    assert after.answers.item() == after.heard.item() == 20 - silent


@settings(deadline=None, max_examples=20)
@given(st.floats(0.0, 0.95), st.integers(0, 1000))
def test_answers_are_by_seed_round_and_client(dropout, t):
    ids = torch.stack([torch.arange(400), torch.arange(400).flip(0)])
    there = answers((3, 3), ids, t, dropout)
    assert torch.equal(there[0], there[1].flip(0)), "in any order and company"
    assert abs(there[0].double().mean() - (1 - dropout)) < 6 * (0.25 / 400) ** 0.5
    if dropout > 0.05:
        assert not torch.equal(there, answers((3, 3), ids, t + 1, dropout))


def test_transforms_change_what_is_sent_before_the_mean(train, algorithm):
    plain, setup = train(algorithm, POPULATION, 1)
    halved, _ = train(algorithm, POPULATION, 1, transforms=[lambda sent, batch: {k: 0.5 * t for k, t in sent.items()}])
    if plain.up == 0:
        assert torch.equal(halved.server, plain.server)
        return
    f, store = algorithm.objective(setup.objective), Store()
    held, kept = algorithm.start(f, setup.start[:, None])
    store.fill(kept, 7)
    moments = {name: algorithm.server.init(held[name]) for name in algorithm.learned}
    places, mine = torch.arange(7)[None], None
    mine = store.take(places)
    for phase in range(algorithm.phases(f)):
        batch = Batch(*setup.training.everyone(), (0,), 0, places, phase)
        sent, mine = work(algorithm, f, held, mine, batch)
        sent = {name: 0.5 * t for name, t in sent.items()}
        held, moments = serve(algorithm, f, held, moments, sent, None, 1.0, 1)
    for name, t in halved.held.items():
        assert_close(t, held[name], **CLOSE)


class Spy(Objective):
    """An objective that remembers the models it is asked to score."""

    def __init__(self, f, seen=None):
        self.f, self.seen = f, [] if seen is None else seen

    def __call__(self, w, data):
        return self.f(w, data)

    @property
    def head(self):
        return self.f.head

    @property
    def chain(self):
        return self.f.chain

    def resized(self, hidden):
        return Spy(self.f.resized(hidden), self.seen)

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
        evaluate(algorithm, spy, state.held, clients, 3).loss
        for spy, clients in zip(spies, (setup.unseen, other), strict=True)
    ]
    assert len(spies[0].seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(spies[0].seen, spies[1].seen, strict=True))
    assert not torch.allclose(*losses)
    moved = replace(setup.unseen, support=support._replace(y=support.y + 100.0))
    spy = Spy(setup.objective)
    evaluate(algorithm, spy, state.held, moved, 3)
    assert torch.equal(spy.seen[0], spies[0].seen[0])
    assert not torch.allclose(spy.seen[1], spies[0].seen[1])


def test_scoring_in_chunks_is_scoring_at_once(train, algorithm, monkeypatch):
    state, setup = train(algorithm, POPULATION, 1)
    at_once = evaluate(algorithm, setup.objective, state.held, setup.participating, 2).loss
    monkeypatch.setattr(evaluation, "CHUNK", 2 * sum(t.numel() for t in state.held.values()))
    assert_close(evaluate(algorithm, setup.objective, state.held, setup.participating, 2).loss, at_once, **CLOSE)


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
    state, _ = train(fm.LocalOnly(lr=fm.sweep(0.01, 10.0)), POPULATION, 20)
    assert state.server.isfinite().all()
    assert state.kept["model"].isfinite().flatten(1).all(1).tolist() == [True, False]
    assert state.diverged[0] == -1
    assert 0 < state.diverged[1] <= 20


def test_the_mean_is_uniform_or_by_size(train, go):
    a = fm.FedAvg(local_steps=3, lr=0.02)
    _, setup = train(a, POPULATION, 0)
    sizes = torch.arange(1.0, 8.0, dtype=torch.float64)[None]
    clients = replace(setup.training, sizes=sizes)
    start = setup.start[:, None]
    sent = a.local(setup.objective, {"model": start.expand(-1, 7, -1)}, {}, Batch(*clients.everyone()))[0]["model"]
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


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_clients_minibatch_depends_on_nobody_else(problem, data):
    """Not on who else takes part, on its place, nor on how far the others' examples make it pad."""
    _, _, batch = problem(runs=1, clients=5, support=6, query=6, ragged=True)
    ids = torch.tensor([[11, 3, 8, 20, 5]])
    together = Batch(batch.support, batch.query, (7,), 4, ids)
    size, step = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 9))
    client = data.draw(st.integers(0, 4))
    own = [e.map(lambda t: t[:, client : client + 1]) for e in (batch.support, batch.query)]
    own = [e.map(lambda t, real=e.weight[0, 0] > 0: t[:, :, real]) for e in own]
    alone = Batch(*own, (7,), 4, ids[:, client : client + 1]).minibatch(step, size)
    ours = together.minibatch(step, size).map(lambda t: t[:, client : client + 1])
    n = int((alone.weight > 0).sum())
    if n == own[0].weight.shape[-1] + own[1].weight.shape[-1]:  # all it has, in any order
        assert_close(alone.x.sort(2).values, ours.x[:, :, ours.weight[0, 0] > 0].sort(2).values)
        return
    assert torch.equal(alone.x, ours.x[:, :, :n])
    assert torch.equal(alone.y, ours.y[:, :, :n])
    assert_close(alone.weight, ours.weight[..., :n])


def test_minibatches_take_every_example_alike():
    """10,000 draws of 3 out of 12: each example about 2,500 times (standard deviation 43)."""
    x = torch.arange(12.0).expand(1, 1000, 12)[..., None]
    e = examples(x, x)
    none = e.map(lambda t: t[:, :, :0])
    drawn = torch.cat([Batch(e, none, (0,), t).minibatch(0, 3).x.long().flatten() for t in range(10)])
    counts = drawn.bincount(minlength=12)
    assert counts.sum() == 30_000
    assert (counts - 2500).abs().max() < 6 * 43


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minibatches_do_not_depend_on_the_default_dtype(problem, dtype):
    _, _, batch = problem(support=10, query=10)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = batch.minibatch(3, 4).x
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, Batch(batch.support, batch.query, batch.seeds).minibatch(3, 4).x)


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
