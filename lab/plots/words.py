"""A study in one sentence: who wins on unseen clients, by how much, and whether the seeds agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fmlab.report import flown

if TYPE_CHECKING:
    from torch import Tensor

    from fmlab.study import Study


def scores(study: Study, k: int, quantity: str = "loss") -> dict[str, Tensor]:
    """(seeds,) mean over unseen clients after k adaptation steps, by method."""
    source = study.adaptation if quantity == "loss" else study.accuracy
    return {name: t[..., k].double().mean(-1) for name, t in source.items()}


def sentence(study: Study, k: int | None = None, quantity: str = "loss") -> str:
    """Who wins after k steps (None: all), by how much and in how many seeds, at the rounds so far; diverged runs are
    named. No winner is named where the methods' means are equal to two digits."""
    k = study.steps if k is None else k
    each = scores(study, k, quantity)
    finite = {name: s for name, s in each.items() if s.isfinite().all()}
    when = "before adaptation" if k == 0 else f"after {k} adaptation step{'s' * (k > 1)}"
    done, planned = int(study.rounds[-1]), study.config["rounds"]
    progress = "" if done == planned else f" at round {done} of {planned}"
    return " ".join(filter(None, [_verdict(study, finite, quantity, f"{when}{progress}"), diverged(study)]))


def _verdict(study: Study, finite: dict[str, Tensor], quantity: str, when: str) -> str:
    sign = 1.0 if quantity == "loss" else -1.0
    if not finite:
        return f"No method has a finite loss on unseen clients {when}."
    order = sorted(finite, key=lambda name: sign * float(finite[name].mean()))
    best = order[0]
    if len(order) == 1:
        return f"On unseen clients {when}, {called(best)} has {_said(finite[best].mean(), quantity)}."
    against = "FedAvg" if best != "FedAvg" and "FedAvg" in finite else order[1]
    ours, theirs = finite[best], finite[against]
    values = f"{_said(ours.mean(), quantity)} against {_number(theirs.mean(), quantity)} of {called(against)}"
    if _number(ours.mean(), quantity) == _number(theirs.mean(), quantity):
        return f"On unseen clients {when}, {called(best)} and {called(against)} are level: {values}."
    wins, seeds = int((sign * ours < sign * theirs).sum()), len(ours)
    if quantity == "loss":
        by = f", {100 * float(1 - ours.mean() / theirs.mean()):.0f} % lower"
    else:
        by = f", {100 * float(ours.mean() - theirs.mean()):.0f} points more"
    if seeds == 1:
        agree = "; one seed only"
    elif wins == seeds:
        agree = f"; all {seeds} seeds agree"
    else:
        agree = f"; the seeds do not agree: it wins in {wins} of {seeds}"
    return f"On unseen clients {when}, {called(best)} wins with {values}{by}{agree}."


def called(name: str) -> str:
    return "fine-tuned FedAvg" if name == "FedAvg" else name


def diverged(study: Study) -> str:
    """One sentence for each method with a run that stopped being finite, or with clients who flew away in others."""
    said = []
    for name, rounds in study.diverged.items():
        gone = rounds[rounds >= 0]
        if len(gone):
            who = "in all seeds" if len(gone) == rounds.numel() else f"in {len(gone)} of {rounds.numel()} seeds"
            said.append(f"{name} diverged {who}, first in round {int(gone.min())}.")
    for name in study.names:
        away = flown(study, name)[study.diverged[name] < 0].any(-1)
        if away.any():
            said.append(f"{name} flew away while adapting on {int(away.sum())} of {away.numel()} unseen clients.")
    return " ".join(said)


def _number(value: Tensor, quantity: str) -> str:
    return f"{float(value):.2g}" if quantity == "loss" else f"{100 * float(value):.0f} %"


def _said(value: Tensor, quantity: str) -> str:
    return f"a loss of {_number(value, quantity)}" if quantity == "loss" else f"{_number(value, quantity)} correct"
