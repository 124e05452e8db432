"""The ServerApp: rounds on whoever is there, with the core's own ``serve``.

Who takes part in round t is the simulation's function of (seed, t) over all N clients: the first m in turn. Who is not
here, or does not answer in time, is replaced by the next in turn in the same round. Answers are stacked in the order in
which clients were asked, whatever order they came in. So with all nodes well the run is the simulation's.

After every round the state is saved in one step, with the version of what each client keeps that was heard of last; a
server that is started again goes on from there. An exchange after a round's first that loses a client begins the round
again without it, from what the round began with.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fmlab.data import Tree
from fmlab.engine import State, answers, in_turn, serve, share_of, weigh
from fmlab.nodes import wire
from fmlab.nodes.files import Files, Moments
from fmlab.nodes.node import run_key
from fmlab.nodes.plan import Plan, PlanError, score
from fmlab.nodes.roster import Answer, Post, Roster, Say
from fmlab.nodes.tied import end_with
from fmlab.nodes.warm import wait_for_tensors

SOON, LATER = 0.02, 0.2  # seconds between two looks for answers: just after one, and when none comes


class Nobody(RuntimeError):
    """No client is there to train with."""


class Again(Exception):
    """Clients were lost after the first exchange of a round, which begins again without them."""

    def __init__(self, failed: set[int]) -> None:
        super().__init__(failed)
        self.failed = failed


@dataclass
class Saved:
    """Where a run stands: the server's state, and the version of what each client keeps that was heard of last."""

    state: State
    versions: Tensor  # (N,) int64

    def tree(self) -> Tree:
        s = self.state
        moments = {f"moments.{k}.{i}": m for k, ms in s.moments.items() for i, m in enumerate(ms)}
        counts = {"round": torch.tensor(s.round), "heard": s.heard, "answers": s.answers, "diverged": s.diverged}
        who = {} if s.participants is None else {"participants": s.participants}
        return {f"held.{k}": t for k, t in s.held.items()} | moments | counts | who | {"versions": self.versions}

    @staticmethod
    def read(tree: Tree) -> Saved:
        held = {name.removeprefix("held."): t for name, t in tree.items() if name.startswith("held.")}
        moments: dict[str, tuple[Tensor, ...]] = {}
        for name in sorted((n for n in tree if n.startswith("moments.")), key=lambda n: int(n.rpartition(".")[2])):
            of = name.removeprefix("moments.").rpartition(".")[0]
            moments[of] = (*moments.get(of, ()), tree[name])
        runs = tree["diverged"], tree["heard"], tree["answers"]
        state = State(int(tree["round"]), held, moments, *runs, participants=tree.get("participants"))
        return Saved(state, tree["versions"])


def held(path: str | Path) -> Tree:
    """What the server held when it saved, named tensors (1, 1, .). Raises ValueError for a damaged file."""
    return Saved.read(wire.load(Path(path))).state.held


