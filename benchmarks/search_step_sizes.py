"""The search behind fmlab/recorded.json: step sizes by population, method, server and number of steps.

    python benchmarks/search_step_sizes.py                      what is not recorded yet (hours on two cores)
    python benchmarks/search_step_sizes.py Sines FedAvg FedMAML one population, some methods
    python benchmarks/search_step_sizes.py --all                every number of steps for every method
    python benchmarks/search_step_sizes.py --again Sines FedMA  search again what is recorded
    python benchmarks/search_step_sizes.py Watches FedMAML --server Adam --numbers 3    that server and number of steps

It may be ended at any time and goes on where it stopped: what is found is written at once. Every method meets the same
search (fmlab/tuning.py): the same grid (from the second number of steps on the five values about the best of the
nearest number, and on from there), clients, seeds and rounds, at heterogeneity 1, scored on 100 validation clients, of
real clients on those that the population sets aside, of each of four seeds that are used here and nowhere else. FedAvg,
FedMAML and its first order are searched for 1, 2, 3, 5 and 10 steps, the others for their default number; each with
either server. Methods that are defined with the plain mean keep it as it is, SGD(1); everywhere else the server's step
size is searched too.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import step_sizes
from fmlab.populations.collection import Collection
from fmlab.setup import prepare
from fmlab.tuning import FACTORS, GRID, NUMBERS, has_server, is_open, name_of, number_of_steps, search, values_of

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


def record(algorithm: fm.Algorithm, population: type[fm.Population], again: bool) -> None:
    began = time.perf_counter()
    place = name_of(algorithm), type(algorithm.server).__name__, str(number_of_steps(algorithm))
    known = json.loads(RECORD.read_text()).get(population.__name__, {}).get(place[0], {}).get(place[1], {})
    if "score" in known.get(place[2], {}) and not again:
        return
    options: dict[str, Any] = {"rounds": ROUNDS, "seeds": SEEDS, "dtype": torch.float32, "clients_per_round": 25}
    try:
        real = issubclass(population, Collection)  # has as many clients as there are
        clients = population() if real else population(n_validation=VALIDATION, n_unseen=1)
        options["clients_per_round"] = min(25, clients.n_clients)
        setup = prepare([algorithm], clients, **options)
    except ValueError as reason:
        print(f"{population.__name__:12} {' '.join(place)} left out: {reason}", flush=True)
        return
    near = neighbour(known, place[2])
    window = {f: around(near[f]) if f in near else GRID for f in step_sizes(algorithm)}
    if is_open(algorithm):
        centre, most = (
            near.get("server", algorithm.server.usual),
            1.0 if isinstance(algorithm.server, fm.Adam) else 10.0,
        )
        window["server"] = tuple(lr for factor in FACTORS if (lr := centre * factor) <= most)
    while True:
        best, score = search(algorithm, setup, window)
        found = values_of(best) | {"score": score}
        wider = {f: (*tried, *beyond(tried, found[f])) for f, tried in window.items()}
        if wider == window:
            break
        window = {f: tuple(sorted(tried)) for f, tried in wider.items()}
    found = {f: float(f"{v:.4g}") for f, v in found.items()}
    print(f"{population.__name__:12} {' '.join(place):30} {found}  {time.perf_counter() - began:.0f} s", flush=True)
    whole = json.loads(RECORD.read_text())  # another run may have written meanwhile
    at = whole.setdefault(population.__name__, {}).setdefault(place[0], {}).setdefault(place[1], {})
    at[place[2]] = found
    RECORD.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--server", choices=("SGD", "Adam"))
    parser.add_argument("--numbers", nargs="+", type=int, choices=NUMBERS)
    parser.add_argument("population", nargs="?")
    parser.add_argument("algorithms", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for population in (*fm.POPULATIONS, *fm.SCENARIOS):
        for method in fm.ALGORITHMS:
            named = not asked.algorithms or method.__name__ in asked.algorithms
            if asked.population in (None, population.__name__) and named:
                for algorithm in wanted(method, asked.all):
                    served = asked.server in (None, type(algorithm.server).__name__)
                    if served and (not asked.numbers or number_of_steps(algorithm) in asked.numbers):
                        record(algorithm, population, asked.again)


if __name__ == "__main__":
    main()
