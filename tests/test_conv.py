"""The convolutional network: the same as a loop over modules and as learn2learn; no example sees another."""

import copy

import pytest
import torch
from torch import nn

import fmlab as fm
from fmlab.data import examples
from fmlab.gradients import grad, meta_grad
from fmlab.losses import CrossEntropy
from fmlab.models.conv import NORMS, Conv4, conv
from fmlab.objective import Empirical
from fmlab.randomness import generator
from lab.install.l2l import load

CLIENTS, WAYS = 3, 4


def models(model, runs=2):
    """Different models (R, C, P) for all clients, the head away from zero."""
    w = torch.stack([model.init(generator("test", k)) for k in range(runs * CLIENTS)])
    return (w + 0.1 * torch.randn(w.shape, generator=generator("noise"), dtype=w.dtype)).view(runs, CLIENTS, -1)


def tasks(shots, size, runs=2, name="support"):
    x = torch.rand(runs, CLIENTS, WAYS * shots, size, size, generator=generator(name), dtype=torch.float64)
    return examples(x, torch.arange(WAYS).repeat(shots).expand(runs, CLIENTS, -1))


def module_with(model, w):
    """The plain nn.Module with one client's parameters w (P,)."""
    module = copy.deepcopy(model.module).to(w.dtype)
    nn.utils.vector_to_parameters(w, module.parameters())
    return module


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("size", "pool"), [(28, False), (28, True), (14, False), (17, True)])
def test_stacked_is_a_loop_over_modules(norm, size, pool):
    model = conv(WAYS, width=4, size=size, norm=norm, pool=pool)
    w, data = models(model), tasks(2, size)
    f = Empirical(model, CrossEntropy())
    together, slope = f(w, data), grad(f, w, data)
    for r in range(2):
        for c in range(CLIENTS):
            module = module_with(model, w[r, c])
            loss = nn.functional.cross_entropy(module(data.x[r, c]), data.y[r, c])
            loss.backward()
            alone = nn.utils.parameters_to_vector([p.grad for p in module.parameters()])
            torch.testing.assert_close(together[r, c], loss.detach(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(slope[r, c], alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_meta_gradient_is_learn2learns(first_order, steps):
    l2l = load()
    model = conv(WAYS, width=4, size=14)
    w, support, query = models(model, 1), tasks(1, 14, 1), tasks(2, 14, 1, "query")
    ours = meta_grad(Empirical(model, CrossEntropy()), w, support, query, 0.3, steps, first_order)
    for c in range(CLIENTS):
        maml = l2l.algorithms.MAML(module_with(model, w[0, c]), lr=0.3, first_order=first_order)
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(nn.functional.cross_entropy(learner(support.x[0, c]), support.y[0, c]))
        nn.functional.cross_entropy(learner(query.x[0, c]), query.y[0, c]).backward()
        theirs = nn.utils.parameters_to_vector([p.grad for p in maml.parameters()])
        torch.testing.assert_close(ours[0, c], theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_no_example_sees_another(norm):
    model = conv(WAYS, width=4, norm=norm)
    w, x = models(model), tasks(2, 28).x
    other = x.clone()
    other[:, :, 1:] = 1 - other[:, :, 1:]
    assert not torch.equal(model(w, x)[:, :, 1:], model(w, other)[:, :, 1:])
    torch.testing.assert_close(model(w, x)[:, :, 0], model(w, other)[:, :, 0], rtol=1e-12, atol=1e-12)


def test_a_fresh_model_prefers_no_label():
    model, data = conv(WAYS), tasks(1, 28)
    w = model.init(generator("test"))
    assert torch.equal(w, model.init(generator("test")))
    assert not torch.equal(w, model.init(generator("another")))
    loss = Empirical(model, CrossEntropy())(w.expand(2, CLIENTS, -1), data)
    torch.testing.assert_close(loss, torch.full_like(loss, WAYS).log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_body_has_the_literatures_parameters(channels):
    """learn2learn's ConvBase is the papers' body: the same layers, batch norm's scale and shift in place of ours."""
    load()
    from learn2learn.vision.models.cnn4 import ConvBase

    theirs = ConvBase(hidden=64, channels=channels, max_pool=False)
    ours = conv(5, channels=channels)
    assert sum(p.numel() for p in ours.module.features.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert (
        ours.module.features(torch.zeros(1, channels, 28, 28)).shape
        == theirs(torch.zeros(2, channels, 28, 28))[:1].shape
    )


@pytest.mark.parametrize("pool", [False, True])
def test_colour_images(pool):
    model = conv(WAYS, width=4, size=20, channels=3, pool=pool)
    w = models(model)
    x = torch.rand(2, CLIENTS, 5, 3, 20, 20, generator=generator("colour"), dtype=torch.float64)
    assert model(w, x).shape == (2, CLIENTS, 5, WAYS)
    torch.testing.assert_close(model(w, x)[1, 2], module_with(model, w[1, 2])(x[1, 2]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"outputs": 0}, "outputs = 0"),
        ({"width": 2.5}, "width = 2.5"),
        ({"size": 15, "pool": True}, "size = 15 is not a whole number >= 16"),
        ({"channels": 0}, "channels = 0"),
        ({"norm": "batch"}, "not one of .'instance', 'group', 'none'"),
    ],
)
def test_bad_arguments(wrong, says):
    with pytest.raises(ValueError, match=says):
        conv(**({"outputs": 5} | wrong))


def learn2learn_networks():
    load()
    from learn2learn.vision.models import CNN4, OmniglotCNN, OmniglotFC

    return {
        "OmniglotFC": (OmniglotFC(28**2, WAYS, sizes=[8, 8]), (28, 28)),
        "OmniglotCNN": (OmniglotCNN(WAYS, hidden_size=4), (28, 28)),
        "CNN4": (CNN4(WAYS, hidden_size=4, embedding_size=4), (3, 28, 28)),
    }


def without_batch_norm(module):
    """The network with one-group normalisation wherever it has batch normalisation."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.GroupNorm(1, child.num_features))
        else:
            without_batch_norm(child)
    return module


@pytest.mark.parametrize("name", ["OmniglotFC", "OmniglotCNN", "CNN4"])
def test_learn2learns_networks(name):
    module, shape = learn2learn_networks()[name]
    with pytest.raises(ValueError, match=r"BatchNorm.*mixes the examples.*nn.GroupNorm\(1, channels\)"):
        fm.lift(module)
    model = fm.lift(without_batch_norm(module))
    w = models(model, 1)
    x = torch.rand(1, CLIENTS, 5, *shape, generator=generator("l2l"), dtype=torch.float64)
    alone = [module_with(model, w[0, c])(x[0, c]) for c in range(CLIENTS)]
    torch.testing.assert_close(model(w, x)[0], torch.stack(alone), rtol=1e-9, atol=1e-11)
    assert torch.equal(models(model, 1), w)  # a call leaves no trace, though OmniglotCNN holds its body twice


def test_frozen_batch_norm_lifts():
    module, shape = learn2learn_networks()["CNN4"]
    model = fm.lift(module.eval())
    x = torch.rand(1, CLIENTS, 5, *shape, generator=generator("l2l"), dtype=torch.float64)
    assert model(models(model, 1).float(), x.float()).isfinite().all()


def test_the_module_is_not_changed():
    module = Conv4(WAYS, 4, 28, 1, "instance", False)
    before = [p.clone() for p in module.parameters()]
    model = fm.lift(module)
    model(models(model), tasks(1, 28).x)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
