"""What a panel's controls say, as one frozen value, and the comparison that it stands for.

``Setting.call()`` is the only place that turns controls into ``fm.compare``'s arguments: the live study and "copy as
code" are made from the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import Hyper, step_sizes
from fmlab.losses import CrossEntropy
from fmlab.optimisers import Optimiser
from fmlab.populations.collection import Rows
from fmlab.tuning import RECORDED, Recorded, has_server, look_up, number_of_steps

PLAIN = "FedAvg, plain mean"  # the original, whatever server the others have
METHODS = {
    name: cls for cls in fm.ALGORITHMS for name in ((cls.__name__, PLAIN) if cls is fm.FedAvg else (cls.__name__,))
}
# Of those that need no file: a panel's menu offers nothing that cannot be drawn.
TASKS = {cls.__name__: cls for cls in (fm.Sines, fm.Digits, fm.Glyphs, *fm.SCENARIOS)}
Task = str | fm.Population  # one of TASKS by its name, or clients of the reader's own
# A control sets the field that a method or a population declares under the control's name, or else under one of these.
ALSO = {"local_steps": "inner_steps", "support": "shots"}


# One optimiser for every method's server compares the methods; each with its own, the optimisers too. The server's step
# size is each method's recorded one; the plain mean of methods that send models takes their mean as it is.
SERVERS = {"Adam for all": fm.Adam(), "plain mean for all": fm.SGD(), "each its better one": None, "each its own": None}
BETTER = "each its better one"
# What the number of inner steps says of the local steps of methods that have no inner ones.
WORK = EQUAL, ALIKE = ("equal work", "steps alike")


@dataclass(frozen=True)
class Setting:
    """``shots`` and ``inner_lr`` None: the population's own number, and the recorded step size. A population given as
    ``task`` stays as it is but for what controls set."""

    task: Task = "Sines"
    heterogeneity: float = 1.0
    shots: int | None = None
    clients_per_round: int = 25
    methods: tuple[str, ...] = ("FedAvg", PLAIN, "FedMAML")
    server: str = "Adam for all"
    work: str = EQUAL
    inner_steps: int = 3
    inner_lr: float | None = None
    rounds: int = 300
    seeds: int = 3
    steps: int = 5
    evaluations: int = 8

    def on(self, task: Task) -> Setting:
        """The same on other clients, with their own number of shots, their own heterogeneity where they are an object,
        and no more clients a round than they are."""
        own = {} if isinstance(task, str) else {"heterogeneity": getattr(task, "heterogeneity", 1.0)}
        few = min(self.clients_per_round, population(task).n_clients)
        return dataclasses.replace(self, task=task, shots=None, clients_per_round=few, **own)

    @property
    def heterogeneous(self) -> bool:
        """Whether there is something that the slider of heterogeneity moves."""
        return reached(kind(self.task), "heterogeneity") is not None

    def coarse(self) -> Setting:
        """One seed and half of the rounds: the answer while a slider moves."""
        return dataclasses.replace(self, seeds=1, rounds=max(10, self.rounds // 2), evaluations=2)

    def single(self) -> Setting:
        """One seed: a cell of the map. All rounds, since after few of them the map shows who starts faster."""
        return dataclasses.replace(self, seeds=1, evaluations=2)

    def call(self) -> tuple[dict[str, tuple[type, dict[str, Any]]], tuple[type, dict[str, Any]], dict[str, Any]]:
        """Of each method its class and arguments, the population's, and the options of ``fm.compare``. FedAvg with the
        plain mean is left out where FedAvg has no other server."""
        methods = {name: (METHODS[name], self.method(name)) for name in self.methods}
        if methods.get(PLAIN) == methods.get("FedAvg"):
            methods.pop(PLAIN, None)
        options = {
            "rounds": self.rounds,
            "seeds": self.seeds,
            "clients_per_round": self.clients_per_round,
            "steps": self.steps,
            "evaluations": min(self.evaluations, self.rounds),
            "dtype": torch.float32,  # about twice as fast as float64
        }
        return methods, (kind(self.task), self._clients()), options

    def _clients(self) -> dict[str, Any]:
        """The arguments of the population; of an object all that are not its class's own."""
        cls = kind(self.task)
        own = {} if isinstance(self.task, str) else _arguments(self.task)
        return own | self._given(cls)

    def method(self, name: str) -> dict[str, Any]:
        """The arguments of a method under its name in ``METHODS``."""
        cls, given = METHODS[name], self._given(METHODS[name])
        if self.work == EQUAL and "local_steps" in given and "inner_steps" not in given:
            given["local_steps"] = self.local_steps(cls)
        server = None if name == PLAIN or not has_server(cls) else self._server(cls(**given))
        return given | ({} if server is None else {"server": server})

    def _server(self, method: Any) -> Optimiser | None:
        """None: the method's own."""
        if self.server == BETTER:
            scores = {server: self._score(method, server) for server in (fm.Adam(), _mean_of(method))}
            return min(scores, key=scores.__getitem__) if min(scores.values()) < math.inf else None
        return _mean_of(method) if SERVERS[self.server] == fm.SGD() else SERVERS[self.server]

    def _score(self, method: Any, server: Optimiser) -> float:
        """What the record says of the method with this server, at this number of steps; infinite where it is silent. At
        heterogeneity 1, where both servers have been."""
        method = dataclasses.replace(method, server=server)
        known = look_up(kind(self.task), method, number_of_steps(method))
        if known is None or known.server != type(server).__name__:
            return math.inf
        return known.found.get("score", math.inf)

    def look_up(self, method: fm.Algorithm) -> Recorded | None:
        """What is recorded for the method where this setting stands."""
        h = self.heterogeneity if self.heterogeneous else 1.0
        return look_up(kind(self.task), method, number_of_steps(method), h)

    def local_steps(self, cls: type) -> int:
        """Of a method without inner steps as many local steps as make a round cost a client what FedMAML's costs it, in
        gradients of examples: its inner steps see the support set, twice more for the way back through each, and its
        last gradient the query set, a local step sees both. The larger number where two are as near."""
        support, query = held(kind(self.task)(**self._clients()))
        budget = (3 * self.inner_steps * support + query) / (support + query)
        tried = range(3 * self.inner_steps + 1, 0, -1)
        return min(tried, key=lambda n: abs(cls(local_steps=n).evaluations() - budget))

    def within(self, control: str, low: float, high: float) -> tuple[float, float]:
        """What the task's clients leave of a control's range, the other controls as they are."""
        field = reached(kind(self.task), control)
        if field is None:
            return low, high
        given = {name: value for name, value in self._given(kind(self.task)).items() if name != field.name}
        least, most = dataclasses.replace(population(self.task), **given).span(field.name)
        return max(low, least), min(high, most)

    def says(self) -> str:
        """In words, what a client does in a round, where FedAvg and FedMAML take other numbers of steps."""
        if not {"FedAvg", "FedMAML"} <= {*self.methods} or self.work == ALIKE:
            return ""
        inner = f"{self.inner_steps} inner step{'s' * (self.inner_steps > 1)}"
        return f"FedAvg takes {self.local_steps(fm.FedAvg)} local steps, for a client the work of {inner} of FedMAML."

    def _given(self, cls: type) -> dict[str, Any]:
        """The arguments that this setting has for a class; what is None there stays at the class's own."""
        ours = {name: getattr(self, control) for name, control in controls(cls).items()}
        return {name: value for name, value in ours.items() if value is not None}

    def stream(self, on_round: Any = None) -> Iterator[fm.Study]:
        """The study of this setting at every evaluation."""
        methods, (population, clients), options = self.call()
        algorithms = {name: cls(**given) for name, (cls, given) in methods.items()}
        return fm.stream(algorithms, population(**clients), on_round=on_round, **options)

    def code(self) -> str:
        """A cell that computes the same study."""

        def value(v: Any) -> str:
            if isinstance(v, Rows):
                return repr(v.origin) if v.origin else "data"
            if not isinstance(v, Optimiser):
                return repr(v)
            return f"fm.{type(v).__name__}({'' if v == type(v)() else 'lr=None'})"  # as ``_server`` makes them

        def written(cls: type, given: dict[str, Any]) -> str:
            name = f"fm.{cls.__name__}" if getattr(fm, cls.__name__, None) is cls else cls.__name__
            return f"{name}({', '.join(f'{k}={value(v)}' for k, v in given.items())})"

        methods, clients, options = self.call()
        cls, given = clients
        own = [] if getattr(fm, cls.__name__, None) is cls or cls.__module__ == "__main__" else [cls]
        unknown = any(isinstance(v, Rows) and not v.origin for v in given.values())
        return "\n".join(
            [
                "import torch",
                "import fmlab as fm",
                *(f"from {c.__module__} import {c.__name__}" for c in own),
                *(["", f"# data: what fm.{cls.__name__} was given; it came from no file"] if unknown else []),
                "",
                "study = fm.compare(",
                "    {",
                *(f"        {name!r}: {written(*m)}," for name, m in methods.items()),
                "    },",
                f"    {written(*clients)},",
                f"    {', '.join(f'{k}={v}' for k, v in options.items())},",
                ")",
                "print(study.table())",
            ]
        )


