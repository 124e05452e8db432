"""Real nodes beside the simulation: every method's largest difference, and what a round costs.

    python benchmarks/nodes.py equal    every method on three nodes, three rounds: the largest difference of any number
    python benchmarks/nodes.py scale    seconds a round and memory, by the number of nodes and the kind of node
    python benchmarks/nodes.py scale stays-20 batch-100    these rows of it alone
    python benchmarks/nodes.py scale --missing    those that the table lacks, after an interruption

Each writes its part of benchmarks/results/nodes.md, of ``scale`` every row as soon as it is measured; the rest stays.
It needs the extra ``nodes``.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

import fmlab as fm
from fmlab.declare import step_sizes
from fmlab.nodes.federation import Federation
from fmlab.nodes.loop import LoopGrid
from fmlab.nodes.plan import Plan, gap, make
from fmlab.nodes.server import Run, held

TABLE = Path(__file__).parent / "results" / "nodes.md"
TITLE = "# Real nodes\n\nWritten by `python benchmarks/nodes.py equal` and `python benchmarks/nodes.py scale`.\n"
HOLDS = ("0,3", "1", "2,4")  # clients of the three nodes
LONG = 600.0  # seconds: on a busy machine a node takes its time to start

EQUAL = """## Every method on nodes and in one batch

Three processes with a SuperLink between them hold five clients of `fm.Sines`; 3 rounds of three of them, weighted by
size, float64, minibatches of 4 where a method takes them, a ReLU network of {size} numbers. The last columns give the
largest absolute difference of any number that the server holds from the same run in one batch, and by how much
training has moved any of them. (Methods that hold nothing have moved nothing.)

| method | minibatches | difference | moved by |
|---|---|---|---|
"""

SCALE = """## What a round costs

FedAvg on `fm.Sines`, {size} numbers of float64, one client a node. Seconds are medians over the rounds after the
first; "first" is from the start of the run to the end of its first round, with the nodes' imports in it. Memory is the
proportional share (PSS) of the SuperLink with what it starts, and of the mean node. A machine of {cores} cores, in use
by others; beside each row stands the load average of the minute before it ended, so seconds compare only roughly.

"Stays": a node of `make node`. "Stock": Flower's own SuperNode, which starts a process for every message. "In process":
the same two apps in one process, without a network. "Batch": `fm.compare`'s rounds.

| engine | nodes | clients a round | s a round | first, s | link, MB | a node, MB | load |
|---|---|---|---|---|---|---|---|
"""


class Cost(NamedTuple):
    """Of a run: seconds of a round and until the first is over, and MB."""

    each: float
    first: float
    link: float
    node: float


def small(algorithm: type[fm.Algorithm]) -> fm.Algorithm:
    """With step sizes that are small enough for all, and minibatches of 4."""
    a = algorithm()
    changed: dict[str, Any] = dict.fromkeys(step_sizes(a), 0.002)
    if "batch_size" in {f.name for f in fields(a)}:
        changed["batch_size"] = 4
    return replace(a, **changed)


@contextmanager
def deployed(clients: tuple[str, ...], stock: bool = False) -> Iterator[Federation]:
    """A SuperLink on this machine and a node for each entry, which names its clients."""
    with tempfile.TemporaryDirectory(prefix="fmlab-") as folder, Federation(Path(folder)) as federation:
        federation.start_link(seconds=LONG)
        for ids in clients:
            federation.start_node({"clients": ids, "keep": str(Path(folder) / "kept" / ids)}, stock=stock)
        yield federation


def equal() -> str:
    """Every method, in one deployment."""
    clients = fm.Sines(n_clients=5, n_validation=2, n_unseen=3, support=6, query=6)
    model = fm.MLP((1, 16, 16, 1))
    methods = {a.__name__: small(a) for a in fm.ALGORITHMS}
    shared: dict[str, Any] = {"rounds": 3, "model": model, "clients_per_round": 3, "weights": "size"}
    plans = make(methods, clients, **shared, dtype=torch.float64, patience=LONG)
    ends = {}
    with deployed(HOLDS) as federation:
        federation.submit(plans, nodes=len(HOLDS), wait=LONG)
        for event in federation.events():
            if event["event"] == "finished":
                ends[event["part"]] = held(event["state"])
                print(event["method"], flush=True)
    text = EQUAL.format(size=model.size)
    for part, plan in enumerate(plans):
        first, *_, last = plan.simulation().rounds()
        takes = "4" if hasattr(plan.algorithm, "batch_size") else "all examples"
        moved = gap(first.held, last.held)
        text += f"| {plan.name} | {takes} | {gap(ends[part], last.held):g} | {moved:.2g} |\n"
    return text


@dataclass(frozen=True)
class Case:
    """A row of ``scale``: ``nodes`` are as many clients, of which ``each`` take part in a round."""

    engine: str
    nodes: int
    each: int
    rounds: int

    @property
    def start(self) -> str:
        """Of its row."""
        return f"| {self.engine} | {'-' if self.engine == 'batch' else self.nodes} | {self.each} |"

    def cost(self, rounds: int) -> Cost:
        plan = _plan(self.nodes, rounds, self.each)
        if self.engine == "in process":
            return _in_process(plan)
        return _in_batch(plan) if self.engine == "batch" else _run(plan, self.nodes, stock=self.engine == "stock")


CASES = {f"stays-{n}": Case("stays", n, n, 10) for n in (2, 4, 8, 20)}
CASES |= {f"stock-{n}": Case("stock", n, n, 3) for n in (2, 4)}
CASES |= {f"process-{n}": Case("in process", 100, n, 10) for n in (25, 100)}
CASES |= {f"batch-{n}": Case("batch", 100, n, 50) for n in (25, 100)}


def scale(names: Sequence[str], rounds: int | None, missing: bool, table: Path) -> None:
    """Nodes that stay, stock nodes, the same in this process, and one batch; all of them, where none is named."""
    for name in names or CASES:
        case = CASES[name]
        there = _part("scale", table).splitlines()
        rows = {c.start: row for c in CASES.values() for row in there if row.startswith(c.start)}
        if missing and case.start in rows:
            continue
        rows[case.start] = _row(case, case.cost(rounds or case.rounds))
        text = "".join(f"{rows[c.start]}\n" for c in CASES.values() if c.start in rows)
        put("scale", SCALE.format(size=fm.Sines().model().size, cores=os.cpu_count()) + text, table)


def _plan(number: int, rounds: int, each: int | None = None) -> Plan:
    options = {} if each is None else {"clients_per_round": each}
    a = small(fm.FedAvg)
    return make([a], fm.Sines(n_clients=number), rounds=rounds, patience=LONG, dtype=torch.float64, **options)[0]


def _run(plan: Plan, number: int, stock: bool) -> Cost:
    began = time.monotonic()
    seconds, first = [], 0.0
    with deployed(tuple(map(str, range(number))), stock) as federation:
        federation.submit([plan], nodes=number, wait=LONG)
        for event in federation.events():
            if event["event"] == "round":
                first = first or time.monotonic() - began
                seconds.append(event["seconds"])
                if event["round"] == plan.rounds:
                    assert federation.link is not None
                    link = _megabytes(federation.link.pid)
                    node = statistics.mean(_megabytes(p.pid) for p in federation.nodes.values())
    return Cost(statistics.median(seconds[1:]), first, link, node)


def _megabytes(pid: int) -> float:
    """Of a process and all that it has started."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    found = 0.0
    for process in family:
        try:
            found += process.memory_full_info().pss / 1e6
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # a stock node's process for a message that has gone
            continue
    return found


