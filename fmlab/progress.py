"""A comparison while it runs: every method's rounds side by side, and the study of what they have done so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fmlab.adaptation import settled
from fmlab.algorithms import Algorithm
from fmlab.data import Tree
from fmlab.declare import lanes, sweep_length
from fmlab.engine import State, Store
from fmlab.evaluation import Scores, current, evaluate, personal
from fmlab.setup import Setup
from fmlab.study import SERIES, Study

Over = list[tuple[Tensor, Tree]]  # clients (R, C), and what they had before a round wrote over it


class Undoable(Store):
    """Notes what it writes over, so that a round that was broken off leaves no trace."""

    over: Over

    def put(self, places: Tensor, kept: Tree) -> None:
        self.over.append((places, self.take(places)))
        super().put(places, kept)

    def undo(self, over: Over) -> None:
        for places, kept in reversed(over):
            super().put(places, kept)


class Lane:
    """What of a method trains as one batch: all of it, or one value of a sweep of whole numbers or flags."""

    def __init__(self, algorithm: Algorithm, setup: Setup, state: State | None, kept: dict[str, Tensor] | None) -> None:
        self.algorithm, self.setup, self.store = algorithm, setup, Undoable(kept)
        self._states: Iterator[State] = setup.run(algorithm, self.store, state)
        self.state = next(self._states)
        self._begun: tuple[State, Over] = self.state, []

    def advance(self) -> None:
        over: Over = []
        self.store.over = over
        self._begun = self.state, over
        self.state = next(self._states)

    def rewind(self, round: int) -> None:
        """To where the last round began, if that is after ``round`` rounds; it may have been broken off anywhere."""
        state, over = self._begun
        if state.round == round:
            self.store.undo(over)
            self.state = state

    def scores(self) -> tuple[Scores, Tensor | None]:
        """On unseen clients, and the adaptation step sizes (R,) that they take."""
        setup, held = self.setup, self.state.held
        algorithm, chosen = settled(setup, self.algorithm, held)
        return evaluate(algorithm, setup.objective, held, setup.unseen, setup.config["steps"]), chosen

    def personal(self) -> Scores | None:
        setup = self.setup
        if type(self.algorithm).personal is Algorithm.personal:  # spares drawing the participating clients
            return None
        own, held, f = self.setup.spread(self.algorithm), self.state.held, setup.objective
        # For the score alone: the store stays as it is, for a run that goes on.
        kept = current(own, f, held, self.store.kept or {}, setup.training, setup.config["seeds"], self.state.round)
        return personal(own, f, held, kept, setup.participating)


class Progress:
    """All methods of a comparison, each after the same number of rounds; they go on together."""

    def __init__(self, setup: Setup, study: Study | None = None) -> None:
        """study: where to go on from; its tensors stay as they are."""
        self.setup = setup
        self.lanes: dict[str, list[Lane]] = {}
        for name, algorithm in setup.algorithms.items():
            parts = lanes(algorithm)
            states: Any = [None] * len(parts) if study is None else study.states[name]
            kept: Any = [None] * len(parts) if study is None or study.kept is None else study.kept[name]
            self.lanes[name] = [Lane(a, setup, s, k) for a, s, k in zip(parts, states, kept, strict=True)]
        self.before = study  # the study at the last evaluation whose curves are kept

    @property
    def round(self) -> int:
        """How many rounds all of them have finished."""
        return min(lane.state.round for own in self.lanes.values() for lane in own)

    @property
    def states(self) -> dict[str, list[State]]:
        return {name: [lane.state for lane in ls] for name, ls in self.lanes.items()}

    def advance(self) -> None:
        """One round of every method."""
        for side_by_side in self.lanes.values():
            for lane in side_by_side:
                lane.advance()

    @torch.no_grad()
    def whole(self, seconds: float) -> Study:
        """The study after the last round that all finished, of a run that was broken off and does not go on."""
        done = self.round
        for side_by_side in self.lanes.values():
            for lane in side_by_side:
                lane.rewind(done)
        study = self.study(seconds, last=True)
        self.setup.forget()
        return study

    def keep(self, study: Study) -> None:
        """The curves of later studies go on from this one's."""
        self.before = study

    def study(self, seconds: float, last: bool) -> Study:
        """The study at the present round. last: the run ends here, so that personal models are scored and what
        clients keep is handed over."""
        setup, n_seeds = self.setup, len(self.setup.config["seeds"])
        found: dict[str, dict[str, Tensor]] = {kind: {} for kind in (*SERIES, "adaptation", "accuracy", "diverged")}
        found |= {"personal": {}, "personal_accuracy": {}, "adapt_lr": {}}
        for name, own_lanes in self.lanes.items():
            swept = sweep_length(setup.algorithms[name])
            shape = (swept, n_seeds) if swept > 1 else (n_seeds,)
            scores, chosen = zip(*(lane.scores() for lane in own_lanes), strict=True)
            _put(found, name, "adapt_lr", shape, list(chosen))
            _put(found, name, "adaptation", shape, [s.loss for s in scores])
            _put(found, name, "accuracy", shape, [s.accuracy for s in scores])
            _put(found, name, "diverged", shape, [lane.state.diverged for lane in own_lanes])
            own = [s for lane in own_lanes if last and (s := lane.personal()) is not None]
            if own:
                _put(found, name, "personal", shape, [s.loss for s in own])
                _put(found, name, "personal_accuracy", shape, [s.accuracy for s in own])
            now = {"learning": found["adaptation"][name].mean(-2)}
            if name in found["accuracy"]:
                now["learning_accuracy"] = found["accuracy"][name].mean(-2)
            for series, value in (now | _counters(setup, own_lanes)).items():
                axis = -2 if series.startswith("learning") else -1
                value = value.unsqueeze(axis)
                if self.before is not None and self.before.rounds[-1] < self.round:
                    value = torch.cat([getattr(self.before, series)[name], value], axis)
                elif self.before is not None:
                    value = getattr(self.before, series)[name]
                found[series][name] = value
        rounds = [] if self.before is None else self.before.rounds.tolist()
        return Study(
            setup=setup,
            rounds=torch.tensor(sorted({*rounds, self.round})),
            states=self.states,
            kept={name: [lane.store.kept or {} for lane in ls] for name, ls in self.lanes.items()} if last else None,
            seconds=seconds,
            **found,
        )


def _put(found: dict[str, dict[str, Tensor]], name: str, kind: str, shape: tuple[int, ...], parts: list[Any]) -> None:
    if parts[0] is not None:
        found[kind][name] = torch.cat(parts).unflatten(0, shape)


def _counters(setup: Setup, own: list[Lane]) -> dict[str, Tensor]:
    """Bytes of all clients' answers and to all clients, mean over the seeds, and gradient evaluations of all clients
    asked: () or, where values of a sweep train one by one, (values,)."""
    asked = torch.tensor(setup.config["clients_per_round"] * own[0].state.round, dtype=torch.float64)
    spent = [lane.algorithm.evaluations() * lane.algorithm.phases(setup.objective) for lane in own]
    counted = {
        "bytes_up": [lane.state.answers.to("cpu", torch.float64).mean() * lane.state.up for lane in own],
        "bytes_down": [asked * lane.state.down for lane in own],
        "gradient_evaluations": [asked * one for one in spent],
    }
    return {kind: torch.stack(ts) if len(ts) > 1 else ts[0] for kind, ts in counted.items()}
