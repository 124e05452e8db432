"""Privacy against adaptation, and liars against means, of FedAvg and FedMAML on sine curves.

    python benchmarks/privacy.py                   both tables, into benchmarks/results/privacy.md
    python benchmarks/privacy.py --clients 200 1000

The runs are lesson 8's (lab/lessons/private.py, which says the model, clip and step sizes). No step size is searched
under noise or lies: that would take looks at the data that nobody accounted for.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import fmlab as fm
from lab.lessons import private
from lab.lessons.lying import HOW, MEANS

TABLE = Path(__file__).parent / "results" / "privacy.md"
BUDGETS = (math.inf, 100.0, 30.0, 10.0, 3.0, 1.0)
CLIENTS, SHARE, FACTOR = 20, 0.2, 10.0  # of the table of liars
FLOWN = 100.0  # a mean loss above it has no digits worth reading


def cell(loss: Tensor) -> str:
    """Mean ± standard deviation over seeds of unseen clients' mean loss after one step (seeds, clients, 2)."""
    by_seed = loss[..., 1].mean(1)
    if not bool(by_seed.isfinite().all()):
        return "diverged"
    return f"{by_seed.mean():.2f} ± {by_seed.std():.2f}" if by_seed.mean() < FLOWN else f"above {FLOWN:g}"


def of_budgets(numbers: list[int]) -> Iterator[str]:
    yield "| clients | epsilon | noise multiplier z | FedAvg | FedMAML |\n|---|---|---|---|---|\n"
    for n in numbers:
        clients = fm.Sines(**private.POPULATION | {"n_clients": n})
        for epsilon in BUDGETS:
            study = private.train(clients, epsilon)
            z = private.multiplier(epsilon, private.ROUNDS)
            cells = " | ".join(cell(study.adaptation[name]) for name in study.names)
            yield f"| {n} | {'no noise' if epsilon == math.inf else f'{epsilon:g}'} | {z:.2f} | {cells} |\n"


def of_liars() -> Iterator[str]:
    lies = [(0.0, "nobody lies")] + [(SHARE, how) for how in HOW]
    yield "| heterogeneity | the server's mean | method | " + " | ".join(says for _, says in lies)
    yield " |\n|" + "---|" * (3 + len(lies)) + "\n"
    for heterogeneity in (0.2, 1.0):
        clients = fm.Sines(heterogeneity=heterogeneity, **private.POPULATION | {"n_clients": CLIENTS})
        for mean, of in MEANS.items():
            studies = []
            for share, how in lies:
                liars = fm.Liars(share, how if share else "noise", FACTOR)
                studies.append(private.small(clients, private.METHODS, per_round=CLIENTS, transforms=[liars], mean=of))
            for name in studies[0].names:
                cells = " | ".join(cell(study.adaptation[name]) for study in studies)
                yield f"| {heterogeneity:g} | {mean} | {name} | {cells} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[200])
    asked = parser.parse_args().clients
    torch.set_default_dtype(torch.float64)
    command = f"python benchmarks/privacy.py --clients {' '.join(map(str, asked))}"
    fresh = private.untrained(fm.Sines(**private.POPULATION))
    text = f"""# Privacy and liars: loss of unseen clients after one step, mean ± standard deviation over 3 seeds

Written by `{command}`. Sine curves of heterogeneity 1, on which a fresh model has {fresh:.2f}. FedAvg takes 5 local
steps, FedMAML 1 inner one, of {private.RATE:g}; the server of both is Adam.

## What privacy takes

{private.ROUNDS} rounds, all clients in each, messages clipped to {private.CLIP:g}, noise by the server on their sum.
Epsilon at delta = {private.DELTA:g} against whoever sees the models, neighbours: one client replaced; exact, since
nobody is drawn.

{"".join(of_budgets(asked))}
## What liars take, and what it costs to guard against them

{CLIENTS} clients, all in each of {private.SMALL_ROUNDS} rounds, each a liar with probability {SHARE:g} and a factor of
{FACTOR:g}: `fm.Liars`. Trimmed mean and Krum are set for 6 liars of 20.

{"".join(of_liars())}"""
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
