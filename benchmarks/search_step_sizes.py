"""The search behind fmlab/recorded.json: default step sizes for every population and algorithm.

    python benchmarks/search_step_sizes.py                      everything (about an hour on two cores)
    python benchmarks/search_step_sizes.py Sines FedAvg PFedMe  one population, some algorithms; the rest stays
    python benchmarks/search_step_sizes.py --servers Sines      the servers' own step sizes, halved and doubled

Every algorithm meets the same search (fmlab/tuning.py): the same grid, clients, seeds and rounds, scored on 300
validation clients a seed. Seeds 100 and 101 are used here and nowhere else. A mean over clients punishes a step size
that makes a single client diverge. The servers' defaults, SGD(1) and Adam(0.01), are what ``--servers`` led to.
"""

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from fmlab.setup import Setup, prepare
from fmlab.tuning import recorded, score, search, step_size_fields

RECORD = Path(fm.__file__).with_name("recorded.json")
SEEDS, ROUNDS, FACTORS = (100, 101), 300, (0.5, 1.0, 2.0)


def setup_of(algorithm: fm.Algorithm, population: type[fm.Population]) -> Setup:
    return prepare([algorithm], population(n_validation=300), rounds=ROUNDS, seeds=SEEDS, dtype=torch.float32)


def record(algorithm: Any, population: type[fm.Population]) -> None:
    began = time.perf_counter()
    best = search(algorithm(), setup_of(algorithm(), population))
    found = {name: getattr(best, name) for name in step_size_fields(best)}
    print(f"{population.__name__:12} {algorithm.__name__:12} {found}  {time.perf_counter() - began:.0f} s", flush=True)
    whole = json.loads(RECORD.read_text())
    whole.setdefault(population.__name__, {})[algorithm.__name__] = found
    RECORD.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def servers(algorithm: Any, population: type[fm.Population]) -> None:
    (filled,) = recorded(setup_of(algorithm(), population)).algorithms.values()
    if "server" not in {f.name for f in fields(filled)}:  # a method that sends nothing
        return
    server: Any = filled.server
    lr = server.lr
    chosen: dict[str, Any] = {"server": replace(server, lr=fm.sweep(*(lr * f for f in FACTORS)))}
    tried = replace(filled, **chosen)
    found = ", ".join(
        f"{lr * f:g}: {s:.3f}" for f, s in zip(FACTORS, score(tried, setup_of(tried, population)), strict=True)
    )
    print(f"{population.__name__:12} {algorithm.__name__:12} score at server step size {found}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("population", nargs="?")
    parser.add_argument("algorithms", nargs="*")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    for population in fm.POPULATIONS:
        for algorithm in fm.ALGORITHMS:
            if wanted.population in (None, population.__name__) and algorithm.__name__ in (
                wanted.algorithms or [algorithm.__name__]
            ):
                (servers if wanted.servers else record)(algorithm, population)


if __name__ == "__main__":
    main()
