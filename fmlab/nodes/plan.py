"""What is trained, as JSON: everything that a node or the server has to know, and nothing that either would guess.

    plan = make([fm.FedMAML()], fm.Sines(n_clients=4), rounds=3)[0]
    Plan.read(plan.text()) == plan
    plan.simulation()  # the same run in the batch, to compare with

Step sizes are numbers by then, so that all count with the same; that of adaptation may be ``validated``, since the
server has the validation clients. A plan names fmlab's version, since the nodes run
the code that is installed on them. Only fmlab's own classes, and those that the reader names, are made from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from fmlab import archive
from fmlab.adaptation import settled
from fmlab.algorithms import Algorithm
from fmlab.data import Batch, Tree
from fmlab.declare import Validated, step_sizes, sweeps
from fmlab.engine import State, Store, serve, share_of, weigh, work
from fmlab.evaluation import evaluate
from fmlab.models import Model
from fmlab.nodes.files import Files
from fmlab.populations import Population
from fmlab.setup import DEFAULTS, Setup, prepare
from fmlab.tuning import recorded

FORMAT = 1
MOST = 2**24  # characters of a plan


class PlanError(ValueError):
    """A plan that this machine cannot carry out: says which field, and the way out."""


def version() -> str:
    from fmlab import __version__

    return __version__


@dataclass(frozen=True)
class Plan:
    """One method with one seed. ``clients`` are all N that may take part; who has which of them, the nodes say."""

    algorithm: Algorithm
    clients: Population
    rounds: int
    seed: int = 0
    clients_per_round: int = 1
    steps: int = 5
    model: Model | None = None
    weights: str = "uniform"
    transforms: tuple[Any, ...] = ()
    dropout: float = 0.0
    dtype: torch.dtype = torch.float32
    patience: float = 30.0  # seconds that a round waits for an answer

    @property
    def name(self) -> str:
        return type(self.algorithm).__name__

    @property
    def number(self) -> int:
        """N."""
        return self.clients.n_clients

    def text(self) -> str:
        """Raises PlanError where a part of it is code, which does not travel."""
        written = {}
        for f in fields(self):
            try:
                written[f.name] = archive.encode(getattr(self, f.name))
            except archive.NotJSON as problem:
                raise PlanError(
                    f"{f.name} holds {problem}, which is code, and a node runs only what is installed on it: take one "
                    "of fmlab's own, declared with its settings"
                ) from None
        return json.dumps({"format": FORMAT, "fmlab": version(), "plan": written}, sort_keys=True)

    @classmethod
    def read(cls, text: str, classes: Iterable[type[Any]] = ()) -> Self:
        """The inverse of ``text``. Raises PlanError for another version, and for whatever does not fit."""
        if len(text) > MOST:
            raise PlanError(f"the plan has more than {MOST:,} characters")
        try:
            whole = json.loads(text)
            theirs, number, written = whole["fmlab"], whole["format"], whole["plan"]
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise PlanError(f"what came is no plan of fmlab ({problem!r})") from None
        if (theirs, number) != (version(), FORMAT):
            raise PlanError(
                f"fmlab {version()} (plans of format {FORMAT}) is installed here, and the plan is of fmlab {theirs} "
                f"(format {number}); install the same on both machines"
            )
        own: list[type[Any]] = [Files, *classes]
        known = archive.CLASSES | {archive.name_of(c): c for c in own}
        names = {f.name for f in fields(cls)}
        if set(written) != names:
            raise PlanError(f"the plan has the fields {sorted(written)}; those of a plan are {sorted(names)}")
        try:
            plan = cls(**{name: archive.decode(value, known, name) for name, value in written.items()})
            plan.check()
        except KeyError as problem:
            raise PlanError(f"the plan names {problem}, which is no class of the fmlab installed here") from None
        except (ValueError, TypeError) as problem:
            raise problem if isinstance(problem, PlanError) else PlanError(f"the plan: {problem}") from problem
        return plan

    def check(self) -> None:
        """What ``compare`` does not check. Raises PlanError."""
        if swept := sweeps(self.algorithm):
            raise PlanError(
                f"{self.name} is swept ({', '.join(swept)}); nodes train one setting: give a plan for each value"
            )
        chosen = [f for f in step_sizes(self.algorithm) if isinstance(getattr(self.algorithm, f), Validated)]
        if chosen and isinstance(self.clients, Files):
            raise PlanError(
                f"{chosen[0]} = {getattr(self.algorithm, chosen[0])!r} is chosen on validation clients, and a plan for "
                "files has none; give a number"
            )
        if not (isinstance(self.patience, (int, float)) and 0 < self.patience < math.inf):
            raise PlanError(f"patience = {self.patience!r} is not a number of seconds > 0")
        if not isinstance(self.transforms, tuple) or not all(callable(t) for t in self.transforms):
            raise PlanError(f"transforms = {self.transforms!r} is not a tuple of functions")

    def config(self) -> dict[str, Any]:
        """As ``compare`` takes it."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name in DEFAULTS}
        return own | {"algorithms": {self.name: self.algorithm}, "clients": self.clients, "seeds": (self.seed,)}

    def setup(self) -> Setup:
        """Clients, fresh models and the objective, by the same functions as in a comparison."""
        return Setup(DEFAULTS | self.config() | {"evaluations": 1})

    def simulation(self) -> Simulation:
        """The same run in the batch."""
        return Simulation(self)


