"""Whatever the model, weights, dtype and names: a study is complete, runs again to the same, is that of a plain loop,
is read as it was saved, and its scores are its models' own; a model that does not fit is refused before a round."""

import copy
import math
import tempfile
import warnings
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fmlab as fm
from fmlab import archive
from fmlab.data import Clients, Examples
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.objective import Empirical
from fmlab.report import hurt, worst_tenth
from fmlab.setup import prepare
from fmlab.study import _unfold

SMALL = {"n_clients": 5, "n_validation": 2, "n_unseen": 3}
TASKS = {"Sines": (fm.Sines(**SMALL), 1, 1), "Synthetic": (fm.Synthetic(**SMALL, test=5), 60, 10)}
RATES = {"lr": 0.01, "adapt_lr": 0.01}
METHODS = [
    fm.FedAvg(**RATES), fm.FedAvg(**RATES, batch_size=3), fm.FedMAML(inner_lr=0.01, adapt_lr=0.01),
    fm.FedMetaSGD(inner_lr=0.01), fm.PFedMe(local_rounds=2, inner_lr=0.01, **RATES), fm.Ditto(**RATES),
    fm.FedAvg(lr=fm.sweep(0.01, 0.02), adapt_lr=0.01),
]  # fmt: skip
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


def network(sizes, lifted):
    if not lifted:
        return fm.MLP(sizes)
    layers = []
    for d, o in pairwise(sizes):
        layers += [nn.Linear(d, o), nn.Tanh()]
    return fm.lift(nn.Sequential(*layers[:-1]), fresh=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), hidden=st.lists(st.integers(1, 9), max_size=3), lifted=st.booleans())
def test_any_study(data, hidden, lifted):
    clients, inputs, outputs = TASKS[data.draw(st.sampled_from(sorted(TASKS)))]
    methods = data.draw(st.dictionaries(names, st.sampled_from(METHODS), min_size=1, max_size=3))
    options = {
        "rounds": 2, "seeds": data.draw(st.integers(1, 2)), "clients_per_round": data.draw(st.integers(1, 5)),
        "steps": data.draw(st.integers(1, 3)), "evaluations": 1,
        "weights": data.draw(st.sampled_from(["uniform", "size"])),
        "dtype": data.draw(st.sampled_from([torch.float32, torch.float64])),
    }  # fmt: skip
    study = fm.compare(methods, clients, model=network((inputs, *hidden, outputs), lifted), **options)
    again = fm.compare(**study.config)
    _, query = study.unseen.everyone()
    assert study.names == list(methods)
    for name in methods:
        loss = study.adaptation[name]
        assert loss.dtype == options["dtype"]
        assert loss.isfinite().all()
        assert torch.equal(loss, again.adaptation[name])
        assert name in study.table()
        value = loss.ndim - 3  # the last of a sweep's
        last = loss[-1] if value else loss
        assert last.shape == (options["seeds"], 3, options["steps"] + 1)
        e = query.map(lambda t: t[-1:, 2:].expand(1, options["steps"] + 1, *t.shape[2:]))
        models = study.adapted(name, options["seeds"] - 1, 2, value)[None]
        torch.testing.assert_close(study.setup.objective(models, e)[0], last[-1, 2], rtol=1e-4, atol=1e-5)
    wrong = data.draw(st.sampled_from([outputs + 1, outputs + 2] if outputs == 1 else [1, outputs - 1]))
    with pytest.raises(ValueError, match="does not fit the training clients' support set"):
        prepare(methods, clients, model=network((inputs, *hidden, wrong), lifted), **options)


# --- A plain loop over clients, models and examples -----------------------------------------------------------------

ACTIVATIONS = [nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Softplus, nn.GELU, nn.ELU, nn.SiLU]