def _in_process(plan: Plan) -> Cost:
    grid = LoopGrid([{"clients": str(i)} for i in range(plan.number)])
    with tempfile.TemporaryDirectory(prefix="fmlab-") as folder:
        return _timed(Run(plan, grid, Path(folder), wait=LONG).rounds())


def _in_batch(plan: Plan) -> Cost:
    return _timed(plan.simulation().rounds())


def _timed(rounds: Iterator[Any]) -> Cost:
    began = last = time.perf_counter()
    next(rounds)
    seconds = []
    for _ in rounds:
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    first = seconds[0] if seconds else last - began
    return Cost(statistics.median(seconds[1:]), first, _megabytes(os.getpid()), 0.0)


def _row(case: Case, cost: Cost) -> str:
    there = [f"{cost.each:.2g}", f"{cost.first:.2g}", f"{cost.link:.0f}", f"{cost.node:.0f}" if cost.node else "-"]
    row = f"{case.start} {' | '.join(there)} | {os.getloadavg()[0]:.1f} |"
    print(row, flush=True)
    return row


HEADS = {"equal": EQUAL.split("\n")[0], "scale": SCALE.split("\n")[0]}


def _part(name: str, table: Path) -> str:
    """Of the results; "" where it is not there yet."""
    now = table.read_text(encoding="utf-8") if table.exists() else ""
    found = re.search(rf"^{HEADS[name]}$.*?(?=^## |\Z)", now, re.M | re.S)
    return found[0] if found else ""


def put(part: str, text: str, table: Path) -> None:
    """Into its place in the results; what is there of the other part stays."""
    parts = {name: text if name == part else _part(name, table) for name in HEADS}
    table.write_text("\n".join([TITLE, *(p.strip() + "\n" for p in parts.values() if p)]), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("equal", "scale"))
    parser.add_argument("rows", nargs="*", choices=[[], *CASES], help=f"of scale: {', '.join(CASES)}; none: all")
    parser.add_argument("--missing", action="store_true", help="those rows alone that the table lacks")
    parser.add_argument("--rounds", type=int, help="to try whether it runs: 2 or more; for the table leave it out")
    parser.add_argument("--table", type=Path, default=TABLE, help="where to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "equal":
        put("equal", equal(), given.table)
    else:
        scale(given.rows, given.rounds, given.missing, given.table)


if __name__ == "__main__":
    main()
