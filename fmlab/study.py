"""The result of a comparison: tensors by method, a table, and everything needed to run it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fmlab import archive
from fmlab.data import Clients, Tree
from fmlab.declare import lanes, pick, spread, sweep_length
from fmlab.engine import State
from fmlab.evaluation import Scores, evaluate
from fmlab.populations import Population
from fmlab.report import table, to_dataframe
from fmlab.setup import Setup, prepare

if TYPE_CHECKING:
    import pandas

# Step sizes of local-only training. 0.05 and 0.1 are left out: on sines they stand at the edge of divergence, where the
# end depends on the last digit of every number.
LOCAL_STEPS, LOCAL_GRID = 100, (0.005, 0.02, 0.5)
SERIES = ("learning", "learning_accuracy", "bytes_up", "bytes_down", "gradient_evaluations")  # one entry an evaluation
ByMethod = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Study:
    """Tensors by method. Where an algorithm is swept, an axis of its values stands in front of the seeds'.

    adaptation:            (seeds, unseen clients, steps + 1) query loss after 0..steps adaptation steps
    accuracy:              the same for classification; empty for regression
    learning:              (seeds, evaluations, steps + 1) mean loss of the unseen clients, at ``rounds``
    personal:              (seeds, N) query loss of participating clients' own models, for methods that have them, at
                           the end of a run, on fresh query examples; personal_accuracy: the same for classification
    bytes_up, bytes_down, gradient_evaluations: ([values,] evaluations) so far in one run, all clients together
    diverged:              (seeds,) the round at which the server's or a kept model stopped being finite, -1: never
    states, kept:          by method, one for each part that trains as a batch: where the run stands, and what clients
                           keep (None in the middle of a run)
    """

    setup: Setup = field(repr=False)
    rounds: Tensor
    adaptation: ByMethod
    accuracy: ByMethod
    learning: ByMethod
    learning_accuracy: ByMethod
    personal: ByMethod
    personal_accuracy: ByMethod
    bytes_up: ByMethod
    bytes_down: ByMethod
    gradient_evaluations: ByMethod
    diverged: ByMethod
    states: dict[str, list[State]] = field(repr=False)
    kept: dict[str, list[Tree]] | None = field(repr=False)
    seconds: float

    def __repr__(self) -> str:
        return f"Study({', '.join(self.names)}; {self.population}; {int(self.rounds[-1])} rounds)"

    @property
    def config(self) -> dict[str, Any]:
        """Every argument, step sizes resolved: ``fm.compare(**study.config)`` gives the same tensors."""
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in self.setup.config.items()}

    @property
    def names(self) -> list[str]:
        return list(self.adaptation)

    @property
    def population(self) -> Population:
        return self.setup.population

    @property
    def unseen(self) -> Clients:
        """The unseen clients' support and query sets (seeds, clients, n, ...)."""
        return self.setup.unseen

    @property
    def history(self) -> ByMethod:
        """(seeds, evaluations) mean query loss of unseen clients after all adaptation steps."""
        return {name: t[..., -1] for name, t in self.learning.items()}

    @property
    def bytes(self) -> ByMethod:
        """Bytes up and down."""
        return {name: up + self.bytes_down[name] for name, up in self.bytes_up.items()}

    @cached_property
    def held(self) -> dict[str, Tree]:
        """What the servers hold, by method and name: (seeds, 1, .)."""
        found = {}
        for name, states in self.states.items():
            shape = self.diverged[name].shape
            found[name] = {k: torch.cat([s.held[k] for s in states]).unflatten(0, shape) for k in states[0].held}
        return found

    @cached_property
    def _participating(self) -> dict[str, Scores]:
        setup, scores = self.setup, {}
        for name, algorithm in setup.algorithms.items():
            parts = []
            for one, state in zip(lanes(algorithm), self.states[name], strict=True):
                wide = spread(one, len(setup.config["seeds"]), setup.start.dtype, setup.start.device)
                parts.append(evaluate(wide, setup.objective, state.held, setup.participating, self.steps))
            hits = [p.accuracy for p in parts if p.accuracy is not None]
            scores[name] = Scores(torch.cat([p.loss for p in parts]), torch.cat(hits) if hits else None)
        return scores

    @property
    def participating(self) -> ByMethod:
        """As ``adaptation``, on all participating clients, scored on fresh query examples; computed when first read."""
        return {n: s.loss.unflatten(0, self.diverged[n].shape) for n, s in self._participating.items()}

    @property
    def participating_accuracy(self) -> ByMethod:
        found = {n: s.accuracy for n, s in self._participating.items()}
        return {n: t.unflatten(0, self.diverged[n].shape) for n, t in found.items() if t is not None}

    @property
    def steps(self) -> int:
        return int(self.setup.config["steps"])

    @cached_property
    def _baselines(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        return baselines(self.setup)

    @cached_property
    def trivial_loss(self) -> float | None:
        """Mean over unseen clients and seeds; without the local-only training that ``baselines`` takes time for."""
        found = trivial(self.setup)
        return float(found["trivial"][0].mean()) if found else None

    def find_baselines(self, between: Callable[[], object]) -> None:
        """Compute ``baselines`` now; ``between()`` is called every ten steps, and what it raises ends it."""
        if "_baselines" not in self.__dict__:
            self.__dict__["_baselines"] = baselines(self.setup, between)

    @property
    def baselines(self) -> ByMethod:
        """(seeds, unseen clients) query loss of the "trivial" predictor and of training "local only"."""
        return {name: loss for name, (loss, _) in self._baselines.items()}

    @property
    def baseline_accuracy(self) -> ByMethod:
        return {name: hits for name, (_, hits) in self._baselines.items() if hits is not None}

    @torch.no_grad()
    def adapted(self, name: str, seed: int = 0, client: int = 0, value: int = 0) -> Tensor:
        """(steps + 1, P) models of one unseen client after 0..steps adaptation steps.

        ``seed`` and ``value`` count from 0 in the order given to ``compare`` and ``sweep``. Raises KeyError and
        IndexError, naming what there is.
        """
        if name not in self.setup.algorithms:
            raise KeyError(f"{name!r} is not one of the methods {self.names}")
        algorithm = self.setup.algorithms[name]
        counts = len(self.setup.config["seeds"]), self.unseen.number, sweep_length(algorithm)
        for what, place, n in zip(("seed", "client", "value"), (seed, client, value), counts, strict=True):
            if place not in range(n):
                raise IndexError(f"{what} = {place!r} is not a whole number from 0 to {n - 1}")
        swept = sweep_length(algorithm) > 1
        held = {k: (t[value, seed] if swept else t[seed])[None] for k, t in self.held[name].items()}
        ids = torch.tensor([[client]] * len(self.setup.config["seeds"]), device=self.unseen.sizes.device)
        support = self.unseen.take(ids)[0].map(lambda t: t[seed : seed + 1])
        one = pick(algorithm, value)
        models = one.adapt(one.objective(self.setup.objective), held, support, self.steps)
        return torch.stack([m[0, 0] for m in models])

    @torch.no_grad()
    def predict(self, name: str, x: Tensor, seed: int = 0, client: int = 0, value: int = 0) -> Tensor:
        """x (n, d...) -> predictions (steps + 1, n, outputs) of one unseen client's models after 0..steps steps."""
        w = self.adapted(name, seed, client, value)[None]
        f = self.setup.algorithms[name].objective(self.setup.objective)
        return f.predict(w, x.to(w)[None, None].expand(1, w.shape[1], *x.shape))[0]

    def resume(self, rounds: int, **other: Any) -> Study:
        """The study after more training, up to ``rounds`` in all: bit for bit that of an uninterrupted run. The curves
        keep the evaluations that were taken. Also after ``save`` and ``load``.

        Raises ValueError where ``rounds`` are not more than were done, TypeError for any other setting.
        """
        from fmlab.compare import resume

        return resume(self, rounds, **other)

    def table(self) -> str:
        """One row a method: loss or accuracy before and after adaptation on unseen clients, mean +- spread over
        seeds; share of clients that adaptation hurts; megabytes and gradient evaluations of one run."""
        return table(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a method, swept value, seed, unseen client and adaptation step."""
        return to_dataframe(self)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``tensors.npz`` (no pickle) into ``folder``; ``fm.load`` reads them."""
        if self.kept is None:
            raise ValueError("this study was yielded in the middle of a run; save the last one of its run")
        archive.write(folder, self.config, _unfold(self))


def load(folder: str | Path) -> Study:
    """A study written by ``save``; it can be resumed. Raises FileNotFoundError naming a missing file."""
    config, tensors = archive.read(folder)
    return _fold(prepare(**config), tensors)


@torch.no_grad()
def trivial(setup: Setup) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Loss and accuracy on unseen clients of the predictor that learns nothing, where the objective has one."""
    found = setup.objective.trivial(*setup.unseen.everyone())
    return {} if found is None else {"trivial": found}


@torch.no_grad()
def baselines(setup: Setup, between: Callable[[], object] = lambda: None) -> dict[str, tuple[Tensor, Tensor | None]]:
    """``trivial``, and loss and accuracy on unseen clients of local-only training: LOCAL_STEPS gradient steps from a
    fresh model on the support set, the step size validated."""
    f = setup.objective
    found = trivial(setup)

    def local(clients: Clients, lr: float) -> tuple[Tensor, Tensor | None]:
        support, query = clients.everyone()
        w = setup.start[:, None].expand(-1, clients.number, -1)
        for _ in range(LOCAL_STEPS // 10):
            between()
            w = f.descend(w, support, lr, 10)
        return next(f.scores([w], query))

    losses = [local(setup.validation, lr)[0].mean().nan_to_num(float("inf")).item() for lr in LOCAL_GRID]
    found["local only"] = local(setup.unseen, LOCAL_GRID[losses.index(min(losses))])
    return found


METHODS = [f.name for f in fields(Study) if f.type == "ByMethod"]


def _unfold(study: Study) -> dict[str, Any]:
    """All tensors of a study; methods by their number, since a name may hold any character."""
    names = study.names
    by_kind = {kind: {i: getattr(study, kind).get(n) for i, n in enumerate(names)} for kind in METHODS}
    return {
        "rounds": study.rounds,
        "seconds": torch.tensor(study.seconds, dtype=torch.float64),
        **{kind: {i: t for i, t in found.items() if t is not None} for kind, found in by_kind.items()},
        "states": {i: [_of_state(s) for s in study.states[n]] for i, n in enumerate(names)},
        "kept": {} if study.kept is None else {i: study.kept[n] for i, n in enumerate(names)},
    }


def _of_state(state: State) -> dict[str, Any]:
    numbers = {name: torch.tensor(getattr(state, name)) for name in ("round", "up", "down")}
    runs = {name: getattr(state, name) for name in ("diverged", "heard", "answers")}
    return {"held": state.held, "moments": state.moments, **numbers, **runs}


def _fold(setup: Setup, tensors: dict[str, Any]) -> Study:
    names = dict(enumerate(setup.algorithms))

    def in_order(numbered: dict[str, Any]) -> list[Any]:
        return [numbered[k] for k in sorted(numbered, key=int)]

    def state(t: dict[str, Any]) -> State:
        moments = {name: tuple(in_order(m)) for name, m in t["moments"].items()} if "moments" in t else {}
        done, up, down = (int(t[name]) for name in ("round", "up", "down"))
        return State(done, t["held"], moments, t["diverged"], t["heard"], t["answers"], up, down)

    by_kind = {
        kind: {n: tensors[kind][str(i)] for i, n in names.items() if str(i) in tensors.get(kind, {})}
        for kind in METHODS
    }
    states = {n: [state(t) for t in in_order(tensors["states"][str(i)])] for i, n in names.items()}
    kept = {
        n: [tensors.get("kept", {}).get(str(i), {}).get(str(k), {}) for k in range(len(states[n]))]
        for i, n in names.items()
    }
    return Study(
        setup=setup, rounds=tensors["rounds"], seconds=float(tensors["seconds"]), states=states, kept=kept, **by_kind
    )
