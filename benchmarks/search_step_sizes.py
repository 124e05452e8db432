"""The search behind fmlab/recorded.json: default step sizes for every population and algorithm.

    python benchmarks/search_step_sizes.py                      everything (about an hour on two cores)
    python benchmarks/search_step_sizes.py Sines FedAvg PFedMe  one population, some algorithms; the rest stays
    python benchmarks/search_step_sizes.py --servers            the servers' own step sizes, halved and doubled

Every algorithm meets the same search (fmlab/tuning.py): the same grid, clients, seeds and rounds, scored on 300
validation clients a seed, of real clients on those that the population sets aside. Seeds 100 and 101 are used here and
nowhere else. A mean over clients punishes a step size that makes a single client diverge. ``--servers`` changes no
default: its table, benchmarks/results/servers.md, shows what SGD(1) and Adam(0.01) leave to gain.
"""

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import step_sizes
from fmlab.populations.collection import Collection
from fmlab.setup import Setup, prepare
from fmlab.tuning import recorded, score, search

RECORD = Path(fm.__file__).with_name("recorded.json")
TABLE = Path(__file__).parent / "results" / "servers.md"
SEEDS, ROUNDS, FACTORS = (100, 101), 300, (0.5, 1.0, 2.0)
HEAD = """# The servers' step sizes

`python benchmarks/search_step_sizes.py --servers`: the validation clients' score (mean query loss over adaptation steps
1 to 5, see fmlab/tuning.py) after 300 rounds, seeds 100 and 101, with the server's default step size halved, as it is,
and doubled; clients' step sizes as recorded.

| population | algorithm | server | halved | default | doubled |
|---|---|---|---|---|---|
"""


def setup_of(algorithm: fm.Algorithm, population: type[fm.Population]) -> Setup:
    many: dict[str, int] = {} if issubclass(population, Collection) else {"n_validation": 300}
    return prepare([algorithm], population(**many), rounds=ROUNDS, seeds=SEEDS, dtype=torch.float32)


def record(algorithm: Any, population: type[fm.Population]) -> None:
    began = time.perf_counter()
    try:
        setup = setup_of(algorithm(), population)
    except ValueError as reason:
        print(f"{population.__name__:12} {algorithm.__name__:12} left out: {reason}", flush=True)
        return
    best = search(algorithm(), setup)
    found = {name: getattr(best, name) for name in step_sizes(best)}
    print(f"{population.__name__:12} {algorithm.__name__:12} {found}  {time.perf_counter() - began:.0f} s", flush=True)
    whole = json.loads(RECORD.read_text())
    whole.setdefault(population.__name__, {})[algorithm.__name__] = found
    RECORD.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def servers(algorithm: Any, population: type[fm.Population]) -> str | None:
    """One row of the table: validation scores at the server's step size halved, as it is, and doubled."""
    if "server" not in {f.name for f in fields(algorithm)}:  # a method without an optimiser at the server
        return None
    (filled,) = recorded(setup_of(algorithm(), population)).algorithms.values()
    server: Any = filled.server
    chosen: dict[str, Any] = {"server": replace(server, lr=fm.sweep(*(server.lr * f for f in FACTORS)))}
    tried = replace(filled, **chosen)
    scores = " | ".join(f"{s:.3f}" for s in score(tried, setup_of(tried, population)))
    row = f"| {population.__name__} | {algorithm.__name__} | {type(server).__name__}({server.lr:g}) | {scores} |"
    print(row, flush=True)
    return row


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("population", nargs="?")
    parser.add_argument("algorithms", nargs="*")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        (algorithm, population)
        for population in (*fm.POPULATIONS, *fm.SCENARIOS)
        for algorithm in fm.ALGORITHMS
        if wanted.population in (None, population.__name__)
        and algorithm.__name__ in (wanted.algorithms or [algorithm.__name__])
    ]
    if not wanted.servers:
        for pair in chosen:
            record(*pair)
        return
    rows = [row for pair in chosen if (row := servers(*pair))]
    if not wanted.population:
        TABLE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
