"""Several algorithms on the same clients, batches and budget, scored on clients that never took part.

``stream`` yields a ``Study`` at every evaluation, so that a panel can draw a run as it goes; ``compare`` returns the
last. Clients, fresh models, participation and minibatches are functions of the seed, so all algorithms meet the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmlab.algorithms import Algorithm
from fmlab.declare import spread, sweep_length
from fmlab.engine import State
from fmlab.evaluation import evaluate, personal
from fmlab.models import Model
from fmlab.populations import Population
from fmlab.setup import Setup, prepare
from fmlab.study import Study
from fmlab.tuning import recorded, tuned

Algorithms = Sequence[Algorithm] | Mapping[str, Algorithm]


def compare(
    algorithms: Algorithms,
    clients: Population,
    *,
    rounds: int = 300,
    seeds: int | Sequence[int] = 3,
    clients_per_round: int = 25,
    steps: int = 5,
    evaluations: int = 10,
    model: Model | None = None,
    weights: str = "uniform",
    tune: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Study:
    """Train every algorithm on ``clients`` and score it on unseen ones after 0..steps adaptation steps.

    Args:
        algorithms: a list (keys are the class names) or a dict that names them; fields may be ``fm.sweep(...)``.
        clients: the population.
        rounds: communication rounds, >= 1.
        seeds: how many (0, 1, ...), or the seeds themselves; each draws its own clients and initial model.
        clients_per_round: clients that take part in a round, at most ``clients.n_clients``.
        steps: adaptation steps on the support set of an unseen client, >= 1.
        evaluations: how often the learning curves are taken, evenly over the rounds (and once before training).
        model: overrides the population's own.
        weights: the server's mean, "uniform" over clients or by "size".
        tune: search the step sizes of every algorithm on the validation clients, over the same grid.
        dtype: None is torch's default dtype, float32 unless ``torch.set_default_dtype`` says otherwise. float64 takes
            about twice as long and prints the same digits on every machine.
        device: where to train, for example "cpu" or "cuda".

    Raises:
        ValueError, TypeError: before any training, naming the argument, its value, the range and the way out.
    """
    options = {k: v for k, v in locals().items() if k not in ("algorithms", "clients")}
    *_, last = stream(algorithms, clients, **options)
    return last


@torch.no_grad()
def stream(
    algorithms: Algorithms,
    clients: Population,
    *,
    on_round: Callable[[int], object] | None = None,
    **options: Any,
) -> Iterator[Study]:
    """As ``compare``, but yields the study so far at every evaluation, the first before training.

    ``on_round(t)`` is called after every round t of all algorithms; what it raises ends the run (cancellation). Where
    it returns true, the study is yielded at this round too, for showing: later studies do not keep that evaluation.
    Where it returns "models", it is the last study with this round's models in it, which costs nothing.
    """
    began = time.perf_counter()
    setup = prepare(algorithms, clients, **options)
    setup = tuned(setup) if setup.config["tune"] else recorded(setup)
    states = {name: setup.run(a) for name, a in setup.algorithms.items()}
    taken: list[int] = []
    losses: dict[str, list[Tensor]] = {name: [] for name in states}
    hits: dict[str, list[Tensor]] = {name: [] for name in states}
    study: Study | None = None
    last = setup.config["rounds"]
    try:
        for t in range(last + 1):
            now = {name: next(states[name]) for name in states}
            asked = on_round(t) if on_round is not None else None
            if asked == "models" and study is not None and t not in setup.evaluated:
                servers = {n: s.server.unflatten(0, study.adaptation[n].shape[:-2]) for n, s in now.items()}
                yield replace(study, servers=servers)
            elif asked or t in setup.evaluated:
                taken.append(t)
                study = _study(setup, now, taken, losses, hits, final=t == last, began=began)
                yield study
                if t not in setup.evaluated:
                    del taken[-1]
                    for series in (*losses.values(), *hits.values()):
                        del series[-1:]
    finally:
        setup.forget()


def _study(
    setup: Setup,
    now: dict[str, State],
    taken: list[int],
    losses: dict[str, list[Tensor]],
    hits: dict[str, list[Tensor]],
    *,
    final: bool,
    began: float,
) -> Study:
    """The study after the rounds so far; appends this evaluation to ``losses`` and ``hits``."""
    config, n_seeds = setup.config, len(setup.config["seeds"])
    dtype, device = setup.start.dtype, setup.start.device
    adaptation, accuracy, up, evaluations, kept = {}, {}, {}, {}, {}
    for name, state in now.items():
        algorithm = setup.algorithms[name]
        values = sweep_length(algorithm)
        shape = (values, n_seeds) if values > 1 else (n_seeds,)
        wide = spread(algorithm, n_seeds, dtype, device)
        scores = evaluate(wide, setup.objective, state.server, setup.unseen, config["steps"])
        adaptation[name] = scores.loss.unflatten(0, shape)
        losses[name].append(adaptation[name].mean(-2))
        if scores.accuracy is not None:
            accuracy[name] = scores.accuracy.unflatten(0, shape)
            hits[name].append(accuracy[name].mean(-2))
        client_rounds = torch.tensor(taken, dtype=torch.float64) * config["clients_per_round"]
        up[name] = client_rounds * state.bytes_per_client
        spent = wide.evaluations()
        if isinstance(spent, Tensor):
            spent = spent.view(values, n_seeds)[:, :1].to("cpu", torch.float64)
        evaluations[name] = client_rounds * spent
        if final and state.kept is not None and state.kept.shape[-1] == setup.start.shape[-1]:
            kept[name] = personal(setup.objective, state.kept, setup.participating).unflatten(0, shape)
    return Study(
        setup=setup,
        rounds=torch.tensor(taken),
        adaptation=adaptation,
        accuracy=accuracy,
        learning={name: torch.stack(ts, -2) for name, ts in losses.items()},
        learning_accuracy={name: torch.stack(ts, -2) for name, ts in hits.items() if ts},
        personal=kept,
        bytes_up=up,
        gradient_evaluations=evaluations,
        diverged={name: s.diverged.unflatten(0, adaptation[name].shape[:-2]) for name, s in now.items()},
        servers={name: s.server.unflatten(0, adaptation[name].shape[:-2]) for name, s in now.items()},
        seconds=time.perf_counter() - began,
    )
