"""Finn et al. 2017, section 5.1, beside fmlab: 5-shot losses on 600 unseen sines after 1, 5 and 10 steps.

    python benchmarks/finn.py                  70,000 rounds (the paper's; some minutes)
    python benchmarks/finn.py --rounds 7000    a tenth of the budget, said in the table
    make papers ARGS=finn                      over three seeds

Setting of the paper: network 1-40-40-1, 10 support and 10 query points in training, 25 tasks a round, one inner step
of 0.01, outer Adam 0.001. Departures, all said here: 100,000 clients drawn once stand for endless tasks; the network
starts from torch's default initialisation. "Joint training" is the paper's "pretrained on all tasks": one step a round
on the mean loss, the same Adam, fine-tuned with the step size that is best on validation clients (MAML's too).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fmlab as fm
from fmlab.data import Clients
from fmlab.evaluation import evaluate
from fmlab.setup import prepare
from fmlab.tuning import GRID

STEPS = (1, 5, 10)
PAPER = {"joint training": (2.41, 2.23, 2.19), "MAML": (0.67, 0.38, 0.35)}  # published-numbers of 1703.03400, 5.1


ADAM = fm.Adam(lr=1e-3)
METHODS: dict[str, Any] = {
    "joint training": fm.FedAvg(local_steps=1, lr=1.0, adapt_lr=0.01, server=ADAM),
    "MAML": fm.FedMAML(inner_steps=1, inner_lr=0.01, adapt_lr=0.01, server=ADAM),
}


def measure(name: str, seeds: Sequence[int], rounds: int) -> tuple[list[float], list[list[float]], float]:
    """Train one method, all seeds in one batch: for each seed its step size of testing and its losses on unseen clients
    after ``STEPS``; and the seconds that training took."""
    method, five = METHODS[name], fm.Sines(n_clients=25, support=5, n_unseen=600, n_validation=200)
    five_shot = prepare({name: method}, five, seeds=seeds)
    setup = prepare({name: method}, fm.Sines(n_clients=100_000), seeds=seeds, dtype=torch.float32)
    began = time.perf_counter()
    last = next(islice(tqdm(setup.run(method), total=rounds, desc=name, disable=None), rounds, None))
    held = {entry: t.double() for entry, t in last.held.items()}
    seconds = time.perf_counter() - began

    def losses(lr: float, clients: Clients) -> Tensor:
        """(seeds, STEPS)."""
        after = evaluate(replace(method, adapt_lr=lr), five_shot.objective, held, clients, max(STEPS)).loss.mean(1)
        return after[:, list(STEPS)]

    scores = torch.stack([losses(lr, five_shot.validation).sum(1).nan_to_num(torch.inf) for lr in GRID])
    best = [GRID[k] for k in scores.argmin(0).tolist()]
    return best, [losses(lr, five_shot.unseen)[k].tolist() for k, lr in enumerate(best)], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=70_000)
    rounds = parser.parse_args().rounds
    lines = [
        "# Finn et al. 2017, sine regression, 5-shot mean square error after n steps",
        "",
        f"Written by `python benchmarks/finn.py --rounds {rounds}`: {rounds:,} of the paper's 70,000 rounds, one seed.",
        "",
        "| | step size | 1 | 5 | 10 | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in METHODS:
        (best,), (losses,), seconds = measure(name, [0], rounds)
        cells = " | ".join(f"{loss:.2f}" for loss in losses)
        lines.append(f"| {name}, fmlab | {best:g} | {cells} | {seconds:.0f} |")
        lines.append(f"| {name}, paper | | {' | '.join(map(str, PAPER[name]))} | |")
    text = "\n".join(lines) + "\n"
    Path(__file__).with_name("results").joinpath("finn.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
