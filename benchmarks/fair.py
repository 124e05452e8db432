"""Whether the panel's step sizes tell the truth: its answer beside one whose step sizes were searched at that place.

    python benchmarks/fair.py                   what is not computed yet (some hour), then results/fair.md
    python benchmarks/fair.py Sines Digits      some tasks
    python benchmarks/fair.py --record Digits   put what was found into fmlab/recorded.json, by heterogeneity
    python benchmarks/fair.py --compare Digits  compare again with what is recorded now, without a search

A place is a task, a heterogeneity and a number of inner steps. Twice the same comparison there, FedAvg at equal work
against FedMAML, both servers Adam, 300 rounds, seeds 0 to 2: as the panel computes it, with recorded step sizes, and
with client and server step sizes searched at this very place, on validation clients of seeds 100 to 103. A search goes
one step size at a time, so the recorded ones are one more candidate. The adaptation step size is chosen on validation
clients either way. Leads are FedMAML's over FedAvg, in per cent of what the trivial predictor loses. What is found is
recorded for the heterogeneities H, not for those BETWEEN them: there the table says what the nearest record is worth.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from benchmarks.search_step_sizes import SEEDS, VALIDATION, around, rounded, write
from fmlab.adaptation import adapts_by
from fmlab.declare import Validated, step_sizes
from fmlab.judgement import LEVEL, trivial_error
from fmlab.setup import prepare
from fmlab.tuning import FACTORS, NUMBERS, number_of_steps, scores, search
from lab.panel.setting import Setting

RESULTS = Path(__file__).parent / "results"
FOUND, TABLE = RESULTS / "fair.json", RESULTS / "fair.md"
TASKS, H, K = ("Sines", "Digits", "Glyphs"), (0.0, 0.25, 0.5, 0.75, 1.0), (1, 3, 5)
BETWEEN = (0.4, 0.6, 0.9)  # heterogeneities at which nothing is recorded, for the panel's default number of steps
PLACES = [*((h, k) for k in K for h in H), *((h, Setting().inner_steps) for h in BETWEEN)]
PAIR = ("FedAvg", "FedMAML")
Leads = dict[str, float]
Found = dict[str, Any]
HEAD = """# The panel's answer beside one with step sizes searched at the same place

`python benchmarks/fair.py`: FedMAML's lead over fine-tuned FedAvg in per cent of what the trivial predictor loses,
mean of 3 seeds, 300 rounds, both servers Adam, FedAvg at equal work. "recorded" is what the panel shows, "searched"
has its step sizes searched for this heterogeneity and number of steps, with the recorded ones among the candidates.
Below {level:.0%} of the trivial loss a lead is called level.

On images what was searched for the quarters from 0 to 1 has been put on record, so those rows agree by making; the rows
at 0.4, 0.6 and 0.9 show what the nearest record is worth. On Sines nothing was put on record from here.

"""


def shown(task: str, h: float, k: int) -> fm.Study:
    """The panel's comparison, with what is recorded now."""
    methods, (population, given), options = Setting(task=task, heterogeneity=h, inner_steps=k, methods=PAIR).call()
    algorithms = {name: cls(**arguments) for name, (cls, arguments) in methods.items()}
    return fm.compare(algorithms, population(**given), **options)


def at(task: str, h: float, k: int) -> Found:
    """After 1 and after 5 steps: the lead with recorded and with searched step sizes; and those that were found."""
    recorded = shown(task, h, k)
    options = {key: v for key, v in recorded.config.items() if key not in ("algorithms", "clients")}
    clients: Any = recorded.population
    clients = replace(clients, n_validation=VALIDATION, n_unseen=1)
    searched, steps = {}, {}
    for name, algorithm in recorded.config["algorithms"].items():
        window = {f: around(_number(getattr(algorithm, f))) for f in step_sizes(algorithm)}
        window["server"] = tuple(algorithm.server.lr * factor for factor in FACTORS)
        alone = prepare([algorithm], clients, **options | {"seeds": SEEDS})
        best, scored = search(replace(algorithm, server=fm.Adam()), alone, window)
        known = replace(algorithm, **{f: _number(getattr(algorithm, f)) for f in step_sizes(algorithm)})
        here = min(s for s, _, _ in scores(known, alone, window[adapts_by(algorithm)]))
        if here <= scored:
            best, scored = known, here  # its own adaptation step size is where the choice among four starts anyhow
        steps[name] = rounded(best, scored) | {"number": number_of_steps(best)}
        searched[name] = replace(best, adapt_lr=fm.validated(best.adapt_lr))  # type: ignore[attr-defined]
    there = fm.compare(**recorded.config | {"algorithms": searched})
    return {"recorded": _leads(recorded), "searched": _leads(there), "steps": steps}


