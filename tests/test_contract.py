"""The contract table: every algorithm on every population. A new one of either adds its own rows by being in the tuple.

Step sizes are given here, so that no recorded search is needed; populations are small, otherwise as they come.
"""

import math
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab.data import Batch
from fmlab.declare import pick, spread, sweep_length
from fmlab.engine import rounds
from fmlab.evaluation import evaluate
from fmlab.setup import prepare

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
SMALL = {"n_clients": 5, "n_validation": 2, "n_unseen": 3}
# Where one of two ways through an algorithm is not its default.
VARIANTS = [
    fm.FedMAML(first_order=True),
    fm.FedMAML(inner_steps=3),
    fm.PerFedAvg(variant="HF"),
    fm.FedAvg(batch_size=2),
]
FLAG = (False, True)
ALGORITHMS = [*(a() for a in fm.ALGORITHMS), *VARIANTS]
MADE = [*ALGORITHMS, *(p() for p in fm.POPULATIONS), fm.FedAvg(lr=fm.sweep(0.1, 0.2), server=fm.Yogi())]


def name(value):
    return value.__name__ if isinstance(value, type) else repr(value)


@pytest.fixture(scope="module", params=fm.POPULATIONS, ids=name)
def setup(request):
    """A small population of each kind, drawn once."""
    return prepare([fm.FedAvg()], request.param(**SMALL), seeds=[0], clients_per_round=1)


@pytest.fixture(params=ALGORITHMS, ids=name)
def algorithm(request, filled):
    return filled(request.param)


def run(algorithm, setup, last, per_round=3):
    states = rounds(algorithm, setup.objective, setup.training, setup.start, seeds=(0,), per_round=per_round)
    return next(islice(states, last, None))


def one_round(algorithm, setup):
    """What ``local`` is given: the server's start at every client, what they keep, and all their data."""
    server, kept = algorithm.init(setup.start[:, None], setup.training.number)
    return server.expand(-1, setup.training.number, -1), kept, Batch(*setup.training.everyone())


def copies(*tensors):
    return [None if t is None else t.clone() for t in tensors]


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_pure_finite_and_deterministic(setup, algorithm):
    server, kept, batch = one_round(algorithm, setup)
    given_ = (server, kept, *batch.support, *batch.query)
    before, stream = copies(*given_), torch.random.get_rng_state()
    first = algorithm.local(setup.objective, server, kept, batch)
    second = algorithm.local(setup.objective, server, kept, batch)
    adapted = list(algorithm.adapt(setup.objective, server, batch.support, 2))
    assert same(before, given_), "local or adapt changed what it was given"
    assert torch.equal(stream, torch.random.get_rng_state()), "local or adapt drew from the global stream"
    assert same(first, second)
    assert all(t is None or t.isfinite().all() for t in first)
    assert len(adapted) == 3
    assert all(u.shape == (1, 5, setup.model.size) and u.isfinite().all() for u in adapted)
    sent, kept_after = first
    assert sent is None or sent.shape == server.shape
    assert (kept is None) is (kept_after is None)
    assert kept is None or kept_after.shape == kept.shape


def test_descends(setup, algorithm):
    """Training lowers the participating clients' loss after adaptation, or that of the models they keep."""
    f, before, after = setup.objective, run(algorithm, setup, 0, 5), run(algorithm, setup, 15, 5)
    both = Batch(*setup.training.everyone()).both
    if after.bytes_per_client > 0:
        adapted = [
            f(list(algorithm.adapt(f, s.server.expand(-1, 5, -1), both, 1))[-1], both).mean() for s in (before, after)
        ]
        assert adapted[1] < adapted[0]
    else:
        assert torch.equal(after.server, before.server)
    if after.kept is not None and after.kept.shape[-1] == setup.model.size:
        assert (f(after.kept, both) < f(setup.start[:, None].expand(-1, 5, -1), both)).all()


def test_scores_every_unseen_client_after_every_step(setup, algorithm):
    state = run(algorithm, setup, 2)
    scores = evaluate(algorithm, setup.objective, state.server, setup.unseen, 2)
    assert scores.loss.shape == (1, 3, 3)
    assert scores.loss.isfinite().all()
    if scores.accuracy is not None:
        assert ((scores.accuracy >= 0) & (scores.accuracy <= 1)).all()


def test_says_what_a_round_costs(algorithm):
    """Gradient evaluations are counted, a Hessian-vector product as two: once the real calls are."""

    class Counting:
        calls = 0

        def __init__(self, f):
            self.f = f

        def __call__(self, w, data):
            return self.f(w, data)

        def gradient(self, w, data):
            self.calls += 1
            return self.f.gradient(w, data)

        def linearize(self, w, data):
            self.calls += 1
            g, product = self.f.linearize(w, data)

            def counted(v):
                self.calls += 2
                return product(v)

            return g, counted

    small = prepare([fm.FedAvg()], fm.Sines(**SMALL), seeds=[0], clients_per_round=1)
    counting = Counting(small.objective)
    algorithm.local(counting, *one_round(algorithm, small))
    assert counting.calls == algorithm.evaluations()


@pytest.mark.parametrize("made", MADE, ids=name)
def test_the_repr_makes_it_again(made):
    again = eval(repr(made), vars(fm))
    assert again == made
    assert type(again) is type(made)
    assert replace(made) == made


def hypers(declared, prefix=""):
    """(dotted name, Hyper) of every number; the server optimiser's too."""
    for f in fields(declared):
        if "hyper" in f.metadata:
            yield prefix + f.name, f.metadata["hyper"]
        elif f.name == "server":
            yield from hypers(declared.server, "server.")


