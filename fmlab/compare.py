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

from fmlab.algorithms import Algorithm
from fmlab.engine import Transform
from fmlab.interrupt import Interrupted, noticed
from fmlab.means import Mean
from fmlab.models import Model
from fmlab.optimisers import Optimiser
from fmlab.populations import Population
from fmlab.progress import Progress
from fmlab.setup import Setup, prepare
from fmlab.study import Study
from fmlab.tuning import recorded, tuned

Algorithms = Sequence[Algorithm] | Mapping[str, Algorithm]
OnRound = Callable[[int], object] | None


def compare(
    algorithms: Algorithms,
    clients: Population,
    *,
    rounds: int = 300,
    seeds: int | Sequence[int] = 3,
    clients_per_round: int | None = None,
    steps: int = 5,
    evaluations: int | Sequence[int] = 10,
    model: Model | None = None,
    weights: str = "uniform",
    server: Optimiser | None = None,
    transforms: Sequence[Transform] = (),
    mean: Mean | None = None,
    dropout: float = 0.0,
    sampling: str = "fixed",
    tune: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Study:
    """Train every algorithm on ``clients`` and score it on unseen ones after 0..steps adaptation steps.

    Args:
        algorithms: a list (keys are the class names) or a dict that names them; fields may be ``fm.sweep(...)``.
        clients: the population.
        rounds: communication rounds, >= 1.
        seeds: how many (0, 1, ...), or the seeds themselves; each draws its own clients and initial model; at
            most 10,000.
        clients_per_round: clients that take part in a round, at most ``clients.n_clients``; None: 25, or all of fewer.
        steps: adaptation steps on the support set of an unseen client, >= 1.
        evaluations: how often the learning curves are taken, evenly over the rounds (and once before training), or
            the rounds themselves, from 0 to the last.
        model: overrides the population's own.
        weights: the server's mean, "uniform" over clients or by "size".
        server: one optimiser for every method, so that a comparison is of the methods and not of their optimisers;
            None: each method's own, as its paper has it. Methods whose server takes no steps (LocalOnly, FedMA) have
            none.
        transforms: functions (sent, batch) -> sent of what clients send, named tensors (runs, clients, .), applied in
            this order before the mean; each changes every client's message by itself and keeps names and shapes:
            fm.Clip, fm.Noise, fm.Quantize, fm.TopK, fm.Liars, or one's own.
        mean: how the server makes one message of many, for example fm.Median(); None: their weighted mean. It does not
            go with FedMA, which matches messages before it takes their mean.
        dropout: share in [0, 1) of the sampled clients that never answer; what they keep stays as it was. A round in
            which nobody answers leaves the server as it was.
        sampling: "fixed": clients_per_round of the clients in every round, drawn without replacement. "poisson": each
            client by itself with probability clients_per_round / n_clients, so their number differs from round to
            round; the sum of what they send is divided by clients_per_round, see fm.privacy.epsilon.
        tune: search the step sizes of every algorithm on the validation clients, over the same grid.
        dtype: None is torch's default dtype, float32 unless ``torch.set_default_dtype`` says otherwise. float64 takes
            about twice as long and prints the same digits on every machine.
        device: where to train, for example "cpu" or "cuda".

    Ctrl-C ends the comparison after the round in progress, a second one at once; ``fm.interrupted()`` is then the
    study so far. During a search of step sizes, before any round, there is nothing to keep, and it ends at once.

    Raises:
        ValueError, TypeError: before any training, naming the argument, its value, the range and the way out.
    """
    options = {k: v for k, v in locals().items() if k not in ("algorithms", "clients")}
    began = time.perf_counter()
    setup = _ready(algorithms, clients, options)
    return _finished(setup, Progress(setup), began)


def stream(
    algorithms: Algorithms,
    clients: Population,
    *,
    on_round: OnRound = None,
    **options: Any,
) -> Iterator[Study]:
    """As ``compare``, but yields the study so far at every evaluation, the first before training.

    ``on_round(t)`` is called after every round t of all algorithms; what it raises ends the run (cancellation). Where
    it returns true, the study is yielded at this round too, for showing: later studies do not keep that evaluation.
    Where it returns "models", it is the last study with this round's models in it, which costs nothing.
    """
    began = time.perf_counter()
    setup = _ready(algorithms, clients, options)
    return _run(setup, Progress(setup), on_round, began)


def resume(study: Study, rounds: int, **other: Any) -> Study:
    """See ``Study.resume``."""
    done = int(study.rounds[-1])
    if other:
        raise TypeError(
            f"resume() goes on with the settings of the study and cannot change {sorted(other)}; "
            "fm.compare(**study.config | {...}) starts anew with others"
        )
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds <= done:
        raise ValueError(f"rounds = {rounds!r} is not a whole number > {done}, the rounds that the study has done")
    if study.kept is None:
        raise ValueError(
            "this study was yielded in the middle of a run, which has gone on; resume the last one of its run"
        )
    began = time.perf_counter() - study.seconds
    config = study.config
    asked = study.setup.evaluated  # of which a study that was stopped has not taken the last
    further = Setup(config | {"rounds": rounds, "evaluations": len(asked) - 1}).evaluated
    coming = {t for t in asked if t <= rounds} | {t for t in further if t > asked[-1]} | {rounds}
    evaluations = (*study.rounds.tolist(), *sorted(t for t in coming if t > done))
    setup = Setup(config | {"rounds": rounds, "evaluations": evaluations})
    return _finished(setup, Progress(setup, study), began)


def _ready(algorithms: Algorithms, clients: Population, options: dict[str, Any]) -> Setup:
    """Checked, and with every step size that was left open."""
    setup = prepare(algorithms, clients, **options)
    return tuned(setup) if setup.config["tune"] else recorded(setup)


def _finished(setup: Setup, progress: Progress, began: float) -> Study:
    """The study after all rounds. Ctrl-C raises Interrupted: after the round in progress; once more, at once."""
    planned = setup.config["rounds"]

    def stop(done: int) -> None:
        if pressed and done < planned:
            raise KeyboardInterrupt

    try:
        with noticed() as pressed:
            for study in _run(setup, progress, stop, began):
                stop(int(study.rounds[-1]))
    except KeyboardInterrupt:
        seconds = time.perf_counter() - began
        raise Interrupted(lambda: progress.whole(seconds), progress.round, planned) from None
    if pressed:  # in the last round, or while it was scored
        raise Interrupted(lambda: study, planned, planned)
    return study


@torch.no_grad()
def _run(setup: Setup, progress: Progress, on_round: OnRound, began: float) -> Iterator[Study]:
    """The study at every evaluation from where ``progress`` stands."""
    study: Study | None = None
    first, last = progress.round, setup.config["rounds"]
    try:
        for t in range(first, last + 1):
            if t > first:
                progress.advance()
            asked = on_round(t) if on_round is not None else None
            if asked == "models" and study is not None and t not in setup.evaluated:
                yield replace(study, states=progress.states, kept=None)
            elif (asked or t in setup.evaluated) and (t > first or first == 0):
                study = progress.study(time.perf_counter() - began, last=t == last)
                if t in setup.evaluated:
                    progress.keep(study)
                yield study
    finally:
        setup.forget()
