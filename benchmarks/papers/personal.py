"""Personal models on one scenario: who gains, who loses, and what such a model is worth off its own distribution."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import fmlab as fm
from benchmarks.papers.ledger import Found, Ledger, markdown, spread
from fmlab.report import hurt, worst_tenth

TITLE = "Personal models on one scenario: mean, share hurt, worst tenth, and off their own distribution (2510.24503)"
METHODS: dict[str, Any] = {
    "local only": fm.LocalOnly(),
    "FedAvg, fine-tuned": fm.FedAvg(),
    "FedAvg, fine-tuned, server Adam": fm.FedAvg(server=fm.Adam()),
    "Ditto": fm.Ditto(),
    "pFedMe": fm.PFedMe(),
    "FedPer": fm.FedPer(),
    "FedRep": fm.FedRep(),
    "FedBABU": fm.FedBABU(),
    "FedMAML": fm.FedMAML(inner_steps=3),
}
SETTING = """
`fm.Watches`: which of seven exercises, from a watch's motion; a client is one arm, 12 train, 4 choose step sizes, 4
are never seen. {rounds} rounds with all 12, {seeds} seeds, 5 adaptation steps; step sizes of every method from the
same search on the validation arms (`tune=True`). Accuracy in %, mean ± standard deviation over seeds. Unseen arms
adapt the shared model on 14 windows. Participating arms use their own model, or where a method has none the shared
one after 5 steps; "other arms" scores the same model on five other arms' queries each
(`study.off_distribution_accuracy`). "Hurt": share of unseen arms whose loss rises by adapting.
"""
DIFFERENCES = """
**The papers.** FedPer (1912.00818), FedRep (2102.07078), FedBABU (2106.06042), Ditto (2012.04221) and pFedMe
(2006.08848) report CIFAR, FEMNIST and others with label skew and networks of their own, each against other
baselines: no number of theirs is for these clients, so none stands here. The question of the last column is
2510.24503's; its text could not be read here, so that the score is ours: the plain one, without retraining.

**What to read from it.** Methods with models of their own lead on their own arm: those models took all rounds of
local steps there, an adapted model took five. They pay on other arms: local-only training most, FedPer and FedRep,
whose heads never meet, next, and Ditto, which is pulled to the shared model, least. Fine-tuned FedAvg, FedBABU and
FedMAML are about as good on other arms as on their own. None wins both columns; on unseen arms, which is what a
shared model is for, no difference is larger than the spread but that to local-only training. Twelve arms of ten
people are few.
"""


def _run(name: str, rounds: int, seeds: int) -> Found:
    clients = fm.Watches()
    study = fm.compare(
        {name: METHODS[name]}, clients, rounds=rounds, seeds=seeds, evaluations=1, tune=True, dtype=torch.float32,
        clients_per_round=clients.n_clients,
    )  # fmt: skip
    unseen = study.accuracy[name][..., -1]
    own = study.personal_accuracy.get(name)
    own = study.participating_accuracy[name][..., -1] if own is None else own
    per_seed = {
        "before": study.accuracy[name][..., 0].mean(-1),
        "unseen": unseen.mean(-1),
        "unseen worst": worst_tenth(unseen, True),
        "hurt": hurt(study.adaptation[name]).double().mean(-1),
        "own": own.mean(-1),
        "own worst": worst_tenth(own, True),
        "others": study.off_distribution_accuracy[name].mean(-1),
    }
    return {k: t.tolist() for k, t in per_seed.items()} | {"megabytes": float(study.bytes[name].flatten()[-1]) / 1e6}


COLUMNS = {
    "before": "unseen, before",
    "unseen": "unseen, adapted",
    "unseen worst": "worst tenth",
    "hurt": "hurt",
    "own": "own arm",
    "own worst": "worst tenth",
    "others": "other arms",
}


def table(ledger: Ledger, full: bool) -> str:
    rounds, seeds = (300, 10) if full else (100, 3)
    rows: list[list[object]] = [["", *COLUMNS.values(), "MB", "s"]]
    for name in METHODS:
        found = ledger(f"{name} rounds={rounds} seeds={seeds}", partial(_run, name, rounds, seeds))
        cells = [spread([100 * v for v in found[k]], 1) for k in COLUMNS]
        rows.append([name, *cells, f"{found['megabytes']:.1f}", f"{found['seconds']:.0f}"])
    return f"{SETTING.format(rounds=rounds, seeds=seeds)}\n{markdown(rows)}\n{DIFFERENCES}"
