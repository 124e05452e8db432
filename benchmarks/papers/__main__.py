"""The papers' tables beside ours: ``make papers`` writes benchmarks/results/papers/, one file a paper.

    python -m benchmarks.papers                  what fits about an hour on two cores, all papers, two at a time
    python -m benchmarks.papers collins cheng    these
    python -m benchmarks.papers --full           more seeds and, where they were cut, the papers' own budgets; hours

What was measured stays in benchmarks/out/papers/, so that an interrupted run goes on. A table that is not whole yet is
not written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch

from benchmarks.papers import cheng, collins, fedma, fedmeta, finn, personal, pfedme
from benchmarks.papers.ledger import Ledger

# The longest first, so that no process ends long after the others.
PAPERS = {p.__name__.rsplit(".", 1)[-1]: p for p in (fedmeta, pfedme, finn, personal, fedma, cheng, collins)}
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "papers"


def write(name: str, full: bool) -> None:
    torch.set_num_threads(1)
    paper, ledger = PAPERS[name], Ledger(name)
    body = paper.table(ledger, full)
    command = f'make papers ARGS="{name}{" --full" if full else ""}"'
    took = f"{ledger.seconds:.0f} s on one core, other work beside it"
    text = f"# {paper.TITLE}\n\nWritten by `{command}`, {took}.\n{body}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def alone(name: str, full: bool) -> int:
    """One paper in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.papers", name, *(["--full"] if full else [])]
    return subprocess.run(line, cwd=ROOT, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", default=list(PAPERS), metavar="paper", help=", ".join(PAPERS))
    parser.add_argument("--full", action="store_true", help="more seeds, and the papers' own budgets")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.papers) - set(PAPERS)):
        parser.error(f"papers {unknown} are none of {', '.join(PAPERS)}")
    if len(asked.papers) == 1:
        write(asked.papers[0], asked.full)
        return 0
    with ThreadPoolExecutor(2) as two:
        return max(two.map(alone, asked.papers, repeat(asked.full)))


if __name__ == "__main__":
    sys.exit(main())