def _number(value: Any) -> float:
    return value.centre if isinstance(value, Validated) else value


def _leads(study: fm.Study) -> Leads:
    unit = trivial_error(study) or 1.0
    loss = {name: study.adaptation[name].nan_to_num(nan=torch.inf).median(1).values if _flew(study) else
            study.adaptation[name].mean(1) for name in PAIR}  # fmt: skip
    return {str(k): round(100 * float((loss["FedAvg"] - loss["FedMAML"])[:, k].mean()) / unit, 2) for k in (1, 5)}


def _flew(study: fm.Study) -> bool:
    return any(bool(fm.judge(study, k).flown) for k in (1, 5))


def winner(lead: float) -> str:
    return "level" if abs(lead) < 100 * LEVEL else PAIR[lead > 0]


def table(found: dict[str, Found]) -> str:
    lines = [HEAD.format(level=LEVEL)]
    for task in TASKS:
        if not any(name.startswith(f"{task} ") for name in found):
            lines += [f"## {task}", "", "Not computed yet.", ""]
            continue
        columns = "heterogeneity | inner steps | after 1: recorded | searched | after 5: recorded | searched | "
        lines += [f"## {task}", "", f"| {columns}|", "|---" * 7 + "|"]
        for h, k in sorted(PLACES):
            if (leads := found.get(f"{task} {h:g} {k}")) is None:
                continue
            cells, differs = [], []
            for steps in ("1", "5"):
                ours, theirs = leads["recorded"][steps], leads["searched"][steps]
                cells += [f"{ours:+.1f} ({winner(ours)})", f"{theirs:+.1f} ({winner(theirs)})"]
                if {winner(ours), winner(theirs)} == {*PAIR}:
                    differs.append(f"another winner after {steps}")
                elif abs(ours - theirs) > 5:
                    differs.append(f"more than 5 points apart after {steps}")
            lines.append(f"| {h:g} | {k} | {' | '.join(cells)} | {', '.join(differs)} |")
        lines.append("")
    return "\n".join(lines)


def record(task: str, h: float, steps: dict[str, Found]) -> None:
    """What was found at a place, into the record of its task; at heterogeneity 1 in place of what stands there."""
    for name, found in steps.items():
        number = next(str(n) for n in NUMBERS if n >= found["number"])
        write((task, name, "Adam", number), f"{h:g}", {f: v for f, v in found.items() if f != "number"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {TASKS}")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--compare", action="store_true")
    given = parser.parse_args()
    asked = given.tasks or TASKS
    if given.record and not given.tasks:
        parser.error("--record wants to be told for which tasks")
    torch.set_num_threads(1)
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    for place in ((task, h, k) for task in TASKS if task in asked for h, k in PLACES):
        name = f"{place[0]} {place[1]:g} {place[2]}"
        began = time.perf_counter()
        if given.record:
            if "steps" in found.get(name, {}) and place[1] in H:
                record(*place[:2], found[name]["steps"])
            continue
        if (name in found) != given.compare:
            continue
        leads = found[name] | {"recorded": _leads(shown(*place))} if given.compare else at(*place)
        print(name, leads, f"{time.perf_counter() - began:.0f} s", flush=True)
        found = (json.loads(FOUND.read_text()) if FOUND.exists() else {}) | {name: leads}
        FOUND.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        TABLE.write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
