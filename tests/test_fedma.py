"""FedMA: hidden units matched across clients. float64."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import fmlab as fm
from fmlab.data import Batch, examples
from fmlab.engine import serve, weigh, work
from fmlab.gradients import autograd
from fmlab.layers import chain, grown, shrunk
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.matching import assign, match, nearest
from fmlab.models import conv
from fmlab.models.lift import lift
from fmlab.objective import Empirical

SMALL = {"n_clients": 5, "n_validation": 2, "n_unseen": 3}
STILL = fm.FedMA(lr=0.0, adapt_lr=0.1, local_steps=1)  # matches, and trains nothing
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def network(kind):
    """An objective and one example's shape, for networks whose units are numbers, or channels, or both."""
    if kind == "MLP":
        return Empirical(fm.MLP((3, 6, 5, 2)), SquaredError()), (3,)
    if kind == "lifted":
        net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU()))
        return Empirical(lift(nn.Sequential(*net, nn.Linear(5, 2))), SquaredError()), (3,)
    if kind == "conv":
        return Empirical(conv(2, width=4, size=8, norm="none"), SquaredError()), (8, 8)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 5), nn.LeakyReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    return Empirical(lift(net), SquaredError()), (2, 6, 6)


KINDS = ("MLP", "lifted", "conv", "channels then units")


def draw(f, clients, seed=0, spread=1.0):
    """Models (1, clients, P): a common one and each client's own deviation from it."""
    g = torch.Generator().manual_seed(seed)
    common, own = torch.randn(f.model.size, generator=g), torch.randn(1, clients, f.model.size, generator=g)
    return 0.5 * (common + spread * own)


def data(shape, clients, n=7):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, clients, n, *shape, generator=g)
    return Batch(*(examples(x + k, torch.randn(1, clients, n, 2, generator=g)) for k in (0, 0.1)))


def tensors(f, w):
    """One model (P,) as a list of (weights (o, i, ...), bias or None), by the module's own names and shapes."""
    if isinstance(f.model, fm.MLP):
        blocks = [b.view(d + 1, o) for b, (d, o) in zip(
            w.split([(d + 1) * o for d, o in f.model.layers]), f.model.layers, strict=True)]  # fmt: skip
        return [(b[:-1].T, b[-1]) for b in blocks]
    parts = w.split([s.numel() for s in f.model.shapes.values()])
    named = {k: p.view(s) for (k, s), p in zip(f.model.shapes.items(), parts, strict=True)}
    return [(t, named.get(k.removesuffix("weight") + "bias")) for k, t in named.items() if k.endswith("weight")]


def shuffle(f, w, seed):
    """The same network (P,) with the units of every hidden layer in another order."""
    g, layers, out = torch.Generator().manual_seed(seed), tensors(f, w), []
    order, before = None, None
    for n, (weights, bias) in enumerate(layers):
        if order is not None:
            blocks = weights.unflatten(1, (before, -1))
            weights = blocks[:, order].flatten(1, 2)
        before = len(weights)
        order = torch.randperm(before, generator=g) if n < len(layers) - 1 else torch.arange(before)
        out.append((weights[order], None if bias is None else bias[order]))
    if isinstance(f.model, fm.MLP):
        return torch.cat([torch.cat([a.T, b[None]]).flatten() for a, b in out])
    return torch.cat([t.flatten() for pair in out for t in pair if t is not None])


def matched(a, f, models, batch, weight=None):
    """What the server holds after a round in which clients have these models (1, C, P) after phase 0."""
    wide, c = a.objective(f), models.shape[1]
    held, _ = a.start(wide, models[:, :1])
    own = wide.chain.place(f.chain, models)
    kept = {"own": own}
    for n in range(a.phases(f)):
        now = replace(batch, phase=n)
        name = wide.chain.names[n]
        sent = {name: wide.chain.split(own)[name]}
        if n > 0:
            sent, kept = work(a, wide, held, kept, now)
        assert sent[name].shape[1] == c
        held, _ = serve(a, wide, held, {}, sent, weight, 1.0, 1)
    return wide, wide.chain.join(held)


def says(f, w, batch):
    """Predictions of models (1, C', P) on the first client's examples."""
    x = batch.support.x[:, :1]
    return f.predict(w, x.expand(1, w.shape[1], *x.shape[2:]))


