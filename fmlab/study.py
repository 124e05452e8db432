"""The result of a comparison: tensors by method, a table, and everything needed to run it again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fmlab import archive, newcomer
from fmlab.adaptation import adapts_by, using
from fmlab.algorithms import Algorithm
from fmlab.baselines import LOCAL_STEPS, baselines
from fmlab.data import Clients, Tree
from fmlab.declare import Sweep, Validated, lanes, pick, step_sizes, sweep_length
from fmlab.engine import State
from fmlab.evaluation import Scores, current, elsewhere, evaluate
from fmlab.populations import Population
from fmlab.report import table, to_dataframe, worst_tenth
from fmlab.setup import Setup, check_mean, prepare

if TYPE_CHECKING:
    import pandas

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
    adapt_lr:              (seeds,) the adaptation step size that unseen clients take, for methods that have one: as
                           given, or chosen on validation clients
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
    adapt_lr: ByMethod
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
    def worst_tenth(self) -> ByMethod:
        """(seeds,) query loss after all adaptation steps, the mean of the worst tenth of the unseen clients."""
        return {name: worst_tenth(t[..., -1], False) for name, t in self.adaptation.items()}

    @property
    def worst_tenth_accuracy(self) -> ByMethod:
        """The same for classification; empty for regression."""
        return {name: worst_tenth(t[..., -1], True) for name, t in self.accuracy.items()}

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
            runs = [len(state.diverged) for state in self.states[name]]
            chosen = self.adapt_lr[name].flatten().split(runs) if name in self.adapt_lr else [None] * len(runs)
            for one, state, own in zip(lanes(algorithm), self.states[name], chosen, strict=True):
                taken = using(setup.spread(one), own)
                parts.append(evaluate(taken, setup.objective, state.held, setup.participating, self.steps))
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

    @cached_property
    def _elsewhere(self) -> dict[str, Scores]:
        if self.kept is None:
            raise ValueError("this study was yielded in the middle of a run; the last one of its run has its models")
        setup, scores = self.setup, {}
        f, clients, seeds = setup.objective, setup.participating, setup.config["seeds"]
        for name, algorithm in setup.algorithms.items():
            parts = []
            runs = [len(state.diverged) for state in self.states[name]]
            chosen = self.adapt_lr[name].flatten().split(runs) if name in self.adapt_lr else [None] * len(runs)
            lanes_ = zip(lanes(algorithm), self.states[name], chosen, self.kept[name], strict=True)
            for one, state, own, kept in lanes_:
                taken = using(setup.spread(one), own)
                now = current(taken, f, state.held, kept, setup.training, seeds, state.round)
                if (found := elsewhere(taken, f, state.held, now, clients, self.steps)) is not None:
                    parts.append(found)
            if parts:
                hits = [p.accuracy for p in parts if p.accuracy is not None]
                scores[name] = Scores(torch.cat([p.loss for p in parts]), torch.cat(hits) if hits else None)
        return scores

    @property
    def off_distribution(self) -> ByMethod:
        """(seeds, N) query loss of the model that each participating client uses, its own or, for methods without
        such, the server's after all steps on its support set, on the query sets of up to five OTHER clients, the mean:
        what becomes of a personal model whose client changes (2510.24503). Computed when first read, at the end of a
        run; empty where one client is alone. Raises ValueError in the middle of a run."""
        return {n: s.loss.unflatten(0, self.diverged[n].shape) for n, s in self._elsewhere.items()}

    @property
    def off_distribution_accuracy(self) -> ByMethod:
        """The same for classification; empty for regression."""
        found = {n: s.accuracy for n, s in self._elsewhere.items()}
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
        found = self.setup.trivial
        return None if found is None else float(found[0].mean())

    def find_baselines(self, between: Callable[[], object]) -> None:
        """Compute ``baselines`` now; ``between()`` is called every ten steps, and what it raises ends it."""
        if "_baselines" not in self.__dict__:
            self.__dict__["_baselines"] = baselines(self.setup, between)

    @property
    def local_steps(self) -> int:
        """The gradient steps that "local only" takes."""
        return LOCAL_STEPS

    @property
    def baselines(self) -> ByMethod:
        """(seeds, unseen clients) query loss of the "trivial" predictor and of training "local only"."""
        return {name: loss for name, (loss, _) in self._baselines.items()}

    @property
    def baseline_accuracy(self) -> ByMethod:
        return {name: hits for name, (_, hits) in self._baselines.items() if hits is not None}

    def server(self, name: str, seed: int = 0, value: int = 0) -> Tree:
        """What the server of one run holds (1, 1, .)."""
        swept = sweep_length(self.setup.algorithms[name]) > 1
        return {k: (t[value, seed] if swept else t[seed])[None] for k, t in self.held[name].items()}

    def method(self, name: str, seed: int = 0, value: int = 0) -> Algorithm:
        """The method as one run has it: of a sweep one value, and the adaptation step size that was chosen."""
        algorithm, chosen = self.setup.algorithms[name], self.adapt_lr.get(name)
        if chosen is not None:
            chosen = (chosen[value, seed] if sweep_length(algorithm) > 1 else chosen[seed])[None]
        return using(pick(algorithm, value), chosen)

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
        held = self.server(name, seed, value)
        places = torch.tensor([[client]] * len(self.setup.config["seeds"]), device=self.unseen.sizes.device)
        support = self.unseen.take(places)[0].map(lambda t: t[seed : seed + 1])
        one = self.method(name, seed, value)
        models = one.adapt(one.objective(self.setup.objective), held, support, self.steps)
        return torch.stack([m[0, 0] for m in models])

    @torch.no_grad()
    def predict(
        self, name: str, x: Any, seed: int = 0, client: int = 0, value: int = 0, *, support: Any = None
    ) -> Tensor:
        """x (n, d...) -> predictions (steps + 1, n, outputs) of one unseen client's models after 0..steps steps.

        Of a study on a table x may be rows as the table had them, a frame or a file, of a client that it did not hold.
        ``support``: rows of his with the target, which the model adapts on; None: predictions before adaptation alone
        (1, n, outputs). Numbers come in the target's own units; of classes they are logits, in the order of
        ``population.rows.classes``.
        """
        if not isinstance(x, Tensor):
            return newcomer.predict(self, name, x, support, seed, value)
        w = self.adapted(name, seed, client, value)[None]
        f = self.setup.algorithms[name].objective(self.setup.objective)
        return f.predict(w, x.to(w)[None, None].expand(1, w.shape[1], *x.shape))[0]

    def resume(self, rounds: int, **other: Any) -> Study:
        """The study after more training, up to ``rounds`` in all: bit for bit that of an uninterrupted run. The curves
        keep the evaluations that were taken, and go on with those that a stopped run had still to take. Also after
        ``save`` and ``load``.

        Raises ValueError where ``rounds`` are not more than were done, TypeError for any other setting.
        """
        from fmlab.compare import resume

        return resume(self, rounds, **other)

    def table(self) -> str:
        """One row a method: loss or accuracy before and after adaptation on unseen clients, mean +- standard deviation
        over seeds; the mean of the worst tenth of the clients; share of clients that adaptation hurts, by their loss;
        megabytes and gradient evaluations of one run. Below, where methods have such, what participating clients' own
        models score: on their own query sets, in the worst tenth, and on other clients' (``off_distribution``)."""
        return table(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a method, swept value, seed, unseen client and adaptation step."""
        return to_dataframe(self)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and a file of tensors (``npz``, no pickle) into ``folder``; ``fm.load`` reads them.

        A study that stands there is replaced in one step: whatever happens, the old or the new one is whole. What JSON
        cannot hold (functions as transforms, lifted modules) is left out and warned of, and ``fm.load`` is given it.
        """
        if self.kept is None:
            raise ValueError("this study was yielded in the middle of a run; save the last one of its run")
        left_out = archive.write(folder, self.config, self.names, _unfold(self))
        if left_out:
            wanted = ", ".join(f"{name}=..." for name in left_out)
            warnings.warn(
                f"the study is saved, but JSON does not hold its {' and '.join(left_out)}; "
                f"fm.load(folder, {wanted}) will ask for it",
                stacklevel=2,
            )


def load(folder: str | Path, *, classes: Sequence[type[Any]] = (), **given: Any) -> Study:
    """A study written by ``save``; it can be resumed. One from a device that is not here opens on the CPU.

    Args:
        folder: where it stands.
        classes: the reader's own classes that the study holds. No module that a file names is imported.
        given: what JSON does not hold, as it was given to ``compare``: ``model``, ``transforms``, ``algorithms``,
            ``clients``, ``server``, ``mean``. ``clients`` also where Omniglot's files stand elsewhere now.

    Raises:
        fmlab.archive.StudyError: a ValueError for whatever is missing, damaged, of a newer version or does not fit
            together, naming the file, the field and the way out. For a missing file it is a FileNotFoundError too.
    """
    with archive.Reader(folder) as stored:
        config = stored.config(classes, given)
        with stored.blames("config.json"):
            config["device"] = _device(config["device"])
            setup, expected = _expected(config, stored.length("rounds"), stored.size)
            if list(map(str, setup.algorithms)) != stored.head["methods"]:
                raise ValueError(f"methods = {stored.head['methods']!r}, and algorithms has {list(setup.algorithms)!r}")
        tensors = stored.read(expected)
        with stored.blames(stored.tensors):
            study = _fold(setup, tensors)
            _check(study)
    return study


METHODS = [f.name for f in fields(Study) if f.type == "ByMethod"]
COUNTERS = ("bytes_up", "bytes_down", "gradient_evaluations")  # of SERIES, on the CPU on every device


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
    device = setup.config["device"]

    def in_order(numbered: dict[str, Any]) -> list[Any]:
        return [numbered[k] for k in sorted(numbered, key=int)]

    def there(tree: dict[str, Tensor]) -> Tree:
        return {name: t.to(device) for name, t in tree.items()}

    def state(t: dict[str, Any]) -> State:
        moments = {name: tuple(m.to(device) for m in in_order(ms)) for name, ms in t.get("moments", {}).items()}
        done, up, down = (int(t[name]) for name in ("round", "up", "down"))
        runs = there({name: t[name] for name in ("diverged", "heard", "answers")})
        return State(done, there(t["held"]), moments, **runs, up=up, down=down)

    by_kind = {
        kind: {n: tensors[kind][str(i)] for i, n in names.items() if str(i) in tensors.get(kind, {})}
        for kind in METHODS
    }
    by_kind = {kind: found if kind in COUNTERS else there(found) for kind, found in by_kind.items()}
    states = {n: [state(t) for t in in_order(tensors["states"][str(i)])] for i, n in names.items()}
    kept = {
        n: [there(tensors.get("kept", {}).get(str(i), {}).get(str(k), {})) for k in range(len(states[n]))]
        for i, n in names.items()
    }
    return Study(
        setup=setup, rounds=tensors["rounds"], seconds=float(tensors["seconds"]), states=states, kept=kept, **by_kind
    )


def _device(wanted: Any) -> Any:
    """The device, or the CPU where this machine does not have it."""
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError):
        return "cpu"
    return wanted


