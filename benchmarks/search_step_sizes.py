"""The search behind fmlab/recorded.json: default step sizes for every population and algorithm.

    python benchmarks/search_step_sizes.py                     everything (about an hour on two cores)
    python benchmarks/search_step_sizes.py Sines FedAvg PFedMe  one population, some algorithms; the rest stays

Every algorithm meets the same search (fmlab/tuning.py): the same grid, clients, seeds and rounds, scored on validation
clients only. Seeds 100 and 101 are used here and nowhere else.
"""

import json
import sys
import time
from pathlib import Path

import torch

import fmlab as fm
from fmlab.setup import prepare
from fmlab.tuning import search, step_size_fields

RECORD = Path(fm.__file__).with_name("recorded.json")
SEEDS, ROUNDS = (100, 101), 300


def main(population: str | None, algorithms: list[str]) -> None:
    torch.set_num_threads(1)
    for kind in fm.POPULATIONS:
        if population not in (None, kind.__name__):
            continue
        for a in fm.ALGORITHMS:
            if algorithms and a.__name__ not in algorithms:
                continue
            began = time.perf_counter()
            setup = prepare([a()], kind(), rounds=ROUNDS, seeds=SEEDS, dtype=torch.float32)
            with torch.no_grad():
                best = search(a(), setup)
            found = {name: getattr(best, name) for name in step_size_fields(best)}
            print(f"{kind.__name__:12} {a.__name__:12} {found}  {time.perf_counter() - began:.0f} s", flush=True)
            record = json.loads(RECORD.read_text())
            record.setdefault(kind.__name__, {})[a.__name__] = found
            RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None, sys.argv[2:])
