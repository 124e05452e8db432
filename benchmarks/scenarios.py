"""The scenarios in one table: who is ahead on unseen clients, fine-tuned FedAvg or FedMAML, beside learning alone.

    python benchmarks/scenarios.py                    all of them, into benchmarks/results/scenarios.md
    python benchmarks/scenarios.py Watches Insurers   these; the other rows stay

FedAvg takes 5 local steps and FedMAML 3 inner ones, about the same work where support and query set are of one size;
both have Adam at the server. Step sizes are those of fmlab/recorded.json, that of adaptation and local-only training's
are chosen on the validation clients. 300 rounds, all clients or 25 of them in each, seeds 0, 1, 2, 5 adaptation steps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import fmlab as fm
from lab.plots.words import sentence

TABLE = Path(__file__).parent / "results" / "scenarios.md"
METHODS = {"FedAvg": fm.FedAvg(local_steps=5), "FedMAML": fm.FedMAML(inner_steps=3)}
HEAD = """# Scenarios: unseen clients, mean ± standard deviation over 3 seeds

Written by `python benchmarks/scenarios.py`: FedAvg with 5 local and FedMAML with 3 inner steps, about the same work;
both have Adam at the server and the step sizes of fmlab/recorded.json. 300 rounds, 5 adaptation steps. "Local only" is
100 steps from a fresh model on an unseen client's support set.

Losses, or for classes the share that is right in per cent. "Before" is the server's model without adaptation, "unlike"
the measured difference of the training clients of seed 0 (`clients.difference()`), "worse for" the share of clients
that have a larger loss with FedMAML than with fine-tuned FedAvg.

| scenario | unlike | trivial | local only | FedAvg before | fine-tuned | FedMAML before | adapted | worse for |
|---|---|---|---|---|---|---|---|---|
"""


def rows(name: str) -> list[str]:
    """The scenario's row of the table, and the sentence that the panel says; of patients the real twelve's too."""
    clients = getattr(fm, name)()
    study = fm.compare(METHODS, clients, server=fm.Adam(), dtype=torch.float32)
    found = [_row(name, study)]
    if name == "Patients":
        twelve = fm.compare(**study.config | {"clients": replace(clients, real=True)})
        found.append(_row("Patients, the real twelve", twelve))
    return found


def _row(title: str, study: fm.Study) -> str:
    classes = bool(study.accuracy)
    scores = study.accuracy if classes else study.adaptation
    base = study.baseline_accuracy if classes else study.baselines
    cells = [_cell(base[of], classes) for of in ("trivial", "local only")]
    for method in METHODS:
        cells += [_cell(scores[method][..., k], classes) for k in (0, study.steps)]
    gain = study.adaptation["FedMAML"][..., -1] > study.adaptation["FedAvg"][..., -1]
    worse = f"{100 * gain.double().mean():.0f} %"
    unlike = f"{study.population.difference().value:.2f}"
    print(title, sentence(study, quantity="accuracy" if classes else "loss"), flush=True)
    print(study.table(), flush=True)
    return f"| {title} | {unlike} | {' | '.join(cells)} | {worse} |"


def _cell(score: Tensor, classes: bool) -> str:
    seeds = score.double().mean(-1) * (100 if classes else 1)
    spread = f" ± {seeds.std():.{1 if classes else 2}f}"
    return f"{seeds.mean():.{1 if classes else 2}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [p.__name__ for p in fm.SCENARIOS]
    parser.add_argument("scenarios", nargs="*", default=names)
    wanted = parser.parse_args().scenarios
    torch.set_num_threads(1)
    known: dict[str, list[str]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else ():
        title = line.split("|")[1].strip().split(",")[0] if line.startswith("| ") else ""
        if title in names:
            known.setdefault(title, []).append(line)
    for name in wanted:
        known[name] = rows(name)
        TABLE.write_text(HEAD + "\n".join(line for n in names for line in known.get(n, [])) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
