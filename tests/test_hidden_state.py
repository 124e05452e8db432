"""Nothing hangs on what a process has set or done before: torch's default dtype, its generator, other threads."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

import fmlab as fm
from fmlab.data import Examples
from fmlab.losses import SquaredError
from fmlab.models import conv
from fmlab.objective import Empirical
from fmlab.populations import glyphs
from fmlab.randomness import generator

SMALL = {"n_clients": 6, "n_validation": 3, "n_unseen": 3}
POPULATIONS = [p(**SMALL) for p in fm.POPULATIONS if p.__name__ != "Omniglot"]  # which needs files


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tensors(clients):
    return [*clients.support, *clients.query, clients.sizes, *([] if clients.bank is None else [clients.bank])]


@pytest.mark.parametrize("population", POPULATIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("order", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
def test_clients_and_fresh_models_are_the_same_under_any_default_dtype(population, order):
    found = []
    for dtype in order:
        glyphs._bank.cache_clear()
        with default(dtype):
            drawn = [t for split in ("training", "validation", "unseen") for t in tensors(population.draw(split, 1))]
            found.append([*drawn, population.model().init(generator("model", 1))])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_a_network_of_ours_starts_the_same_under_any_default_dtype():
    starts = []
    for dtype in (torch.float32, torch.float64):
        with default(dtype):
            starts.append(conv(3, width=4, size=8).init(generator("model", 0)))
    assert torch.equal(*starts)


class Odd(nn.Module):
    """Draws in every way that a module can."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(20, 20))
        self.parts = nn.ModuleList(
            [nn.Linear(3, 4), nn.Conv2d(1, 2, 3), nn.LSTM(3, 4), nn.Embedding(5, 3), nn.MultiheadAttention(4, 2)]
        )

    @torch.no_grad()
    def reset_parameters(self):
        nn.init.orthogonal_(self.w)
        shape = self.w.shape
        self.w += torch.randn(shape) + torch.rand(shape) + torch.randn_like(self.w) * torch.randint(5, shape)
        self.w += torch.randperm(20) + torch.bernoulli(torch.full(shape, 0.3)) + torch.poisson(torch.ones(shape))
        self.w += torch.normal(0.0, 1.0, shape) + torch.normal(torch.zeros(shape), 1.0)
        self.w[0] += torch.multinomial(torch.ones(20), 20) + torch.randint(2, 5, (20,))
        self.w[1].exponential_()
        nn.init.xavier_normal_(self.w[2:4])
        nn.init.kaiming_uniform_(self.w[4:6])
        nn.init.trunc_normal_(self.w[6:8])
        nn.init.sparse_(self.w[8:12], 0.5)


def test_a_fresh_start_is_what_torchs_seed_gives_and_leaves_torchs_generator_alone():
    with default(torch.float32):
        lifted = fm.lift(Odd(), fresh=True)
        before = torch.get_rng_state()
        found = lifted.init(torch.Generator().manual_seed(7))
        assert torch.equal(before, torch.get_rng_state())
        module = copy.deepcopy(lifted.module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            for m in module.modules():
                if hasattr(m, "reset_parameters"):
                    m.reset_parameters()
    assert torch.equal(found, torch.cat([p.detach().flatten() for p in module.parameters()]).double())


@pytest.fixture
def often():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_fresh_starts_in_threads_are_those_alone(often):
    lifted = fm.lift(nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 1)), fresh=True)
    alone = [lifted.init(generator("model", s)) for s in range(200)]
    torch.manual_seed(0)
    theirs = torch.rand(200)
    torch.manual_seed(0)
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(lifted.init, generator("model", s)) for s in range(200)]
        stream = torch.stack([torch.rand(()) for _ in range(200)])  # the user's own, meanwhile
    assert torch.equal(stream, theirs)
    assert all(torch.equal(a, s.result()) for a, s in zip(alone, starts, strict=True))