def _mean_of(method: Any) -> Optimiser:
    """The plain mean: as the method has it, or with a step size for what it sends."""
    own: Optimiser = type(method)().server
    return own if isinstance(own, fm.SGD) else fm.SGD(lr=None)  # type: ignore[arg-type]


def kind(task: Task) -> type[fm.Population]:
    """The class of the task's clients."""
    return TASKS[task] if isinstance(task, str) else type(task)


def population(task: Task) -> fm.Population:
    """The task's clients where no control says anything of them."""
    return _made(task) if isinstance(task, str) else task


@lru_cache
def _made(task: str) -> fm.Population:
    return TASKS[task]()


def _arguments(declared: fm.Population) -> dict[str, Any]:
    """What an object was made with, where its class has something else."""
    named = sorted((f for f in dataclasses.fields(declared) if f.init), key=lambda f: f.name != "source")
    found = {f.name: (f.default, getattr(declared, f.name)) for f in named}
    return {name: value for name, (default_, value) in found.items() if value is not default_ and value != default_}


def held(clients: fm.Population) -> tuple[float, float]:
    """How many examples a training client has, in the mean, in its support and in its query set."""
    own = reached(type(clients), "shots")
    if own is not None and hasattr(clients, "query"):
        return getattr(clients, own.name), clients.query
    alike = {"heterogeneity": 1.0} if reached(type(clients), "heterogeneity") else {}  # which moves no sizes
    return _counted(dataclasses.replace(clients, **alike))


