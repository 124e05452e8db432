"""The contract table: every algorithm on every population. A new one of either adds its own rows by being in the tuple.

Step sizes are given here, so that no recorded search is needed; populations are small, otherwise as they come.
"""

import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import fmlab as fm
from fmlab.data import Batch
from fmlab.declare import lanes, pick, spread, step_sizes, sweep_length
from fmlab.evaluation import evaluate, personal
from fmlab.objective import Objective
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


def drawn(clients, rows=(10, 30)):
    """A client's name, inputs and a number to predict, example by example. Sizes and, in part, slopes differ."""
    rng = np.random.default_rng(0)
    for i in range(clients):
        slope = 1 + rng.normal(size=3) / 2
        for x in rng.normal(size=(rng.integers(*rows), 3)):
            yield f"c{i}", x, x @ slope + i / clients


def OwnNumbers(**counts):
    """A table with numbers and a category as inputs, and a number to predict."""
    rows = [(c, *x, "ab"[i % 2], y) for i, (c, x, y) in enumerate(drawn(12))]
    frame = pd.DataFrame(rows, columns=["client", "a", "b", "c", "kind", "y"])
    return fm.Table(frame, client="client", target="y", **counts)


def OwnClasses(**counts):
    """Datasets of torch, with classes to predict."""
    rows = list(drawn(12))
    own = {c: [(torch.tensor(x), int(y > 0.5)) for d, x, y in rows if c == d] for c, _, _ in rows}
    return fm.Datasets(own, **counts)


EVERYONE = (*fm.POPULATIONS, OwnNumbers, OwnClasses)
ALGORITHMS = [*(a() for a in fm.ALGORITHMS), *VARIANTS]
MADE = [
    *ALGORITHMS,
    *(p() for p in (*fm.POPULATIONS, *fm.SCENARIOS)),
    fm.FedAvg(lr=fm.sweep(0.1, 0.2), server=fm.Yogi()),
]


def _filled(algorithm):
    return replace(algorithm, **{f: 0.005 for f in step_sizes(algorithm) if getattr(algorithm, f) is None})


def name(value):
    return value.__name__ if hasattr(value, "__name__") else repr(value)


def refused(population, algorithm):
    """Why the method has no meaning for the population's model, or None."""
    model, f = population().model(), population().objective(None)
    try:
        algorithm.start(algorithm.objective(f), model.init(torch.Generator().manual_seed(0))[None, None])
    except ValueError as reason:
        return str(reason)


FEW = [fm.FedMAML(), *(a() for a in fm.ALGORITHMS if not issubclass(a, fm.FedMAML))]  # on scenarios: no variants
PAIRS = [(p, a) for p in EVERYONE for a in map(_filled, ALGORITHMS) if refused(p, a) is None]
PAIRS += [(p, a) for p in fm.SCENARIOS for a in map(_filled, FEW)]
everywhere = pytest.mark.parametrize(
    ("setup", "algorithm"), PAIRS, indirect=["setup"], ids=[f"{name(p)}-{name(a)}" for p, a in PAIRS]
)


@pytest.fixture(scope="module")
def setup(request):
    """A small population of each kind, drawn once."""
    return prepare([fm.FedAvg()], request.param(**SMALL), seeds=[0], clients_per_round=1)


def test_a_method_without_a_meaning_is_refused_before_training():
    """A body and a head need a model of two layers; the message names the method, the model and what is missing."""
    pairs = [(p, a) for p in fm.POPULATIONS for a in ALGORITHMS if (p, _filled(a)) not in PAIRS]
    assert {name(p) for p, _ in pairs} == {"Quadratics", "Synthetic"}
    for population, a in pairs:
        with pytest.raises(ValueError, match=f"{type(a).__name__}.* cannot train .*layer"):
            prepare([a], population(**SMALL), seeds=[0], clients_per_round=1)
    for a in {type(a) for p, a in pairs if p is fm.Synthetic}:  # the papers' network for it has a hidden layer
        prepare([a()], fm.Synthetic(**SMALL), model=fm.MLP((60, 20, 10)), seeds=[0], clients_per_round=1)


@pytest.fixture(scope="session")
def run(after):
    def go(algorithm, setup, last, per_round=3):
        given = setup.objective, setup.training, setup.start
        return after(last, algorithm, *given, seeds=(0,), per_round=per_round)

    return go


