"""Every algorithm against its slow, readable version: loops over clients, each an ``nn.Module`` of its own.

Nothing of fmlab computes here but the data and the minibatch draws: forward passes, gradients, steps and means are
plain PyTorch.
"""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

import fmlab as fm


def module(sizes, flat):
    """The network whose parameters are one row of w: a layer's weights (inputs, outputs), then its bias."""
    layers, at = [], 0
    for d, o in itertools.pairwise(sizes):
        linear = nn.Linear(d, o, dtype=flat.dtype)
        block = flat[at : at + (d + 1) * o].view(d + 1, o)
        at += (d + 1) * o
        linear.weight.data, linear.bias.data = block[:-1].T.clone(), block[-1].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flat(net, values=None):
    """The network's parameters (or other tensors of their shapes) as one row of w."""
    values = dict(net.named_parameters()) if values is None else values
    rows = []
    for name, v in values.items():
        rows.append((v.T if name.endswith("weight") else v).flatten())
    return torch.cat(rows).detach()


def loss_of(net, data, classes, values=None):
    x, y, weight = data
    real = weight > 0
    p = net(x[real]) if values is None else functional_call(net, values, (x[real],))
    return nn.functional.cross_entropy(p, y[real]) if classes else nn.functional.mse_loss(p, y[real])


def slopes(net, data, classes):
    return torch.autograd.grad(loss_of(net, data, classes), list(net.parameters()))


@torch.no_grad()
def move(net, directions, size):
    for p, d in zip(net.parameters(), directions, strict=True):
        p -= size * d


def fedavg(a, net, batch, classes, mu=0.0):
    start = copy.deepcopy(net)
    for k in range(a.local_steps):
        g = slopes(net, batch(k, a.batch_size), classes)
        pull = [mu * (p - q) for p, q in zip(net.parameters(), start.parameters(), strict=True)]
        move(net, [x + y for x, y in zip(g, pull, strict=True)], a.lr)
    return {"model": flat(start) - flat(net)}, {}


def fedprox(a, net, batch, classes):
    return fedavg(a, net, batch, classes, a.mu)


def fedreptile(a, net, batch, classes):
    return fedavg(a, net, batch, classes)


def localonly(a, net, batch, classes):
    for k in range(a.local_steps):
        move(net, slopes(net, batch(k, a.batch_size), classes), a.lr)
    return {}, {"model": flat(net)}


def fedmaml(a, net, batch, classes):
    values = dict(net.named_parameters())
    for _ in range(a.inner_steps):
        inner = loss_of(net, batch.support, classes, values)
        g = torch.autograd.grad(inner, list(values.values()), create_graph=not a.first_order)
        values = {n: v - a.inner_lr * d for (n, v), d in zip(values.items(), g, strict=True)}
    g = torch.autograd.grad(loss_of(net, batch.query, classes, values), list(net.parameters()))
    return {"model": flat(net, dict(zip(values, g, strict=True)))}, {}


def fedmetasgd(a, net, batch, classes):
    start = dict(net.named_parameters())
    rates = {n: torch.full_like(v, a.inner_lr, requires_grad=True) for n, v in start.items()}
    values = start
    for _ in range(a.inner_steps):
        inner = loss_of(net, batch.support, classes, values)
        g = torch.autograd.grad(inner, list(values.values()), create_graph=True)
        values = {n: v - rates[n] * d for (n, v), d in zip(values.items(), g, strict=True)}
    outer = loss_of(net, batch.query, classes, values)
    g = torch.autograd.grad(outer, [*start.values(), *rates.values()])
    dw, da = dict(zip(start, g, strict=False)), dict(zip(rates, g[len(start) :], strict=True))
    return {"model": flat(net, dw), "rates": flat(net, da)}, {}