@torch.no_grad()
def _expected(config: dict[str, Any], evaluations: int, size: int) -> tuple[Setup, archive.Layout]:
    """The setup of a saved study, checked as ``compare`` checks it, and the shape and dtype of every tensor.

    They are those of a study of the same setting before its first round. For fmlab's populations that one has a single
    client of each split, so that opening a study draws no clients; one's own may mean anything by their numbers, and
    are drawn. size: bytes of the tensors' file, which no model in it can be larger than.
    """
    from fmlab.progress import Progress

    clients = config["clients"]
    own = archive.name_of(type(clients)) not in archive.CLASSES
    few = clients if own else replace(clients, n_clients=1, n_validation=1, n_unseen=1)
    model = config["model"] or few.model()
    if model is not None and len(config["seeds"]) * getattr(model, "size", 0) > size:
        raise ValueError(f"model = {model!r} has {model.size:,} parameters a seed, more than the file of tensors holds")
    asked = config["clients_per_round"]
    if not isinstance(asked, int) or not 1 <= asked <= clients.n_clients:
        raise ValueError(f"clients_per_round = {asked!r} of {clients.n_clients} clients")
    for name, a in config["algorithms"].items() if isinstance(config["algorithms"], dict) else ():
        if none := [f for f in step_sizes(a) if getattr(a, f) is None]:
            raise ValueError(f"algorithms: {name}.{none[0]} = None, and a study has the step size it was made with")
    light = prepare(**config | {"clients": few, "clients_per_round": asked if own else 1, "mean": None})
    sample = Progress(light).study(0.0, last=True)
    light.forget()
    number = light.training.number if own else clients.n_clients
    unseen = light.unseen.number if own else clients.n_unseen

    def shape(path: archive.Place, t: Tensor) -> tuple[int, ...]:
        kind = path[0]
        if kind == "rounds":
            return (evaluations,)
        if kind in ("adaptation", "accuracy"):
            return (*t.shape[:-2], unseen, t.shape[-1])
        if kind in ("personal", "personal_accuracy"):
            return (*t.shape[:-1], number)
        if kind in COUNTERS:
            return (*t.shape[:-1], evaluations)
        if kind in SERIES:
            return (*t.shape[:-2], evaluations, t.shape[-1])
        return (t.shape[0], number, *t.shape[2:]) if kind == "kept" else tuple(t.shape)

    setup = Setup(light.config | {"clients": clients, "clients_per_round": asked, "mean": config.get("mean")})
    check_mean(setup.config)
    return setup, {path: (shape(path, t), t.dtype) for path, t in archive.leaves(_unfold(sample))}


