"""The papers' tables beside ours: ``make papers`` writes benchmarks/results/papers/, one file a paper.

    python -m benchmarks.papers                  what fits an hour on two cores, all papers
    python -m benchmarks.papers collins cheng    these
    python -m benchmarks.papers --full           with the papers' own numbers of rounds and more seeds; many hours

What was measured stays in benchmarks/out/papers/, so that an interrupted run goes on. A table that is not whole yet is
not written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.papers import cheng, collins, fedma, fedmeta, finn, personal, pfedme
from benchmarks.papers.ledger import Ledger

PAPERS = {p.__name__.rsplit(".", 1)[-1]: p for p in (collins, cheng, personal, fedma, pfedme, finn, fedmeta)}
RESULTS = Path(__file__).parents[1] / "results" / "papers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", default=list(PAPERS), metavar="paper", help=", ".join(PAPERS))
    parser.add_argument("--full", action="store_true", help="the papers' own budgets")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.papers) - set(PAPERS)):
        parser.error(f"papers {unknown} are none of {', '.join(PAPERS)}")
    torch.set_num_threads(1)
    for name in asked.papers:
        paper, ledger = PAPERS[name], Ledger(name)
        body = paper.table(ledger, asked.full)
        command = f'make papers ARGS="{name}{" --full" if asked.full else ""}"'
        took = f"{ledger.seconds:.0f} s on one core, other work beside it"
        text = f"# {paper.TITLE}\n\nWritten by `{command}`, {took}.\n{body}"
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main()