@dataclass(frozen=True)
class Uneven(fm.Population):
    """Clients of random examples with any weights, some of them 0, and of any size."""

    n_clients: int = 4
    n_validation: int = 2
    n_unseen: int = 3
    inputs: int = 2
    outputs: int = 1
    classes: bool = False
    scramble: int = 0

    def draw(self, split, seed):
        g = torch.Generator().manual_seed(1000 * self.scramble + 10 * seed + len(split))
        n = self.count(split)

        def part(each):
            x = torch.randn(1, n, each, self.inputs, generator=g, dtype=torch.float64)
            y = torch.randn(1, n, each, self.outputs, generator=g, dtype=torch.float64)
            weight = torch.rand(1, n, each, generator=g, dtype=torch.float64)
            weight[..., 1:] *= torch.rand(1, n, each - 1, generator=g, dtype=torch.float64) < 0.7
            return Examples(x, y.argmax(-1) if self.classes else y, weight / weight.sum(-1, keepdim=True))

        return Clients(part(3), part(4), 1 + torch.rand(1, n, generator=g, dtype=torch.float64))

    def model(self):
        return fm.MLP((self.inputs, self.outputs))

    def objective(self, model):
        return Empirical(model or self.model(), CrossEntropy() if self.classes else SquaredError())


def loss(net, x, y, weight):
    each = nn.functional.cross_entropy if y.ndim == 1 else nn.functional.mse_loss
    return sum(w * each(net(a[None]), b[None]) for a, b, w in zip(x, y, weight, strict=True))


def slope(net, w, *data):
    """The gradient at a row w of parameters, which stays on the graph."""
    sizes = [p.numel() for p in net.parameters()]
    shapes = [p.shape for p in net.parameters()]
    values = [v.view(shape) for v, shape in zip(w.split(sizes), shapes, strict=True)]
    named = dict(zip(dict(net.named_parameters()), values, strict=True))
    value = loss(lambda x: torch.func.functional_call(net, named, (x,)), *data)
    return torch.autograd.grad(value, w, create_graph=True)[0]


def both(support, query):
    """One set in which every example that counts in its own set counts as often as any other's does there."""
    counts = [int((e[2] > 0).sum()) for e in (support, query)]
    parts = [(*e[:2], e[2] * n / sum(counts)) for e, n in zip((support, query), counts, strict=True)]
    return tuple(torch.cat(pair) for pair in zip(*parts, strict=True))


def plain(method, net, w, population, seed, rounds, steps, by_size):
    """The query losses of unseen clients (clients, steps + 1) after these rounds, in which everyone takes part."""

    def clients(split):
        drawn = population.draw(split, seed)
        for i in range(population.count(split)):
            yield tuple(
                tuple(t[0, i].to(w.dtype if t.is_floating_point() else t.dtype) for t in part)
                for part in (drawn.support, drawn.query)
            )

    sizes = population.draw("training", seed).sizes[0].to(w.dtype)
    shares = sizes / sizes.sum() if by_size else torch.full_like(sizes, 1 / len(sizes))
    for _ in range(rounds):
        mean = torch.zeros_like(w)
        for share, (support, query) in zip(shares, clients("training"), strict=True):
            v = w.clone().requires_grad_()
            if isinstance(method, fm.FedAvg):
                u = v
                for _ in range(method.local_steps):
                    u = (u - method.lr * slope(net, u, *both(support, query))).detach().requires_grad_()
                sent = w - u.detach()
            else:
                u = v
                for _ in range(method.inner_steps):
                    u = u - method.inner_lr * slope(net, u, *support)
                sent = torch.autograd.grad(u, v, slope(net, u, *query).detach())[0]
            mean += share * sent
        w = w - method.server.lr * mean
    found = []
    for support, query in clients("unseen"):
        u, losses = w.clone(), []
        for step in range(steps + 1):
            if step:
                u = u - method.adapt_lr * slope(net, u.requires_grad_(), *support)
            u = u.detach()
            nn.utils.vector_to_parameters(u, net.parameters())
            losses.append(float(loss(net, *query).detach()))
        found.append(losses)
    return found


def as_module(model, inputs, outputs, hidden):
    """Of fmlab's own network the same as torch has it: (its module, a function that brings a row w into its order)."""
    sizes = (inputs, *hidden, outputs)
    layers = []
    for d, o in pairwise(sizes):
        layers += [nn.Linear(d, o), nn.ReLU()]

    def turned(w):
        rows = []
        for block, (d, o) in zip(w.split([(d + 1) * o for d, o in pairwise(sizes)]), pairwise(sizes), strict=True):
            rows += [block.view(d + 1, o)[:-1].T.flatten(), block.view(d + 1, o)[-1]]
        return torch.cat(rows)

    return nn.Sequential(*layers[:-1]), turned