def perfedavg(a, net, batch, classes):
    start = flat(net)
    for k in range(a.local_steps):
        u = copy.deepcopy(net)
        move(u, slopes(u, batch(3 * k, a.batch_size, 0.5), classes), a.inner_lr)
        g = slopes(u, batch(3 * k + 1, a.batch_size, 0.5), classes)
        if a.variant == "HF":  # here the exact product that the difference of gradients stands for
            at_v = torch.autograd.grad(
                loss_of(net, batch(3 * k + 2, a.batch_size, 0.5), classes), list(net.parameters()), create_graph=True
            )
            d = torch.autograd.grad(at_v, list(net.parameters()), g, allow_unused=True)
            g = [x - a.inner_lr * (0 if y is None else y) for x, y in zip(g, d, strict=True)]
        move(net, g, a.lr)
    return {"model": start - flat(net)}, {}


def pfedme(a, net, batch, classes):
    start, local = flat(net), copy.deepcopy(net)
    for r in range(a.local_rounds):
        for _ in range(a.inner_steps):
            g = slopes(net, batch(r, a.batch_size), classes)
            pull = [p - q for p, q in zip(net.parameters(), local.parameters(), strict=True)]
            move(net, [x + a.lam * y for x, y in zip(g, pull, strict=True)], a.inner_lr)
        away = [p - q for p, q in zip(local.parameters(), net.parameters(), strict=True)]
        move(local, away, a.lr * a.lam)
    return {"model": start - flat(local)}, {"model": flat(net)}


def scaffold(a, net, batch, classes):
    """From the control variates 0.3 at the server and 0.1 at the client."""
    start = flat(net)
    for k in range(a.local_steps):
        g = slopes(net, batch(k, a.batch_size), classes)
        move(net, [x - 0.1 + 0.3 for x in g], a.lr)
    option_two = 0.1 - 0.3 + (start - flat(net)) / (a.local_steps * a.lr)
    return {"model": start - flat(net), "control": option_two - 0.1}, {"control": option_two}


def ditto(a, net, batch, classes):
    """The personal model starts from the server's, as in a client's first round."""
    w, own = copy.deepcopy(net), copy.deepcopy(net)
    sent, _ = fedavg(a, net, batch, classes)
    for k in range(a.local_steps):
        g = slopes(own, batch(k, a.batch_size), classes)
        pull = [a.lam * (p - q) for p, q in zip(own.parameters(), w.parameters(), strict=True)]
        move(own, [x + y for x, y in zip(g, pull, strict=True)], a.lr)
    return sent, {"model": flat(own)}


def move_layers(net, batch, classes, size, steps, layers, size_of_batch):
    """Steps ``steps`` of the parameters that ``layers`` picks from the list of all."""
    for k in steps:
        g = slopes(net, batch(k, size_of_batch), classes)
        some = list(zip(net.parameters(), g, strict=True))[layers]
        with torch.no_grad():
            for p, d in some:
                p -= size * d


BODY, HEAD = slice(None, -2), slice(-2, None)  # all layers' weights and biases, in turn


def cut(net, layers):
    names = list(dict(net.named_parameters()))[layers]
    return flat(net, {n: p for n, p in net.named_parameters() if n in names})


def fedper(a, net, batch, classes):
    body = cut(net, BODY)
    move_layers(net, batch, classes, a.lr, range(a.local_steps), slice(None), a.batch_size)
    return {"model": body - cut(net, BODY)}, {"head": cut(net, HEAD)}


def fedrep(a, net, batch, classes):
    body, steps = cut(net, BODY), range(a.head_steps + a.local_steps)
    move_layers(net, batch, classes, a.lr, steps[: a.head_steps], HEAD, a.batch_size)
    move_layers(net, batch, classes, a.lr, steps[a.head_steps :], BODY, a.batch_size)
    return {"model": body - cut(net, BODY)}, {"head": cut(net, HEAD)}


def fedbabu(a, net, batch, classes):
    body = cut(net, BODY)
    move_layers(net, batch, classes, a.lr, range(a.local_steps), BODY, a.batch_size)
    return {"model": body - cut(net, BODY)}, {}


