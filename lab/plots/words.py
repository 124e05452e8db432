"""A study in one sentence: who wins on which clients, by how much, and whether the seeds agree."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from fmlab.report import flown
from lab.plots.whose import after_steps, one_each, own_models

if TYPE_CHECKING:
    from torch import Tensor

    from fmlab.study import Study


def sentence(study: Study, k: int | None = None, quantity: str = "loss", clients: str = "unseen") -> str:
    """Who wins after k steps (None: all), or with clients' own models, by how much and in how many seeds, at the rounds
    so far; diverged runs are named. No winner is named where the methods' means are equal to two digits."""
    k = study.steps if k is None else k
    each = {name: t.double().mean(-1) for name, t in one_each(study, k, quantity, clients).items()}  # (seeds,)
    own = own_models(study, quantity, clients)
    finite = {name: s for name, s in each.items() if s.isfinite().all()}
    when = "before adaptation" if k == 0 else f"after {k} adaptation step{'s' * (k > 1)}"
    done, planned = int(study.rounds[-1]), study.config["rounds"]
    progress = "" if done == planned else f" at round {done} of {planned}"
    said = _verdict(finite, quantity, clients, f"{when}{progress}", own)
    return " ".join(filter(None, [said, diverged(study, clients)]))


def _verdict(finite: dict[str, Tensor], quantity: str, clients: str, when: str, own: Container[str]) -> str:
    sign = 1.0 if quantity == "loss" else -1.0
    if not finite:
        return f"No method has a finite loss on {clients} clients {when}."
    order = sorted(finite, key=lambda name: sign * float(finite[name].mean()))
    best = order[0]
    against = "FedAvg" if best != "FedAvg" and "FedAvg" in finite else order[min(1, len(order) - 1)]
    names = {best: called(best), against: called(against)}
    begin = f"On {clients} clients {when},"
    if best in own or against in own:  # whose number is which has to be said
        begin = f"On {clients} clients,"
        names = {name: f"{said} ({'each with its own model' if name in own else when})" for name, said in names.items()}
    if len(order) == 1:
        return f"{begin} {names[best]} has {_said(finite[best].mean(), quantity)}."
    ours, theirs = finite[best], finite[against]
    values = f"{_said(ours.mean(), quantity)} against {_number(theirs.mean(), quantity)} of {called(against)}"
    if _number(ours.mean(), quantity) == _number(theirs.mean(), quantity):
        return f"{begin} {names[best]} and {names[against]} are level: {values}."
    values = f"{_said(ours.mean(), quantity)} against {_number(theirs.mean(), quantity)} of {names[against]}"
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
    return f"{begin} {names[best]} wins with {values}{by}{agree}."


def called(name: str) -> str:
    return "fine-tuned FedAvg" if name == "FedAvg" else name


def diverged(study: Study, clients: str = "unseen") -> str:
    """One sentence for each method with a run that stopped being finite, or with clients who flew away in others."""
    said = []
    for name, rounds in study.diverged.items():
        gone = rounds[rounds >= 0]
        if len(gone):
            who = "in all seeds" if len(gone) == rounds.numel() else f"in {len(gone)} of {rounds.numel()} seeds"
            said.append(f"{name} diverged {who}, first in round {int(gone.min())}.")
    for name, loss in after_steps(study, "loss", clients).items():
        away = flown(study, name, loss)[study.diverged[name] < 0].any(-1)
        if away.any():
            said.append(f"{name} flew away while adapting on {int(away.sum())} of {away.numel()} {clients} clients.")
    return " ".join(said)


def _number(value: Tensor, quantity: str) -> str:
    return f"{float(value):.2g}" if quantity == "loss" else f"{100 * float(value):.0f} %"


def _said(value: Tensor, quantity: str) -> str:
    return f"a loss of {_number(value, quantity)}" if quantity == "loss" else f"{_number(value, quantity)} correct"
