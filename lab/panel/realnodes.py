"""A federation on this machine, watched: nodes that train, answer, fail and come late, beside the simulation.

One process of its own owns the SuperLink and the nodes (``python -m fmlab.nodes local``); it ends with its standard
input, which this kernel holds. So whatever ends the kernel ends them all.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from typing import Any

import ipywidgets as widgets
import torch

import fmlab as fm
from fmlab.nodes.plan import Plan, make
from lab.panel.canvas import Canvas
from lab.panel.css import STYLE
from lab.panel.live import Live
from lab.plots import nodesview
from lab.plots.nodesview import Told

METHODS = {a.__name__: a for a in fm.ALGORITHMS}
STATES = {
    "joined": "here",
    "back": "here again",
    "failed": "does not answer",
    "gone": "has left",
    "lost": "begins afresh",
}


def federation(
    *,
    nodes: int = 4,
    rounds: int = 30,
    algorithm: str = "FedMAML",
    late: int = 0,
    patience: float = 10.0,
    **options: Any,
) -> FederationPanel:
    """Train on real nodes of this machine, each a process with one client, and watch.

    Args:
        nodes: how many, 1 to 20.
        rounds: of communication.
        algorithm: the method's name.
        late: of the nodes, how many start when their button is pressed.
        patience: seconds after which a round goes on without who has not answered.
        options: ``theme``, ``size``, ``synchronous``, as for every panel; synchronous: return when the run is over.

    Raises ModuleNotFoundError without Flower, ValueError for a value out of range.
    """
    if importlib.util.find_spec("flwr") is None:
        raise ModuleNotFoundError(
            "real nodes need Flower, which is not installed: `make federation` in a terminal installs it, or pip "
            'install "flwr>=1.42,<1.43" here'
        )
    return FederationPanel(nodes, rounds, algorithm, late, patience, **options)


class FederationPanel(Live):
    """``told``: what the run has said so far; ``gap``: the largest difference from the simulation, once it is over."""

    def __init__(self, nodes: int, rounds: int, algorithm: str, late: int, patience: float, **options: Any) -> None:
        if not (type(nodes) is int and 1 <= nodes <= 20 and type(late) is int and 0 <= late < nodes):
            raise ValueError(f"nodes = {nodes!r}, late = {late!r}: give whole numbers, 1 to 20 and fewer late ones")
        if algorithm not in METHODS:
            raise ValueError(f"algorithm = {algorithm!r} is none of {', '.join(METHODS)}")
        self.nodes, self.late, self.method, self.gap = nodes, late, algorithm, None
        (self._plan,) = make([METHODS[algorithm]()], fm.Sines(n_clients=nodes), rounds=rounds, dtype=torch.float64)
        self.told = Told(_curve(self._plan))
        self._states = dict.fromkeys(range(nodes), "starts")
        self._bytes = [0, 0]
        self._over = threading.Event()
        self._problem = ""
        super().__init__("real nodes", lambda t: Canvas([("curve", 1), ("answers", 1)], 2, t), **options)
        self._table = widgets.VBox([self._row(i) for i in range(nodes)])
        self.children = (widgets.HTML(STYLE), self._table, self._error, self._canvas.image, self._summary)
        self._draw()
        line = [sys.executable, "-m", "fmlab.nodes", "local", "--leash", "--json", "--nodes", str(nodes)]
        line += ["--rounds", str(rounds), "--algorithm", algorithm, "--late", str(late), "--patience", str(patience)]
        self._owner = subprocess.Popen(
            [*line, "--batch-size", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        )
        atexit.register(self.stop)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._sync:
            self.wait()

    # --- What a reader does ---

    def _row(self, i: int) -> widgets.HBox:
        said = widgets.HTML(layout=widgets.Layout(width="330px"))
        kill = widgets.Button(description="kill", tooltip=f"end node {i} as a power cut does")
        start = widgets.Button(description="start", tooltip=f"start node {i}, with what its client kept")
        kill.on_click(lambda _: self.kill(i))
        start.on_click(lambda _: self.add(i))
        kill.add_class(f"fmlab-kill-{i}")
        start.add_class(f"fmlab-start-{i}")
        return widgets.HBox([said, kill, start])

    def kill(self, node: int) -> None:
        """End a node without a word to anybody, as a power cut does."""
        self._tell({"do": "kill", "node": f"node{node}"}, node)

    def add(self, node: int) -> None:
        """Start a node that was killed, or that was to come late."""
        self._tell({"do": "add", "node": f"node{node}"}, node)

    def _tell(self, command: dict[str, str], node: int) -> None:
        if not 0 <= node < self.nodes:
            raise ValueError(f"node = {node} is not a whole number from 0 to {self.nodes - 1}")
        if self._owner.stdin is None or self._over.is_set():
            return
        self._owner.stdin.write(json.dumps(command) + "\n")
        self._owner.stdin.flush()

    def wait(self, timeout: float | None = None, background: bool = False) -> None:
        """Until the run is over. Raises TimeoutError, and RuntimeError where it failed."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self!r} still runs after {timeout} s")
        if self._problem:
            raise RuntimeError(self._problem)

    def stop(self) -> None:
        """End the run and all its processes."""
        if self._owner.stdin is not None and not self._owner.stdin.closed:
            self._owner.stdin.close()
        self._owner.wait(20)
        atexit.unregister(self.stop)

    def close(self) -> None:
        if hasattr(self, "_owner"):
            self.stop()
        super().close()

    # --- What the run says ---

    def _read(self) -> None:
        assert self._owner.stdout is not None
        assert self._owner.stderr is not None
        for text in self._owner.stdout:
            self._hear(json.loads(text))
        problem = self._owner.stderr.read().strip()
        if self.gap is None:
            self._problem = problem.removeprefix("failed: ") or "the run was stopped"
            self._say_error(self._problem)
        self._owner.wait()
        self._over.set()

    def _hear(self, event: dict[str, Any]) -> None:
        kind, clients = event["event"], event.get("clients", [])
        if kind == "asked":
            self._set(clients, f"trains in round {event['round']}")
            return
        if kind == "round":
            t = event["round"]
            self._bytes = [self._bytes[0] + event["up"], self._bytes[1] + event["down"]]
            self.told.loss[t] = event["loss"]
            for c in event["who"]:
                self.told.answered.setdefault(c, []).append(t)
            self._set(event["who"], f"answered in round {t}")
        elif kind == "failed":
            for c in clients:
                self.told.missed.setdefault(c, []).append(max(self.told.loss, default=0) + 1)
        elif kind == "killed":
            self._set([int(event["node"].removeprefix("node"))], "was killed")
        elif kind == "added":
            self._set([int(event["node"].removeprefix("node"))], "starts")
        elif kind == "gap":
            self.gap = event["gap"]
        if kind in STATES:
            self._set(clients, STATES[kind])
        self._draw()

    def _set(self, clients: list[int], state: str) -> None:
        for c in clients:
            self._states[c] = state
        for c, row in enumerate(self._table.children):
            row.children[0].value = f"<b>node {c}</b>, client {c}: {self._states[c]}"

    def _draw(self) -> None:
        clients = list(range(self.nodes))
        self._set([], "")
        self._paint({
            "curve": lambda m: nodesview.on_the_simulation(m, self.told, self.method),
            "answers": lambda m: nodesview.who_answered(m, self.told, clients),
        })  # fmt: skip
        self._say(self._sentence())

    def _sentence(self) -> str:
        done, (up, down) = max(self.told.loss, default=0), self._bytes
        if not done:
            return "The nodes start: each is a process that imports torch once, which takes some seconds."
        far = f"After round {done} of {self.told.rounds}: {up / 1000:.0f} kB up and {down / 1000:.0f} kB down."
        if self.gap is None:
            return far
        missed = sum(map(len, self.told.missed.values()))
        if self.gap == 0:
            return f"{far} The nodes' model is the simulation's, to the last bit."
        why = f", since {missed} answers were missing" if missed else ""
        return f"{far} The nodes' model differs from the simulation's by up to {self.gap:.2g}{why}."


def _curve(plan: Plan) -> list[float]:
    simulation = plan.simulation()
    return [simulation.loss(state) for state in simulation.rounds()]