class Run:
    """One plan on a grid."""

    def __init__(
        self,
        plan: Plan,
        grid: Grid,
        folder: Path,
        part: int = 0,
        say: Say = lambda *_, **__: None,
        wait: float = 60.0,
        nodes: int | None = None,
    ) -> None:
        """folder: for the state, and of the run before, where there is one; part: which of several plans it is; wait:
        seconds to wait for nodes before the run gives up; nodes: how many will be there, None: nobody knows. Raises
        PlanError where the folder holds another run."""
        self.plan, self.part, self.say, self.wait, self.nodes = plan, part, say, wait, nodes
        self.post = Post(grid)
        self.setup = plan.setup()
        self.algorithm = self.setup.spread(plan.algorithm)
        self.f = self.algorithm.objective(self.setup.objective)
        self.phases = self.algorithm.phases(self.f)
        self.run = run_key(plan, part)
        self.text = plan.text()
        self.roster = Roster(self.post, {"plan": self.text}, plan.patience, say)
        self.received: dict[int, list[str]] = {}  # what of ``held`` an exchange takes, once its answers have said so
        self.attempt = 0
        self.pause = SOON
        self.up = self.down = 0
        self.path = folder / f"{self.run}.npz"
        self.saved = self._begin()

    @property
    def state(self) -> State:
        return self.saved.state

    def _begin(self) -> Saved:
        if self.path.exists():
            saved = Saved.read(wire.load(self.path))
            if saved.state.round > self.plan.rounds:
                raise PlanError(
                    f"rounds = {self.plan.rounds}, and {self.path} holds the run after round {saved.state.round}; give "
                    "more rounds, or another folder"
                )
            self.say("resumed", part=self.part, round=saved.state.round, of=self.plan.rounds, method=self.plan.name)
            return saved
        held, _ = self.algorithm.start(self.f, self.setup.start[:, None])
        moments = {name: self.algorithm.server.init(held[name]) for name in self.algorithm.learned}
        none = torch.zeros(1, dtype=torch.int64)
        return Saved(State(0, held, moments, none - 1, none, none), torch.zeros(self.plan.number, dtype=torch.int64))

    # --- Rounds ---

    @torch.no_grad()
    def rounds(self) -> Iterator[State]:
        """After the round that it begins with, and after each one. Raises Nobody."""
        self._gather()
        yield self.state
        while self.state.round < self.plan.rounds:
            began, up, down = time.monotonic(), self.up, self.down
            without: set[int] = set()
            while True:
                try:
                    who, lost = self._round(without)
                    break
                except Again as again:
                    without |= again.failed
            wire.save(self.path, self.saved.tree())
            self.say(
                "round",
                part=self.part,
                round=self.state.round,
                of=self.plan.rounds,
                method=self.plan.name,
                who=who,
                lost=lost,
                up=self.up - up,
                down=self.down - down,
                seconds=time.monotonic() - began,
                loss=self.loss(),
            )
            yield self.state

    def loss(self) -> float | None:
        """Mean query loss of unseen clients after adaptation, where the server can draw such; else see ``judge``."""
        return None if isinstance(self.plan.clients, Files) else score(self.plan, self.setup, self.state.held)

    def _gather(self) -> None:
        """Wait until all clients are here, or as many nodes have answered as shall be there; or until those who are
        here have been alone for long: as long as a round waits, or as nodes are waited for where it is known how many
        there will be."""
        until = time.monotonic() + self.wait
        patience = self.plan.patience if self.nodes is None else self.wait
        alone: float | None = None
        while len(self.roster.clients) < self.plan.number and not self._enough():
            if self.roster.clients:
                alone = time.monotonic() if alone is None else alone
                if time.monotonic() > alone + patience:
                    break
            elif time.monotonic() > until:
                raise self._nobody()
            self._listen()
        if missing := sorted(set(range(self.plan.number)) - set(self.roster.clients)):
            self.say("without", clients=missing)
        self.say("ready", clients=self.roster.clients, method=self.plan.name)

    def _enough(self) -> bool:
        answered = [node.state for node in self.roster.nodes.values() if node.state in ("here", "refused")]
        return self.nodes is not None and len(answered) >= self.nodes and "here" in answered

    def _nobody(self) -> Nobody:
        there = len(self.roster.nodes)
        refused = sum(n.state == "refused" for n in self.roster.nodes.values())
        of = f"{there} are connected and {refused} of them do not fit the plan" if there else "none is connected"
        return Nobody(f"no node with a client of the plan has answered for {self.wait:g} s: {of}")

    def _listen(self) -> list[Answer]:
        """What came but the roll's."""
        self.roster.look()
        found = [a for a in self.post.answers() if not self.roster.take(a)]
        self.pause = SOON if found else min(LATER, 1.4 * self.pause)
        if not found:
            time.sleep(self.pause)
        return found

    def _round(self, without: set[int]) -> tuple[list[int], list[int]]:
        """Who answered, and whose kept state was lost; without those who were lost in it before. Raises Again."""
        plan, before, t = self.plan, self.state, self.state.round
        versions, bases = self.saved.versions.clone(), self.saved.versions
        held, moments = before.held, before.moments
        everyone = plan.clients_per_round == plan.number
        turn = list(range(plan.number)) if everyone else in_turn(plan.number, plan.seed, t).tolist()
        turn = [c for c in turn if c not in without]
        asked: list[int] = []
        silent: set[int] = set()
        lost: set[int] = set()
        for phase in range(self.phases):
            exchange = Exchange(self, t, phase, held, versions, bases)
            if phase == 0:
                asked, silent = self._first(exchange, turn, t)
            else:
                exchange.ask([c for c in asked if c not in silent])
                while exchange.waiting:
                    exchange.listen()
                    if exchange.failed:
                        raise Again(exchange.failed)
            lost |= exchange.lost
            here = [c for c in asked if c not in silent]
            if not here:
                break
            sent = _stack([exchange.sent.get(c, exchange.sent[here[0]]) for c in asked])
            answered = None
            if plan.dropout > 0:
                answered = torch.tensor([[c not in silent for c in asked]])
                sent = {name: torch.where(answered[..., None], m, 0.0) for name, m in sent.items()}
            places, sizes = torch.tensor([asked]), self._sizes()
            weight = weigh(sizes.gather(1, places), plan.weights, answered)
            share = share_of(sizes, places, plan.weights, answered)
            step: int | Tensor = t + 1 if answered is None else (before.heard + 1)[:, None, None]
            self.received[phase] = list(self.algorithm.received(held, sent, phase))
            held, moments = serve(self.algorithm, self.f, held, moments, sent, weight, share, step)
            for c in here:
                versions[c] = t * self.phases + phase + 1
        number = len(asked) - len(silent)
        finite = all(bool(m.isfinite().all()) for m in held.values())
        diverged = before.diverged if finite or int(before.diverged) >= 0 else torch.full_like(before.diverged, t + 1)
        who = [c for c in asked if c not in silent]
        runs = diverged, before.heard + (number > 0), before.answers + number
        self.saved = Saved(State(t + 1, held, moments, *runs, participants=torch.tensor([who])), versions)
        if lost:
            self.say("lost", clients=sorted(lost), round=t + 1)
        return who, sorted(lost)

    def _first(self, exchange: Exchange, turn: list[int], t: int) -> tuple[list[int], set[int]]:
        """The first in turn that are here, and the next in place of those who fail: who was asked, in order, without
        those who failed, and who of them is silent as the plan's dropout has it."""
        plan, left = self.plan, list(turn)
        asked: list[int] = []
        silent: set[int] = set()
        ids = torch.tensor([turn])
        drops = ~answers((plan.seed,), ids, t, plan.dropout)[0]
        never = {c for c, gone in zip(turn, drops.tolist(), strict=True) if gone}
        until = time.monotonic() + self.wait
        while True:
            wanted = plan.clients_per_round - (len(asked) - len(exchange.failed))
            new: list[int] = []
            for c in list(left):
                if len(new) == wanted:
                    break
                if c in never or self.roster.where(c) is not None:
                    left.remove(c)
                    new.append(c)
            asked += new
            silent |= never & set(new)
            exchange.ask([c for c in new if c not in never])
            done = [c for c in asked if c not in exchange.failed]
            if not exchange.waiting and (exchange.sent or (silent and len(done) == plan.clients_per_round)):
                return done, silent
            if not exchange.waiting and not new:
                if exchange.said:  # they are here and cannot: waiting changes nothing
                    raise Nobody(f"no client could do its part of round {t + 1}: {'; '.join(sorted(exchange.said))}")
                if time.monotonic() > until:
                    raise self._nobody()
                left = [c for c in turn if c not in done]
                asked = done
                exchange.failed.clear()
            exchange.listen()

    def _sizes(self) -> Tensor:
        """Of all clients (1, N); of those who were never here 0, so that they weigh nothing."""
        known = self.roster.sizes
        return torch.tensor([[known.get(c, 0.0) for c in range(self.plan.number)]]).to(self.plan.dtype)

    # --- Words and scores ---

    def tell(self, text: str, seconds: float = 3.0) -> None:
        """Whoever sits at the nodes; until all have heard it, or for so long."""
        for (key, _), node in self.roster.nodes.items():
            if node.state == "here":
                self.roster.tell(key, text)
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(asked.kind == "query.told" for asked in self.post.open.values()):
            self._listen()

    def judge(self) -> dict[int, float]:
        """The loss of every client that answers, on examples that it does not train on."""
        letters = []
        for key, node in self.roster.nodes.items():
            if node.state == "here":
                content = RecordDict({
                    "held": wire.record({name: m[0, 0] for name, m in self.state.held.items()}),
                    "asked": ConfigRecord({"plan": self.text}),
                })  # fmt: skip
                letters.append((key[0], content, "judge"))
        self.post.ask(letters, "evaluate", self.plan.patience)
        found: dict[int, float] = {}
        waiting = len(letters)
        while waiting:
            for answer in self._listen():
                waiting -= answer.asked.kind == "evaluate"
                if answer.content is not None and answer.asked.kind == "evaluate":
                    said: Any = answer.content["said"]
                    found |= dict(zip(said["clients"], said["losses"], strict=True))
        return dict(sorted(found.items()))


