"""Meta-gradients of one meta-batch against learn2learn's own MAML and MetaSGD, to 1e-10 in float64."""

import copy
import importlib.util
import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fmlab as fm

pytestmark = pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="learn2learn is not installed")

SIZES = (2, 7, 7, 3)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module")
def l2l():
    from lab.install.l2l import load

    return load()


def network(flat):
    """SIZES as an nn.Module with the parameters of one row of w."""
    layers, at = [], 0
    for d, o in itertools.pairwise(SIZES):
        linear = nn.Linear(d, o, dtype=torch.float64)
        block = flat[at : at + (d + 1) * o].view(d + 1, o)
        at += (d + 1) * o
        linear.weight.data, linear.bias.data = block[:-1].T.clone(), block[-1].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def row(tensors):
    """Linear layers' weights and biases, in turn, as one row of w."""
    return torch.cat([(t.T if t.ndim == 2 else t).flatten() for t in tensors])


def task(batch, part, client, classes):
    x, y, _ = (t[0, client] for t in getattr(batch, part))
    loss = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    return lambda net: loss(net(x), y)


@pytest.mark.parametrize("classes", [False, True], ids=["numbers", "classes"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 5])
def test_fedmaml_has_learn2learns_meta_gradient(l2l, problem, steps, first_order, classes):
    f, w, batch = problem(SIZES, runs=1, clients=4, classes=classes)
    held = {"model": w[:, :1].expand(-1, 4, -1)}
    method = fm.FedMAML(inner_steps=steps, inner_lr=0.1, first_order=first_order)
    ours = method.local(f, held, {}, batch)[0]["model"]
    net = network(w[0, 0])
    maml = l2l.algorithms.MAML(net, lr=0.1, first_order=first_order)
    for client in range(4):
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(task(batch, "support", client, classes)(learner))
        (task(batch, "query", client, classes)(learner) / 4).backward()  # one meta-batch: their gradients add up
    assert_close(ours.mean(1)[0], row([p.grad for p in net.parameters()]), **EXACT)


@pytest.mark.parametrize("classes", [False, True], ids=["numbers", "classes"])
@pytest.mark.parametrize("steps", [1, 5])
def test_fedmetasgd_has_learn2learns_meta_gradients(l2l, problem, steps, classes):
    f, w, batch = problem(SIZES, runs=1, clients=4, classes=classes)
    net = network(w[0, 0])
    meta = l2l.algorithms.MetaSGD(net, lr=0.1)
    g = torch.Generator().manual_seed(1)
    for rate in meta.lrs:  # a different step size for every parameter
        rate.data = 0.05 + 0.1 * torch.rand(rate.shape, generator=g, dtype=torch.float64)
    a = row([rate.detach() for rate in meta.lrs])
    held = {"model": w[:, :1].expand(-1, 4, -1), "rates": a.expand(1, 4, -1)}
    ours, _ = fm.FedMetaSGD(inner_steps=steps).local(f, held, {}, batch)
    for client in range(4):
        learner = meta.clone()
        for _ in range(steps):
            learner.adapt(task(batch, "support", client, classes)(learner))
        (task(batch, "query", client, classes)(learner) / 4).backward()
    dw, da = row([p.grad for p in net.parameters()]), row([rate.grad for rate in meta.lrs])
    assert_close(ours["model"].mean(1)[0], dw, **EXACT)
    assert_close(ours["rates"].mean(1)[0], da, **EXACT)


def test_adaptation_is_learn2learns(l2l, problem):
    f, w, batch = problem(SIZES, runs=1, clients=1)
    *_, ours = fm.FedMAML(adapt_lr=0.1).adapt(f, {"model": w}, batch.support, 3)
    learner = l2l.algorithms.MAML(copy.deepcopy(network(w[0, 0])), lr=0.1).clone()
    for _ in range(3):
        learner.adapt(task(batch, "support", 0, False)(learner))
    assert_close(ours[0, 0], row(list(learner.parameters())).detach(), **EXACT)