@pytest.mark.parametrize("growth", [1.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_permuted_copies_of_a_network_average_to_that_network(kind, growth):
    f, shape = network(kind)
    w, batch = draw(f, 1), data(shape, 4)
    copies = torch.stack([shuffle(f, w[0, 0], seed) for seed in range(4)])[None]
    assert_close(says(f, copies, batch), says(f, w.expand(1, 4, -1), batch), **TIGHT)
    plain = says(f, copies.mean(1, keepdim=True), batch)
    assert not torch.allclose(plain, says(f, w, batch), atol=1e-2), "the plain mean would do as well"
    for weight in (None, weigh(torch.tensor([[1.0, 2.0, 3.0, 10.0]]), "size")):
        wide, server = matched(replace(STILL, growth=growth), f, copies, batch, weight)
        assert_close(says(wide, server, batch), says(f, w, batch), **TIGHT)
        numbers = wide.chain.place(f.chain, w).sort().values
        assert_close(server.sort().values, numbers, **TIGHT)  # nothing added, nothing mixed


@pytest.mark.parametrize("spread", [0.1, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_permuting_a_clients_hidden_units_changes_nothing(kind, spread):
    f, shape = network(kind)
    models, batch = draw(f, 3, spread=spread), data(shape, 3)
    a = replace(STILL, sigma=0.3)
    other = models.clone()
    for c in range(3):
        other[0, c] = shuffle(f, models[0, c], c)
    for moved in (other, torch.cat([models[:, :2], other[:, 2:]], 1)):
        wide, server = matched(a, f, models, batch)
        assert_close(says(wide, matched(a, f, moved, batch)[1], batch), says(wide, server, batch), rtol=1e-9, atol=1e-9)


def test_permuting_the_units_changes_nothing_with_training_between_the_layers():
    f, shape = network("MLP")
    models, batch = draw(f, 3, spread=0.3), data(shape, 3)
    other = torch.stack([shuffle(f, models[0, c], c) for c in range(3)])[None]
    a = fm.FedMA(lr=0.05, adapt_lr=0.1, local_steps=3, batch_size=4)
    (wide, one), (_, two) = matched(a, f, models, batch), matched(a, f, other, batch)
    assert_close(says(wide, two, batch), says(wide, one, batch), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(says(wide, one, batch), says(wide, matched(STILL, f, models, batch)[1], batch))


@pytest.mark.parametrize("kind", KINDS)
def test_further_units_are_inert(kind):
    """The wider network predicts the same, no gradient reaches what was added, and training is the small network's."""
    f, shape = network(kind)
    w, batch = draw(f, 2), data(shape, 2)
    wide = replace(STILL, growth=2.0).objective(f)
    assert wide.chain.hidden == [2 * n for n in f.chain.hidden]
    big = wide.chain.place(f.chain, w)
    new = wide.chain.place(f.chain, torch.ones_like(w)) == 0
    assert new.sum() == 2 * (wide.model.size - f.model.size)
    assert_close(says(wide, big, batch), says(f, w, batch), **TIGHT)
    assert (autograd(wide, big, batch.both)[new] == 0).all()
    trained = wide.descend(big, batch.both, 0.05, 5)
    assert (trained[new] == 0).all()
    assert_close(trained, wide.chain.place(f.chain, f.descend(w, batch.both, 0.05, 5)), **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_alone_a_client_trains_all_then_all_but_the_first_layer_and_so_on(kind, after):
    f, shape = network(kind)
    batch, w = data(shape, 1), draw(f, 1)
    a = fm.FedMA(lr=0.05, adapt_lr=0.1, local_steps=3)
    alone = fm.data.Clients(batch.support, batch.query, torch.ones(1, 1))
    state = after(2, a, f, alone, w[:, 0], seeds=(0,), per_round=1)
    sizes = [layer.size for layer in f.chain.layers]
    v = w
    for n in [*range(len(sizes))] * 2:
        for _ in range(3):
            v = v - 0.05 * autograd(f, v, batch.both) * (torch.arange(f.model.size) >= sum(sizes[:n]))
    wide = a.objective(f)
    assert_close(wide.chain.join(state.held), wide.chain.place(f.chain, v), rtol=1e-9, atol=1e-12)


def test_units_that_match_nobodys_are_added_and_two_clients_become_their_ensemble():
    """Where nothing is matched, the server's network with one hidden layer has both clients' units, and predicts the
    mean of their predictions."""
    f = Empirical(fm.MLP((3, 6, 2)), SquaredError())
    models, batch = draw(f, 2, spread=3.0), data((3,), 2)
    wide, server = matched(replace(STILL, growth=2.0, sigma=0.01, gamma=1e6), f, models, batch)
    units = wide.chain.layers[0].units(server[..., : wide.chain.layers[0].size])
    assert units.ne(0).any(-1).sum() == 12
    assert_close(says(wide, server, batch), says(f, models, batch).mean(1, keepdim=True), **TIGHT)


@settings(deadline=None, max_examples=20)
@given(st.floats(1.0, 3.0), st.floats(0.01, 3.0), st.floats(0.01, 100.0), st.integers(0, 9))
def test_a_layer_grows_to_its_width_at_most(growth, sigma, gamma, seed):
    f, shape = network("MLP")
    models, batch = draw(f, 3, seed), data(shape, 3)
    wide, server = matched(replace(STILL, growth=growth, sigma=sigma, gamma=gamma), f, models, batch)
    for name, layer, units in zip(wide.chain.names, wide.chain.layers, f.chain.hidden, strict=False):
        used = layer.units(wide.chain.split(server)[name]).ne(0).any(-1).sum()
        assert units <= used <= int(growth * units)
    if growth == 1.0:
        assert server.shape[-1] == f.model.size


def test_a_client_without_a_say_is_ignored_entirely():
    f, shape = network("MLP")
    models, batch = draw(f, 4, spread=0.5), data(shape, 4)
    silent = models.clone()
    silent[:, 1] = 1e3
    weight = torch.tensor([[0.2, 0.0, 0.5, 0.3]])[..., None]
    others = [0, 2, 3]
    _, one = matched(STILL, f, models[:, others], data(shape, 3), weight[:, others])
    assert_close(matched(STILL, f, silent, batch, weight)[1], one, **TIGHT)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_an_assignment_is_the_best_of_all(seed, width):
    reward = torch.randn(2, 3, width, width, generator=torch.Generator().manual_seed(seed))
    found = reward.gather(-1, assign(reward)[..., None]).sum((-1, -2))
    every = [reward[..., range(width), p].sum(-1) for p in itertools.permutations(range(width))]
    assert_close(found, torch.stack(every).amax(0))


def test_a_client_finds_the_places_at_which_the_server_put_its_units():
    """Clients are a common network in their own order, and noise well below the units' distance."""
    g = torch.Generator().manual_seed(0)
    common, orders = torch.randn(12, 7, generator=g), torch.stack([torch.randperm(12, generator=g) for _ in range(6)])
    rows = common[orders] + 0.05 * torch.randn(6, 12, 7, generator=g)
    rows = torch.cat([rows, torch.zeros(6, 4, 7)], 1)[None]  # four empty places
    real = rows.ne(0).any(-1)
    places = match(rows, real, 1.0, 1.0, 1.0)
    held = torch.zeros(16, 7)
    for c in range(6):
        held[places[0, c]] += rows[0, c] / 6
        assert torch.equal(places[0, c, :12].argsort(), places[0, 0, orders[0].argsort()][orders[c]].argsort())
    assert torch.equal(nearest(rows, held.expand_as(rows))[real], places[real])


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(1.0, 4.0))
def test_growing_can_be_undone(units, growth):
    assert shrunk(grown(units, growth), growth) == units


def test_the_same_network_lifted_takes_the_same_course(after):
    """Linear layers of a module hold the transposed weights, so only what they predict can be compared."""
    plain = Empirical(fm.MLP((3, 6, 5, 2)), SquaredError())
    lifted = lift(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    w, batch = draw(plain, 1), data((3,), 4)
    theirs = torch.cat([t.flatten() for pair in tensors(plain, w[0, 0]) for t in pair])[None]
    clients = fm.data.Clients(batch.support, batch.query, torch.ones(1, 4))
    a, found = fm.FedMA(lr=0.05, adapt_lr=0.1, sigma=0.05), []
    for f, start in ((plain, w[:, 0]), (Empirical(lifted, SquaredError()), theirs)):
        state = after(3, a, f, clients, start, seeds=(0,), per_round=4)
        wide = a.objective(f)
        found.append(says(wide, wide.chain.join(state.held), batch))
    assert_close(*found, rtol=1e-8, atol=1e-8)


def test_phases_bytes_and_gradients_of_a_round():
    """One exchange a layer. Up goes every layer once; down goes the network, and every matched layer but the last."""
    study = fm.compare(
        [fm.FedMA(lr=0.01, adapt_lr=0.01, local_steps=2)], fm.Sines(**SMALL), rounds=3, seeds=2, clients_per_round=4,
        steps=1, evaluations=1,
    )  # fmt: skip
    size, last = fm.MLP((1, 50, 50, 1)).size, 51
    assert study.bytes_up["FedMA"][-1] == 4 * size * 3 * 4
    assert study.bytes_down["FedMA"][-1] == 4 * (2 * size - last) * 3 * 4
    assert study.gradient_evaluations["FedMA"][-1] == 3 * 2 * 3 * 4  # layers, steps, rounds, clients
    assert study.predict("FedMA", torch.zeros(5, 1)).shape == (2, 5, 1)


def test_channels_are_matched_in_a_comparison():
    model = conv(5, width=4, size=8, norm="none")
    population = fm.Digits(**SMALL)
    study = fm.compare([fm.FedMA(lr=0.1, adapt_lr=0.1)], population, rounds=3, seeds=1, clients_per_round=3, steps=1,
                       evaluations=1, model=model)  # fmt: skip
    assert study.adaptation["FedMA"].isfinite().all()
    assert study.diverged["FedMA"].item() == -1


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(60, 5), nn.Linear(5, 10)

    def forward(self, x):
        return self.two(self.one(x).relu())


def sequence(*layers):
    return lift(nn.Sequential(*layers))


twice = nn.Linear(10, 10)
BAD = [
    (fm.Quadratics, None, "Quadratic has a model without layers.*take clients whose model is a network"),
    (fm.Synthetic, None, r"MLP\(sizes=\(60, 10\)\) has no hidden layer.*fm.MLP\(\(inputs, 20, outputs\)\)"),
    (fm.Synthetic, lift(Own()), r"the module \(Own\) is no layer.*nn.Sequential of nn.Linear"),
    (fm.Synthetic, sequence(nn.Linear(60, 8), nn.GroupNorm(1, 8), nn.Linear(8, 10)), r"1 \(GroupNorm\).*without norm"),
    (fm.Synthetic, sequence(nn.Linear(60, 8), nn.Sigmoid(), nn.Linear(8, 10)), r"1 \(Sigmoid\).*value 0 at 0"),
    (fm.Synthetic, sequence(nn.Linear(60, 10), nn.ReLU(), twice, nn.ReLU(), twice), "uses a layer or its weights"),
    (fm.Digits, conv(5, width=4, size=8), r"features\.1 \(GroupNorm\).*without normalisation"),
    (
        fm.Digits,
        sequence(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(),
                 nn.Linear(64, 5)),
        r"3 \(Conv2d\) has groups = 2",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("population", "model", "words"), BAD)
def test_models_that_cannot_be_matched_are_refused_before_any_training(population, model, words):
    with pytest.raises(ValueError, match=r"^FedMA = FedMA\(.*cannot train (.|\n)*" + words):
        fm.compare([fm.FedMA(lr=0.1, adapt_lr=0.1)], population(**SMALL), rounds=1, clients_per_round=2, model=model)


def test_every_parameter_of_a_chain_stands_in_one_place():
    for kind in KINDS:
        f, _ = network(kind)
        layers = chain(f.model).layers
        for layer in layers:
            assert torch.equal(layer.rows.flatten().sort().values, torch.arange(layer.size))
            part = torch.randn(3, layer.size)
            assert torch.equal(layer.flat(layer.units(part)), part)
        assert sum(layer.size for layer in layers) == f.model.size


def test_matching_beats_the_plain_mean_of_networks_trained_apart():
    """Clients with all classes, each from fresh weights of its own: the plain mean of such networks is useless."""
    population = fm.Digits(heterogeneity=0.0, **SMALL, shots=10, query=10)
    f = population.objective(None)
    clients = population.draw("training", 0).to(torch.float64, torch.device("cpu"))
    batch = Batch(*clients.everyone())
    g = torch.Generator().manual_seed(0)
    w = torch.stack([f.model.init(g) for _ in range(5)])[None]
    v = f.descend(w, batch.both, 0.2, 200)
    unseen = (
        population.draw("unseen", 0)
        .to(torch.float64, torch.device("cpu"))
        .everyone()[1]
        .map(lambda t: t.flatten(0, 2)[None, None])
    )
    unseen = unseen._replace(weight=torch.full_like(unseen.weight, 1 / unseen.weight.numel()))
    assert isinstance(f.loss, CrossEntropy)
    own, plain = f(v, unseen.map(lambda t: t.expand(1, 5, *t.shape[2:]))).mean(), f(v.mean(1, keepdim=True), unseen)
    wide, server = matched(STILL, f, v, batch)
    assert wide(server, unseen) < plain / 4
    assert own < plain / 4
