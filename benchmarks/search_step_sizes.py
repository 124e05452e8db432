"""The search behind fmlab/recorded.json: step sizes by population, method, server and number of steps.

    python benchmarks/search_step_sizes.py                      what is not recorded yet (hours on two cores)
    python benchmarks/search_step_sizes.py Sines FedAvg FedMAML one population, some methods
    python benchmarks/search_step_sizes.py --all                every number of steps for every method
    python benchmarks/search_step_sizes.py --again Sines FedMA  search again what is recorded
    python benchmarks/search_step_sizes.py Watches FedMAML --server Adam --numbers 3    that server and number of steps
    python benchmarks/search_step_sizes.py Digits FedAvg --server SGD --heterogeneity 0 0.25 0.5 0.75
    python benchmarks/search_step_sizes.py Sines "FedMAML, first order"                 which has a name of its own

It may be ended at any time and goes on where it stopped: what is found is written at once. Every method meets the same
search (fmlab/tuning.py): the same grid (from the second number of steps on the five values about the best of the
nearest number, and on from there), clients, seeds and rounds, at heterogeneity 1, scored on 100 validation clients, of
real clients on those that the population sets aside, of each of four seeds that are used here and nowhere else. FedAvg,
FedMAML and its first order are searched for 1, 2, 3, 5 and 10 steps, the others for their default number; each with
either server. Methods that are defined with the plain mean keep it as it is, SGD(1); everywhere else the server's step
size is searched too: of the scenarios every pair of the client's and the server's, since there good pairs lie far from
the usual ones, and one after the other stops before them.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import Sweep, step_sizes
from fmlab.populations.collection import Collection
from fmlab.setup import Setup, prepare
from fmlab.tuning import (
    FACTORS,
    GRID,
    NUMBERS,
    has_server,
    is_open,
    name_of,
    number_of_steps,
    scores,
    search,
    values_of,
)

RECORD = Path(fm.__file__).with_name("recorded.json")
SEEDS, ROUNDS, VALIDATION = (100, 101, 102, 103), 300, 100
BY_NUMBER = (fm.FedAvg, fm.FedMAML)  # of steps


def servers(method: type[fm.Algorithm]) -> list[fm.SGD | fm.Adam | None]:
    """What the method is searched with: None where it has no choice."""
    if not has_server(method):
        return [None]
    own: Any = method()  # type: ignore[call-arg]
    mean = own.server if isinstance(own.server, fm.SGD) else fm.SGD(lr=None)  # type: ignore[arg-type]
    return [fm.Adam(), mean] if isinstance(own.server, fm.Adam) else [mean, fm.Adam()]


def wanted(method: type[fm.Algorithm], everything: bool) -> Iterator[fm.Algorithm]:
    """The method in every way that it is recorded in; ``everything``: with every number of steps."""
    make: Any = method
    steps = next((name for name in ("local_steps", "inner_steps") if hasattr(make(), name)), None)
    numbers = NUMBERS if steps and (everything or method in BY_NUMBER) else (number_of_steps(make()),)
    for server in servers(method):
        for n in numbers:
            given = ({} if server is None else {"server": server}) | ({} if steps is None else {steps: n})
            yield make(**given)
            if method is fm.FedMAML and isinstance(server, fm.Adam):
                yield make(**given, first_order=True)


def around(value: float) -> tuple[float, ...]:
    """The values of the grid beside this one, two below and two above."""
    here = min(range(len(GRID)), key=lambda i: abs(math.log(GRID[i] / value)))
    first = min(max(here - 2, 0), len(GRID) - 5)
    return GRID[first : first + 5]


def beyond(tried: tuple[float, ...], best: float) -> tuple[float, ...]:
    """The next value to try where the best one is the first or the last; of the client's step sizes the grid's."""
    if best not in (tried[0], tried[-1]):
        return ()
    down = best == tried[0]
    if best not in GRID:
        return (best / 2,) if down else (best * 2,)
    here = GRID.index(best) + (-1 if down else 1)
    return (GRID[here],) if 0 <= here < len(GRID) else ()


def neighbour(known: dict[str, dict[str, float]], number: str) -> dict[str, float]:
    """What was found for the nearest smaller number of steps, or else the nearest: where to look first."""
    numbers = sorted((n for n in known if "score" in known[n]), key=lambda n: abs(int(n) - int(number)))
    return known[numbers[0]] if numbers else {}


def pairs(algorithm: Any, setup: Setup) -> tuple[fm.Algorithm, float]:
    """The best pair of the client's training step size and the server's, of those whose larger neighbours both can be
    used; the range of the server's grows as long as the best stands at its end."""
    (field,), adaptation = step_sizes(algorithm, ("training",)), GRID
    usual, most = algorithm.server.usual, 1.0 if isinstance(algorithm.server, fm.Adam) else 10.0
    found: dict[float, dict[int, tuple[float, fm.Algorithm]]] = {}
    wanted = [usual * factor for factor in (1 / 16, *FACTORS)]
    while True:
        for lr in (lr for lr in wanted if lr <= most and lr not in found):
            served = replace(algorithm, server=replace(algorithm.server, lr=lr))
            column: dict[int, tuple[float, fm.Algorithm]] = {}
            for scored, place, made in scores(replace(served, **{field: Sweep(GRID)}), setup, adaptation):
                if place not in column or scored < column[place][0]:
                    column[place] = scored, made
            found[lr] = column
        rates = sorted(found)

        def usable(i: int, lr: float, rates: list[float] = rates) -> bool:
            above = rates[min(rates.index(lr) + 1, len(rates) - 1)]
            return max(found[lr][min(i + 1, len(GRID) - 1)][0], found[above][i][0]) <= setup.useless

        every = [(i, lr) for lr in rates for i in range(len(GRID))]
        i, lr = min([at for at in every if usable(*at)] or every, key=lambda at: found[at[1]][at[0]][0])
        wanted = [lr / 4] if lr == rates[0] and lr > usual / 1000 else [lr * 2] if lr == rates[-1] else []
        if not [lr for lr in wanted if lr <= most]:
            return found[lr][i][1], found[lr][i][0]


