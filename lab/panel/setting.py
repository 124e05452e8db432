"""What a panel's controls say, as one frozen value, and the comparison that it stands for.

``Setting.call()`` is the only place that turns controls into ``fm.compare``'s arguments: the live study and "copy as
code" are made from the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import Hyper, step_sizes
from fmlab.losses import CrossEntropy
from fmlab.optimisers import Optimiser
from fmlab.tuning import RECORDED, has_server, look_up, number_of_steps

PLAIN = "FedAvg, plain mean"  # the original, whatever server the others have
METHODS = {
    name: cls for cls in fm.ALGORITHMS for name in ((cls.__name__, PLAIN) if cls is fm.FedAvg else (cls.__name__,))
}
# Of those that need no file: a panel's menu offers nothing that cannot be drawn.
TASKS = {cls.__name__: cls for cls in (fm.Sines, fm.Digits, fm.Glyphs)}
# A control sets the field that a method or a population declares under the control's name, or under one of these.
ALSO = {"local_steps": "inner_steps", "support": "shots"}


# One optimiser for every method's server compares the methods; each with its own, the optimisers too. The server's step
# size is each method's recorded one; the plain mean of methods that send models takes their mean as it is.
SERVERS = {"Adam for all": fm.Adam(), "plain mean for all": fm.SGD(), "each its better one": None, "each its own": None}
BETTER = "each its better one"
# What the number of inner steps says of the local steps of methods that have no inner ones.
WORK = EQUAL, ALIKE = ("equal work", "steps alike")


@dataclass(frozen=True)
class Setting:
    """``shots`` and ``inner_lr`` None: the population's own number, and the recorded step size."""

    task: str = "Sines"
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
        population = TASKS[self.task]
        options = {
            "rounds": self.rounds,
            "seeds": self.seeds,
            "clients_per_round": self.clients_per_round,
            "steps": self.steps,
            "evaluations": min(self.evaluations, self.rounds),
            "dtype": torch.float32,  # about twice as fast as float64
        }
        return methods, (population, self._given(population)), options

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
        """What the record says of the method with this server, at this number of steps; infinite where it is silent."""
        found = look_up(TASKS[self.task], dataclasses.replace(method, server=server), number_of_steps(method))
        return math.inf if found is None or found[0] != type(server).__name__ else found[2].get("score", math.inf)

    def local_steps(self, cls: type) -> int:
        """Of a method without inner steps as many local steps as make a round cost a client what FedMAML's costs it, in
        gradients of examples: its inner steps see the support set, twice more for the way back through each, and its
        last gradient the query set, a local step sees both. The larger number where two are as near."""
        population = TASKS[self.task](**self._given(TASKS[self.task]))
        support, query = (getattr(population, reached(type(population), "shots").name), population.query)
        budget = (3 * self.inner_steps * support + query) / (support + query)
        tried = range(3 * self.inner_steps + 1, 0, -1)
        return min(tried, key=lambda n: abs(cls(local_steps=n).evaluations() - budget))

    def within(self, control: str, low: float, high: float) -> tuple[float, float]:
        """What is left of a control's range where the task's clients have less, the other controls as they are."""
        task = TASKS[self.task]
        field, given = reached(task, control), self._given(task)
        if field is not None:
            least, most = task(**{k: v for k, v in given.items() if k != field.name}).span(field.name)
            return max(low, least), min(high, most)
        return low, min(high, task(**given).n_clients) if control == "clients_per_round" else high

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
            if not isinstance(v, Optimiser):
                return repr(v)
            return f"fm.{type(v).__name__}({'' if v == type(v)() else 'lr=None'})"  # as ``_server`` makes them

        def written(cls: type, given: dict[str, Any]) -> str:
            return f"fm.{cls.__name__}({', '.join(f'{k}={value(v)}' for k, v in given.items())})"

        methods, clients, options = self.call()
        return "\n".join(
            [
                "import torch",
                "import fmlab as fm",
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


def controls(cls: type) -> dict[str, str]:
    """Field -> control, for every hyperparameter of a method or a population that a control sets."""
    ours = {f.name for f in dataclasses.fields(Setting)}
    fields = [f.name for f in dataclasses.fields(cls) if "hyper" in f.metadata]
    return {name: ALSO.get(name, name) for name in fields if ALSO.get(name, name) in ours}


def reached(cls: type, control: str) -> dataclasses.Field[Any] | None:
    """The field of a method or a population that the control sets, where there is one."""
    names = [name for name, by in controls(cls).items() if by == control]
    return next((f for f in dataclasses.fields(cls) if f.name in names), None)


@cache
def classifies(task: str) -> bool:
    """Whether the task's clients tell classes apart, so that there is an accuracy."""
    population = TASKS[task]()
    return isinstance(getattr(population.objective(population.model()), "loss", None), CrossEntropy)


def default(control: str, task: str) -> Any:
    """What the task's population has where the control says nothing."""
    field = reached(TASKS[task], control)
    return None if field is None else field.default


def _argument(symbol: str, low: float, high: float, text: str) -> Hyper:
    return Hyper(symbol, low, high, text, whole=True, log=False, optional=False, sweepable=False)


ARGUMENTS = {
    "clients_per_round": _argument("m", 1, 1000, "clients that take part in a round"),
    "rounds": _argument("T", 1, 100_000, "communication rounds"),
    "seeds": _argument("S", 1, 100, "runs from different clients and initial models; the bands"),
    "steps": _argument("k", 1, 100, "adaptation steps on an unseen client"),
    "evaluations": _argument("E", 1, 1000, "points of a learning curve"),
}


def declaration(field: str, task: str = "Sines") -> Hyper:
    """Where a control's symbol, range and words come from: the population's declaration, or FedMAML's, or for an
    argument of ``fm.compare`` its documentation."""
    for cls in (TASKS[task], fm.FedMAML):
        found = reached(cls, field)
        if found is not None:
            return found.metadata["hyper"]  # type: ignore[no-any-return]
    return ARGUMENTS[field]


def recorded(field: str, setting: Setting) -> tuple[float | None, str]:
    """The number that None stands for in FedMAML here, and where it was found; None where nothing is recorded."""
    if field not in step_sizes(fm.FedMAML()):
        return None, ""
    method = fm.FedMAML(**setting.method("FedMAML") | {field: None})
    found = look_up(TASKS[setting.task], method, number_of_steps(method))
    if found is None or field not in found[2]:
        return None, "not recorded: searched here once"
    server, number, values = found
    return values[field], f"found for FedMAML, {number} step{'s' * (number != '1')}, {server}"


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
