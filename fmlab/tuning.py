"""Step sizes: found by the same search for every algorithm, on validation clients only.

The score of a setting is the validation clients' mean query loss, averaged over adaptation steps 1..steps and seeds.
One client that flies away can make it infinite; so that a choice remains where no setting is free of that, a mean
above ten times the fresh models' loss gives way to the mean of losses cut there, and ranks behind all below.
Step sizes used in training are searched one after another over ``GRID``, all values in one batch; the adaptation step
size is then free to differ for each of them. ``recorded.json`` holds the result of ``benchmarks/search_step_sizes.py``
for every population and algorithm at default settings; a field left at None is filled from there, or, where nothing is
recorded, from a coarse search of the same kind.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.resources import files
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fmlab import cache
from fmlab.algorithms import Algorithm
from fmlab.data import Tree
from fmlab.declare import Sweep, pick, step_sizes, sweep_length, sweeps
from fmlab.evaluation import evaluate
from fmlab.populations import Population
from fmlab.report import FLOWN
from fmlab.setup import Setup

GRID = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
COARSE = (0.002, 0.01, 0.05, 0.2, 1.0)
COARSE_SEEDS = (100, 101)
RECORDED: dict[str, dict[str, dict[str, float]]] = json.loads(files("fmlab").joinpath("recorded.json").read_text())


class Searched(UserWarning):
    """Says that a step size was searched because none is recorded, and what was found."""


def recorded(setup: Setup) -> Setup:
    """The setup with every step size that is None filled: from the recorded search, or else from a coarse one, which
    takes some seconds once, says so (``Searched``), and is kept in the user's cache folder."""
    filled = {}
    for name, a in setup.algorithms.items():
        missing = [f for f in step_sizes(a) if getattr(a, f) is None]
        found = RECORDED.get(type(setup.population).__name__, {}).get(type(a).__name__, {})
        if any(f not in found for f in missing):
            found = _coarse(a, setup)
        filled[name] = replace(a, **{f: found[f] for f in missing})
    return Setup(setup.config | {"algorithms": filled})


def cache_key(population: Population, method: type[Algorithm]) -> str:
    """What step sizes that were searched for the method on these clients are kept under."""
    return cache.key(type(population), method) + population.fingerprint()


def _coarse(algorithm: Algorithm, setup: Setup) -> dict[str, float]:
    """Step sizes for the algorithm at its default settings, at heterogeneity 1 where there is such a thing."""
    known = cache_key(setup.population, type(algorithm))
    found = cache.get(known)
    if found is None or set(found) != set(step_sizes(algorithm)):
        population: Any = setup.population
        if "heterogeneity" in {f.name for f in fields(population)}:
            population = replace(population, heterogeneity=1.0)
        config = setup.config | {"algorithms": {"": algorithm}, "clients": population, "transforms": (), "dropout": 0.0}
        small = Setup(config | {"rounds": 60, "seeds": COARSE_SEEDS, "steps": 5, "evaluations": 1})
        best = search(type(algorithm)(), small, COARSE)
        found = {f: getattr(best, f) for f in step_sizes(best)}
        cache.put(known, found)
        sizes = ", ".join(f"{f}={v:g}" for f, v in found.items())
        where = f"{type(algorithm).__name__} on {type(population).__name__}"
        message = f"no step size is recorded for {where}; a coarse search found {sizes} (kept in {cache.folder()})"
        warnings.warn(message, Searched, stacklevel=2)
    return found


def tuned(setup: Setup) -> Setup:
    """The setup with every step size chosen on the validation clients (tune=True)."""
    algorithms = {name: search(a, setup) for name, a in setup.algorithms.items()}
    return Setup(setup.config | {"algorithms": algorithms, "tune": False})


def search(algorithm: Algorithm, setup: Setup, grid: tuple[float, ...] = GRID) -> Algorithm:
    """The algorithm with its step sizes replaced by the best of ``grid``. Raises ValueError if it is swept."""
    if sweeps(algorithm):
        raise ValueError(
            f"{type(algorithm).__name__} is swept and tune=True would sweep its step sizes; do one at a time"
        )
    training = step_sizes(algorithm, ("training",))
    best = replace(algorithm, **{f: grid[len(grid) // 3] for f in step_sizes(algorithm)})
    for name in training * (2 if len(training) > 1 else 1):
        best = min(_scores(replace(best, **{name: Sweep(grid)}), setup, grid), key=lambda s: s[0])[1]
    return best if training else min(_scores(best, setup, grid), key=lambda s: s[0])[1]


def _scores(algorithm: Algorithm, setup: Setup, grid: tuple[float, ...]) -> Iterator[tuple[float, Algorithm]]:
    """Train once for all swept values, then score every adaptation step size."""
    useless, held = _useless(setup), _trained(algorithm, setup)  # in this order: validation clients are checked first
    adaptation = step_sizes(algorithm, ("adaptation",))
    for size in grid if adaptation else (None,):
        tried = replace(algorithm, **dict.fromkeys(adaptation, size))
        for value, s in enumerate(_validate(tried, setup, held, useless)):
            yield s, pick(tried, value)


def score(algorithm: Algorithm, setup: Setup) -> list[float]:
    """The validation score of every swept value, step sizes as they are."""
    useless = _useless(setup)
    return _validate(algorithm, setup, _trained(algorithm, setup), useless)


def rank(loss: Tensor, useless: float) -> Tensor:
    """Scores (V,), the lower the better and never infinite, of losses (V, ...), among them infinite ones and NaN."""
    over = tuple(range(1, loss.ndim))
    mean, cut = loss.mean(over), loss.nan_to_num(nan=useless).clamp(max=useless).mean(over)
    return torch.where(mean <= useless, mean, useless + cut)


def _useless(setup: Setup) -> float:
    """FLOWN times the validation clients' mean loss of the fresh models."""
    fresh = setup.start[:, None].expand(-1, setup.validation.number, -1)
    ((loss, _),) = setup.objective.scores([fresh], setup.validation.everyone()[1])
    return FLOWN * float(loss.mean())


def _trained(algorithm: Algorithm, setup: Setup) -> Tree:
    return next(islice(setup.run(algorithm), setup.config["rounds"], None)).held


def _validate(algorithm: Algorithm, setup: Setup, held: Tree, useless: float) -> list[float]:
    loss = evaluate(setup.spread(algorithm), setup.objective, held, setup.validation, setup.config["steps"]).loss
    return rank(loss[..., 1:].unflatten(0, (sweep_length(algorithm), -1)), useless).tolist()