class Exchange:
    """One exchange of a round: who was asked and has not answered, who has failed, and what came."""

    def __init__(self, run: Run, round: int, phase: int, held: Tree, versions: Tensor, bases: Tensor) -> None:
        run.attempt += 1
        self.run, self.round, self.phase, self.attempt = run, round, phase, run.attempt
        self.versions, self.bases = versions, bases
        names = run.received.get(phase, list(held))
        self.held = {name: held[name][0, 0] for name in names}
        self.record = wire.record(self.held)
        self.waiting: set[int] = set()
        self.failed: set[int] = set()
        self.lost: set[int] = set()
        self.said: set[str] = set()  # why some could not do it
        self.sent: dict[int, Tree] = {}

    def ask(self, clients: list[int]) -> None:
        by_node: dict[int, list[int]] = {}
        for c in clients:
            node = self.run.roster.where(c)
            if node is None:
                self.failed.add(c)
            else:
                by_node.setdefault(node, []).append(c)
                self.waiting.add(c)
        letters = []
        for node, ids in by_node.items():
            asked = ConfigRecord({
                "plan": self.run.text,
                "run": self.run.run,
                "round": self.round,
                "phase": self.phase,
                "version": self.round * self.run.phases + self.phase + 1,
                "clients": ids,
                "versions": [int(self.versions[c]) for c in ids],
                "bases": [int(self.bases[c]) for c in ids],
            })  # fmt: skip
            letters.append((node, RecordDict({"held": self.record, "asked": asked}), (self.attempt, ids)))
            self.run.say("asked", node=str(node), clients=ids, round=self.round + 1)
            self.run.down += wire.size(self.held) * len(ids)
        self.run.post.ask(letters, "train", self.run.plan.patience, str(self.round))

    def listen(self) -> None:
        for answer in self.run._listen():
            if answer.asked.kind != "train" or answer.asked.about[0] != self.attempt:
                continue  # of an attempt that was given up
            ids = answer.asked.about[1]
            self.waiting -= set(ids)
            if answer.content is None:
                self.failed |= set(ids)
                self.said |= set() if answer.silent else {answer.problem}
                self.run.roster.failed(answer.asked.node, answer.problem)
                continue
            sent = answer.content["sent"]
            assert isinstance(sent, ArrayRecord)
            tree = wire.tree(sent)
            said: Any = answer.content["said"]
            self.lost |= {int(c) for c in said["lost"]}
            self.run.up += wire.size(tree)
            for place, c in enumerate(ids):
                self.sent[c] = {name: m[place] for name, m in tree.items()}
            self.run.say("answered", node=str(answer.asked.node), clients=ids, round=self.round + 1)


