"""Hyperparameters, each declared once: symbol, range and a phrase.

Documentation, validation, sweeps and the lab's sliders are all read from that one declaration::

    @dataclass(frozen=True)
    class FedAvg(Algorithm):
        lr: float = hyper(0.02, symbol="η", low=0.0, high=1.0, text="client step size")

A value may be a number, or ``sweep(a, b, ...)``. Numbers on a continuous scale train at once, as one more axis of
the same batch: ``spread`` turns them into tensors that broadcast over (runs, clients, parameters). Whole numbers and
flags change what is computed, and take different time: ``lanes`` has one declaration for each of their values.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch

D = TypeVar("D", bound="Declared")


@dataclass(frozen=True)
class Hyper:
    """What is known of one hyperparameter: its symbol, its closed range [low, high], and what it means."""

    symbol: str
    low: float
    high: float
    text: str
    whole: bool  # takes whole numbers only
    log: bool  # its natural scale is logarithmic
    optional: bool  # takes None too; of a step size it stands for the recorded value
    sweepable: bool  # False where the value decides a tensor's shape
    step_size: str = ""  # "training", "adaptation" or "server" where it is one: the search looks for it

    def range(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        none = " or None (the recorded value)" if self.step_size else " or None"
        return f"{kind} in [{self.low:g}, {self.high:g}]" + none * self.optional


def hyper(
    default: Any,
    *,
    symbol: str,
    low: float,
    high: float,
    text: str,
    whole: bool = False,
    log: bool = False,
    optional: bool = False,
    sweepable: bool = True,
    step_size: str = "",
) -> Any:
    """A dataclass field whose metadata holds a ``Hyper``."""
    known = Hyper(symbol, low, high, text, whole, log, optional, sweepable, step_size)
    return field(default=default, metadata={"hyper": known})


def choice(default: Any, options: tuple[Any, ...], text: str) -> Any:
    """A dataclass field that takes one of ``options``; only True and False can be swept."""
    return field(default=default, metadata={"options": options, "text": text})


@dataclass(frozen=True)
class Sweep:
    """Several values in place of one; made by ``sweep``."""

    values: tuple[float, ...]

    def __repr__(self) -> str:
        return f"sweep({', '.join(map(repr, self.values))})"


def sweep(*values: float) -> Any:
    """Several values of one hyperparameter, trained as one batch: ``FedMAML(inner_lr=sweep(0.005, 0.01, 0.02))``.

    Sweeps in one algorithm go together (zipped), so they must be of equal length.
    """
    if not values:
        raise ValueError("sweep() got no values; give at least one: sweep(0.01, 0.02)")
    return Sweep(tuple(values))


@dataclass(frozen=True)
class Validated:
    """An adaptation step size that is chosen at every evaluation; made by ``validated``."""

    centre: float

    @property
    def candidates(self) -> tuple[float, ...]:
        """In rising order."""
        return tuple(self.centre * factor for factor in (0.25, 0.5, 1.0, 2.0))

    def __repr__(self) -> str:
        return f"validated({self.centre!r})"


def validated(centre: float) -> Any:
    """In place of an adaptation step size: a quarter, a half, once or twice ``centre``, whichever the validation
    clients of a run score best with, see ``fmlab.adaptation``. ``FedMAML(adapt_lr=validated(0.02))``."""
    return Validated(centre)


@dataclass(frozen=True)
class Declared:
    """Base of algorithms, populations and server optimisers: checks every declared field when it is made."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            name = f"{type(self).__name__}.{f.name}"
            if "hyper" in f.metadata:
                _check(name, value, f.metadata["hyper"])
                if f.metadata["hyper"].whole:
                    object.__setattr__(self, f.name, _as_whole(value))
            elif "options" in f.metadata and not isinstance(value, torch.Tensor):
                options = f.metadata["options"]
                flags = isinstance(value, Sweep) and all(isinstance(o, bool) for o in options)
                if not all(v in options for v in (value.values if flags else [value])):
                    hint = "; to try several, name one algorithm each in a dict" if isinstance(value, Sweep) else ""
                    raise ValueError(f"{name} = {value!r} is not one of {options}{hint}")