@lru_cache(maxsize=32)
def _counted(clients: fm.Population) -> tuple[float, float]:
    drawn = clients.draw("training", 0)
    support, query = ((e.weight > 0).sum(-1).double().mean() for e in (drawn.support, drawn.query))
    return float(support), float(query)


@lru_cache(maxsize=32)
def _largest(clients: fm.Population) -> int:
    """Examples in the largest support set of a training client."""
    return clients.draw("training", 0).support.weight.shape[-1]


def controls(cls: type) -> dict[str, str]:
    """Field -> control, for every hyperparameter of a method or a population that a control sets."""
    ours = {f.name for f in dataclasses.fields(Setting)}
    fields = [f.name for f in dataclasses.fields(cls) if "hyper" in f.metadata]
    named = {name: name if ALSO.get(name) in fields else ALSO.get(name, name) for name in fields}
    return {name: control for name, control in named.items() if control in ours}


def reached(cls: type, control: str) -> dataclasses.Field[Any] | None:
    """The field of a method or a population that the control sets, where there is one."""
    names = [name for name, by in controls(cls).items() if by == control]
    return next((f for f in dataclasses.fields(cls) if f.name in names), None)


def classifies(task: Task) -> bool:
    """Whether the task's clients tell classes apart, so that there is an accuracy."""
    clients = population(task)
    return isinstance(getattr(clients.objective(clients.model()), "loss", None), CrossEntropy)


