"""Everything a comparison needs before its first round: checked arguments, drawn clients, fresh models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields, replace
from functools import cached_property, partial
from operator import index
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fmlab.algorithms import Algorithm
from fmlab.contract import Contract, changed
from fmlab.data import Batch, Clients, Examples, Tree, stack
from fmlab.declare import pick, spread, step_sizes, sweep_length, sweeps
from fmlab.engine import Sampler, State, Store, Transform, rounds, tile
from fmlab.means import Mean
from fmlab.memory import check_memory
from fmlab.models import Lifted
from fmlab.objective import Empirical, Objective, Scored
from fmlab.optimisers import Optimiser
from fmlab.populations import Population
from fmlab.randomness import generator
from fmlab.report import FLOWN
from fmlab.transforms import Noise, Transformation

DEFAULTS: dict[str, Any] = {
    "rounds": 300,
    "seeds": 3,
    "clients_per_round": None,
    "steps": 5,
    "evaluations": 10,
    "model": None,
    "weights": "uniform",
    "server": None,
    "transforms": (),
    "mean": None,
    "dropout": 0.0,
    "sampling": "fixed",
    "tune": False,
    "dtype": None,
    "device": "cpu",
}


USUAL = 25  # clients a round, where nothing is said
MOST_SEEDS = 10_000
_KEPT_PROMISES: set[type[Algorithm]] = set()  # methods of fmlab/algorithms that were tried: a slider's move asks often
MISFITS = (RuntimeError, IndexError, TypeError, ValueError, AssertionError)  # what a forward pass may raise


@dataclass(frozen=True)
class Setup:
    """``config`` is what ``compare`` was called with, checked and complete; clients are drawn when asked for."""

    given: InitVar[Mapping[str, Any]]
    config: MappingProxyType[str, Any] = field(init=False)

    def __post_init__(self, given: Mapping[str, Any]) -> None:
        own = dict(given) | {"algorithms": MappingProxyType(dict(given["algorithms"]))}
        object.__setattr__(self, "config", MappingProxyType(own))

    @property
    def algorithms(self) -> Mapping[str, Algorithm]:
        return self.config["algorithms"]  # type: ignore[no-any-return]

    @property
    def population(self) -> Population:
        return self.config["clients"]  # type: ignore[no-any-return]

    @cached_property
    def model(self) -> Any:
        return self.config["model"] or self.population.model()

    @cached_property
    def objective(self) -> Objective:
        return self.population.objective(self.model)

    @cached_property
    def evaluated(self) -> list[int]:
        """The rounds after which the learning curves are taken: 0, ..., the last."""
        last, n = self.config["rounds"], self.config["evaluations"]
        return sorted({round(last * k / n) for k in range(n + 1)}) if isinstance(n, int) else list(n)

    @cached_property
    def start(self) -> Tensor:
        """Fresh models (S, P), one a seed."""
        models = [self.model.init(generator("model", s)) for s in self.config["seeds"]]
        return torch.stack(models).to(self.config["device"], self.config["dtype"])

    @cached_property
    def training(self) -> Clients:
        return self._draw("training")

    @cached_property
    def participating(self) -> Clients:
        return self._draw("participating")

    @cached_property
    def validation(self) -> Clients:
        return self._draw("validation")

    @cached_property
    def unseen(self) -> Clients:
        return self._draw("unseen")

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.training, self.config["seeds"], self.config["clients_per_round"], self.config["sampling"])

    @cached_property
    def trivial(self) -> Scored | None:
        """Loss and accuracy (S, N) on unseen clients of the predictor that learns nothing; None where there is none."""
        with torch.no_grad():
            return self.objective.trivial(*self.unseen.everyone())

    @cached_property
    def useless(self) -> float:
        """FLOWN times the validation clients' mean loss of the fresh models: what is above flew away."""
        fresh = self.start[:, None].expand(-1, self.validation.number, -1)
        with torch.no_grad():
            ((loss, _),) = self.objective.scores([fresh], self.validation.everyone()[1])
        return FLOWN * float(loss.mean())

    def spread(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm with its sweeps spread over the runs, as rounds and scoring take it."""
        return spread(algorithm, len(self.config["seeds"]), self.start.dtype, self.start.device)

    def run(self, algorithm: Algorithm, store: Store | None = None, state: State | None = None) -> Iterator[State]:
        """The rounds of one algorithm, without end; from ``state`` on, with the ``store`` as it was then."""
        return rounds(
            algorithm,
            self.objective,
            self.training,
            self.start,
            seeds=self.config["seeds"],
            per_round=self.config["clients_per_round"],
            weights=self.config["weights"],
            transforms=self._transforms,
            mean=self.config["mean"],
            dropout=self.config["dropout"],
            sampling=self.config["sampling"],
            sampler=self.sampler,
            store=store,
            state=state,
        )

    @property
    def _transforms(self) -> list[Transform]:
        """A function is asked in every round for what ``_check_round`` asks of it; what is declared keeps its word."""
        return [t if isinstance(t, Transformation) else partial(changed, t) for t in self.config["transforms"]]

    def forget(self) -> None:
        """Give the closed form's memory back; a study may be kept for long, and makes anew what it needs again."""
        self.objective.forget()

    def _draw(self, split: str) -> Clients:
        drawn = self._stacked(split)
        for part in ("support", "query"):
            _check_examples(f"{split} clients' {part} set", getattr(drawn, part), drawn)
        for name, s, q in zip("xy", drawn.support, drawn.query, strict=False):
            if s.shape[3:] != q.shape[3:]:
                raise ValueError(
                    f"{name} of the {split} clients' support set has examples of shape {tuple(s.shape[3:])} and does "
                    f"not fit the query set's, {tuple(q.shape[3:])}; give both the same"
                )
        drawn = drawn.to(self.config["dtype"], torch.device(self.config["device"]))
        self._check_predictions(split, drawn)
        return drawn

    def _stacked(self, split: str) -> Clients:
        """All seeds' clients as drawn. Each is rounded at once, so that no two seeds stand side by side in float64."""
        bank: Tensor | None = None
        parts: list[Clients] = []
        for seed in self.config["seeds"]:
            one = self.population.draw(split, seed)
            _check_clients(split, one, self.population)
            bank = bank if parts else one.bank  # all share the first one's
            parts.append(replace(one, bank=None).to(self.config["dtype"], torch.device("cpu")))
        return replace(stack(parts), bank=bank)

    def _check_predictions(self, split: str, clients: Clients) -> None:
        """A fresh model's predictions for the first client fit the targets, and every client's labels their number."""
        f = self.objective
        if not isinstance(f, Empirical):
            return
        first = torch.zeros(len(self.config["seeds"]), 1, dtype=torch.int64, device=self.config["device"])
        for part, e, one in zip(
            ("support", "query"), (clients.support, clients.query), clients.take(first), strict=False
        ):
            try:
                with torch.no_grad():
                    p = f.predict(self.start[:, None], one.x)
            except MISFITS as problem:
                shapes = f"x {tuple(one.x.shape[2:])} and y {tuple(one.y.shape[2:])} a client"
                raise ValueError(f"{self._misfit(split, part)}, {shapes}: {problem}") from problem
            if problems := f.loss.misfit(p, one.y, e.y):
                raise ValueError(f"{self._misfit(split, part)}: {problems}")

    def _misfit(self, split: str, part: str) -> str:
        return f"the model {self.model!r} does not fit the {split} clients' {part} set"


def prepare(algorithms: Iterable[Algorithm] | Mapping[str, Algorithm], clients: Population, **options: Any) -> Setup:
    """Check every argument of ``compare`` and complete it; raises before any training."""
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise TypeError(f"compare() got unknown arguments {sorted(unknown)}; it takes {sorted(DEFAULTS)}")
    config: dict[str, Any] = {"algorithms": _named(algorithms), "clients": clients} | DEFAULTS | options
    if not isinstance(clients, Population):
        raise TypeError(f"clients = {clients!r} is not a population; give for example fm.Sines(heterogeneity=0.5)")
    if swept := sweeps(clients):
        raise ValueError(
            f"clients = {clients!r}: a population cannot be swept ({', '.join(swept)}); run one study for each value"
        )
    _check_model(config["model"])
    for name in ("rounds", "clients_per_round", "steps", "evaluations"):
        config[name] = _as_int(config[name])
    config["evaluations"] = _evaluations(config["evaluations"], config["rounds"])
    if config["clients_per_round"] is None:
        config["clients_per_round"] = min(USUAL, clients.n_clients)
    for name in ("rounds", "clients_per_round", "steps", "evaluations"):
        value = config[name]
        if not _whole(value) and not (name == "evaluations" and isinstance(value, tuple)):
            raise ValueError(f"{name} = {value!r} is not a whole number >= 1")
    if config["clients_per_round"] > clients.n_clients:
        raise ValueError(
            f"clients_per_round = {config['clients_per_round']} is more than the {clients.n_clients} clients; "
            "lower it or raise n_clients of the population"
        )
    if config["weights"] not in ("uniform", "size"):
        raise ValueError(f"weights = {config['weights']!r} is neither 'uniform' nor 'size'")
    config["algorithms"] = _served(config["algorithms"], config["server"])
    dropout = config["dropout"]
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout!r} is not a number in [0, 1): the share of clients that never answer")
    if config["sampling"] not in ("fixed", "poisson"):
        raise ValueError(f"sampling = {config['sampling']!r} is neither 'fixed' nor 'poisson'")
    if config["sampling"] == "poisson" and config["weights"] == "size":
        raise ValueError(
            "sampling = 'poisson' divides a sum by the expected number of clients; give weights = 'uniform'"
        )
    config["transforms"] = _transforms(config["transforms"])
    check_mean(config)
    config["dtype"] = config["dtype"] or torch.get_default_dtype()
    if config["dtype"] not in (torch.float32, torch.float64):
        raise ValueError(f"dtype = {config['dtype']!r} is neither torch.float32 nor torch.float64")
    config["device"] = _device(config["device"])
    config["seeds"] = _seeds(config["seeds"])
    check_memory(config)
    setup = Setup(config)
    _check_fit(setup)
    for name, a in setup.algorithms.items():
        _check_round(name, a, setup)
    return setup


