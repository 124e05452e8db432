"""Who leads, judged in one place for sentence, table and lessons.

A lead is what a method loses less than another on the same clients, and it is measured by what the trivial predictor
loses on them (its error, where accuracy is judged): 0.01 is much beside 0.02 and nothing beside 3. Of two methods

    level    the lead is below LEVEL of the trivial predictor's loss
    open     it is not, but seeds or single clients decide: it is within the standard deviation of the seeds' leads, or
             it is no lead in half of the seeds, or it falls below LEVEL without the one client that counts most
    lead     neither

Where clients flew away (``fmlab.report.flown``), the median client stands in for the mean, for every method. A method
whose training diverged in some seed is not ranked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fmlab.algorithms.fedavg import FedAvg
from fmlab.report import flown as flown_away

if TYPE_CHECKING:
    from fmlab.study import Study

LEVEL = 0.03


@dataclass(frozen=True)
class Verdict:
    """One comparison. Scores are losses, or shares correct where accuracy is judged."""

    outcome: str  # "lead", "open", "level"; "alone" with one method that can be ranked, "none" without any
    best: str = ""
    against: str = ""
    ours: float = float("nan")  # of ``best``: the mean over seeds of their mean (or median) clients
    theirs: float = float("nan")
    lead: float = float("nan")  # in parts of what the trivial predictor loses, >= 0
    trivial: float = float("nan")  # what it loses: its loss, or the share that it gets wrong; NaN where there is none
    wins: int = 0  # seeds in which ``best`` is ahead
    seeds: int = 0
    median: bool = False  # the median client stands for the mean
    flown: Mapping[str, int] | None = None  # clients of all seeds that flew away, by method, where there are any


@torch.no_grad()
def judge(
    study: Study, k: int | None = None, quantity: str = "loss", of: Mapping[str, Tensor] | None = None
) -> Verdict:
    """The best method after k adaptation steps (None: all) against fine-tuned FedAvg: the best of those on show, or,
    where one of them is the best, the best of the others. ``quantity``: "loss" or "accuracy". ``of``: scores (seeds,
    clients) by method, of other clients than the unseen ones after k steps. Swept methods are not ranked."""
    k = study.steps if k is None else k
    if of is None:
        of = {name: t[..., k] for name, t in (study.adaptation if quantity == "loss" else study.accuracy).items()}
        losses = {name: study.adaptation[name][..., k] for name in of}
    else:
        losses = dict(of) if quantity == "loss" else {}
    scores = {name: t.double() for name, t in of.items() if t.ndim == 2}
    trivial = trivial_error(study, quantity)
    ranked = [name for name in scores if (study.diverged[name] < 0).all()]
    gone = {name: int(flown_away(study, name, losses[name]).sum()) for name in ranked if name in losses}
    flown = {name: n for name, n in gone.items() if n}
    errors = {name: scores[name] if quantity == "loss" else 1 - scores[name] for name in ranked}
    errors = {name: e.nan_to_num(nan=float("inf"), posinf=float("inf")) for name, e in errors.items()}
    seeds = {name: e.median(-1).values if flown else e.mean(-1) for name, e in errors.items()}
    order = sorted((n for n in ranked if seeds[n].isfinite().all()), key=lambda n: float(seeds[n].mean()))
    unranked = Verdict("none", trivial=trivial or float("nan"), median=bool(flown), flown=flown or None)
    if not order:
        return unranked
    best, alone = order[0], len(order) == 1
    averaging = [isinstance(study.setup.algorithms[n], FedAvg) for n in order]
    others = [n for n, a in zip(order, averaging, strict=True) if a is not averaging[0]] or order[1:]
    ours, theirs = (float(seeds[n].mean()) for n in (best, best if alone else others[0]))
    if quantity == "accuracy":
        ours, theirs = 1 - ours, 1 - theirs
    if alone:
        return replace(unranked, outcome="alone", best=best, ours=ours, seeds=len(seeds[best]))
    against = others[0]
    leads = seeds[against] - seeds[best]  # (seeds,)
    unit = trivial or max(float(seeds[against].mean()), 1e-300)
    level = float(leads.mean()) < LEVEL * unit
    firm = _firm(leads, None if flown else errors[against] - errors[best], LEVEL * unit)
    return replace(
        unranked,
        outcome="level" if level else "lead" if firm else "open",
        best=best,
        against=against,
        ours=ours,
        theirs=theirs,
        lead=float(leads.mean()) / unit,
        wins=int((leads > 0).sum()),
        seeds=len(leads),
    )


def _firm(leads: Tensor, each: Tensor | None, level: float) -> bool:
    """Whether neither seeds nor one client decide: leads (S,) of the seeds, and of their clients (S, C)."""
    if 2 * int((leads > 0).sum()) <= len(leads):
        return False
    if len(leads) > 1 and float(leads.mean()) <= float(leads.std()):
        return False
    if each is None or each.numel() == 1:
        return True
    return float(each.sum() - each.max()) / (each.numel() - 1) >= level


def still_falling(study: Study, name: str, quantity: str = "loss") -> bool:
    """Whether more rounds would show: the last two evaluations differ by a hundredth of what the trivial predictor
    loses, or more."""
    curve = (study.history if quantity == "loss" else study.learning_accuracy)[name].double()
    curve = curve if quantity == "loss" else 1 - curve[..., -1]
    if curve.shape[-1] < 2:
        return False
    fall = float((curve[..., -2] - curve[..., -1]).mean())
    return fall >= 0.01 * (trivial_error(study, quantity) or float(curve[..., -2].mean()))


def trivial_error(study: Study, quantity: str = "loss") -> float | None:
    """What the predictor that learns nothing loses on unseen clients: its mean loss, or the share that it gets wrong.
    None where the objective has none, or where it loses nothing."""
    if quantity == "loss":
        return study.trivial_loss or None
    found = study.setup.trivial
    return 1 - float(found[1].mean()) or None if found is not None and found[1] is not None else None