def test_one_lifted_model_in_several_comparisons_at_once(often):
    model = fm.lift(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    methods = [fm.FedAvg(lr=0.02, adapt_lr=0.02), fm.FedMAML(inner_lr=0.02, adapt_lr=0.02)]

    def one(seed):
        clients = fm.Sines(**SMALL)
        return fm.compare(methods, clients, model=model, rounds=5, seeds=[seed], clients_per_round=3, evaluations=1)

    alone = [one(s).adaptation for s in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = [s.adaptation for s in pool.map(one, range(6))]
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_lifted_model_can_be_copied_after_use():
    model = fm.lift(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    x, w = torch.ones(1, 1, 4, 2), model.start[None, None]
    expected = model(w, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), replace(model)):
        assert torch.equal(other(w, x), expected)


# --- what a module brings with it ---------------------------------------------------------------------------------


def test_a_modules_own_parameters_are_the_start_and_fresh_ones_differ_by_seed():
    module = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    own, fresh = fm.lift(module), fm.lift(module, fresh=True)
    pretrained = torch.cat([p.detach().flatten() for p in module.parameters()])
    for seed in (0, 1):
        assert torch.equal(own.init(generator("model", seed)), pretrained)
    starts = [fresh.init(generator("model", seed)) for seed in (0, 1)]
    assert not (starts[0] == starts[1]).any()


def test_what_is_frozen_stays_and_is_never_sent():
    module = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    module[0].requires_grad_(False)
    model = fm.lift(module)
    assert model.size == 5
    x = torch.randn(2, 3, 6, 1, generator=generator("x"))
    w = torch.randn(2, 3, 5, generator=generator("w"))
    by_hand = module[1](x @ module[0].weight.detach().T + module[0].bias.detach())
    assert_close(model(w, x), by_hand @ w[..., :4, None] + w[..., None, 4:])
    study = fm.compare(
        [fm.FedAvg(lr=0.02, adapt_lr=0.02)], fm.Sines(**SMALL), model=model, rounds=2, seeds=1, clients_per_round=3
    )
    assert study.bytes_up["FedAvg"][-1] == 2 * 3 * 5 * 4
    with pytest.raises(ValueError, match="no parameters to train"):
        fm.lift(copy.deepcopy(module).requires_grad_(False))
    with pytest.raises(ValueError, match="frozen parameters"):
        fm.compare([fm.FedMA()], fm.Sines(**SMALL), model=model, rounds=1, clients_per_round=3)


class Attends(nn.Module):
    def __init__(self, positional=False):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 1)
        self.positional = positional

    def forward(self, x):
        seen, weights = self.attention(x, x, x, None, False) if self.positional else self.attention(x, x, x)
        assert (weights is None) == self.positional
        return self.out(seen.mean(1))


class Recurs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.out = kind(4, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x):
        return self.out(self.body(x)[0][:, -1])


def drawn(module):
    """The module with weights that are the same in every run; what stands at one, as in a norm, stays."""
    g = generator("weights of a module")
    for p in module.parameters():
        if not (p == 1).all():
            p.data = torch.rand(p.shape, generator=g) - 0.5
    return module


SEQUENCES = {
    "attention": Attends(),
    "attention, evaluated": Attends(True).eval(),
    "encoder": nn.Sequential(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2).eval(),
        nn.Flatten(),
        nn.Linear(12, 1),
    ),
    "RNN": Recurs(nn.RNN),
    "GRU": Recurs(nn.GRU),
    "LSTM": Recurs(nn.LSTM),
}


@pytest.mark.parametrize("module", SEQUENCES.values(), ids=SEQUENCES)
def test_networks_over_sequences_have_an_exact_meta_gradient(module):
    module = drawn(copy.deepcopy(module))
    model = fm.lift(module)
    f, g = Empirical(model, SquaredError()), generator("sequences")
    w = model.start.double() + 0.1 * torch.randn(2, 3, model.size, generator=g, dtype=torch.float64)
    x, y = (torch.randn(2, 3, 5, *shape, generator=g, dtype=torch.float64) for shape in ((3, 4), (1,)))
    data = Examples(x, y, torch.full((2, 3, 5), 0.2, dtype=torch.float64))
    one = copy.deepcopy(module).double()
    named = dict(zip(model.shapes, w[1, 2].split([s.numel() for s in model.shapes.values()]), strict=True))
    named = {k: v.view(model.shapes[k]) for k, v in named.items()}
    assert_close(model(w, x)[1, 2], functional_call(one, named, (x[1, 2],)), rtol=1e-9, atol=1e-9)

    def after_a_step(v):
        return f(v - 0.1 * f.gradient(v, data), data)

    away = torch.randn(w.shape, generator=g, dtype=torch.float64)
    slope = (after_a_step(w + 1e-5 * away) - after_a_step(w - 1e-5 * away)) / 2e-5
    assert_close((f.meta_gradient(w, data, data, 0.1, 1) * away).sum(-1), slope, rtol=1e-5, atol=1e-6)
