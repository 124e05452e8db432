"""What a population, a model and an algorithm promise is checked, and a broken promise is named before any training."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import fmlab as fm
import fmlab.setup
from fmlab import memory
from fmlab.algorithms import Algorithm
from fmlab.data import Examples, examples
from fmlab.optimisers import SGD, Optimiser
from fmlab.setup import prepare

SMALL = {"n_clients": 6, "n_validation": 3, "n_unseen": 4}
SINES, DIGITS = fm.Sines(**SMALL), fm.Digits(**SMALL)
SHORT = {"rounds": 2, "seeds": 2, "clients_per_round": 3, "steps": 2, "evaluations": 1}
METHODS = [fm.FedAvg(lr=0.02, adapt_lr=0.02)]


@dataclass(frozen=True)
class Spoiled(fm.Digits):
    """One client of one split is spoiled by ``SPOILS[how]``."""

    how: str = ""
    split: str = "training"

    def draw(self, split, seed):
        clients = super().draw(split, seed)
        return SPOILS[self.how](clients) if split == self.split else clients


def label(clients, value):
    clients.query.y[0, -1, -1] = value
    return clients


def weigh(clients, change):
    s = clients.support
    return replace(clients, support=Examples(s.x, s.y, change(s.weight)))


def size(clients, value):
    sizes = clients.sizes.clone()
    sizes[0, -1] = value
    return replace(clients, sizes=sizes)


SPOILS = {
    "label too high": lambda c: label(c, 3),
    "label below 0": lambda c: label(c, -1),
    "labels of another dtype": lambda c: replace(c, support=c.support._replace(y=c.support.y.int())),
    "labels that are numbers": lambda c: replace(c, support=c.support._replace(y=c.support.y.double())),
    "weights too large": lambda c: weigh(c, lambda w: 20 * w),
    "a negative weight": lambda c: weigh(c, lambda w: torch.cat([-w[..., :1], 2 * w[..., :1], w[..., 1:2]], -1)),
    "a mask": lambda c: weigh(c, lambda w: w > 0),
    "a mask of integers": lambda c: weigh(c, lambda w: (w > 0).long()),
    "no size": lambda c: size(c, 0),
    "an unknown size": lambda c: size(c, float("nan")),
    "too few": lambda c: replace(
        c, support=c.support.map(lambda t: t[:, 1:]), query=c.query.map(lambda t: t[:, 1:]), sizes=c.sizes[:, 1:]
    ),
    "too few sizes": lambda c: replace(c, sizes=c.sizes[:, 1:]),
    "too few labels": lambda c: replace(c, query=c.query._replace(y=c.query.y[..., 1:])),
    "no clients": lambda c: (c.support, c.query),
}


@pytest.mark.parametrize("split", ["training", "unseen"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("label too high", r"3 logits for classes from 0 to 3; classes are 0 \.\. 2: give the model 4 outputs"),
        ("label below 0", "classes from -1 to 2"),
        ("labels of another dtype", "dtype torch.int32; .* one int64"),
        ("labels that are numbers", "dtype torch.float64; .* one int64"),
        ("weights too large", r"sum to 20 \.\. 20 a client; they are >= 0 and sum to one: fmlab.data.examples"),
        ("a negative weight", "weights of the .* go down to -"),
        ("a mask", r"dtype torch.bool; .*real=mask"),
        ("a mask of integers", r"dtype torch.int64; .*real=mask"),
        ("no size", "sizes of shape .* from 0 to .*number > 0"),
        ("an unknown size", "sizes of shape .* from nan"),
        ("too few", r"each starts with \(1, (6|4), examples\)"),
        ("too few sizes", "sizes of shape"),
        ("too few labels", "'query.y': .* each starts with"),
        ("no clients", "gave tuple; return fmlab.data.Clients"),
    ],
)
def test_a_population_that_breaks_its_promise_is_named_before_a_round(how, message, split):
    rounds = []
    clients = Spoiled(**SMALL, how=how, split=split)
    with pytest.raises((ValueError, TypeError), match=message):
        list(fm.stream(METHODS, clients, on_round=rounds.append, **SHORT))
    assert 1 not in rounds


def test_a_mask_becomes_weights_of_any_dtype():
    x, y = torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 3, 1)
    mask = torch.tensor([[[1, 1, 0], [1, 0, 0]]])
    for real in (mask, mask.bool(), mask.float()):
        assert examples(x, y, real).weight.tolist() == [[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]


class Squeezed(nn.Module):
    def __init__(self, inputs=1):
        super().__init__()
        self.line = nn.Linear(inputs, 1)

    def forward(self, x):
        return self.line(x).squeeze(-1)


class Attends(nn.Module):
    """Through torch's fused kernel, whose second derivative it does not have."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(1, 24), nn.Linear(8, 1)

    def forward(self, x):
        q, k, v = (t.view(len(x), 1, 1, 8) for t in self.qkv(x).chunk(3, -1))
        return self.out(scaled_dot_product_attention(q, k, v)[:, 0, 0])