def _served(algorithms: dict[str, Algorithm], server: Any) -> dict[str, Algorithm]:
    """Every method with this optimiser at its server, where it has one."""
    if server is None:
        return algorithms
    if not isinstance(server, Optimiser):
        made = f"; make one: fm.{server.__name__}()" if isinstance(server, type) else ", for example fm.Adam()"
        raise TypeError(f"server = {server!r} is not an optimiser of the server, nor None for each method's own{made}")
    has = {name: "server" in {f.name for f in fields(a)} for name, a in algorithms.items()}
    changed: dict[str, Any] = {"server": server}
    return {name: replace(a, **changed) if has[name] else a for name, a in algorithms.items()}


def _as_int(value: Any) -> Any:
    """A whole number of any kind, NumPy's too, as int; all else as it is."""
    try:
        return value if isinstance(value, bool) else index(value)
    except TypeError:
        return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _evaluations(value: Any, rounds: Any) -> Any:
    """A number, or the rounds themselves: from 0 to the last, in order."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return value
    asked = tuple(map(_as_int, value))
    rising = all(type(t) is int for t in asked) and list(asked) == sorted(set(asked))
    if not rising or asked[:1] != (0,) or asked[-1] != rounds:
        raise ValueError(
            f"evaluations = {value!r}: rounds are given in rising order, from 0 to the last, {rounds!r}; "
            "or a whole number says how many, evenly over the rounds"
        )
    return asked


def _transforms(value: Any) -> tuple[Any, ...]:
    given = (value,) if callable(value) else tuple(value) if isinstance(value, Sequence) else (value,)
    for t in given:
        if isinstance(t, Mean):
            raise ValueError(f"transforms holds {t!r}, which the server makes of all messages; give it as mean={t!r}")
        if not callable(t) or isinstance(t, type):
            raise TypeError(f"transforms holds {t!r}, which is not a function; give a list of functions")
        if isinstance(t, Transformation) and (swept := sweeps(t)):
            raise ValueError(f"{t!r}: a transform cannot be swept ({', '.join(swept)}); run one study for each value")
    noise = Counter(t.by for t in given if isinstance(t, Noise))
    for by, times in noise.items():
        if times > 1:
            raise ValueError(
                f"transforms holds {times} times Noise by the {by}, and all would draw the same; give one, whose std "
                "is the root of the sum of their squares"
            )
    return given


def check_mean(config: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError where the server's mean does not go with the rest of a complete config."""
    mean = config["mean"]
    if mean is not None and not isinstance(mean, Mean):
        made = f"; make one: fm.{mean.__name__}()" if isinstance(mean, type) else ", for example fm.Median()"
        raise TypeError(f"mean = {mean!r} is not a mean of the server's, nor None for the weighted one{made}")
    if mean is not None:
        if swept := sweeps(mean):
            raise ValueError(f"{mean!r}: a mean cannot be swept ({', '.join(swept)}); run one study for each value")
        if config["weights"] == "size" and not mean.weighs:
            raise ValueError(f"mean = {mean!r} counts every client once; give weights = 'uniform' with it, not 'size'")
        mean.check(config["clients_per_round"])
    central = any(isinstance(t, Transformation) and t.at_server for t in config["transforms"])
    poisson = config["sampling"] == "poisson"
    for name, a in config["algorithms"].items() if mean is not None or central or poisson else ():
        if not a.averages:
            if mean is not None:
                what, way = f"mean = {mean!r}", "give mean = None"
            elif central:
                what, way = "Noise by the server", "give fm.Noise(std) by the client"
            else:
                what, way = "sampling = 'poisson'", "give sampling = 'fixed'"
            raise ValueError(
                f"{what} does not go with {name} = {a!r}, whose server matches messages before their mean; {way}, or "
                f"leave {name} out"
            )


