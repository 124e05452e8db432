"""The commands ``local`` (all on this machine), ``link`` (the instructor's machine) and ``node`` (a student's)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

import fmlab as fm
from fmlab.declare import step_sizes
from fmlab.nodes.federation import Federation, FederationError, Room, Watcher
from fmlab.nodes.files import Files
from fmlab.nodes.plan import Plan, gap, make
from fmlab.nodes.tied import end_with

METHODS = {a.__name__: a for a in fm.ALGORITHMS}
CLIENTS = {p.__name__: p for p in fm.POPULATIONS}
CLOSE = 1e-9  # a gap above it is a failure; on equal processors it is 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m fmlab.nodes", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    local = commands.add_parser("local", help="a SuperLink and nodes on this machine, beside the simulation")
    local.add_argument("--nodes", type=int, default=4, help="nodes to start")
    local.add_argument("--clients", type=int, default=None, help="clients in all; as many as nodes, if left out")
    local.add_argument("--late", type=int, default=0, help="of the nodes, how many start when they are told to")
    local.add_argument("--population", choices=CLIENTS, default="Sines")
    local.add_argument("--stock", action="store_true", help="Flower's own SuperNodes instead of ones that stay")
    local.add_argument("--leash", action="store_true", help="end with the standard input; commands come on it")
    local.add_argument("--json", action="store_true", help="events as lines of JSON")
    _shared(local)
    link = commands.add_parser("link", help="a SuperLink for a room, and a run on those who come")
    link.add_argument("--host", required=True, help="this machine's address in the room")
    link.add_argument("--port", type=int, default=8000)
    link.add_argument("--names", nargs="+", required=True, help="who will come")
    link.add_argument("--target", required=True, help="the column to predict")
    link.add_argument("--features", nargs="+", required=True, help="the columns to predict it from")
    link.add_argument("--classes", type=int, default=0, help="of the target, 0 .. k - 1; 0: numbers")
    link.add_argument("--lr", type=float, default=0.05, help="every step size that has no value of its own")
    link.add_argument("--room", type=Path, default=Path("class"), help="folder of certificates and tickets")
    link.add_argument("--wait", type=float, default=600.0, help="seconds to wait for them")
    _shared(link)
    node = commands.add_parser("node", help="a node")
    node.add_argument("--at", required=True, help="address of the SuperLink, host:port")
    node.add_argument("--name", help="who this is, in the room")
    node.add_argument("--data", type=Path, help="a CSV file, which stays here")
    node.add_argument("--ticket", type=Path, help="of the room; NAME.pem, if left out and there is a name")
    node.add_argument("--keep", type=Path, help="folder for what is kept between rounds; kept-NAME, if left out")
    node.add_argument("--config", default="{}", help="what else it has, as JSON")
    node.add_argument("--tied", action="store_true", help="end with the parent")
    return whole


def _shared(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--algorithm", nargs="+", choices=METHODS, default=["FedMAML"])
    command.add_argument("--clients-per-round", type=int, default=None, help="all, if left out")
    command.add_argument("--batch-size", type=int, default=4, help="of a local step, where a method takes one; 0: all")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--patience", type=float, default=30.0, help="seconds that a round waits for an answer")
    command.add_argument("--folder", type=Path, default=None, help="for states, events and logs")
    command.add_argument("--float32", action="store_true")


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        code = {"local": local, "link": link, "node": node}[given.command](given)
    except (ValueError, OSError, FederationError) as problem:
        print(f"failed: {problem}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        code = 130
    sys.exit(code)


def plans_of(given: argparse.Namespace, clients: fm.Population) -> list[Plan]:
    options: dict[str, Any] = {"dtype": torch.float32 if given.float32 else torch.float64}
    if given.clients_per_round is not None:
        options["clients_per_round"] = given.clients_per_round
    methods = [METHODS[name]() for name in given.algorithm]
    methods = [_small_batches(a, given.batch_size) for a in methods]
    return make(methods, clients, rounds=given.rounds, seed=given.seed, patience=given.patience, **options)


def _small_batches(algorithm: fm.Algorithm, size: int) -> fm.Algorithm:
    has = "batch_size" in {f.name for f in fields(algorithm)}
    changed: dict[str, Any] = {"batch_size": size} if has and size else {}
    return replace(algorithm, **changed)


def local(given: argparse.Namespace) -> int:
    """0 where the run is the simulation's, 1 where it failed or is another."""
    torch.set_num_threads(1)
    if given.nodes < 1:
        raise ValueError(f"nodes = {given.nodes} is not a whole number >= 1")
    number = given.clients or given.nodes
    if number < given.nodes:
        raise ValueError(f"clients = {number} are fewer than nodes = {given.nodes}; each node has one or more")
    if not 0 <= given.late < given.nodes:
        raise ValueError(
            f"late = {given.late} is not a whole number from 0 to {given.nodes - 1}: one node has to start"
        )
    plans = plans_of(given, CLIENTS[given.population](n_clients=number))
    say = (lambda e: print(json.dumps(e), flush=True)) if given.json else Watcher(sys.stdout)
    _stop_when_told()
    with (
        tempfile.TemporaryDirectory(prefix="fmlab-") as temporary,
        Federation(given.folder or Path(temporary)) as federation,
    ):
        if given.leash:
            threading.Thread(target=_obey, args=(federation, say), daemon=True).start()
        federation.start_link()
        for i in range(given.nodes):
            keep = str(federation.folder / "kept" / str(i))
            config = {"clients": ",".join(map(str, range(i, number, given.nodes))), "keep": keep}
            if i < given.nodes - given.late:
                federation.start_node(config, stock=given.stock)
            else:
                federation.configs[f"node{i}"] = config
        say({"event": "started", "nodes": given.nodes, "address": federation.address})
        federation.submit(plans, nodes=given.nodes - given.late)
        ends = [End() for _ in plans]
        for event in federation.events():
            say(event)
            ends[event.get("part", 0)].hear(event)
        return compare(plans, ends, say if given.json else None)