def one_round(algorithm, setup):
    """What ``local`` is given: f, the server's start at every client, what they keep, and all their data."""
    n, f = setup.training.number, algorithm.objective(setup.objective)
    held, kept = algorithm.start(f, setup.start[:, None])
    wide = ({name: t.expand(-1, n, -1) for name, t in tree.items()} for tree in (held, kept))
    return f, *wide, Batch(*setup.training.everyone())


def copies(*trees):
    return [{name: t.clone() for name, t in tree.items()} for tree in trees]


def same(a, b):
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def finite(tree):
    return all(bool(t.isfinite().all()) for t in tree.values())


@everywhere
def test_pure_finite_and_deterministic(setup, algorithm):
    f, held, kept, batch = one_round(algorithm, setup)
    given_ = (held, kept, batch.support._asdict(), batch.query._asdict())
    before, stream = copies(*given_), torch.random.get_rng_state()
    first = algorithm.local(f, held, kept, batch)
    second = algorithm.local(f, held, kept, batch)
    adapted = list(algorithm.adapt(f, held, batch.support, 2))
    assert same(before, given_), "local or adapt changed what it was given"
    assert torch.equal(stream, torch.random.get_rng_state()), "local or adapt drew from the global stream"
    assert same(first, second)
    assert all(map(finite, first))
    sizes = {u.shape for u in adapted}
    assert len(adapted) == 3
    assert len(sizes) == 1
    assert all(u.isfinite().all() for u in adapted)
    sent, kept_after = first
    assert {name: t.shape for name, t in kept_after.items()} == {name: t.shape for name, t in kept.items()}
    assert all(t.shape[:2] == (1, 5) for t in sent.values())
    assert set(algorithm.learned) <= set(held)
    own = algorithm.personal(f, held, kept_after)
    assert own is None or own.shape == adapted[0].shape


@everywhere
def test_descends(setup, algorithm, run):
    """Training lowers the participating clients' loss after adaptation, or that of their own models."""
    f, before, later = algorithm.objective(setup.objective), run(algorithm, setup, 0, 5), run(algorithm, setup, 15, 5)
    both = Batch(*setup.training.everyone()).both
    wide = [{name: t.expand(-1, 5, -1) for name, t in s.held.items()} for s in (before, later)]
    if later.up > 0:
        # Not on all of it: what a patient's model says of the hours that it adapts on, no method of two sets trains.
        support, query = setup.training.everyone()
        adapted = [f(list(algorithm.adapt(f, held, support, 1))[-1], query).mean() for held in wide]
        assert adapted[1] < adapted[0]
    else:
        assert torch.equal(later.server, before.server)
    own = [algorithm.personal(f, held, s.kept) for held, s in zip(wide, (before, later), strict=True)]
    if own[0] is not None:
        assert f(own[1], both).mean() < f(own[0], both).mean()


@everywhere
def test_scores_every_unseen_client_after_every_step(setup, algorithm, run):
    state = run(algorithm, setup, 2)
    scores = evaluate(algorithm, setup.objective, state.held, setup.unseen, 2)
    assert scores.loss.shape == (1, 3, 3)
    assert scores.loss.isfinite().all()
    if scores.accuracy is not None:
        assert ((scores.accuracy >= 0) & (scores.accuracy <= 1)).all()
    own = personal(algorithm, setup.objective, state.held, state.kept, setup.participating)
    assert own is None or (own.loss.shape == (1, 5) and own.loss.isfinite().all())


