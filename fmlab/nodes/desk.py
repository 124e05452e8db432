"""What a node has before it when a plan has come: its clients' examples, the objective, and a fresh start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fmlab.data import Batch, Clients, Tree
from fmlab.engine import work
from fmlab.evaluation import Scores, evaluate
from fmlab.nodes.files import Files, OwnFile
from fmlab.nodes.plan import Plan, PlanError

KEYS = ("clients", "partition-id", "num-partitions", "name", "data", "keep", "delay")  # what a node may be told
Config = Mapping[str, Any]


class Desk:
    """Clients ``ids`` of a plan. The same functions as in the simulation, on the rows of these clients alone."""

    def __init__(self, plan: Plan, config: Config) -> None:
        """config: the node's own, see ``KEYS``. Raises PlanError where the two do not fit together."""
        self.plan = plan
        check(plan, config)
        self.name = str(config.get("name", ""))
        self.file = own_file(plan, config) if isinstance(plan.clients, Files) else None
        self.ids = held_ids(config, plan.number) if self.file is None else [self.file.number]
        self.setup = plan.setup()
        self.algorithm = self.setup.spread(plan.algorithm)
        self.f = self.algorithm.objective(self.setup.objective)

    @cached_property
    def clients(self) -> Clients:
        """Training examples; of a drawn population those of all, of which ``ids`` are this node's."""
        return self.setup.training if self.file is None else self._moved(self.file.draw("training", self.plan.seed))

    @cached_property
    def scored(self) -> Clients:
        """The same clients with examples that they do not train on."""
        if self.file is None:
            return self.setup.participating
        return self._moved(self.file.draw("participating", self.plan.seed))

    def _moved(self, clients: Clients) -> Clients:
        return clients.to(self.plan.dtype, torch.device("cpu"))

    def places(self, ids: Iterable[int]) -> Tensor:
        """Where these clients stand in ``clients`` (1, C)."""
        wanted = list(ids)
        if strange := [i for i in wanted if i not in self.ids]:
            raise PlanError(f"client {strange[0]} is not on this node, which has {self.ids}")
        return torch.tensor([wanted if self.file is None else [self.ids.index(i) for i in wanted]])

    @property
    def sizes(self) -> list[float]:
        return [float(s) for s in self.clients.sizes.gather(1, self.places(self.ids))[0]]

    @cached_property
    def begin(self) -> tuple[Tree, Tree]:
        """What the server holds (1, 1, .) and what a client keeps (.) before the first round."""
        held, kept = self.algorithm.start(self.f, self.setup.start[:, None])
        return held, {name: t[0, 0] for name, t in kept.items()}

    @property
    def fresh(self) -> Tree:
        return self.begin[1]

    @torch.no_grad()
    def work(self, ids: list[int], round: int, phase: int, held: Tree, kept: Tree) -> tuple[Tree, Tree]:
        """From what the server sends (1, 1, .) and clients ids keep (1, C, .) to what they send and keep (1, C, .).
        What it does not send, such as FedBABU's head, is as it was at the start."""
        places = self.places(ids)
        support, query, both = self.clients.take(places)
        called = torch.tensor([ids]) if self.file is not None else self.clients.called(places)
        batch = Batch(support, query, (self.plan.seed,), round, called, phase, both)
        return work(self.algorithm, self.f, self.begin[0] | held, kept, batch, self.plan.transforms)

    def score(self, held: Tree) -> Scores:
        """What the server holds, on examples that this node's clients do not train on."""
        found = evaluate(self.algorithm, self.setup.objective, self.begin[0] | held, self.scored, self.plan.steps)
        here = self.places(self.ids)[0]
        return Scores(found.loss[:, here], None if found.accuracy is None else found.accuracy[:, here])


def check(plan: Plan, config: Config) -> None:
    """Raises PlanError where the node and the plan speak of different clients."""
    if unknown := sorted(set(config) - set(KEYS)):
        raise PlanError(f"this node was given {unknown}, and a node takes {list(KEYS)}")
    if isinstance(plan.clients, Files) is not ("data" in config):
        raise PlanError(
            f"this node has a file of its own, and the plan draws {type(plan.clients).__name__}; start it with "
            "clients=... instead of data=..."
            if "data" in config
            else "the plan is for clients with files of their own, and this node has none; start it with data=my.csv"
        )


def own_file(plan: Plan, config: Config) -> OwnFile:
    """The node's own. Raises PlanError and DataError where it does not fit the plan."""
    check(plan, config)
    assert isinstance(plan.clients, Files)
    return OwnFile(plan.clients, str(config.get("name", "")), str(config["data"]))


def held_ids(config: Config, number: int) -> list[int]:
    """The clients of a node: named, "0,4", or every num-partitions-th from partition-id on. Raises PlanError."""
    if "clients" in config:
        text = str(config["clients"])
        try:
            ids = [int(part) for part in text.split(",")]
        except ValueError:
            raise PlanError(f'clients = {text!r} is not a list of whole numbers, as in clients="0,4"') from None
    elif {"partition-id", "num-partitions"} <= set(config):
        ids = list(range(int(config["partition-id"]), number, max(1, int(config["num-partitions"]))))
    else:
        raise PlanError('this node has no clients; start it with clients="0,4", or with data=my.csv and a name')
    if len(set(ids)) < len(ids) or not ids or min(ids) < 0 or max(ids) >= number:
        raise PlanError(f"clients = {ids}: each once, and from 0 to {number - 1}: the plan has {number} clients")
    return sorted(ids)