UNFUSED = "ignore:There is a performance drop.*_scaled_dot_product_flash_attention:UserWarning"  # vmap says so


@pytest.mark.filterwarnings(UNFUSED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": fm.lift(Squeezed())}, r"predictions of shape \(10,\) a client for targets y \(10, 1\)"),
        ({"model": fm.MLP((1, 4, 2))}, r"predictions of shape \(10, 2\)"),
        ({"model": fm.MLP((64, 4, 2)), "clients": DIGITS}, r"2 logits for classes from 0 to 2.* 3 outputs"),
        ({"model": fm.lift(Squeezed()), "clients": DIGITS}, "does not fit"),
        ({"model": nn.Linear(1, 1)}, r"lift it: model=fm\.lift\(module\)"),
        ({"model": fm.MLP}, "is no model"),
        ({"model": "MLP"}, "model = 'MLP' is no model"),
        (
            {"algorithms": [fm.FedRep()], "clients": fm.Quadratics(**SMALL)},
            "FedRep.* cannot train .*no head to tell from a body; take clients whose model is a network",
        ),
        ({"model": fm.MLP((3, 4)), "clients": fm.Quadratics(**SMALL)}, "does not fit"),
        ({"clients": fm.Sines(heterogeneity=fm.sweep(0.0, 1.0))}, r"cannot be swept \(heterogeneity\); run one study"),
        ({"device": "gpu"}, "device = 'gpu' is not a device of this machine"),
        ({"device": None}, 'device = None is not a device of this machine; give "cpu"'),
        ({"device": "meta"}, "device = 'meta' is not a device of this machine; give \"cpu\""),
        ({"device": "cuda:99"}, "device = 'cuda:99' is not a device of this machine"),
        ({"algorithms": "FedAvg"}, r"algorithms = 'FedAvg' is no list of algorithms.*\[fm\.FedAvg\(\)\]"),
        ({"algorithms": fm.FedAvg}, "is no list of algorithms"),
        ({"algorithms": 3}, "algorithms = 3 is no list"),
        ({"seeds": 10**9}, r"seeds: 1000000000 is outside \[1, 10000\]"),
        ({"seeds": range(10**12)}, r"seeds: 1000000000000 is outside \[1, 10000\]"),
        (
            {"seeds": 10_000, "clients": fm.Sines(n_clients=10**5)},
            r"at least .* GB of memory, and the machine has .*seeds = 10000",
        ),
        (
            {"seeds": 100, "clients": fm.Sines(n_clients=10**6, n_unseen=10**5)},
            "training clients .*n_clients = 1000000",
        ),
        ({"algorithms": [fm.FedMAML()], "model": fm.lift(Attends())}, "lacks a derivative: .* nn.MultiheadAttention"),
    ],
)
def test_one_clear_error_before_any_training(change, message, monkeypatch):
    monkeypatch.setattr(memory, "physical", lambda: 16e9)
    arguments = {"algorithms": METHODS, "clients": SINES} | SHORT | change
    with pytest.raises((ValueError, TypeError), match=message):
        prepare(**arguments)


@pytest.mark.filterwarnings(UNFUSED)
def test_first_order_needs_no_second_derivative_and_a_large_study_that_fits_is_let_through(monkeypatch):
    prepare([fm.FedMAML(first_order=True)], SINES, model=fm.lift(Attends()), **SHORT)
    monkeypatch.setattr(memory, "physical", lambda: 16e9)
    prepare(METHODS, fm.Sines(n_clients=30_000), **SHORT)


