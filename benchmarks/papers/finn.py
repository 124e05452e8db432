"""Finn et al. 2017 (1703.03400), section 5.1: sine regression, over several seeds."""

from __future__ import annotations

from functools import partial

from benchmarks.finn import METHODS, PAPER, STEPS, measure
from benchmarks.papers.ledger import Found, Ledger, markdown, spread

TITLE = "Finn et al. 2017 (1703.03400), sine regression: 5-shot mean square error after n steps"
SETTING = """
{rounds} rounds, as in the paper, of 25 tasks, K = 10 in training, network 1-40-40-1, one inner step of 0.01,
outer Adam 0.001; tested on 600 tasks of 5 points after {steps} steps. {seeds} seeds, mean ± standard deviation;
each draws its own tasks and network. The step size of testing is the best on validation clients, for either method.
"""
DIFFERENCES = """
**The paper's numbers are sure.** It gives one run. Differences, and why:

- 100,000 clients drawn once stand for endless tasks; the network starts from torch's default initialisation.
- "Pretrained" tunes its step size in the paper; so it does here, on validation clients.
"""


def _run(name: str, seeds: int, rounds: int) -> Found:
    best, losses, _ = measure(name, range(seeds), rounds)
    return {"step sizes": best, "losses": losses}


def table(ledger: Ledger, full: bool) -> str:
    rounds, seeds = 70_000, 5 if full else 3
    rows: list[list[object]] = [["", *STEPS, "step sizes", "s"]]
    for name in METHODS:
        found = ledger(f"{name} rounds={rounds} seeds={seeds}", partial(_run, name, seeds, rounds))
        cells = [spread([losses[k] for losses in found["losses"]]) for k in range(len(STEPS))]
        sizes = ", ".join(f"{size:g}" for size in found["step sizes"])
        rows.append([f"{name}, ours", *cells, sizes, f"{found['seconds']:.0f}"])
        rows.append([f"{name}, paper", *(f"{x:.2f}" for x in PAPER[name]), "", ""])
    setting = SETTING.format(rounds=f"{rounds:,}", steps=", ".join(map(str, STEPS)), seeds=seeds)
    return f"{setting}\n{markdown(rows)}\n{DIFFERENCES}"