def anil(a, net, batch, classes):
    values, head = dict(net.named_parameters()), list(dict(net.named_parameters()))[HEAD]
    for _ in range(a.inner_steps):
        inner = loss_of(net, batch.support, classes, values)
        g = torch.autograd.grad(inner, [values[n] for n in head], create_graph=not a.first_order)
        values = values | {n: values[n] - a.inner_lr * d for n, d in zip(head, g, strict=True)}
    g = torch.autograd.grad(loss_of(net, batch.query, classes, values), list(net.parameters()))
    return {"model": flat(net, dict(zip(values, g, strict=True)))}, {}


def fedma(a, net, batch, classes):
    """The first exchange; see the whole round below."""
    fedavg(a, net, batch, classes)
    return {"layer 0": flat(net[0])}, {"own": flat(net)}


class One:
    """Client (r, c)'s part of a batch; called, a minibatch."""

    def __init__(self, batch, r, c):
        self.batch, self.r, self.c = batch, r, c
        self.support, self.query = (e.map(lambda t: t[r, c]) for e in (batch.support, batch.query))

    def __call__(self, step, size, share=1.0):
        return self.batch.minibatch(step, size, share).map(lambda t: t[self.r, self.c])


CASES = [
    (fm.LocalOnly(local_steps=3, lr=0.1), localonly),
    (fm.FedAvg(local_steps=3, lr=0.1), fedavg),
    (fm.FedAvg(local_steps=3, lr=0.1, batch_size=4), fedavg),
    (fm.FedProx(mu=2.0, local_steps=3, lr=0.1), fedprox),
    (fm.FedReptile(epsilon=0.3, local_steps=3, lr=0.1), fedreptile),
    (fm.FedMAML(inner_steps=1, inner_lr=0.1), fedmaml),
    (fm.FedMAML(inner_steps=4, inner_lr=0.1), fedmaml),
    (fm.FedMAML(inner_steps=4, inner_lr=0.1, first_order=True), fedmaml),
    (fm.FedMetaSGD(inner_lr=0.1), fedmetasgd),
    (fm.FedMetaSGD(inner_steps=3, inner_lr=0.1), fedmetasgd),
    (fm.PerFedAvg(local_steps=3, inner_lr=0.05, lr=0.1), perfedavg),
    (fm.PerFedAvg(local_steps=3, inner_lr=0.05, lr=0.1, batch_size=4), perfedavg),
    (fm.PerFedAvg(variant="HF", local_steps=3, inner_lr=0.05, lr=0.1), perfedavg),
    (fm.PFedMe(lam=2.0, beta=1.5, local_rounds=3, inner_steps=2, inner_lr=0.1, lr=0.05), pfedme),
    (fm.PFedMe(lam=2.0, local_rounds=3, inner_steps=2, inner_lr=0.1, lr=0.05, batch_size=4), pfedme),
    (fm.Scaffold(local_steps=3, lr=0.1, batch_size=4), scaffold),
    (fm.Ditto(lam=0.7, local_steps=3, lr=0.1, batch_size=4), ditto),
    (fm.FedPer(local_steps=3, lr=0.1, batch_size=4), fedper),
    (fm.FedRep(head_steps=2, local_steps=3, lr=0.1, batch_size=4), fedrep),
    (fm.FedBABU(local_steps=3, lr=0.1, batch_size=4), fedbabu),
    (fm.ANIL(inner_steps=1, inner_lr=0.1), anil),
    (fm.ANIL(inner_steps=4, inner_lr=0.1), anil),
    (fm.ANIL(inner_steps=4, inner_lr=0.1, first_order=True), anil),
    (fm.FedMA(growth=1.0, local_steps=3, lr=0.1), fedma),
    (fm.FedMA(growth=1.0, local_steps=3, lr=0.1, batch_size=4), fedma),
]