def _stack(parts: list[Tree]) -> Tree:
    return {name: torch.stack([part[name] for part in parts])[None] for name in parts[0]}


# --- The app ----------------------------------------------------------------------------------------------------------


def enrol(plan: Plan, grid: Grid, nodes: int, wait: float, say: Say) -> Plan:
    """Clients with files of their own: the plan with those who are there, once there are ``nodes``."""
    assert isinstance(plan.clients, Files)
    post = Post(grid)
    roster = Roster(post, {"plan": plan.text(), "enrol": True}, plan.patience, say)
    until = time.monotonic() + wait
    told: dict[str, Moments] = {}
    while len(told) < nodes:
        if time.monotonic() > until:
            raise Nobody(f"{len(told)} of {nodes} nodes with a file that fits have come in {wait:g} s")
        roster.look()
        for answer in post.answers():
            if answer.content is not None and answer.asked.kind == "query.clients":
                said: Any = answer.content["said"]
                name = str(said["name"])
                if name in told:
                    text = f"two nodes are called {name!r}, and the other one was here first"
                    say("refused", node=str(answer.asked.node), name=name, problem=text)
                    roster.tell(answer.asked.node, f"this node takes no part: {text}")
                    continue
                support, query = (int(n) for n in said["counts"])
                told[name] = Moments(support, query, list(said["mean"]), list(said["squares"]))
                say("enrolled", name=name, of=nodes)
            else:
                roster.take(answer)
        time.sleep(LATER)
    return replace(plan, clients=plan.clients.enrolled(told), clients_per_round=min(plan.clients_per_round, len(told)))


