"""T. Dinh et al. 2020 (2006.08848), pFedMe, on Synthetic(0.5, 0.5): the authors' protocol with fmlab's pieces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

import fmlab as fm
from benchmarks.papers.ledger import Found, Ledger, markdown, spread
from fmlab.data import Clients, Examples
from fmlab.populations.synthetic import FEATURES
from fmlab.randomness import normal

TITLE = "T. Dinh et al. 2020 (2006.08848), pFedMe, table 1: Synthetic(0.5, 0.5)"
TRAIN = 0.75


@lru_cache(maxsize=1)
def _rows(population: Whole, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """All examples of all training clients, client by client: x (n, 60), y (n,), and how many each has (N,)."""
    w, b, v = population.laws("training", seed)
    sizes = population.sizes("training", seed)
    x = v.repeat_interleave(sizes, 0)
    x += torch.arange(1, FEATURES + 1) ** -0.6 * normal((len(x), FEATURES), "all examples", seed)
    y = torch.cat([(e @ w[k] + b[k]).argmax(-1) for k, e in enumerate(x.split(sizes.tolist()))])
    return x.float(), y, sizes


@dataclass(frozen=True)
class Whole(fm.Synthetic):
    """Every example of the published clients, 250 to 25,810 each; the first 75 % train, the others test. A training
    client's support and query sets are halves of the 75 %; as a participating one it adapts on all of them."""

    def draw(self, split: str, seed: int) -> Clients:
        if split not in ("training", "participating"):
            return super().draw(split, seed)
        x, y, sizes = _rows(self, seed)
        first = sizes.cumsum(0) - sizes
        trained = (TRAIN * sizes).long()
        middle = trained // 2 if split == "training" else trained
        last = trained if split == "training" else sizes

        def part(start: Tensor, stop: Tensor) -> Examples:
            n = stop - start
            rows = first[:, None] + start[:, None] + torch.arange(int(n.max()))
            real = torch.arange(rows.shape[1]) < n[:, None]
            rows = torch.where(real, rows, 0)
            return Examples(rows[None], y[rows][None], (real / n[:, None]).double()[None])

        return Clients(part(torch.zeros_like(middle), middle), part(middle, last), sizes.double()[None], bank=x)


BATCH: dict[str, Any] = {"batch_size": 20}
# Settings: the authors' README, as far as it is known (published-numbers: sure).
SOFTMAX: dict[str, Any] = {
    "FedAvg": fm.FedAvg(local_steps=20, lr=0.02, adapt_lr=0.02, **BATCH),
    "Per-FedAvg": fm.PerFedAvg("HF", local_steps=20, inner_lr=0.02, lr=0.002, adapt_lr=0.02, **BATCH),
    "pFedMe": fm.PFedMe(20.0, 2.0, local_rounds=20, inner_steps=5, inner_lr=0.01, lr=0.01, adapt_lr=0.01, **BATCH),
    "Ditto": fm.Ditto(lam=0.1, local_steps=20, lr=0.02, adapt_lr=0.02, **BATCH),
}
NETWORK: dict[str, Any] = {
    "FedAvg": fm.FedAvg(local_steps=20, lr=0.03, adapt_lr=0.03, **BATCH),
    "Per-FedAvg": fm.PerFedAvg("HF", local_steps=20, inner_lr=0.01, lr=0.001, adapt_lr=0.01, **BATCH),
    "pFedMe": fm.PFedMe(30.0, 2.0, local_rounds=20, inner_steps=5, inner_lr=0.01, lr=0.01, adapt_lr=0.01, **BATCH),
    "Ditto": fm.Ditto(lam=0.1, local_steps=20, lr=0.03, adapt_lr=0.03, **BATCH),
}
MODELS: dict[str, tuple[dict[str, Any], Any]] = {"softmax": (SOFTMAX, None), "network": (NETWORK, fm.MLP((60, 20, 10)))}
PAPER = {  # unsure: remembered, not confirmed; by example
    ("softmax", "FedAvg", "global"): "77.62",
    ("softmax", "Per-FedAvg", "adapted"): "81.49; 81.04 in a rerun after a fix (sure)",
    ("softmax", "pFedMe", "global"): "78.65",
    ("softmax", "pFedMe", "own"): "83.20",
    ("network", "FedAvg", "global"): "83.64",
    ("network", "Per-FedAvg", "adapted"): "85.01; 76.79 in a rerun after a fix (sure)",
    ("network", "pFedMe", "global"): "84.17",
    ("network", "pFedMe", "own"): "86.36",
}
SETTING = """
100 clients, all of their examples (seed 0: 205,795, from 250 to 25,810 a client), 75 % to train on, the others to
test on; 10 clients a round, averaged by size, {rounds} rounds (the authors: 600), minibatches of 20, R = 20, K = 5.
Step sizes, lambda and beta as the authors' repository has them. {seeds} seed(s): each draws its own clients. Accuracy
in % over all clients' test examples together ("by example", as in the paper), and the mean of the clients' accuracies
("by client"). "Adapted": 5 full-batch steps on the client's training examples.
"""
DIFFERENCES = """
**The paper's numbers are unsure**: remembered, not confirmed, except those marked. Differences, and why:

- The clients are drawn from the published law, with the published sizes, and are not the authors' very examples.
- The last round is shown here; the authors' repository reports the highest test accuracy of all rounds, and its
  weight decay of 0.001 on theta is left out.
- Per-FedAvg's published column had a bug in the baseline (adaptation on two test batches; the fix lowers the
  network's to 76.79). Here adaptation sees training examples alone.
- Fine-tuned FedAvg, which the paper lacks, is beside pFedMe's personal models; a predictor that only knows each
  client's majority class is too: accuracies near it say little.
- By client instead of by example, small clients count as much as large ones, and a global model loses most.
"""


