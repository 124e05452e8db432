"""Step sizes: found by the same search for every algorithm, on validation clients only.

The score of a setting is the validation clients' mean query loss, averaged over adaptation steps 1..steps and seeds.
One client that flies away can make it infinite; so that a choice remains where no setting is free of that, a mean
above ten times the fresh models' loss gives way to the mean of losses cut there, and ranks behind all below.
The client's step sizes of training and the server's are searched one after another, all values in one batch; the
adaptation step size is then free to differ for each of them. Of training step sizes only those are taken whose larger
neighbour is below ten times the fresh models' loss too: what stands at the edge of divergence may be beyond it for
other clients.

``recorded.json`` holds the result of ``benchmarks/search_step_sizes.py`` for a population, method, server and number
of local or inner steps, at heterogeneity 1. On images a good training step size also depends on how unlike the clients
are: there "at" holds what ``benchmarks/fair.py`` found at other heterogeneities, of which the nearest is taken. A field
left at None is filled from the next recorded number of steps above its own, since more steps want smaller ones; where
nothing is recorded, from a coarse search of the same kind; a record without a score is the result of such a one, until
that script has been there. The adaptation step size becomes ``validated`` around the recorded one.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fmlab import cache
from fmlab.algorithms import Algorithm
from fmlab.data import Tree
from fmlab.declare import Sweep, Validated, pick, step_sizes, sweep_length, sweeps
from fmlab.evaluation import evaluate
from fmlab.models import Model
from fmlab.populations import Population
from fmlab.setup import Setup

GRID = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
COARSE = (0.002, 0.01, 0.05, 0.2, 1.0)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the server's usual step size
COARSE_SEEDS = (100, 101)
NUMBERS = (1, 2, 3, 5, 10)  # of steps that the search is made for
T = TypeVar("T")
Step = tuple[float, int, T]  # a score, the place of its step size in the grid, and what was made with it
Found = dict[str, Any]  # by field; "server": the server's step size; "score": what it scored; "at": see above
Places = dict[str, dict[str, dict[str, Found]]]  # by method, server and number of steps
RECORDED: dict[str, Places] = json.loads(files("fmlab").joinpath("recorded.json").read_text())


class Searched(UserWarning):
    """Says that a step size was searched because none is recorded, and what was found."""


def recorded(setup: Setup) -> Setup:
    """The setup with every step size that is None filled: from the recorded search, or else from a coarse one, which
    takes some seconds once, says so (``Searched``), and is kept in the user's cache folder."""
    filled = {name: _filled(a, setup) for name, a in setup.algorithms.items()}
    return Setup(setup.config | {"algorithms": filled})


