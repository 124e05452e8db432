"""Whose scores a plot or a sentence is about: clients that never took part, or those that did, of whom each has a model
of its own where the method keeps one (``fmlab.algorithms.base.Algorithm.personal``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fmlab.study import Study

CLIENTS = ("unseen", "participating")


def after_steps(study: Study, quantity: str = "loss", clients: str = "unseen") -> Mapping[str, Tensor]:
    """(seeds, clients, steps + 1) by method, after 0..steps adaptation steps. ValueError for other ``clients``.

    The participating ones are scored when first asked for, which takes a second or more, and only at a run's end: what
    a run in progress would say of them is not what their own models are compared with."""
    if clients not in CLIENTS:
        raise ValueError(f"clients = {clients!r} is not one of {CLIENTS}")
    if clients == "unseen":
        return study.adaptation if quantity == "loss" else study.accuracy
    if study.kept is None:
        raise ValueError("participating clients are scored at the end of a run, and this one goes on")
    return study.participating if quantity == "loss" else study.participating_accuracy


def own_models(study: Study, quantity: str = "loss", clients: str = "unseen") -> Mapping[str, Tensor]:
    """(seeds, clients) by method, of the methods that leave these clients models of their own: for unseen ones none."""
    if clients == "unseen":
        return {}
    return study.personal if quantity == "loss" else study.personal_accuracy


def one_each(study: Study, k: int, quantity: str = "loss", clients: str = "unseen") -> dict[str, Tensor]:
    """(seeds, clients) by method: each client's own model where it has one, else after k steps."""
    own = own_models(study, quantity, clients)
    return {name: own.get(name, t[..., k]) for name, t in after_steps(study, quantity, clients).items()}