@dataclass
class End:
    """Of one plan's run: where its last state is, and who took part."""

    state: Path = Path()
    whole: bool = True  # False: it went on from a saved round, and who took part before is not known
    who: list[list[int]] = field(default_factory=list)
    afresh: list[tuple[int, int]] = field(default_factory=list)

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "round":
            self.who.append(event["who"])
            self.afresh += [(event["round"] - 1, c) for c in event["lost"]]
        elif event["event"] == "resumed":
            self.whole = False
        elif event["event"] == "finished":
            self.state = Path(event["state"])


def compare(plans: Sequence[Plan], ends: Sequence[End], say: Any = None) -> int:
    """Each run beside the same one in the simulation, and beside one with those alone who answered."""
    from fmlab.nodes.server import Saved
    from fmlab.nodes.wire import load

    worst = 0.0
    for plan, end in zip(plans, ends, strict=True):
        held, simulation = Saved.read(load(end.state)).state.held, plan.simulation()
        found = answered = gap(held, simulation.run().held)
        if found > 0 and end.whole:
            answered = gap(held, simulation.replay(end.who, end.afresh))
        worst = max(worst, answered if end.whole else 0.0)
        if say is not None:
            say({"event": "gap", "method": plan.name, "gap": found, "answered": answered})
            continue
        print(f"{plan.name:<10} the largest difference from the simulation: {found:g}", flush=True)
        if found > 0 and end.whole:
            print(f"{'':<10} from one with those who answered: {answered:g}", flush=True)
    return int(not worst <= CLOSE)


def _stop_when_told() -> None:
    """A closed terminal and ``kill`` are as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
    signal.signal(signal.SIGINT, interrupt)  # one that was started in the background ignores it


def _obey(federation: Federation, say: Any) -> None:
    """Commands on the standard input, a line of JSON each; its end is the end."""
    for text in sys.stdin:
        try:
            command = json.loads(text)
            node = command["node"]
            if command["do"] == "kill" and node in federation.nodes:
                federation.kill_node(node)
                say({"event": "killed", "node": node})
            elif command["do"] == "add" and node not in federation.nodes:
                federation.restart_node(node)
                say({"event": "added", "node": node})
        except (ValueError, KeyError) as problem:
            say({"event": "misunderstood", "problem": repr(problem)})
    os.kill(os.getpid(), signal.SIGINT)


def link(given: argparse.Namespace) -> int:
    """A room: who is named comes with a file of their own; 0 where the run went to its end."""
    names = tuple(given.names)
    form = Files(target=given.target, features=tuple(given.features), classes=given.classes, n_clients=len(names))
    methods = [METHODS[name]() for name in given.algorithm]
    plans = []
    for a in methods:
        a = replace(a, **{f: given.lr for f in step_sizes(a) if getattr(a, f) is None})
        a = _small_batches(a, given.batch_size)
        asked = given.clients_per_round or len(names)
        dtype = torch.float32 if given.float32 else torch.float64
        plan = Plan(a, form, given.rounds, given.seed, asked, weights="size", dtype=dtype, patience=given.patience)
        plan.check()
        plans.append(plan)
    _stop_when_told()
    with (
        tempfile.TemporaryDirectory(prefix="fmlab-") as temporary,
        Federation(
            given.folder or Path(temporary), host=given.host, port=given.port, room=Room(given.room.absolute(), names)
        ) as federation,
    ):
        federation.start_link()
        print(f"The link is up. Give everybody their own ticket from {given.room}/, and let them run", flush=True)
        for name in names:
            print(f"    make node AT={federation.address} NAME={name} DATA=their.csv", flush=True)
        federation.submit(plans, nodes=len(names), wait=given.wait)
        watch = Watcher(sys.stdout)
        missing = set(names)
        try:
            for event in federation.events(given.wait + given.patience + 60):
                watch(event)
                if event["event"] == "enrolled":
                    missing.discard(event["name"])
                elif event["event"] in ("ready", "resumed"):
                    missing.clear()
        except FederationError as problem:
            if not missing:
                raise
            raise FederationError(f"{problem}; not here: {', '.join(sorted(missing))}") from None
    return 0


def node(given: argparse.Namespace) -> int:
    from fmlab.nodes.node import app
    from fmlab.nodes.warm import stay

    if given.tied:
        end_with(os.getppid())
    torch.set_num_threads(1)
    config = json.loads(given.config)
    ticket = given.ticket
    if given.name is not None:
        if given.data is None:
            raise ValueError("DATA is missing; a node in a room has a file of its own: DATA=my.csv")
        keep = given.keep or Path(f"kept-{given.name}")
        config |= {"name": given.name, "data": str(given.data.absolute()), "keep": str(keep.absolute())}
        ticket = ticket or Path(f"{given.name}.pem")
        if not given.data.is_file():
            raise ValueError(f"DATA = {given.data} does not exist")
    stay(given.at, config, app, ticket=ticket)