@pytest.mark.parametrize("classes", [False, True], ids=["numbers", "classes"])
@pytest.mark.parametrize(("algorithm", "slow"), CASES, ids=lambda c: repr(c) if not callable(c) else "")
def test_one_round_on_every_client_is_the_plain_loop(problem, algorithm, slow, classes):
    sizes = (3, 6, 5, 4)
    f, w, batch = problem(sizes, classes=classes, ragged=True)
    held, kept = algorithm.start(f, w)  # every client from a model of its own
    if isinstance(algorithm, fm.Scaffold):  # as in the middle of a run
        held["control"], kept["control"] = torch.full_like(w, 0.3), torch.full_like(w, 0.1)
    sent, kept = algorithm.local(f, held, kept, batch)
    # HF's difference of gradients is right to about eps^(2/3)
    tolerance = 1e-8 if getattr(algorithm, "variant", "") == "HF" else 1e-10
    for r in range(2):
        for c in range(3):
            theirs = slow(algorithm, module(sizes, w[r, c]), One(batch, r, c), classes)
            for ours, loop in zip((sent, kept), theirs, strict=True):
                assert ours.keys() == loop.keys()
                for name, t in loop.items():
                    assert_close(ours[name][r, c], t, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("algorithm", [fm.FedAvg(local_steps=2, lr=0.02), fm.FedMAML(inner_lr=0.02)], ids=repr)
def test_a_whole_run_is_the_plain_loop(train, algorithm):
    """Four rounds with torch's own server optimiser, all clients in every round."""
    population = fm.Sines(n_clients=5, n_validation=2, n_unseen=2)
    state, setup = train(algorithm, population, 4)
    server = module((1, 40, 40, 1), setup.start[0])
    adam = torch.optim.Adam(server.parameters(), lr=algorithm.server.rate)
    maml = isinstance(algorithm, fm.FedMAML)
    optimiser = adam if maml else torch.optim.SGD(server.parameters(), lr=1.0)
    slow = fedmaml if maml else fedavg
    batch = fm.data.Batch(*setup.training.everyone())
    for _ in range(4):
        sent = [slow(algorithm, copy.deepcopy(server), One(batch, 0, c), False)[0]["model"] for c in range(5)]
        for p, g in zip(server.parameters(), pieces(server, sum(sent) / 5), strict=True):
            p.grad = g
        optimiser.step()
    assert_close(state.server[0, 0], flat(server), rtol=1e-9, atol=1e-9)


def pieces(net, row):
    """A row of w cut into tensors of the parameters' shapes."""
    at = 0
    for p in net.parameters():
        part = row[at : at + p.numel()]
        at += p.numel()
        yield part.view(p.T.shape).T.clone() if p.ndim == 2 else part.clone()


@pytest.mark.parametrize("runs", [1, 3])
def test_fine_tuning_is_the_plain_loop(problem, runs):
    f, w, batch = problem((2, 4, 1), runs=runs)
    ours = f.descend(w, batch.support, 0.1, 3)
    for r in range(runs):
        net = module((2, 4, 1), w[r, 1])
        sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            sgd.zero_grad()
            loss_of(net, One(batch, r, 1).support, False).backward()
            sgd.step()
        assert_close(ours[r, 1], flat(net))


def worth(a, unit, there, clients, rank):
    """What BBP-MAP gives a unit at a place where the units ``there`` are; rank counts the empty places from 1."""
    p, m, total = (a.sigma / a.sigma0) ** 2, len(there), sum(there, torch.zeros_like(unit))
    value = ((unit + total).square().sum() / (p + m + 1) - total.square().sum() / (p + m)) / a.sigma**2
    odds = m / (clients - m) if m else a.gamma / clients / rank
    return float(value) + 2 * math.log(odds)


def bbp_map(a, units, width):
    """The place of each client's each unit, by trying all ways; units: a list of lists of vectors."""
    order = sorted(range(len(units)), key=lambda c: -sum(float(u.square().sum()) for u in units[c]))
    places = {order[0]: tuple(range(len(units[order[0]])))}

    def table(c):
        at = [[units[o][i] for o, where in places.items() if o != c for i, s in enumerate(where) if s == place]
              for place in range(width)]  # fmt: skip
        ranks = list(itertools.accumulate(int(not there) for there in at))
        return [[worth(a, u, there, len(units), rank) for there, rank in zip(at, ranks, strict=True)] for u in units[c]]

    for turn in range(6):
        before = dict(places)
        for c in order if turn else order[1:]:
            values = table(c)
            ways = itertools.permutations(range(width), len(units[c]))
            best, way = max((sum(row[s] for row, s in zip(values, way, strict=True)), way) for way in ways)
            if c not in places or best > 1e-9 + sum(r[s] for r, s in zip(values, places[c], strict=True)):
                places[c] = way
        if turn and places == before:
            break
    return [places[c] for c in range(len(units))]


@pytest.mark.parametrize(
    "algorithm",
    [
        fm.FedMA(local_steps=3, lr=0.3, growth=1.0),
        fm.FedMA(local_steps=3, lr=0.3, growth=1.5, sigma=0.1, gamma=3.0),
        fm.FedMA(local_steps=4, lr=0.5, growth=1.3, sigma=0.03, sigma0=2.0, gamma=5.0, batch_size=4),
    ],
    ids=repr,
)
def test_two_rounds_of_fedma_are_the_plain_loop(problem, after, algorithm):
    """Matching by trying all ways; layers of numbers, no unit where there is none."""
    a, sizes = algorithm, (3, 4, 3, 2)
    f, w, batch = problem(sizes, runs=1, ragged=True)
    clients = fm.data.Clients(batch.support, batch.query, torch.ones(1, 3))
    wide = a.objective(f)
    server, grew = module(sizes, w[0, 0]), 0
    for t in range(2):
        nets = [copy.deepcopy(server) for _ in range(3)]
        for n, layer in enumerate(linear := server[::2]):
            for c, net in enumerate(nets):
                one = One(fm.data.Batch(batch.support, batch.query, (0,), t, phase=n), 0, c)
                for k in range(a.local_steps):
                    g = slopes(net, one(k, a.batch_size), False)
                    move(net, [0 * d if i < 2 * n else d for i, d in enumerate(g)], a.lr)
            mine = [net[2 * n] for net in nets]
            with torch.no_grad():
                if n == len(linear) - 1:
                    layer.weight.data = sum(m.weight for m in mine) / 3
                    layer.bias.data = sum(m.bias for m in mine) / 3
                    continue
                units = [list(torch.cat([m.weight, m.bias[:, None]], 1)) for m in mine]
                places = bbp_map(a, units, int(a.growth * sizes[n + 1]))
                taken = sorted({s for where in places for s in where})
                groups = [[units[c][i] for c in range(3) for i, s in enumerate(places[c]) if s == place]
                          for place in taken]  # fmt: skip
                matched = torch.stack([sum(group) / len(group) for group in groups])
                grew += len(taken) - len(units[0])
                for net, own in zip(nets, units, strict=True):
                    ways = itertools.permutations(range(len(taken)), len(own))
                    far = [(sum(float((u - matched[s]).square().sum()) for u, s in zip(own, way, strict=True)), way)
                           for way in ways]  # fmt: skip
                    old = net[2 * n + 2].weight
                    new = old.new_zeros(len(old), len(taken))
                    new[:, list(min(far)[1])] = old
                    net[2 * n + 2].weight.data = new
                    net[2 * n].weight.data, net[2 * n].bias.data = matched[:, :-1].clone(), matched[:, -1].clone()
                layer.weight.data, layer.bias.data = matched[:, :-1].clone(), matched[:, -1].clone()
        state = after(t + 1, a, f, clients, w[:, 0], seeds=(0,), per_round=3)
        ours = wide.chain.join(state.held)
        assert_close(
            wide.predict(ours, batch.support.x[:, :1])[0, 0], server(batch.support.x[0, 0]), rtol=1e-9, atol=1e-9
        )
        assert_close(ours.square().sum(), flat(server).square().sum())
    assert (grew > 0) is (a.growth > 1), "the case is not what it should be"