def _scores(accuracy: Tensor, tests: Tensor) -> dict[str, float]:
    """accuracy (1, N), tests (N,) how many examples each client is tested on."""
    return {"example": float((accuracy[0] * tests).sum() / tests.sum()), "client": float(accuracy.mean())}


def _run(model: str, name: str, rounds: int, seed: int) -> Found:
    methods, net = MODELS[model]
    clients = Whole(alpha=0.5, beta=0.5, n_validation=2, n_unseen=2)
    study = fm.compare(
        {name: methods[name]}, clients, rounds=rounds, seeds=[seed], clients_per_round=10, weights="size", model=net,
        evaluations=1, dtype=torch.float32,
    )  # fmt: skip
    tests = (study.setup.participating.query.weight[0] > 0).sum(-1).float()
    steps = study.participating_accuracy[name]
    found = {"global": _scores(steps[..., 0], tests), "adapted": _scores(steps[..., -1], tests)}
    if name in study.personal_accuracy:
        found["own"] = _scores(study.personal_accuracy[name], tests)
    return found


def _majority(seed: int) -> Found:
    """Each client's most frequent class of its training examples."""
    _, y, sizes = _rows(Whole(alpha=0.5, beta=0.5), seed)
    right, tests = [], []
    for own in y.split(sizes.tolist()):
        n = int(TRAIN * len(own))
        right.append((own[n:] == own[:n].bincount().argmax()).double().mean())
        tests.append(len(own) - n)
    return {"own": _scores(torch.stack(right)[None], torch.tensor(tests))}


def table(ledger: Ledger, full: bool) -> str:
    rounds, seeds = (600, 3) if full else (150, 1)
    rows: list[list[object]] = [["model", "method", "which", "by example", "by client", "paper, by example", "s"]]
    for model in MODELS:
        for name in MODELS[model][0]:
            found = [
                ledger(f"{model} {name} rounds={rounds} seed={s}", partial(_run, model, name, rounds, s))
                for s in range(seeds)
            ]
            for which in ("global", "adapted", "own"):
                if which in found[0]:
                    cells = [spread([100 * f[which][by] for f in found]) for by in ("example", "client")]
                    paper = PAPER.get((model, name, which), "")
                    rows.append([model, name, which, *cells, paper, f"{sum(f['seconds'] for f in found):.0f}"])
    found = [ledger(f"majority seed={s}", partial(_majority, s)) for s in range(seeds)]
    cells = [spread([100 * f["own"][by] for f in found]) for by in ("example", "client")]
    rows.append(["", "majority class of each client", "own", *cells, "", ""])
    return f"{SETTING.format(rounds=rounds, seeds=seeds)}\n{markdown(rows)}\n{DIFFERENCES}"