def same(one, other):
    ours, theirs = (dict(archive.leaves(_unfold(study))) for study in (one, other))
    assert ours.keys() == theirs.keys()
    for place, t in ours.items():
        torch.testing.assert_close(theirs[place], t, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=5, deadline=None)
@given(
    data=st.data(),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    activation=st.none() | st.sampled_from(ACTIVATIONS),
    single=st.booleans(),
    by_size=st.booleans(),
    name=names,
)
def test_any_comparison_is_a_plain_loops_and_is_read_as_it_was(data, hidden, activation, single, by_size, name):
    """activation None: fmlab's own network; else a module of torch that is lifted, with its own values or fresh."""
    classes = data.draw(st.booleans())
    inputs, outputs = data.draw(st.integers(1, 3)), data.draw(st.integers(2 if classes else 1, 3))
    clients = Uneven(inputs=inputs, outputs=outputs, classes=classes, scramble=data.draw(st.integers(0, 99)))
    steps = data.draw(st.integers(1, 2))
    server = fm.SGD(lr=data.draw(st.sampled_from([0.5, 1.0])))
    methods = [
        fm.FedAvg(local_steps=steps, lr=0.1, adapt_lr=0.2, server=server),
        fm.FedMAML(inner_steps=steps, inner_lr=0.1, adapt_lr=0.2, server=server),
    ]
    if activation is None:
        model = fm.MLP((inputs, *hidden, outputs))
        net, turned = as_module(model, inputs, outputs, hidden)
    else:
        layers = [(nn.Linear(d, o), activation()) for d, o in pairwise((inputs, *hidden, outputs))]
        net, turned = nn.Sequential(*sum(layers, ())[:-1]), lambda w: w
        model = fm.lift(net, fresh=data.draw(st.booleans()))
        net = copy.deepcopy(net)
    dtype = torch.float32 if single else torch.float64
    net = net.to(dtype)
    options = {
        "rounds": 2, "seeds": 2, "clients_per_round": clients.n_clients, "steps": 2, "evaluations": 1, "model": model,
        "weights": "size" if by_size else "uniform", "dtype": dtype,
    }  # fmt: skip
    study = fm.compare({f"{name}{i}": m for i, m in enumerate(methods)}, clients, **options)
    for method, (own, found) in zip(methods, study.adaptation.items(), strict=True):
        for seed in range(2):
            w = turned(study.setup.start[seed])
            wanted = plain(method, net, w, clients, seed, 2, options["steps"], by_size)
            close = {"rtol": 1e-3, "atol": 1e-5} if single else {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(found[seed], torch.tensor(wanted, dtype=dtype), **close, msg=own)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the study is saved, but JSON does not hold its model")
        study.save(folder)
        loaded = fm.load(folder, classes=[Uneven], **({} if activation is None else {"model": model}))
    same(study, loaded)
    assert loaded.config == study.config
    assert loaded.table() == study.table()


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 1e4, math.inf, math.nan]), min_size=3, max_size=3), min_size=1)
)
def test_hurt_is_whoever_has_not_at_least_what_it_had(losses):
    kept = [math.isfinite(last) and last <= first for first, _, last in losses]
    assert hurt(torch.tensor(losses)).tolist() == [not k for k in kept]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=45), st.randoms(use_true_random=False))
def test_the_worst_tenth_is_that_of_a_sorted_list(scores, random):
    tenth = max(1, len(scores) // 10)
    shuffled = random.sample(scores, len(scores))
    for accuracy in (False, True):
        wanted = sum(sorted(scores, reverse=not accuracy)[:tenth]) / tenth
        found = worst_tenth(torch.tensor([scores, shuffled], dtype=torch.float64), accuracy)
        assert found.tolist() == pytest.approx([wanted, wanted])


def test_who_flew_away_is_among_the_worst_tenth():
    assert worst_tenth(torch.tensor([[0.0] * 19 + [float("nan")]]), accuracy=False).isinf().all()