def _check_model(model: Any) -> None:
    if isinstance(model, torch.nn.Module):
        raise TypeError(f"model = {model!r} is a module of torch; lift it: model=fm.lift(module)")
    if model is not None and (isinstance(model, type) or not (callable(model) and hasattr(model, "init"))):
        raise TypeError(f"model = {model!r} is no model; give for example fm.MLP((1, 40, 1)) or fm.lift(module)")


def _device(device: Any) -> str:
    """Its name, of a device that is there and holds numbers, which "meta" does not."""
    try:
        there = torch.device(device)
        torch.zeros(1, device=there).item()
    except (RuntimeError, TypeError, AssertionError) as problem:  # torch raises an AssertionError without CUDA
        said = str(problem).partition("\n")[0]
        raise ValueError(
            f'device = {device!r} is not a device of this machine; give "cpu" or, with a GPU, "cuda": {said}'
        ) from problem
    return str(there)


def _named(algorithms: Iterable[Algorithm] | Mapping[str, Algorithm]) -> dict[str, Algorithm]:
    if isinstance(algorithms, Algorithm):
        algorithms = [algorithms]
    if isinstance(algorithms, (str, type)) or not isinstance(algorithms, Iterable):
        raise TypeError(f"algorithms = {algorithms!r} is no list of algorithms; give for example [fm.FedAvg()]")
    if not isinstance(algorithms, Mapping):
        algorithms = list(algorithms)
    named = algorithms if isinstance(algorithms, Mapping) else {type(a).__name__: a for a in algorithms}
    if len(named) < len(algorithms):
        raise ValueError(
            "two algorithms of the list have the same class; name them in a dict: "
            "{'FedMAML': fm.FedMAML(), 'first order': fm.FedMAML(first_order=True)}"
        )
    if not named:
        raise ValueError("no algorithm to compare; give for example [fm.FedAvg(), fm.FedMAML()]")
    for name, a in named.items():
        if not isinstance(a, Algorithm):
            raise TypeError(f"{name} = {a!r} is not an algorithm; give an instance, for example fm.FedAvg()")
        sweep_length(a)  # raises on sweeps of unequal length
    return dict(named)


