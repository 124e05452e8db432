"""A study in one sentence: who leads on which clients, by how much, and whether the seeds agree (``fmlab.judge``)."""

from __future__ import annotations

import textwrap
from collections.abc import Container
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import fmlab as fm
from fmlab.judgement import still_falling
from fmlab.report import flown
from lab.plots.whose import after_steps, one_each, own_models

if TYPE_CHECKING:
    from fmlab.optimisers import Optimiser
    from fmlab.study import Study


def sentence(study: Study, k: int | None = None, quantity: str = "loss", clients: str = "unseen") -> str:
    """Who leads after k steps (None: all), or with clients' own models, by how much and in how many seeds, at the
    rounds so far; whether their servers differ, whether the curves still fall, and which runs diverged."""
    k = study.steps if k is None else k
    each = one_each(study, k, quantity, clients)
    when = "before adaptation" if k == 0 else f"after {k} adaptation step{'s' * (k > 1)}"
    done, planned = int(study.rounds[-1]), study.config["rounds"]
    progress = "" if done == planned else f" at round {done} of {planned}"
    own = own_models(study, quantity, clients)
    verdict = fm.judge(study, k, quantity, None if clients == "unseen" else each)
    said = _verdict(verdict, quantity, clients, f"{when}{progress}", k, own)
    parts = [said, *_beside(study, verdict, quantity), diverged(study, clients)]
    return " ".join(filter(None, parts))


def wrapped(text: str) -> str:
    """In lines that a notebook's page need not break inside a word."""
    return textwrap.fill(text, 100, subsequent_indent="  ")


def _verdict(v: fm.Verdict, quantity: str, clients: str, when: str, k: int, own: Container[str]) -> str:
    if v.outcome == "none":
        return f"No method has a finite loss on {clients} clients {when}."
    names = {name: called(name, k) for name in (v.best, v.against)}
    begin = f"On {clients} clients {when},"
    if v.best in own or v.against in own:  # whose number is which has to be said
        begin = f"On {clients} clients,"
        names = {name: f"{said} ({'each with its own model' if name in own else when})" for name, said in names.items()}
    ours, theirs = (_number(value, quantity) for value in (v.ours, v.theirs))
    has = f"a {'median ' * v.median}loss of {ours}" if quantity == "loss" else f"{ours} correct"
    if v.outcome == "alone":
        return f"{begin} {names[v.best]} has {has}."
    values = f"{has} against {theirs}"
    if v.outcome == "level":
        return f"{begin} {names[v.best]} and {names[v.against]} are level: {values}."
    unit = "what the trivial predictor loses" if quantity == "loss" else "what the trivial predictor gets wrong"
    lead = f"{100 * v.lead:.0f} % of {unit}"
    if v.outcome == "open":
        wins = f"{v.wins} of {v.seeds} seeds" if v.seeds > 1 else "the only seed"
        begin = (
            f"{begin} it is open: {names[v.best]} has {values} of {names[v.against]}, {lead}, and is ahead in {wins}"
        )
        return f"{begin}, but seeds or single clients decide." if v.wins == v.seeds else f"{begin}."
    agree = {v.wins: f"in {v.wins} of {v.seeds} seeds", v.seeds: f"all {v.seeds} seeds agree"}[v.wins]
    agree = "one seed only" if v.seeds == 1 else "both seeds agree" if (v.wins, v.seeds) == (2, 2) else agree
    return f"{begin} {names[v.best]} leads with {values} of {names[v.against]}, {lead}; {agree}."


def _beside(study: Study, v: fm.Verdict, quantity: str) -> list[str]:
    """What else a reader has to know of a lead, or of the lack of one."""
    said = []
    servers = {name: study.setup.algorithms[name].server for name in (v.best, v.against) if name}
    if v.outcome in ("lead", "open") and len({_kind(s) for s in servers.values()}) > 1:
        steps = " and ".join(f"{_server(server)} for {name}" for name, server in servers.items())
        said.append(f"Their servers differ, {steps}: a part of it is the optimiser's.")
    if v.outcome == "open" and still_falling(study, v.best, quantity):
        said.append("The curves still fall: more rounds would tell more.")
    return said


def _server(server: Optimiser) -> str:
    plain = server == fm.SGD()
    return "the plain mean" if plain else f"{type(server).__name__}({server.lr:g})"  # type: ignore[attr-defined]


def _kind(server: Optimiser) -> tuple[Any, ...]:
    """What of an optimiser is no step size; those are searched for every method alike."""
    return type(server), *(getattr(server, f.name) for f in fields(server) if f.name != "lr")


def called(name: str, k: int = 1) -> str:
    return "fine-tuned FedAvg" if name == "FedAvg" and k else name


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


def _number(value: float, quantity: str) -> str:
    return f"{value:.2g}" if quantity == "loss" else f"{100 * value:.0f} %"