class Counting(Objective):
    """Counts gradients, a Hessian-vector product as two; every step and meta-gradient is the formula's."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    @property
    def head(self):
        return self.f.head

    @property
    def chain(self):
        return self.f.chain

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


@pytest.mark.parametrize("algorithm", [_filled(a) for a in ALGORITHMS], ids=name)
def test_says_what_a_round_costs(algorithm):
    """Gradient evaluations are counted, a Hessian-vector product as two: once the real calls are."""
    small = prepare([fm.FedAvg()], fm.Sines(**SMALL), seeds=[0], clients_per_round=1)
    f, *given = one_round(algorithm, small)
    counting = Counting(f)
    algorithm.local(counting, *given)
    spent = algorithm.evaluations()  # a fraction is a mean over clients that differ, beside those that pause
    assert counting.calls == spent if isinstance(spent, int) else 0 < spent <= counting.calls


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


def sweepable(cls, ours):
    """(field, Hyper) of all numbers and flags that can be swept: its own, or those of its server optimiser."""
    found = [(dotted, h) for dotted, h in hypers(cls()) if h.sweepable and ours is not dotted.startswith("server.")]
    return found + [(f.name, None) for f in fields(cls) if ours and f.metadata.get("options") == FLAG]


def rows(populations, ours):
    return [
        pytest.param(p, cls, dotted, h, id=f"{name(p)}-{name(cls)}-{dotted}")
        for p in populations
        for cls in fm.ALGORITHMS
        if refused(p, _filled(cls())) is None
        for dotted, h in sweepable(cls, ours)
    ]


def check_sweep(a, dotted, h, setup, run):
    swept = put(a, dotted, fm.sweep(*(values_of(a, dotted, h) if h else FLAG)))
    assert sweep_length(swept) == 2
    parts = lanes(swept)
    assert parts == ([swept] if h and not h.whole else [pick(swept, 0), pick(swept, 1)])
    together = [run(part, setup, 2) for part in parts]
    server = torch.cat([state.server for state in together])
    scores = [
        evaluate(spread(part, 1, torch.float64, torch.device("cpu")), setup.objective, state.held, setup.unseen, 1).loss
        for part, state in zip(parts, together, strict=True)
    ]
    for i in range(2):
        one = pick(swept, i)
        alone = run(one, setup, 2)
        assert_close(server[i : i + 1], alone.server, **CLOSE)
        loss = evaluate(one, setup.objective, alone.held, setup.unseen, 1).loss
        assert_close(torch.cat(scores)[i : i + 1], loss, **CLOSE)
        for name, t in alone.kept.items():
            assert_close(torch.cat([s.kept[name] for s in together])[i : i + 1], t, **CLOSE)


@pytest.mark.parametrize(
    ("setup", "cls", "dotted", "h"), rows((fm.Quadratics, fm.Sines, fm.Digits), ours=True), indirect=["setup"]
)
def test_a_sweep_is_its_values_each_alone(setup, run, cls, dotted, h):
    check_sweep(_filled(cls()), dotted, h, setup, run)


@pytest.mark.parametrize(("setup", "cls", "dotted", "h"), rows((fm.Sines,), ours=False), indirect=["setup"])
def test_a_sweep_of_the_server_is_its_values_each_alone(setup, run, cls, dotted, h):
    check_sweep(_filled(cls()), dotted, h, setup, run)


ENDS = [pytest.param(c, d, h, id=f"{c.__name__}-{d}") for c in fm.ALGORITHMS for d, h in hypers(c())]


@pytest.mark.parametrize(("cls", "dotted", "h"), ENDS)
def test_both_ends_of_every_range_run_or_are_shown_as_diverged(run, cls, dotted, h):
    small = prepare([fm.FedAvg()], fm.Sines(**SMALL, support=3, query=3), seeds=[0], clients_per_round=1)
    for value in (h.low, h.high):
        a = put(_filled(cls()), dotted, int(value) if h.whole else value)
        state = run(a, small, 2)
        assert (finite(state.held) and finite(state.kept)) is (state.diverged.item() == -1)
        assert evaluate(a, small.objective, state.held, small.unseen, 1).loss.shape == (1, 3, 2)
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
def test_any_setting_within_the_ranges_runs(run, data):
    """Any algorithm at any hyperparameters within reach of a slider: no crash, and divergence is never hidden."""
    a = _filled(data.draw(st.sampled_from(fm.ALGORITHMS))())
    for dotted, h in hypers(a):
        if data.draw(st.booleans()):
            continue
        high = min(h.high, 6)
        value = st.integers(int(h.low), int(high)) if h.whole else st.floats(h.low, high)
        a = put(a, dotted, data.draw(value, label=dotted))
    small = prepare([fm.FedAvg()], fm.Sines(**SMALL, support=2, query=2), seeds=[0], clients_per_round=1)
    state = run(a, small, 2, data.draw(st.integers(1, 5)))
    assert (finite(state.held) and finite(state.kept)) is (state.diverged.item() == -1)
    assert eval(repr(a), vars(fm)) == a