def one_by_one(algorithm: Any, setup: Setup, near: dict[str, float]) -> tuple[fm.Algorithm, float]:
    """One step size after the other, near those of a neighbour where there is one; a range grows as long as the best
    stands at its end."""
    window = {f: around(near[f]) if f in near else GRID for f in step_sizes(algorithm)}
    if is_open(algorithm):
        most = 1.0 if isinstance(algorithm.server, fm.Adam) else 10.0
        centre = near.get("server", algorithm.server.usual)
        window["server"] = tuple(lr for factor in FACTORS if (lr := centre * factor) <= most)
    while True:
        best, score = search(algorithm, setup, window)
        found = values_of(best)
        wider = {f: (*tried, *beyond(tried, found[f])) for f, tried in window.items()}
        if wider == window:
            return best, score
        window = {f: tuple(sorted(tried)) for f, tried in wider.items()}


def rounded(best: fm.Algorithm, score: float) -> dict[str, float]:
    """As it is recorded."""
    return {field: float(f"{value:.4g}") for field, value in (values_of(best) | {"score": score}).items()}


def write(place: tuple[str, str, str, str], level: str, found: dict[str, float]) -> None:
    """Into the record, at a population, method, server and number of steps; ``level``: of heterogeneity."""
    whole = json.loads(RECORD.read_text())  # another run may have written meanwhile
    population, method, server, number = place
    by_number = whole.setdefault(population, {}).setdefault(method, {}).setdefault(server, {})
    if level == "1":
        by_number[number] = found | {key: value for key, value in by_number.get(number, {}).items() if key == "at"}
    else:
        by_number[number].setdefault("at", {})[level] = found
    RECORD.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


def record(algorithm: fm.Algorithm, population: type[fm.Population], again: bool, heterogeneity: float = 1.0) -> None:
    """Search what is not recorded yet (``again``: or is) and write it; at a lower heterogeneity near what is known."""
    began = time.perf_counter()
    place = name_of(algorithm), type(algorithm.server).__name__, str(number_of_steps(algorithm))
    known = json.loads(RECORD.read_text()).get(population.__name__, {}).get(place[0], {}).get(place[1], {})
    level = f"{heterogeneity:g}"
    there = known.get(place[2], {}) if level == "1" else known.get(place[2], {}).get("at", {}).get(level, {})
    if "score" in there and not again:
        return
    options: dict[str, Any] = {"rounds": ROUNDS, "seeds": SEEDS, "dtype": torch.float32, "clients_per_round": 25}
    try:
        real = issubclass(population, Collection)  # has as many clients as there are
        many: dict[str, Any] = {} if real else {"n_validation": VALIDATION, "n_unseen": 1}
        clients = population(**many, **({} if level == "1" else {"heterogeneity": heterogeneity}))
        options["clients_per_round"] = min(25, clients.n_clients)
        setup = prepare([algorithm], clients, **options)
    except ValueError as reason:
        print(f"{population.__name__:12} {' '.join(place)} left out: {reason}", flush=True)
        return
    if population in fm.SCENARIOS and is_open(algorithm):
        best, score = pairs(algorithm, setup)
    else:
        best, score = one_by_one(algorithm, setup, neighbour(known, place[2]))
    found = rounded(best, score)
    where = f"{population.__name__:12} {' '.join(place):30} {'' if level == '1' else f'h = {level}'}"
    print(where, found, f"{time.perf_counter() - began:.0f} s", flush=True)
    write((population.__name__, *place), level, found)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--server", choices=("SGD", "Adam"))
    parser.add_argument("--numbers", nargs="+", type=int, choices=NUMBERS)
    parser.add_argument("--heterogeneity", nargs="+", type=float, default=[1.0])
    parser.add_argument("population", nargs="?")
    parser.add_argument("algorithms", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for population in (*fm.POPULATIONS, *fm.SCENARIOS):
        for method in fm.ALGORITHMS:
            if asked.population in (None, population.__name__):
                for algorithm in wanted(method, asked.all):
                    named = not asked.algorithms or name_of(algorithm) in asked.algorithms
                    served = asked.server in (None, type(algorithm.server).__name__)
                    if named and served and (not asked.numbers or number_of_steps(algorithm) in asked.numbers):
                        for h in asked.heterogeneity:
                            record(algorithm, population, asked.again, h)


if __name__ == "__main__":
    main()