def _filled(algorithm: Algorithm, setup: Setup) -> Algorithm:
    """Of a method whose number of steps is swept, with the step sizes of each number."""
    missing = [f for f in step_sizes(algorithm) if getattr(algorithm, f) is None]
    open_server = is_open(algorithm)
    if not missing and not open_server:
        return algorithm
    number = number_of_steps(algorithm)
    numbers = number.values if isinstance(number, Sweep) else (number,)
    found = [_known(algorithm, int(n), missing, setup) for n in numbers]
    changed: dict[str, Any] = {f: _each([values[f] for values in found]) for f in missing}
    for f in step_sizes(algorithm, ("adaptation",)):
        if f in missing:  # one for all: it is where the choice on validation clients starts
            changed[f] = Validated(sorted(values[f] for values in found)[len(found) // 2])
    if open_server:
        changed["server"] = _stepping(algorithm.server, _each([values["server"] for values in found]))
    return replace(algorithm, **changed)


def _each(values: list[float]) -> Any:
    return values[0] if len(set(values)) == 1 else Sweep(tuple(values))


def is_open(algorithm: Algorithm) -> bool:
    """Whether the method has a server whose step size is left to the record."""
    return has_server(algorithm) and getattr(algorithm.server, "lr", 0.0) is None


def has_server(algorithm: Algorithm | type[Algorithm]) -> bool:
    """Whether the server's optimiser is a choice."""
    return "server" in {f.name for f in fields(algorithm)}


def number_of_steps(algorithm: Algorithm) -> Any:
    """Of a round, which a good step size depends on: local ones, or inner ones, or a sweep of either."""
    return getattr(algorithm, "local_steps", getattr(algorithm, "inner_steps", 1))


def name_of(algorithm: Algorithm) -> str:
    """What the method is recorded under: first order has steps of its own."""
    first = getattr(algorithm, "first_order", False) is True
    return type(algorithm).__name__ + (", first order" if first else "")


class Recorded(NamedTuple):
    """Step sizes, and what they were found with."""

    server: str
    number: str  # of steps
    heterogeneity: str
    found: Found


def look_up(
    population: type[Population], algorithm: Algorithm, number: int, heterogeneity: float = 1.0
) -> Recorded | None:
    """What is recorded for this number of steps or else the next above, at the nearest heterogeneity of any of them.

    Under the method's own name or else its class's, with its server or else another one, whose own step size then says
    nothing here.
    """
    methods = RECORDED.get(population.__name__, {})
    for method in (name_of(algorithm), type(algorithm).__name__):
        servers, server = methods.get(method, {}), type(algorithm.server).__name__
        for other in (server, *servers):
            if by_number := servers.get(other):
                levels = {n: {"1": f} | f.get("at", {}) for n, f in by_number.items() if int(n) >= number}
                levels = levels or {(most := max(by_number, key=int)): {"1": by_number[most]}}
                known = sorted({h for there in levels.values() for h in there})
                level = min(known, key=lambda h: abs(float(h) - heterogeneity))
                nearest = min((n for n in levels if level in levels[n]), key=int)
                own = {} if other == server else {"server": algorithm.server.usual}
                return Recorded(other, nearest, level, levels[nearest][level] | own)
    return None


def _known(algorithm: Algorithm, number: int, missing: list[str], setup: Setup) -> Found:
    known = look_up(type(setup.population), algorithm, number, getattr(setup.population, "heterogeneity", 1.0))
    values = {} if known is None else known.found
    if any(f not in values for f in missing):
        values = _coarse(algorithm, number, setup)
    return {"server": algorithm.server.usual} | values


def cache_key(population: Population, algorithm: Algorithm, model: Model | None = None) -> str:
    """What step sizes that were searched for the method, with its server and the next of ``NUMBERS`` of steps, on these
    clients are kept under: whatever the search sees. model: where it is not the population's own."""
    n = number_of_steps(algorithm)
    place = f"/{name_of(algorithm)}/{type(algorithm.server).__name__}/{n}/{population.fingerprint()}"
    unseen = ("heterogeneity", "n_unseen")  # by the search
    own = {f.name: getattr(population, f.name) for f in fields(population) if "hyper" in f.metadata}
    seen = repr([(name, value) for name, value in own.items() if name not in unseen] + [model])
    return cache.key(type(population), type(algorithm)) + place + hashlib.sha256(seen.encode()).hexdigest()[:12]


def at(algorithm: Algorithm, number: int) -> Algorithm:
    """The method as it is searched for: with the next of ``NUMBERS`` of steps, every step size left open."""
    nearest = next((n for n in NUMBERS if n >= number), NUMBERS[-1])
    steps = next((f for f in ("local_steps", "inner_steps") if hasattr(algorithm, f)), None)
    changed: dict[str, Any] = {} if steps is None else {steps: nearest}
    if hasattr(algorithm, "first_order"):
        changed["first_order"] = algorithm.first_order
    if has_server(algorithm):
        changed["server"] = algorithm.server
    return type(algorithm)(**changed)


def needed(algorithm: Algorithm) -> set[str]:
    """What a search for the method finds."""
    return {*step_sizes(algorithm), *(["server"] if has_server(algorithm) else [])}


def _coarse(algorithm: Algorithm, number: int, setup: Setup) -> Found:
    """Step sizes for the method with its server and about this number of steps, at heterogeneity 1 where there is such
    a thing."""
    searched = at(algorithm, number)
    known = cache_key(setup.population, searched, setup.config["model"])
    found = cache.get(known)
    if found is None or set(found) != needed(searched):
        population: Any = setup.population
        if "heterogeneity" in {f.name for f in fields(population)}:
            population = replace(population, heterogeneity=1.0)
        honest = {"transforms": (), "mean": None, "dropout": 0.0}
        config = setup.config | {"algorithms": {"": searched}, "clients": population} | honest
        small = Setup(config | {"rounds": 60, "seeds": COARSE_SEEDS, "steps": 5, "evaluations": 1})
        best, _ = search(searched, small, COARSE)
        found = values_of(best)
        cache.put(known, found)
        sizes = ", ".join(f"{f}={v:g}" for f, v in found.items() if f != "server" or is_open(searched))
        where = f"{name_of(searched)} on {type(population).__name__}"
        kept = f"(kept in {cache.folder()}); tune=True searches finely, at this very place"
        message = f"no step size is recorded for {where}; a coarse search found {sizes} {kept}"
        warnings.warn(message, Searched, stacklevel=2)
    return found


def values_of(algorithm: Algorithm) -> Found:
    """The step sizes that a search found."""
    found = {f: getattr(algorithm, f) for f in step_sizes(algorithm)}
    return found | ({"server": algorithm.server.rate} if has_server(algorithm) else {})


def tuned(setup: Setup) -> Setup:
    """The setup with every step size chosen on the validation clients (tune=True)."""
    algorithms = {name: search(a, setup, server=True)[0] for name, a in setup.algorithms.items()}
    return Setup(setup.config | {"algorithms": algorithms, "tune": False})


def search(
    algorithm: Algorithm,
    setup: Setup,
    grid: tuple[float, ...] | Mapping[str, tuple[float, ...]] = GRID,
    server: bool = False,
) -> tuple[Algorithm, float]:
    """The algorithm with its step sizes replaced by the best of ``grid``, the same for all fields or by their names,
    and with the server's replaced by the best of ``FACTORS`` times its usual one, or of the grid under "server", where
    it is left open, or where ``server`` asks for it; and what it scored. ValueError if it is swept.
    """
    if sweeps(algorithm):
        raise ValueError(
            f"{type(algorithm).__name__} is swept and tune=True would sweep its step sizes; do one at a time"
        )
    of = grid if isinstance(grid, Mapping) else dict.fromkeys(step_sizes(algorithm), grid)
    values = {f: of[f] for f in step_sizes(algorithm, ("training",))}
    adaptation = next((of[f] for f in step_sizes(algorithm, ("adaptation",))), ())
    best = replace(algorithm, **{f: of[f][len(of[f]) // 3] for f in step_sizes(algorithm)})
    if has_server(algorithm) and hasattr(algorithm.server, "lr") and (server or is_open(algorithm)):
        values["server"] = of.get("server", tuple(algorithm.server.usual * factor for factor in FACTORS))
    if not values:
        return best_of(scores(best, setup, adaptation), setup.useless)
    for name in [*values] * (2 if len(values) > 1 else 1):
        best, scored = best_of(scores(_with(best, name, Sweep(values[name])), setup, adaptation), setup.useless)
    return best, scored


def _with(algorithm: Algorithm, name: str, value: Any) -> Algorithm:
    """With another step size, the server's under the name "server"."""
    changed: dict[str, Any] = {name: _stepping(algorithm.server, value) if name == "server" else value}
    return replace(algorithm, **changed)


def _stepping(server: Any, lr: Any) -> Any:
    return replace(server, lr=lr)


def best_of(scores: Iterable[Step[T]], useless: float) -> tuple[T, float]:
    """The best of the step sizes whose larger neighbour can be used too, and its score; the best of all where there is
    none such. A place counts the values in rising order; one that comes twice counts with its better score."""
    of_value: dict[int, tuple[float, T]] = {}
    for score, place, made in scores:
        if place not in of_value or score < of_value[place][0]:
            of_value[place] = score, made
    last = len(of_value) - 1
    safe = [place for place in of_value if of_value[min(place + 1, last)][0] <= useless]
    scored, best = min((of_value[place] for place in safe or of_value), key=lambda found: found[0])
    return best, scored


def scores(algorithm: Algorithm, setup: Setup, grid: tuple[float, ...]) -> Iterator[Step[Algorithm]]:
    """Train once for all swept values, then score every adaptation step size: score, place of the value, algorithm."""
    useless, held = setup.useless, _trained(algorithm, setup)  # in this order: validation clients are checked first
    adaptation = step_sizes(algorithm, ("adaptation",))
    for size in grid if adaptation else (None,):
        tried = replace(algorithm, **dict.fromkeys(adaptation, size))
        for value, s in enumerate(_validate(tried, setup, held, useless)):
            yield s, value, pick(tried, value)


def score(algorithm: Algorithm, setup: Setup) -> list[float]:
    """The validation score of every swept value, step sizes as they are."""
    useless = setup.useless
    return _validate(algorithm, setup, _trained(algorithm, setup), useless)


def rank(loss: Tensor, useless: float) -> Tensor:
    """Scores (V,), the lower the better and never infinite, of losses (V, ...), among them infinite ones and NaN."""
    over = tuple(range(1, loss.ndim))
    mean, cut = loss.mean(over), loss.nan_to_num(nan=useless).clamp(max=useless).mean(over)
    return torch.where(mean <= useless, mean, useless + cut)


def _trained(algorithm: Algorithm, setup: Setup) -> Tree:
    return next(islice(setup.run(algorithm), setup.config["rounds"], None)).held


def _validate(algorithm: Algorithm, setup: Setup, held: Tree, useless: float) -> list[float]:
    loss = evaluate(setup.spread(algorithm), setup.objective, held, setup.validation, setup.config["steps"]).loss
    return rank(loss[..., 1:].unflatten(0, (sweep_length(algorithm), -1)), useless).tolist()