def _seeds(seeds: Any) -> tuple[int, ...]:
    seeds = _as_int(seeds)
    whole = isinstance(seeds, int) and not isinstance(seeds, bool)
    if not whole and (isinstance(seeds, (str, bytes)) or not isinstance(seeds, Sequence)):
        raise TypeError(f"seeds = {seeds!r} is neither a number of seeds nor a list of whole numbers")
    if (number := seeds if whole else len(seeds)) > MOST_SEEDS:  # before as many numbers stand in memory
        raise ValueError(f"seeds: {number} is outside [1, {MOST_SEEDS}]; give fewer runs, 3 or 10 show the spread")
    if whole:
        seeds = range(seeds)
    asked = tuple(map(_as_int, seeds))
    if not asked or len(set(asked)) < len(asked) or not all(type(s) is int for s in asked):
        raise ValueError(f"seeds = {seeds!r} needs one or more different whole numbers, for example 3 or [0, 1, 2]")
    return asked


def _check_clients(split: str, clients: Any, population: Population) -> None:
    """The shapes of one seed's draw, and how many clients there are."""
    name = f"{type(population).__name__}.draw({split!r})"
    if not isinstance(clients, Clients):
        raise TypeError(f"{name} gave {type(clients).__name__}; return fmlab.data.Clients")
    wanted, sizes = population.count(split), clients.sizes
    for part in ("support", "query"):
        e: Examples = getattr(clients, part)
        shapes = {f"{part}.{field}": tuple(t.shape[:3]) for field, t in zip(e._fields, e, strict=True)}
        if len(set(shapes.values())) > 1 or e.weight.ndim != 3 or e.weight.shape[:2] != (1, wanted):
            raise ValueError(
                f"{name} gave {shapes}; each starts with (1, {wanted}, examples): one seed, and as many clients as "
                "the population's count says"
            )
    if sizes.shape != (1, wanted) or not (sizes.isfinite() & (sizes > 0)).all():
        raise ValueError(
            f"{name} gave sizes of shape {tuple(sizes.shape)} from {float(sizes.min()):g} to {float(sizes.max()):g}; "
            f"give one number > 0 for each client, (1, {wanted}): how many examples it holds"
        )