def _check(name: str, value: Any, h: Hyper) -> None:
    if isinstance(value, torch.Tensor):  # made by spread() from values that were checked one by one
        return
    if isinstance(value, Sweep):
        if not h.sweepable:
            raise ValueError(f"{name} decides a tensor's shape and cannot be swept; run one study for each value")
        for v in value.values:
            _check(name, v, h)
        return
    if value is None and h.optional:
        return
    if isinstance(value, Validated) and h.step_size == "adaptation":
        _check(name, value.centre, h)
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    finite = number and (math.isfinite(value) or value == h.high)
    if not finite or (h.whole and value != int(value)):
        raise ValueError(f"{name} = {value!r} is not {h.range()}: {h.text}")
    if not h.low <= value <= h.high:
        raise ValueError(f"{name} = {value!r} is outside [{h.low:g}, {h.high:g}]; give {h.range()}: {h.text}")


def _as_whole(value: Any) -> Any:
    """2e1 is the whole number 20."""
    if isinstance(value, Sweep):
        return Sweep(tuple(map(_as_whole, value.values)))
    return int(value) if isinstance(value, float) else value


def sweeps(declared: Declared) -> dict[str, tuple[float, ...]]:
    """The swept fields and their values; nested declarations as ``server.lr``."""
    found: dict[str, tuple[float, ...]] = {}
    for f in fields(declared):
        value = getattr(declared, f.name)
        if isinstance(value, Sweep):
            found[f.name] = value.values
        elif isinstance(value, Declared):
            found |= {f"{f.name}.{k}": v for k, v in sweeps(value).items()}
    return found


def sweep_length(declared: Declared) -> int:
    """How many values the algorithm sweeps (1 without a sweep); a ValueError if its sweeps differ in length."""
    lengths = {name: len(values) for name, values in sweeps(declared).items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the sweeps of {type(declared).__name__} differ in length ({lengths}); they go together, "
            "so give each the same number of values (repeat values to form a grid)"
        )
    return next(iter(lengths.values()), 1)


def pick(declared: D, index: int) -> D:
    """The declaration with the ``index``-th value of each of its sweeps."""
    chosen: dict[str, Any] = {}
    for f in fields(declared):
        value = getattr(declared, f.name)
        if isinstance(value, Sweep):
            chosen[f.name] = value.values[index]
        elif isinstance(value, Declared):
            chosen[f.name] = pick(value, index)
    return dataclasses.replace(declared, **chosen)


def step_sizes(declared: Declared, of: tuple[str, ...] = ("training", "adaptation")) -> list[str]:
    """The fields that are step sizes, of training, of adaptation, or of either."""
    known = ((f.name, f.metadata.get("hyper")) for f in fields(declared))
    return [name for name, h in known if h is not None and h.step_size in of]


def lanes(declared: D) -> list[D]:
    """What can train as one batch each: all values of a sweep where they are continuous, else value by value."""
    one_batch = all(continuous(declared, name) for name in sweeps(declared))
    return [declared] if one_batch else [pick(declared, i) for i in range(sweep_length(declared))]


def continuous(declared: Declared, name: str) -> bool:
    """Whether a swept field, perhaps a nested one, is neither a whole number nor a choice."""
    *nested, last = name.split(".")
    for part in nested:
        declared = getattr(declared, part)
    (found,) = (f for f in fields(declared) if f.name == last)
    return "hyper" in found.metadata and not found.metadata["hyper"].whole


def spread(declared: D, seeds: int, dtype: torch.dtype, device: torch.device) -> D:
    """Every swept value as a tensor (values * seeds, 1, 1), value-major; the rest as it is. All are continuous."""
    tensors: dict[str, Any] = {}
    for f in fields(declared):
        value = getattr(declared, f.name)
        if isinstance(value, Sweep):
            column = torch.tensor(value.values, dtype=dtype, device=device)
            tensors[f.name] = column.repeat_interleave(seeds).view(-1, 1, 1)
        elif isinstance(value, Declared):
            tensors[f.name] = spread(value, seeds, dtype, device)
    return dataclasses.replace(declared, **tensors) if tensors else declared