def default(control: str, task: Task) -> Any:
    """What the task's population has where the control says nothing."""
    field = reached(kind(task), control)
    if field is None:
        return None
    value = field.default if isinstance(task, str) else getattr(task, field.name)
    return _largest(population(task)) if control == "shots" and value is None else value


def _argument(symbol: str, low: float, high: float, text: str) -> Hyper:
    return Hyper(symbol, low, high, text, whole=True, log=False, optional=False, sweepable=False)


ARGUMENTS = {
    "clients_per_round": _argument("m", 1, 1000, "clients that take part in a round"),
    "rounds": _argument("T", 1, 100_000, "communication rounds"),
    "seeds": _argument("S", 1, 100, "runs from different clients and initial models; the bands"),
    "steps": _argument("k", 1, 100, "adaptation steps on an unseen client"),
    "evaluations": _argument("E", 1, 1000, "points of a learning curve"),
}


def declaration(field: str, task: Task = "Sines") -> Hyper | None:
    """Where a control's symbol, range and words come from: the population's declaration, or FedMAML's, or for an
    argument of ``fm.compare`` its documentation, within what the clients have. None: there is nothing that it sets."""
    for cls in (kind(task), fm.FedMAML):
        found = reached(cls, field)
        if found is not None:
            h: Hyper = found.metadata["hyper"]
            if all_of_them(field, task):
                most = _largest(dataclasses.replace(population(task), **{found.name: None}))  # type: ignore[arg-type]
                return dataclasses.replace(h, optional=False, high=most)
            return h
    if field == "clients_per_round":
        h = ARGUMENTS[field]
        return dataclasses.replace(h, high=min(h.high, population(task).n_clients))
    return ARGUMENTS.get(field)


def all_of_them(field: str, task: Task) -> bool:
    """Whether the end of the slider stands for all the examples that a client has to adapt on."""
    found = reached(kind(task), field)
    return field == "shots" and found is not None and found.metadata["hyper"].optional


def recorded(field: str, setting: Setting) -> tuple[float | None, str]:
    """The number that None stands for in FedMAML here, and where it was found; None where nothing is recorded."""
    if field not in step_sizes(fm.FedMAML()):
        return None, ""
    method = fm.FedMAML(**setting.method("FedMAML") | {field: None})
    known = setting.look_up(method)
    if known is None or field not in known.found:
        return None, "not recorded: searched here once"
    steps = f"{known.number} step{'s' * (known.number != '1')}"
    there = f", heterogeneity {known.heterogeneity}" if known.heterogeneity != "1" else ""
    return known.found[field], f"found for FedMAML, {steps}, {known.server}{there}"


def ready(task: str) -> tuple[str, ...]:
    """The methods whose step sizes are recorded for the task."""
    return tuple(name for name in METHODS if METHODS[name].__name__ in RECORDED.get(task, {}))


PRESETS: dict[str, dict[str, Any]] = {
    "the default": {},
    "all clients alike": {"heterogeneity": 0.0},
    "one inner step": {"inner_steps": 1},
    "three examples a client": {"shots": 3},
    "few clients a round": {"clients_per_round": 3},
    "a step size too large": {"inner_lr": 0.3},
    "every method": {"methods": ready("Sines"), "rounds": 100, "seeds": 2, "inner_steps": 2},
    **({"handwritten digits": {"task": "Digits", "rounds": 100}} if "Digits" in TASKS else {}),
}