class Simulation:
    """What the nodes' run has to equal; ``store`` holds what all clients keep."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.setup, self.store = plan, plan.setup(), Store()

    def rounds(self) -> Iterator[State]:
        """After 0, 1, ..., all rounds."""
        states = self.setup.run(self.plan.algorithm, self.store)
        for t, state in enumerate(states):
            yield state
            if t == self.plan.rounds:
                return

    def run(self) -> State:
        *_, last = self.rounds()
        return last

    @torch.no_grad()
    def replay(self, rounds: Sequence[Sequence[int]], afresh: Iterable[tuple[int, int]] = ()) -> Tree:
        """What the server holds (1, 1, .) after rounds with those who took part in each; afresh: (round, client) of
        those who had lost what they keep, and began the round anew."""
        setup, plan, store = self.setup, self.plan, Store()
        a, clients = setup.spread(plan.algorithm), setup.training
        f = a.objective(setup.objective)
        held, kept = a.start(f, setup.start[:, None])
        store.fill(kept, clients.number)
        moments = {name: a.server.init(held[name]) for name in a.learned}
        for t, who in enumerate(rounds):
            places = torch.tensor([who])
            for c in [c for r, c in afresh if r == t]:
                store.put(torch.tensor([[c]]), kept)
            support, query, both = clients.take(places)
            weight = weigh(clients.sizes.gather(1, places), plan.weights)
            share = share_of(clients.sizes, places, plan.weights, None)
            for phase in range(a.phases(f)):
                batch = Batch(support, query, (plan.seed,), t, clients.called(places), phase, both)
                sent, after = work(a, f, held, store.take(places), batch, plan.transforms)
                held, moments = serve(a, f, held, moments, sent, weight, share, t + 1)
                store.put(places, after)
        return held

    def loss(self, state: State) -> float:
        """Mean query loss of unseen clients after all adaptation steps."""
        return score(self.plan, self.setup, state.held)


def score(plan: Plan, setup: Setup, held: Tree) -> float:
    """Mean query loss of unseen clients after all adaptation steps, of the size that validation clients choose."""
    algorithm, _ = settled(setup, plan.algorithm, held)
    found = evaluate(algorithm, setup.objective, held, setup.unseen, plan.steps)
    return float(found.loss[..., -1].mean())


def gap(ours: Tree, theirs: Tree) -> float:
    """The largest absolute difference of two trees; infinite where they do not fit, or hold a NaN."""
    if ours.keys() != theirs.keys() or any(t.shape != theirs[name].shape for name, t in ours.items()):
        return math.inf
    found = max((float(_difference(t, theirs[name]).max()) for name, t in ours.items()), default=0.0)
    return math.inf if math.isnan(found) else found


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == b, 0.0, (a - b).abs())


def make(
    algorithms: Sequence[Algorithm] | Mapping[str, Algorithm],
    clients: Population,
    *,
    rounds: int,
    seed: int = 0,
    patience: float = 30.0,
    **options: Any,
) -> list[Plan]:
    """A plan for each method, checked as ``compare`` checks it, with recorded step sizes filled in.

    Args:
        seed: draws clients, fresh model, participation and minibatches.
        patience: seconds after which a round goes on without who has not answered.
        options: ``clients_per_round``, ``steps``, ``model``, ``weights``, ``server``, ``transforms``, ``dropout`` and
            ``dtype``, as in ``fm.compare``. clients_per_round: all clients, where it is left out.

    Raises ValueError and TypeError as ``compare`` does, and PlanError for what cannot travel.
    """
    names = {f.name for f in fields(Plan)} - {"algorithm", "seed", "patience"}
    if strange := sorted(set(options) - names - {"server"}):
        raise PlanError(
            f"{', '.join(strange)}: not done on nodes, and left out it would be another run; a plan takes "
            f"{', '.join(sorted({*names, 'server'}))}"
        )
    options = {"clients_per_round": clients.n_clients} | options
    setup = recorded(prepare(algorithms, clients, rounds=rounds, seeds=(seed,), evaluations=1, **options))
    config = setup.config
    shared = {name: config[name] for name in names}
    plans = [Plan(algorithm=a, seed=seed, patience=patience, **shared) for a in setup.algorithms.values()]
    for plan in plans:
        plan.check()
        plan.text()
    return plans
