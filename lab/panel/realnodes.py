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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch

import fmlab as fm
from fmlab.nodes.plan import Plan, make
from lab.panel.canvas import Canvas
from lab.panel.css import head
from lab.panel.live import Live
from lab.plots import nodesview
from lab.plots.nodesview import Told

METHODS = {a.__name__: a for a in fm.ALGORITHMS}
MOST = 20  # nodes: each is a process with torch in it
SAID = {
    "joined": "is here",
    "back": "is here again",
    "gone": "has left",
    "lost": "has lost what it kept, and begins afresh",
}


def federation(
    *,
    nodes: int = 4,
    rounds: int = 30,
    algorithm: str = "FedMAML",
    late: int = 0,
    patience: float = 15.0,
    **options: Any,
) -> FederationPanel:
    """Train on real nodes of this machine, each a process with one client of ``fm.Sines``, and watch.

    Args:
        nodes: how many, 1 to 20.
        rounds: of communication, >= 1.
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
    """``told``: what the run has said so far. Once it is over: ``gap``, the largest difference from the simulation, and
    ``answered``, from one with those alone who answered."""

    def __init__(self, nodes: int, rounds: int, algorithm: str, late: int, patience: float, **options: Any) -> None:
        if not (type(nodes) is int and 1 <= nodes <= MOST):
            raise ValueError(f"nodes = {nodes!r} is not a whole number from 1 to {MOST}")
        if not (type(late) is int and 0 <= late < nodes):
            raise ValueError(f"late = {late!r} is not a whole number from 0 to {nodes - 1}: one node has to start")
        if algorithm not in METHODS:
            raise ValueError(f"algorithm = {algorithm!r} is none of {', '.join(METHODS)}")
        self.nodes, self.method = nodes, algorithm
        self.gap: float | None = None
        self.answered: float | None = None
        clients = fm.Sines(n_clients=nodes)
        (plan,) = make([METHODS[algorithm]()], clients, rounds=rounds, patience=patience, dtype=torch.float64)
        self._losses = _curve(plan)
        self.told = Told(rounds, nodes, [next(self._losses)])
        self._runs = [i < nodes - late for i in range(nodes)]
        self._problem, self._stopped, self._over = "", False, threading.Event()
        super().__init__("real nodes", lambda t: Canvas([("curve", 1), ("answers", 1)], 2, t), **options)
        self._rows = [Row(i, self) for i in range(nodes)]
        self._stop = widgets.Button(description="stop", tooltip="end the run and all its processes")
        self._stop.on_click(lambda _: self.stop())
        table = widgets.VBox([*(row.root for row in self._rows), self._stop])
        self.children = (head(), table, self._error, self._canvas.root, self._summary)
        for row, runs in zip(self._rows, self._runs, strict=True):
            row.say("starts" if runs else "comes when it is started")
        self._draw()
        line = ["--nodes", nodes, "--rounds", rounds, "--algorithm", algorithm, "--late", late, "--patience", patience]
        self._owner = subprocess.Popen(
            [sys.executable, "-m", "fmlab.nodes", "local", "--leash", "--json", "--batch-size", "0", *map(str, line)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,  # an interrupted cell does not end it
        )
        atexit.register(self._end)
        self._reader = threading.Thread(target=self._read, name="fmlab nodes", daemon=True)
        self._reader.start()
        if self._sync:
            try:
                self.wait()
            except KeyboardInterrupt:
                self.stop()
                raise

    # --- What a reader does ---

    def kill(self, node: int) -> None:
        """End a node without a word to anybody, as a power cut does."""
        self._tell("kill", node)

    def start(self, node: int) -> None:
        """Start a node that was killed, with what its client kept, or one that was to come late."""
        self._tell("add", node)

    def _tell(self, what: str, node: int) -> None:
        if not (type(node) is int and 0 <= node < self.nodes):
            raise ValueError(f"node = {node!r} is not a whole number from 0 to {self.nodes - 1}")
        assert self._owner.stdin is not None
        with suppress(ValueError, OSError):  # the run is over
            self._owner.stdin.write(json.dumps({"do": what, "node": f"node{node}"}) + "\n")
            self._owner.stdin.flush()

    def wait(self, timeout: float | None = None, background: bool = False) -> None:
        """Until the run is over. Raises TimeoutError, and RuntimeError where it failed."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self!r} still runs after {timeout} s")
        if self._problem:
            raise RuntimeError(self._problem)

    def stop(self) -> None:
        """End the run and all its processes, within seconds."""
        self._stopped = True
        self._end()
        self._reader.join(20)

    def _end(self) -> None:
        assert self._owner.stdin is not None
        with suppress(OSError):
            self._owner.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._owner.wait(20)
        atexit.unregister(self._end)

    def close(self) -> None:
        if hasattr(self, "_reader"):  # not yet, where a wrong argument ended __init__
            self.stop()
        super().close()

    # --- What the run says ---

    def _read(self) -> None:
        assert self._owner.stdout is not None
        assert self._owner.stderr is not None
        problem = ""
        try:
            with self._owner.stdout as said, self._owner.stderr as complaints:
                for text in said:
                    self._hear(json.loads(text))
                problem = complaints.read().strip().rpartition("failed: ")[2]
        except Exception as error:  # whatever it is, nobody waits for ever
            problem = repr(error)
        if self.gap is None and not self._stopped:
            self._problem = problem or "the run has ended, and did not say why"
            self._say_error(self._problem)
        self._runs = [False] * self.nodes
        self._stop.disabled = True
        self._draw()
        self._over.set()

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Say at the clients' rows what became of them, and draw whatever a round or a button changes."""
        kind, clients = event["event"], event.get("clients", [])
        if kind in ("asked", "answered"):
            words = "trains in" if kind == "asked" else "answered in"
            self._note(clients, f"{words} round {event['round']}")
            return
        if kind == "round":
            self.told.round(event)
            self.told.simulated += islice(self._losses, self.told.done + 1 - len(self.told.simulated))
        elif kind == "failed":
            t = self.told.miss(clients)
            self._note(clients, f"did not answer in round {t}")
        elif kind in ("killed", "added"):
            node = int(event["node"].removeprefix("node"))
            self._runs[node] = kind == "added"
            self._note([node], "was killed" if kind == "killed" else "starts")
        elif kind in SAID:
            self._note(clients, SAID[kind])
        elif kind == "gap":
            self.gap, self.answered = event["gap"], event["answered"]
        self._draw()

    def _note(self, clients: list[int], words: str) -> None:
        for c in clients:
            self._rows[c].say(words)

    def _draw(self) -> None:
        for row, runs in zip(self._rows, self._runs, strict=True):
            row.offer(runs, not self._done)
        self._paint({
            "curve": lambda m: nodesview.on_the_simulation(m, self.told, self.method),
            "answers": lambda m: nodesview.who_answered(m, self.told),
        })  # fmt: skip
        self._say(self._sentence())

    @property
    def _done(self) -> bool:
        return self.gap is not None or self._stop.disabled

    def _sentence(self) -> str:
        done, up, down = self.told.done, self.told.up, self.told.down
        if not done:
            return "The nodes start: each is a process that imports torch once, which takes some seconds."
        far = f"After round {done} of {self.told.rounds}: {up / 1000:.0f} kB up and {down / 1000:.0f} kB down."
        if self.gap is None:
            return f"{far} The run was stopped." if self._stopped else far
        if self.gap == 0:
            return f"{far} The nodes' model is the simulation's, to the last bit."
        n = self.told.absent
        missing = f"{n} answer{'s were' if n > 1 else ' was'} missing: the" if n else "The"
        alone = "nothing" if self.answered == 0 else f"up to {self.answered:.2g}"
        return (
            f"{far} {missing} nodes' model differs from the simulation's by up to {self.gap:.2g}, and from one with "
            f"those alone who answered by {alone}."
        )