def _check_examples(where: str, e: Examples, clients: Clients) -> None:
    if not e.weight.dtype.is_floating_point:
        raise ValueError(
            f"weight of the {where} has dtype {e.weight.dtype}; it holds numbers that sum to one for each client: "
            "fmlab.data.examples(x, y, real=mask) makes them of a mask"
        )
    if (e.weight > 0).sum(-1).min() < 1 or not e.weight.isfinite().all():
        raise ValueError(
            f"a client has no example in the {where}; every client needs one to adapt on and one to score on"
        )
    total = e.weight.sum(-1)
    if e.weight.min() < 0 or (total - 1).abs().max() > 1e-4:
        raise ValueError(
            f"weights of the {where} go down to {float(e.weight.min()):g} and sum to {float(total.min()):g} .. "
            f"{float(total.max()):g} a client; they are >= 0 and sum to one: fmlab.data.examples makes equal ones"
        )
    x = e.x if clients.bank is None else clients.bank
    missing = clients.standard is not None  # NaN is a missing value there
    if x.dtype.is_floating_point and (x.isinf() if missing else ~x.isfinite()).any():
        raise ValueError(f"x of the {where} holds NaN or infinite numbers; clean the data first")
    if e.y.dtype.is_floating_point and not e.y.isfinite().all():
        raise ValueError(f"y of the {where} holds NaN or infinite numbers; clean the data first")