def put(declared, dotted, value):
    head, _, rest = dotted.partition(".")
    return replace(declared, **{head: put(getattr(declared, head), rest, value) if rest else value})


def values_of(algorithm, dotted, h):
    """Two values of a field, near the one it has."""
    head, _, rest = dotted.partition(".")
    now = getattr(getattr(algorithm, head), rest) if rest else getattr(algorithm, head)
    if h.whole:
        return 1, 3
    return (max(h.low, now / 2), now) if now else (0.0, min(h.high, 0.1))


def sweepable(ours):
    """(algorithm, field, Hyper) of all fields that can be swept: its own, or those of its server optimiser."""
    rows = [
        (cls, dotted, h)
        for cls in fm.ALGORITHMS
        for dotted, h in hypers(cls())
        if h.sweepable and ours is not dotted.startswith("server.")
    ]
    flags = [(cls, f.name, None) for cls in fm.ALGORITHMS for f in fields(cls) if f.metadata.get("options") == FLAG]
    return [pytest.param(*row, id=f"{row[0].__name__}-{row[1]}") for row in rows + (flags if ours else [])]


def check_sweep(a, dotted, h, setup):
    swept = put(a, dotted, fm.sweep(*(values_of(a, dotted, h) if h else FLAG)))
    assert sweep_length(swept) == 2
    together = run(swept, setup, 2)
    wide = spread(swept, 1, torch.float64, torch.device("cpu"))
    scores = evaluate(wide, setup.objective, together.server, setup.unseen, 1).loss
    spent = torch.as_tensor(wide.evaluations()).flatten().expand(2)
    for i in range(2):
        one = pick(swept, i)
        alone = run(one, setup, 2)
        assert_close(together.server[i : i + 1], alone.server, **CLOSE)
        assert_close(scores[i : i + 1], evaluate(one, setup.objective, alone.server, setup.unseen, 1).loss, **CLOSE)
        assert spent[i] == one.evaluations()
        if together.kept is not None:
            assert_close(together.kept[i : i + 1], alone.kept, **CLOSE)


@pytest.mark.parametrize(("cls", "dotted", "h"), sweepable(ours=True))
def test_a_sweep_is_its_values_each_alone(setup, filled, cls, dotted, h):
    check_sweep(filled(cls()), dotted, h, setup)


@pytest.mark.parametrize(("cls", "dotted", "h"), sweepable(ours=False))
def test_a_sweep_of_the_server_is_its_values_each_alone(filled, cls, dotted, h):
    small = prepare([fm.FedAvg()], fm.Quadratics(**SMALL), seeds=[0], clients_per_round=1)
    check_sweep(filled(cls()), dotted, h, small)


ENDS = [pytest.param(c, d, h, id=f"{c.__name__}-{d}") for c in fm.ALGORITHMS for d, h in hypers(c())]


@pytest.mark.parametrize(("cls", "dotted", "h"), ENDS)
def test_both_ends_of_every_range_run_or_are_shown_as_diverged(filled, cls, dotted, h):
    small = prepare([fm.FedAvg()], fm.Sines(**SMALL, support=3, query=3), seeds=[0], clients_per_round=1)
    for value in (h.low, h.high):
        a = put(filled(cls()), dotted, int(value) if h.whole else value)
        state = run(a, small, 2)
        assert bool(state.server.isfinite().all()) is (state.diverged.item() == -1)
        assert evaluate(a, small.objective, state.server, small.unseen, 1).loss.shape == (1, 3, 2)
        for outside in (math.nextafter(h.low, -math.inf), math.nextafter(h.high, math.inf)):
            with pytest.raises(ValueError, match=dotted.rpartition(".")[2]):
                put(a, dotted, outside)


@pytest.mark.parametrize("population", fm.POPULATIONS)
def test_a_population_is_a_function_of_seed_split_and_client(population):
    small, large = population(**SMALL), population(**SMALL | {"n_clients": 8})
    for split in ("training", "participating", "validation", "unseen"):
        clients, again, more = small.draw(split, 3), small.draw(split, 3), large.draw(split, 3)
        assert clients.number == small.count(split)
        for part in ("support", "query"):
            one, two, wide = (getattr(c, part) for c in (clients, again, more))
            assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
            weight = one.weight.sum(-1)
            assert_close(weight, torch.ones_like(weight))
            assert torch.equal(one.y, wide.y[:, : clients.number])
    training, scored, other = small.draw("training", 3), small.draw("participating", 3), small.draw("training", 4)
    assert all(torch.equal(x, y) for x, y in zip(training.support, scored.support, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(training.support, other.support, strict=True))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_setting_within_the_ranges_runs(filled, data):
    """Any algorithm at any hyperparameters within reach of a slider: no crash, and divergence is never hidden."""
    a = filled(data.draw(st.sampled_from(fm.ALGORITHMS))())
    for dotted, h in hypers(a):
        if data.draw(st.booleans()):
            continue
        high = min(h.high, 6)
        value = st.integers(int(h.low), int(high)) if h.whole else st.floats(h.low, high)
        a = put(a, dotted, data.draw(value, label=dotted))
    small = prepare([fm.FedAvg()], fm.Sines(**SMALL, support=2, query=2), seeds=[0], clients_per_round=1)
    state = run(a, small, 2, data.draw(st.integers(1, 5)))
    models = [state.server] if state.kept is None else [state.server, state.kept]
    assert all(bool(m.isfinite().all()) for m in models) is (state.diverged.item() == -1)
    assert eval(repr(a), vars(fm)) == a