def teller(path: Path, also: Callable[[str], None] | None = None) -> Say:
    """Writes every event as a line of JSON."""

    def say(event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "at": time.time(), **values})
        with path.open("a", encoding="utf-8") as f:
            f.write(line + "\n")
        if also is not None:
            also(line)

    return say


def main(grid: Grid, context: Context) -> None:
    """Run configuration: ``plans``, a JSON list of plans that run one after another; ``folder`` for states; the file
    of ``events``; ``nodes``, how many there have to be, 0: all; ``wait``, seconds for them."""
    end_with(os.getppid())  # Flower's process of a ServerApp may outlive its SuperLink, waiting for ever
    config = context.run_config
    folder = Path(str(config["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    say = teller(Path(str(config["events"])))
    torch.set_num_threads(1)  # as in the notebooks, and so that both sides count the same
    try:
        for part, text in enumerate(json.loads(str(config["plans"]))):
            plan = Plan.read(text)
            wait_for_tensors(plan.patience)
            plan = known(plan, grid, folder, part, config, say)
            enough = int(config["nodes"]) or None
            run = Run(plan, grid, folder, part, say, float(config["wait"]), enough)
            for state in run.rounds():
                if isinstance(plan.clients, Files):
                    say("judged", round=state.round, method=plan.name, losses=list(run.judge().values()))
            if isinstance(plan.clients, Files):
                run.tell(f"{plan.name} is trained, in {run.state.round} rounds; this node waits for more")
            say("finished", part=part, method=plan.name, round=run.state.round, state=str(run.path))
        say("done")
    except Exception as problem:
        expected = isinstance(problem, (ValueError, OSError, Nobody))
        say("error", problem=str(problem) if expected else repr(problem))
        raise


def known(plan: Plan, grid: Grid, folder: Path, part: int, config: Any, say: Say) -> Plan:
    """The plan with its clients: of files, who was there when the run began."""
    if not isinstance(plan.clients, Files) or plan.clients.names:
        return plan
    path = folder / f"{run_key(plan, part)}.json"
    if path.exists():
        return replace(Plan.read(path.read_text()), rounds=plan.rounds, patience=plan.patience)
    plan = enrol(plan, grid, int(config["nodes"]), float(config["wait"]), say)
    path.write_text(plan.text())
    return plan


app = ServerApp()
app.main()(main)
