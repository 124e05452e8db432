"""The exercises of the lessons: one function each, named as in ``lab.check("name", answer)``.

To add one, write a function of the answer here: its docstring says what is wanted, and it yields (passed, hint)
pairs in the order in which a reader should put things right; the first that did not pass is shown. What the answer is
compared with is computed by fmlab when the check runs, and no hint contains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import fmlab as fm

Steps = Iterator[tuple[Any, str]]


def _near(answer: Any, truth: Any, within: float = 0.01) -> bool:
    """Same shape, and closer than ``within`` of the truth's size."""
    a, t = (torch.as_tensor(v, dtype=torch.float64) for v in (answer, truth))
    return a.shape == t.shape and bool((a - t).norm() <= within * t.norm())


def megabytes(answer: Any) -> Steps:
    """A number: the megabytes (10^6 bytes), both ways together, of 300 rounds of FedAvg with 25 clients a round."""
    study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], fm.Sines(), rounds=1, seeds=1, evaluations=1, steps=1)
    truth = 300 * float(study.bytes["FedAvg"].flatten()[-1]) / 1e6
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    yield not _near(answer, truth / 2), "This is one way only: the server also sends its model to every client."
    yield not _near(answer, truth * 1e6), "These are bytes; a megabyte is a million of them."
    yield not _near(answer, truth / 25), "This is one client; there are 25 in a round."
    yield not _near(answer, truth / 4), "A number takes four bytes."
    yield _near(answer, truth), "Multiply: rounds, clients, parameters of the model, bytes of a number, two ways."


def where_fedavg_settles(answer: Any) -> Steps:
    """A number: the model at which FedAvg settles on the two clients, to three digits."""
    curvature, minimum = torch.tensor([1.0, 4.0]).double(), torch.tensor([0.0, 1.0]).double()
    left = (1 - 0.1 * curvature) ** 10  # what ten steps leave of the distance to the client's own minimum
    truth = ((1 - left) * minimum).sum() / (1 - left).sum()
    yield torch.as_tensor(answer).numel() == 1, "One number is wanted."
    best = (curvature * minimum).sum() / curvature.sum()
    yield not _near(answer, best, 1e-3), "This is the minimum of the mean loss; ten local steps do not settle there."
    yield _near(answer, truth, 2e-3), "At the fixed point a round changes nothing: w = mean of (m_i + c_i (w - m_i))."