def _check(study: Study) -> None:
    """What any study keeps to. Raises ValueError naming the tensor."""
    rounds = study.rounds.tolist()
    last, planned = rounds[-1], study.config["rounds"]
    if rounds != sorted(set(rounds)) or rounds[0] != 0 or last > planned:
        raise ValueError(f"rounds = {rounds}: they rise from 0 to at most {planned}, the rounds of config.json")
    if not 0 <= study.seconds < float("inf"):
        raise ValueError(f"seconds = {study.seconds}")
    fixed = study.config.get("sampling", "fixed") == "fixed"
    asked = last * (study.config["clients_per_round"] if fixed else study.config["clients"].n_clients)
    for i, name in enumerate(study.names):
        for kind in COUNTERS:
            counted = getattr(study, kind)[name]
            if not (counted.isfinite() & (counted >= 0)).all():
                raise ValueError(f"{kind}/{i} ({name}) counts, and holds {counted.tolist()}")
        if not torch.equal(torch.cat([s.diverged for s in study.states[name]]), study.diverged[name].flatten()):
            raise ValueError(f"diverged/{i} ({name}) is not what states/{i} holds")
        _check_adaptation(study, i, name)
        for k, (state, kept) in enumerate(zip(study.states[name], study.kept[name], strict=True)):  # type: ignore[index]
            where = f"states/{i}/{k} ({name})"
            if state.round != last or state.up < 0 or state.down < 0:
                raise ValueError(f"{where} is after round {state.round}, not {last}, or counts less than no bytes")
            for field_, least, most in (("diverged", -1, last), ("heard", 0, last), ("answers", 0, asked)):
                found = getattr(state, field_)
                if ((found < least) | (found > most)).any():
                    raise ValueError(f"{where}/{field_} = {found.tolist()} is not in [{least}, {most}]")
            well = state.diverged < 0
            for part, t in (*state.held.items(), *kept.items()):
                if not t[well].isfinite().all():
                    raise ValueError(f"{where}: {part} is not finite where diverged says that it is")


def _check_adaptation(study: Study, place: int, name: str) -> None:
    """The adaptation step sizes that a study holds are those that its config gives or lets choose from."""
    algorithm = study.setup.algorithms[name]
    if (field_ := adapts_by(algorithm)) is None:
        return
    value, held = getattr(algorithm, field_), study.adapt_lr[name]
    allowed = (
        value.candidates if isinstance(value, Validated) else value.values if isinstance(value, Sweep) else [value]
    )
    # Studies of an earlier fmlab hold them to seven digits.
    if not torch.isclose(held[:, None], held.new_tensor(allowed), rtol=1e-6, atol=0.0).any(1).all():
        raise ValueError(f"adapt_lr/{place} ({name}) holds {held.tolist()}, and the config allows {list(allowed)}")