@pytest.mark.parametrize(
    "population", [fm.Sines(n_clients=20_000, n_unseen=20_000), fm.Glyphs(n_clients=5_000)], ids=repr
)
def test_the_memory_that_is_asked_for_is_the_memory_of_the_tensors(population):
    options = SHORT | {"seeds": 8}
    setup = prepare([fm.Ditto(lr=0.02, adapt_lr=0.02)], population, **options)
    parts = memory._parts(dict(setup.config), setup.config["seeds"])

    def size(*tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    assert parts["unseen clients"] == size(*setup.unseen.support, *setup.unseen.query)
    assert parts["training clients"] == 2 * size(*setup.training.support, *setup.training.query)
    p = setup.start.shape[1]
    assert parts["what clients keep"] == 8 * population.n_clients * p * setup.start.element_size()


@pytest.mark.parametrize(
    ("says", "have"), [("1000000000\n", 1e9), ("max\n", None), ("9223372036854771712\n", None), (None, None)]
)
def test_a_container_has_less_memory_than_its_machine(says, have, tmp_path, monkeypatch):
    """It is refused what does not fit into the container; "max" and a number beyond the machine's limit nothing."""
    monkeypatch.setattr(memory, "LIMITS", ())
    machine = memory.physical()
    limit = tmp_path / "memory.max"
    if says is not None:
        limit.write_text(says)
    monkeypatch.setattr(memory, "LIMITS", (limit,))
    assert memory.physical() == (have or machine)
    if have:
        with pytest.raises(ValueError, match=r"the machine has 1 \(in GB: training clients"):
            prepare(METHODS, fm.Sines(n_clients=10**6), **SHORT)


@pytest.mark.parametrize(
    "how", [{"n_clients": 10**6}, {"n_unseen": 10**5}, {"n_clients": 10**6, "n_unseen": 10**5}], ids=str
)
def test_a_hundred_seeds_of_so_many_are_refused_before_any_is_drawn(how, monkeypatch):
    """Named with what they would take, on a laptop; at most a few clients are drawn to know the bytes of one."""
    monkeypatch.setattr(memory, "physical", lambda: 4e9)
    drawn, draw = [], fm.Glyphs.draw
    monkeypatch.setattr(fm.Glyphs, "draw", lambda self, *a: drawn.append(self.count(a[0])) or draw(self, *a))
    with pytest.raises(ValueError, match=r"at least [\d.e+]+ GB of memory, and the machine has 4 .*lower seeds = 100"):
        prepare(METHODS, fm.Glyphs(**how), rounds=1, seeds=100)
    assert max(drawn) <= memory.FEW


def test_lenient_where_the_meaning_is_plain():
    assert fm.Sines(n_clients=2e1).n_clients == 20
    assert isinstance(fm.Sines(n_clients=2e1).n_clients, int)
    assert fm.FedAvg(local_steps=fm.sweep(1.0, 2)).local_steps == fm.sweep(1, 2)
    assert all(type(v) is int for v in fm.FedAvg(local_steps=fm.sweep(1.0, 2)).local_steps.values)
    named = prepare((a for a in (fm.FedAvg(), fm.FedMAML())), SINES, **SHORT).algorithms
    assert list(named) == ["FedAvg", "FedMAML"]
    assert prepare(METHODS, SINES, device=torch.device("cpu"), **SHORT).config["device"] == "cpu"


def test_what_a_setup_was_made_of_does_not_move():
    setup = prepare(METHODS, SINES, **SHORT)
    with pytest.raises(TypeError, match="item assignment"):
        setup.config["rounds"] = 9
    with pytest.raises(TypeError, match="item assignment"):
        setup.config["algorithms"]["FedAvg"] = fm.FedMAML()
    study = fm.compare(METHODS, SINES, **SHORT)
    study.config["algorithms"].clear()
    study.config["rounds"] = 0
    assert study.config["rounds"] == 2
    assert list(study.config["algorithms"]) == ["FedAvg"]


def test_places_that_are_not_there_are_named():
    study = fm.compare(METHODS, SINES, **SHORT)
    for what, most in (("seed", 1), ("client", 3), ("value", 0)):
        for place in (-1, most + 1, 0.5):
            with pytest.raises(IndexError, match=f"{what} = {place} is not a whole number from 0 to {most}"):
                study.adapted("FedAvg", **{what: place})
    with pytest.raises(KeyError, match="'FedMAML' is not one of the methods"):
        study.adapted("FedMAML")


@dataclass(frozen=True)
class Writes(fm.FedAvg):
    where: str = "local"

    def local(self, f, held, kept, batch):
        if self.where == "local":
            batch.both.y.zero_()
        return super().local(f, held, kept, batch)

    def adapt(self, f, held, support, steps):
        if self.where == "adapt":
            support.x.mul_(2)
        return super().adapt(f, held, support, steps)


@pytest.mark.parametrize("where", ["local", "adapt"])
def test_an_algorithm_that_writes_into_its_clients_examples_is_refused(where):
    with pytest.raises(ValueError, match=rf"Writes\.{where} .*writes into its clients' examples, which all .* copy"):
        fm.compare([Writes(lr=0.02, adapt_lr=0.02, where=where), *METHODS], SINES, **SHORT)


@dataclass(frozen=True)
class Halfway(Algorithm):
    """As the README's: clients send half of their change and keep the rest."""

    lr: float = 0.01
    server: Optimiser = SGD()

    def start(self, f, w):
        return {"model": w}, {"rest": torch.zeros_like(w)}

    def local(self, f, held, kept, batch):
        change = held["model"] - f.descend(held["model"], batch.both, self.lr, 2) + kept["rest"]
        return {"model": change / 2}, {"rest": change / 2}

    def adapt(self, f, held, support, steps):
        return f.path(held["model"], support, self.lr, steps)

    def evaluations(self):
        return 2


def local(change):
    """``local`` with another answer than (sent, kept)."""
    return {"local": lambda self, *given: change(*Halfway.local(self, *given))}


def adapt(change):
    return {"adapt": lambda self, *given: change(Halfway.adapt(self, *given))}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (local(lambda sent, kept: (sent, {"other": kept["rest"]})), "local keeps {'other'.*, start {'rest'"),
        (local(lambda sent, kept: (sent, {})), "local keeps {}, start {'rest'"),
        (local(lambda sent, kept: ({"modle": sent["model"]}, kept)), r"sends, \['modle'\], .* learned, \['model'\]"),
        (local(lambda sent, kept: (sent["model"], kept)), r"local returns \('Tensor', .*two dicts of tensors"),
        (local(lambda sent, kept: sent), "local returns {'model'.*two dicts of tensors"),
        (local(lambda sent, kept: ({"model": sent["model"][:, :1]}, kept)), r"\(2, 1, \d+\) .*, not \(2, 2\)"),
        (local(lambda sent, kept: ({"model": sent["model"][..., :1]}, kept)), r"\(2, 1, 1\) .*, not {'model'"),
        (local(lambda sent, kept: ({"model": sent["model"].float()}, kept)), r"float32 .*, not {'model'"),
        ({"local": lambda self, f, held, kept, batch: kept["own"]}, "local fails: KeyError: 'own'; .* kept .'rest'"),
        ({"start": lambda self, f, w: {"model": w}}, "start returns {'model'.*two dicts of tensors"),
        ({"start": lambda self, f, w: ({"w": w}, {})}, r"start holds \['w'\] and not \['model'\] of learned"),
        ({"start": lambda self, f, w: ({"model": w[:, 0]}, {})}, r"start gives 'model' as \(2, \d+\)"),
        ({"absorb": lambda self, held, mean, share: {}}, "absorb makes {} of {'model'"),
        ({"combine": lambda self, f, held, sent, weight: None}, "combine fails: TypeError"),
        (adapt(lambda models: None), "adapt fails: TypeError.*steps \\+ 1 in all"),
        (adapt(lambda models: list(models)[:1]), "adapt gives 1 models for steps = 2; .*steps \\+ 1 in all"),
        (adapt(lambda models: [*models, *models, torch.zeros(1)]), "adapt gives 4 or more models"),
        (adapt(lambda models: (u[:, :1] for u in models)), "adapt fails|adapt gives"),
        ({"personal": lambda self, f, held, kept: kept["rest"][:, :1]}, "personal gives .*, not"),
        ({"evaluations": lambda self: None}, "evaluations fails: TypeError"),
    ],
)
def test_a_new_method_that_breaks_its_promise_is_named_before_a_round(methods, message):
    prepare([Halfway()], SINES, **SHORT)
    broken = type("Broken", (Halfway,), methods)
    with pytest.raises(ValueError, match=rf"(?s)^Broken = .*Broken\(.*{message}.*base\.py"):
        prepare([broken()], SINES, **SHORT)


def test_methods_of_the_package_are_tried_once_a_process(monkeypatch):
    tried, before = [], fm.FedAvg.local
    monkeypatch.setattr(fm.FedAvg, "local", lambda *given: tried.append(1) or before(*given))
    monkeypatch.setattr(fmlab.setup, "_KEPT_PROMISES", set())
    for _ in range(3):
        prepare(METHODS, SINES, **SHORT)
    assert len(tried) == 1


def test_whole_numbers_of_numpy_are_whole_numbers():
    given = {"rounds": np.int64(4), "steps": np.int32(2), "clients_per_round": np.uint8(3)}
    config = prepare(METHODS, SINES, **given, seeds=list(np.arange(2)), evaluations=[np.int64(0), 4]).config
    assert [config[name] for name in (*given, "seeds", "evaluations")] == [4, 2, 3, (0, 1), (0, 4)]
    assert all(type(value) is int for value in (*(config[name] for name in given), *config["seeds"]))
    for wrong in (True, np.True_, 2.0):
        with pytest.raises(ValueError, match=f"rounds = .*{wrong}.* is not a whole number >= 1"):
            prepare(METHODS, SINES, rounds=wrong)