class Row:
    """One node: what it does, and its two buttons."""

    def __init__(self, node: int, panel: FederationPanel) -> None:
        self._who, self.words = f"<b>node {node}</b> with client {node}", ""
        self._said = widgets.HTML(layout=widgets.Layout(width="340px", max_width="100%"))
        self._said.add_class(f"fmlab-node-{node}")
        self._kill = widgets.Button(description=f"kill node {node}", tooltip="end it as a power cut does")
        self._start = widgets.Button(description=f"start node {node}", tooltip="start it, with what its client kept")
        self._kill.on_click(lambda _: panel.kill(node))
        self._start.on_click(lambda _: panel.start(node))
        for button in (self._kill, self._start):
            button.layout = widgets.Layout(width="120px", flex="0 0 auto")  # whole words on a narrow page, too
        self.root = widgets.HBox([self._said, self._kill, self._start], layout=widgets.Layout(flex_flow="row wrap"))

    def say(self, words: str) -> None:
        self.words = words
        self._said.value = f"{self._who} {words}"

    def offer(self, runs: bool, open: bool) -> None:
        """The button that does something, where the run is open."""
        self._kill.disabled = not (runs and open)
        self._start.disabled = runs or not open


def _environment() -> dict[str, str]:
    """With the fmlab that runs here, whatever folder the kernel is in."""
    paths = [str(Path(fm.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _curve(plan: Plan) -> Iterator[float]:
    """The simulation's loss after 0, 1, ... rounds."""
    simulation = plan.simulation()
    return (simulation.loss(state) for state in simulation.rounds())
