"""Few-shot learning on Omniglot: every method on the same clients, scored on alphabets that nobody trained on.

    python -m benchmarks.omniglot --root data/omniglot              every row; writes benchmarks/results/omniglot.md
    python -m benchmarks.omniglot --root ... --rounds 3000 1000     a longer run; fewer rows with --methods, --shots

``--root`` holds the published zips (``fm.Omniglot`` says which). Each row is one method at one number of shots, all
seeds in one batch. Step sizes come first: the same search for every method, on the validation alphabet of a seed that
is used for nothing else. A row that is in ``benchmarks/out/omniglot.json`` with the same settings is not run again, so
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import fmlab as fm
from fmlab.declare import pick, spread, step_sizes
from fmlab.evaluation import evaluate
from fmlab.models import conv
from fmlab.setup import prepare

HERE = Path(__file__).parent
GRID = (0.02, 0.05, 0.15, 0.4)  # of the step size in training
ADAPT_GRID = (0.02, 0.05, 0.1, 0.2, 0.4)
SERVER_GRID = (0.1, 0.3, 1.0)  # times the server's own step size
SEARCH_SEED = 100
VALIDATION, UNSEEN = 30, 60  # clients a seed
METHODS: dict[str, fm.Algorithm] = {
    "FedMAML": fm.FedMAML(inner_steps=1),
    "FOMAML": fm.FedMAML(inner_steps=1, first_order=True),
    "FedAvg, fine-tuned": fm.FedAvg(local_steps=5, batch_size=10),
    "FedReptile": fm.FedReptile(local_steps=5, batch_size=10),
    "Meta-SGD": fm.FedMetaSGD(inner_steps=1),
}


def population(a: argparse.Namespace, shots: int) -> fm.Omniglot:
    return fm.Omniglot(
        root=a.root,
        size=a.size,
        shots=shots,
        query=5,
        test=5,
        n_clients=a.clients,
        n_validation=VALIDATION,
        n_unseen=UNSEEN,
    )


def options(a: argparse.Namespace, shots: int) -> dict[str, Any]:
    return {
        "clients_per_round": a.clients_per_round,
        "steps": a.steps,
        "evaluations": 1,
        "model": conv(5, width=a.width, size=a.size, norm=a.norm),
        "dtype": torch.float32,
    }


@torch.no_grad()
def search(method: fm.Algorithm, a: argparse.Namespace, shots: int, bar: Any) -> fm.Algorithm:
    """The client's step sizes after ``search_rounds``, then the server's after three times as many."""
    (training,) = step_sizes(method, ("training",))
    start = replace(method, **dict.fromkeys(step_sizes(method), GRID[0]))
    best = _best(replace(start, **{training: fm.sweep(*GRID)}), a, shots, a.search_rounds, bar)
    server = best.server
    tried: dict[str, Any] = {"server": replace(server, lr=fm.sweep(*(server.lr * factor for factor in SERVER_GRID)))}
    return _best(replace(best, **tried), a, shots, 3 * a.search_rounds, bar)


def _best(tried: fm.Algorithm, a: argparse.Namespace, shots: int, rounds: int, bar: Any) -> fm.Algorithm:
    """The swept value and the adaptation step size with the best accuracy of validation clients over 1..steps steps."""
    setup = prepare([pick(tried, 0)], population(a, shots), seeds=(SEARCH_SEED,), **options(a, shots))
    held = None
    for state in islice(setup.run(tried), rounds + 1):
        held = state.held
        bar.update()
    assert held is not None
    found = []
    adaptation = step_sizes(tried, ("adaptation",))
    for size in ADAPT_GRID if adaptation else (None,):
        each = replace(tried, **dict.fromkeys(adaptation, size))
        wide = spread(each, 1, torch.float32, torch.device("cpu"))
        accuracy = evaluate(wide, setup.objective, held, setup.validation, a.steps).accuracy
        assert accuracy is not None
        scores = torch.nan_to_num(accuracy)[..., 1:].mean((1, 2)).tolist()
        found += [(score, pick(each, k)) for k, score in enumerate(scores)]
    return max(found, key=lambda s: s[0])[1]


def row(name: str, a: argparse.Namespace, shots: int, rounds: int) -> dict[str, Any]:
    """One method at one number of shots: accuracy after 0..steps steps and its 95 % half width."""
    wall, cpu = time.perf_counter(), time.process_time()
    with tqdm(total=rounds + 4 * a.search_rounds + 3, desc=f"{shots}-shot {name}", unit="round") as bar:
        chosen = search(METHODS[name], a, shots, bar)
        *_, study = fm.stream(
            {name: chosen},
            population(a, shots),
            rounds=rounds,
            seeds=a.seeds,
            on_round=lambda _: bar.update() and None,
            **options(a, shots),
        )
    accuracy = 100 * study.accuracy[name].double()  # (seeds, clients, steps + 1)
    return {
        "mean": accuracy.mean((0, 1)).tolist(),
        "half": half_width(accuracy).tolist(),
        "seeds": accuracy.mean(1).tolist(),
        "step_sizes": {f: getattr(chosen, f) for f in step_sizes(chosen)} | {"server": chosen.server.lr},
        "diverged": int((study.diverged[name] >= 0).sum()),
        "up_mb": study.bytes_up[name].flatten()[-1].item() / 1e6,
        "minutes": (time.perf_counter() - wall) / 60,
        "cpu_minutes": (time.process_time() - cpu) / 60,
    }


def half_width(accuracy: torch.Tensor) -> torch.Tensor:
    """(seeds, clients, k) -> (k,): Student's t over the seeds' means, each seed with alphabets and start of its own."""
    from scipy.stats import t

    seeds = accuracy.mean(1)
    n = len(seeds)
    if n < 2:
        return torch.full_like(seeds[0], math.nan)
    return t.ppf(0.975, n - 1) * seeds.std(0) / math.sqrt(n)


def settings(a: argparse.Namespace, shots: int, rounds: int) -> dict[str, Any]:
    """All that decides a row, apart from its method."""
    keys = ("size", "width", "norm", "clients", "clients_per_round", "steps", "seeds", "search_rounds")
    names = sorted({alphabet for alphabet, _ in population(a, shots).characters()})
    return {k: getattr(a, k) for k in keys} | {"shots": shots, "rounds": rounds, "alphabets": names}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one table a number of shots and rounds, its settings under it."""
    text = [
        "# 5-way classification of characters from alphabets never trained on",
        "",
        "Written by `python -m benchmarks.omniglot`; every number below comes from that script. Share correct in % on "
        "the query sets of unseen clients, mean ± half width of the 95 % interval (Student's t over the seeds; each "
        "seed holds out alphabets of its own and starts from a model of its own, so the interval holds both). Chance "
        "is 20 %.",
        "",
        "Where a method stands at two budgets, their difference is what more rounds bring. What they cannot bring is "
        "more characters: published figures train on the full set's, the alphabets here are named under each table.",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        groups.setdefault(json.dumps(r["settings"], sort_keys=True), []).append(r)
    for key, group in groups.items():
        s = json.loads(key)
        last = s["steps"]
        text += [
            "",
            f"## {s['shots']}-shot, {s['rounds']} rounds",
            "",
            f"| method | before | after 1 step | after {last} steps | seed by seed, {last} steps | step sizes found | "
            "sent up, MB | min (CPU) |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for r in group:
            cells = [f"{r['mean'][k]:.1f} ± {r['half'][k]:.1f}" for k in (0, 1, last)]
            seeds = " / ".join(f"{seed[last]:.1f}" for seed in r["seeds"])
            sizes = ", ".join(f"{k} {v:g}" for k, v in r["step_sizes"].items())
            note = f"; {r['diverged']} of {s['seeds']} seeds diverged" if r["diverged"] else ""
            time_spent = f"{r['minutes']:.1f} ({r['cpu_minutes']:.1f})"
            columns = [r["method"] + note, *cells, seeds, sizes, f"{r['up_mb']:.0f}", time_spent]
            text.append(f"| {' | '.join(columns)} |")
        text += [
            "",
            f"{s['seeds']} seeds, {s['clients']:,} training clients, {s['clients_per_round']} a round, {UNSEEN} unseen "
            f"clients a seed; {s['shots']} support and 5 query examples a class. {len(s['alphabets'])} alphabets "
            f"({', '.join(a.replace('_', ' ') for a in s['alphabets'])}), of which 2 unseen and 1 for validation, "
            "drawn by the seed; training characters also turned by 90, 180, 270 degrees. Images "
            f"{s['size']} x {s['size']}; four convolutions of {s['width']} filters, stride 2, {s['norm']} "
            "normalisation, head from zero; float32. Local methods take 5 steps on minibatches of 10, meta methods 1 "
            f"inner step; servers are of the classes' default kind. Step sizes: {s['search_rounds']} rounds on seed "
            f"{SEARCH_SEED} for each of {GRID} in training and of {ADAPT_GRID} in adapting, by accuracy on "
            f"{VALIDATION} validation clients; then {3 * s['search_rounds']} rounds for the server's own step size "
            f"times each of {SERVER_GRID}. MB: one run, all clients. Minutes: on the wall, pauses and "
            "whatever else the machine did included, and of the processor; search and scoring are in both. The budget "
            f"is small: {s['rounds'] * s['clients_per_round']:,} client tasks a seed.",
        ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/omniglot", help="where the published zips stand")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--rounds", type=int, nargs="+", default=[1000, 300], help="one number for each of --shots")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--clients-per-round", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--search-rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=20)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--norm", default="group")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=HERE / "out" / "omniglot.json")
    parser.add_argument("--table", type=Path, default=HERE / "results" / "omniglot.md")
    a = parser.parse_args()
    if len(a.rounds) != len(a.shots):
        parser.error(f"--rounds {a.rounds} needs one number for each of --shots {a.shots}")
    torch.set_num_threads(a.threads)
    for shots, rounds in zip(a.shots, a.rounds, strict=True):
        wanted = settings(a, shots, rounds)
        for name in a.methods:
            done = stored(a.store)
            if any(r["method"] == name and r["settings"] == wanted for r in done):
                continue
            new = {"method": name, "settings": wanted} | row(name, a, shots, rounds)
            rows = [*stored(a.store), new]
            a.store.parent.mkdir(parents=True, exist_ok=True)
            a.store.write_text(json.dumps(rows, indent=1))
            a.table.write_text(table(rows))
    a.table.write_text(table(stored(a.store)))
    print(a.table.read_text())


def stored(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


if __name__ == "__main__":
    main()