def _first(setup: Setup, n: int = 1) -> Tensor:
    """The places of each seed's first n clients (S, n)."""
    return torch.arange(n, device=setup.config["device"]).expand(len(setup.config["seeds"]), -1)


def _check_fit(setup: Setup) -> None:
    first = _first(setup)
    support, *_ = setup.training.take(first)
    try:
        loss = setup.objective(setup.start[:, None], support)
    except MISFITS as problem:
        raise ValueError(f"the model {setup.model!r} does not fit the clients' data: {problem}") from problem
    if loss.shape != first.shape:
        raise ValueError(f"the objective gave losses of shape {tuple(loss.shape)}, not (runs, clients)")


@torch.no_grad()
def _check_round(name: str, algorithm: Algorithm, setup: Setup) -> None:
    """A round of two clients in two runs, with any step size: the method fits the model, and every transform what is
    sent. A method of one's own is held to all that it promises, those of fmlab/algorithms once a process."""
    a = pick(algorithm, 0)
    a = replace(a, **{f: 1e-3 for f in step_sizes(a) if not isinstance(getattr(a, f), (int, float))})
    cannot = f"{name} = {algorithm!r} cannot train {setup.model!r}"
    new, transforms = type(a) not in _KEPT_PROMISES, setup.config["transforms"]
    lifted = isinstance(setup.model, Lifted)  # its derivatives are tried too
    few = 2 if new or transforms else 1  # two, so that none is taken for all
    values, clients = min(few, sweep_length(algorithm)), min(few, setup.training.number)
    fresh = setup.start[:few].repeat(values, 1)[:, None]
    try:
        f = a.objective(setup.objective)
        begun = a.start(f, fresh)
    except ValueError as problem:
        raise ValueError(f"{cannot}: {problem}") from problem
    contract = Contract(f"{name} = {algorithm!r}", a, f)
    held, kept = contract.start(begun, len(fresh))
    if not (transforms or lifted or new):
        return
    who = _first(setup, clients)
    support, query, both = (tile(e.map(lambda t: t[:few]), values) for e in setup.training.take(who))
    batch = Batch(support, query, setup.config["seeds"][:few], ids=setup.training.called(who)[:few], joined=both)
    kept = _wide(kept, clients)
    for phase in range(a.phases(f) if new or transforms else 1):
        now = replace(batch, phase=phase)
        try:
            sent, kept = contract.local(_wide(held, clients), kept, now)
        except ValueError as problem:
            if not lifted or not isinstance(cause := problem.__cause__, RuntimeError):
                raise
            raise ValueError(
                f"{cannot}, which lacks a derivative: {cause}; for attention of your own write "
                "softmax(q @ k.mT / d**0.5) @ v, or take nn.MultiheadAttention"
            ) from cause
        for transform in transforms if sent else ():
            sent = changed(transform, sent, now, f"{name}'s message")
        if new and sent:
            held = contract.serve(held, sent)
    if new:
        contract.adapt(_wide(held, clients), kept, batch)
    if type(a).__module__.startswith("fmlab.algorithms."):
        _KEPT_PROMISES.add(type(a))


def _wide(tree: Tree, clients: int) -> Tree:
    """The same at so many clients, (R, 1, .) -> (R, C, .)."""
    return {name: t.expand(-1, clients, -1) for name, t in tree.items()}
