"""Runs of lesson 8: FedAvg and FedMAML with the noise that a promise of privacy asks for.

All clients take part in every round, so that epsilon is exact and owes nothing to how clients are drawn. Both methods
have the same clip, which most messages of both are longer than, and the same optimiser at the server.
"""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import brentq

import fmlab as fm

POPULATION = {"n_clients": 200, "n_unseen": 50, "n_validation": 20}
MODEL = fm.MLP((1, 20, 20, 1))
ROUNDS, SMALL_ROUNDS, SEEDS, CLIP, DELTA, RATE = 50, 60, 3, 0.1, 1e-5, 0.05
METHODS = (fm.FedAvg(5, lr=RATE, adapt_lr=RATE), fm.FedMAML(1, inner_lr=RATE, adapt_lr=RATE))


def multiplier(epsilon: float, releases: int, delta: float = DELTA) -> float:
    """The least noise multiplier with which so many releases spend no more than epsilon, without sampling."""
    if epsilon == math.inf:
        return 0.0
    if not epsilon > 0:
        raise ValueError(f"epsilon = {epsilon!r} is not above 0; math.inf asks for no noise")
    return float(brentq(lambda z: fm.privacy.spent(z, releases, delta) - epsilon, 1e-3, 1e6, xtol=1e-9))


def train(clients: fm.Population, epsilon: float = math.inf, clip: float = CLIP, **options: Any) -> fm.Study:
    """A study of METHODS with the server's noise for epsilon at DELTA; math.inf: clipped, no noise."""
    rounds = options.get("rounds", ROUNDS)
    noise = fm.Noise(2 * clip * multiplier(epsilon, rounds), by="server")
    given = {"rounds": ROUNDS, "seeds": SEEDS, "clients_per_round": clients.n_clients, "steps": 1, "evaluations": 1}
    return fm.compare(
        METHODS, clients, **given | options, model=MODEL, transforms=[fm.Clip(clip), noise], server=fm.Adam(lr=0.02)
    )


def untrained(clients: fm.Population) -> float:
    """Mean loss of unseen clients after one step from the fresh model."""
    study = train(clients, rounds=1, clip=0.0)
    return float(study.adaptation["FedMAML"][..., 1].mean())


def small(
    clients: fm.Population, methods: Any = METHODS[1:], seeds: int = SEEDS, per_round: int = 10, **options: Any
) -> fm.Study:
    """FedMAML, or other ``methods``, with few clients a round, and what is asked for: ``transforms``, ``mean``."""
    given = {"rounds": SMALL_ROUNDS, "seeds": seeds, "clients_per_round": per_round, "steps": 1, "evaluations": 1}
    return fm.compare(methods, clients, **given, **options, model=MODEL, server=fm.Adam(lr=0.02))
