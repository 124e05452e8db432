"""What a panel's controls say, as one frozen value, and the comparison that it stands for.

``Setting.call()`` is the only place that turns controls into ``fm.compare``'s arguments: the live study and "copy as
code" are made from the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import Hyper
from fmlab.tuning import RECORDED

METHODS = {cls.__name__: cls for cls in fm.ALGORITHMS}
TASKS = {cls.__name__: cls for cls in fm.POPULATIONS if cls.__name__ in ("Sines", "Digits", "Glyphs", "Omniglot")}
STEPS = ("inner_steps", "local_steps")  # what the slider "inner steps" sets in a method
SHOTS = ("shots", "support")  # what the slider "shots" sets in a population


@dataclass(frozen=True)
class Setting:
    """``shots`` and ``inner_lr`` None: the population's own number, and the recorded step size."""

    task: str = "Sines"
    heterogeneity: float = 1.0
    shots: int | None = None
    clients_per_round: int = 25
    methods: tuple[str, ...] = ("FedAvg", "FedMAML")
    inner_steps: int = 3
    inner_lr: float | None = None
    rounds: int = 120
    seeds: int = 3
    steps: int = 5
    evaluations: int = 8

    def coarse(self) -> Setting:
        """One seed and half of the rounds: the answer while a slider moves."""
        return dataclasses.replace(self, seeds=1, rounds=max(10, self.rounds // 2), evaluations=2)

    def single(self) -> Setting:
        """One seed: a cell of the map. All rounds, since after few of them the map shows who starts faster."""
        return dataclasses.replace(self, seeds=1, evaluations=2)

    def call(self) -> tuple[list[tuple[type, dict[str, Any]]], tuple[type, dict[str, Any]], dict[str, Any]]:
        """(algorithm class, its arguments) of each method, the population's, and the options of ``fm.compare``."""
        population = TASKS[self.task]
        clients: dict[str, Any] = {"heterogeneity": self.heterogeneity}
        if self.shots is not None:
            clients[shots_field(self.task)] = self.shots
        methods = []
        for name in self.methods:
            known = {f.name for f in dataclasses.fields(METHODS[name])}
            wanted = dict.fromkeys(STEPS, self.inner_steps) | {"inner_lr": self.inner_lr}
            given = {k: v for k, v in wanted.items() if k in known and v is not None}
            methods.append((METHODS[name], given))
        options = {
            "rounds": self.rounds,
            "seeds": self.seeds,
            "clients_per_round": self.clients_per_round,
            "steps": self.steps,
            "evaluations": min(self.evaluations, self.rounds),
            "dtype": torch.float32,  # about twice as fast as float64
        }
        return methods, (population, clients), options

    def stream(self, on_round: Any = None) -> Iterator[fm.Study]:
        """The study of this setting at every evaluation."""
        methods, (population, clients), options = self.call()
        return fm.stream([cls(**given) for cls, given in methods], population(**clients), on_round=on_round, **options)

    def code(self) -> str:
        """A cell that computes the same study."""

        def written(cls: type, given: dict[str, Any]) -> str:
            return f"fm.{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"

        methods, clients, options = self.call()
        lines = [f"        {written(*m)}," for m in methods]
        chosen = ", ".join(f"{k}={v}" for k, v in options.items())
        return "\n".join(
            [
                "import torch",
                "import fmlab as fm",
                "",
                "study = fm.compare(",
                "    [",
                *lines,
                "    ],",
                f"    {written(*clients)},",
                f"    {chosen},",
                ")",
                "print(study.table())",
            ]
        )


def shots_field(task: str) -> str:
    names = {f.name for f in dataclasses.fields(TASKS[task])}
    return next(name for name in SHOTS if name in names)


def default_shots(task: str) -> int:
    """What ``shots`` None stands for."""
    return next(f.default for f in dataclasses.fields(TASKS[task]) if f.name == shots_field(task))  # type: ignore[return-value]


def declared(cls: type, name: str) -> Hyper:
    """The declaration of one field of an algorithm or a population."""
    (found,) = (f for f in dataclasses.fields(cls) if f.name == name)
    return found.metadata["hyper"]  # type: ignore[no-any-return]


def _argument(symbol: str, low: float, high: float, text: str) -> Hyper:
    return Hyper(symbol, low, high, text, whole=True, log=False, optional=False, sweepable=False)


def declaration(field: str, task: str = "Sines") -> Hyper:
    """Where a control's symbol, range and words come from; for an argument of ``fm.compare``, its documentation."""
    return {
        "heterogeneity": lambda: declared(TASKS[task], "heterogeneity"),
        "shots": lambda: declared(TASKS[task], shots_field(task)),
        "inner_steps": lambda: declared(fm.FedMAML, "inner_steps"),
        "inner_lr": lambda: declared(fm.FedMAML, "inner_lr"),
        "clients_per_round": lambda: _argument("m", 1, 1000, "clients that take part in a round"),
        "rounds": lambda: _argument("T", 1, 100_000, "communication rounds"),
        "seeds": lambda: _argument("S", 1, 100, "runs from different clients and initial models; the bands"),
        "steps": lambda: _argument("k", 1, 100, "adaptation steps on an unseen client"),
        "evaluations": lambda: _argument("E", 1, 1000, "points of a learning curve"),
    }[field]()


def recorded_inner_lr(task: str) -> float | None:
    """The inner step size that None stands for in FedMAML on this task."""
    return RECORDED.get(task, {}).get("FedMAML", {}).get("inner_lr")


def ready(task: str) -> tuple[str, ...]:
    """The methods whose step sizes are recorded for the task."""
    return tuple(name for name in METHODS if name in RECORDED.get(task, {}))


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
