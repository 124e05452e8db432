"""The step size of adaptation, chosen on validation clients: no training, for every method alike, at each evaluation.

It is the one setting that has to follow how unlike the clients are: where all are alike a trained model is best left
nearly as it is, where they differ it wants steps of full length. A field that is ``validated(a)`` takes a/4, a/2, a or
2a, in each run (seed, and value of a sweep) by itself: the one with the lowest query loss of that run's validation
clients, mean over adaptation steps 1..steps. Where validation cannot tell, the smallest is taken: unless the best is
better than it by more than one standard error of the difference, client by client.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmlab.algorithms import Algorithm
from fmlab.data import Tree
from fmlab.declare import Validated, step_sizes
from fmlab.evaluation import evaluate
from fmlab.setup import Setup


def adapts_by(algorithm: Algorithm) -> str | None:
    """The field that is the adaptation step size, where the method has one."""
    found = step_sizes(algorithm, ("adaptation",))
    return found[0] if found else None


def settled(setup: Setup, algorithm: Algorithm, held: Tree) -> tuple[Algorithm, Tensor | None]:
    """The algorithm, spread over the R runs, with its adaptation step size chosen for what the server holds (R, 1, .);
    and the chosen one (R,), None for a method without."""
    algorithm, name = setup.spread(algorithm), adapts_by(algorithm)
    if name is None:
        return algorithm, None
    value: Any = getattr(algorithm, name)
    some = next(iter(held.values()))
    if not isinstance(value, Validated):
        given = torch.as_tensor(value, dtype=some.dtype, device=some.device).flatten()
        return algorithm, given.expand(len(some)).clone()
    losses = []
    for size in value.candidates:
        tried: dict[str, Any] = {name: size}
        scores = evaluate(replace(algorithm, **tried), setup.objective, held, setup.validation, setup.config["steps"])
        loss = scores.loss[..., 1:].nan_to_num(nan=setup.useless).clamp(max=setup.useless)
        losses.append(loss.mean(-1))
    chosen = some.new_tensor(value.candidates)[pick(torch.stack(losses))]
    return using(algorithm, chosen), chosen


def pick(losses: Tensor) -> Tensor:
    """The places (R,) of the chosen among candidates in rising order, of their losses (candidates, R, clients)."""
    best = losses.mean(-1).argmin(0)
    gain = losses[0] - losses[best, torch.arange(losses.shape[1], device=losses.device)]
    error = gain.std(-1, correction=0) / losses.shape[-1] ** 0.5  # 0 for a client alone: the best is taken
    return torch.where(gain.mean(-1) > error, best, 0)


def using(algorithm: Algorithm, chosen: Tensor | None) -> Algorithm:
    """The algorithm with the chosen adaptation step sizes (R,), one for each run."""
    name = adapts_by(algorithm)
    if name is None or chosen is None or not isinstance(getattr(algorithm, name), Validated):
        return algorithm
    changed: dict[str, Any] = {name: chosen.view(-1, 1, 1)}
    return replace(algorithm, **changed)
