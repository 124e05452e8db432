"""Real deployments: a SuperLink and nodes as processes of their own, killed and started again.

One deployment serves most tests of this file; others have a room with tickets, and an owner that is killed.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
import torch

import fmlab as fm

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")

from fmlab.declare import step_sizes
from fmlab.nodes import warm
from fmlab.nodes.commands import main
from fmlab.nodes.federation import Federation, FederationError, environment, free_port
from fmlab.nodes.keys import make_room
from fmlab.nodes.node import run_key
from fmlab.nodes.plan import gap, make
from fmlab.nodes.server import Saved
from fmlab.nodes.wire import load

pytestmark = pytest.mark.skipif(os.name == "nt", reason="how processes end is written for POSIX; not tried on Windows")

CLIENTS = fm.Sines(n_clients=4, n_validation=2, n_unseen=3, support=4, query=4, test=5)
MODEL = fm.MLP((1, 8, 8, 1))
DELAY = 0.1  # of every answer, so that rounds leave the processor to what is being started


def small(algorithm):
    a = algorithm()
    a = replace(a, **dict.fromkeys(step_sizes(a), 0.002))
    return replace(a, batch_size=4) if "batch_size" in {f.name for f in fields(a)} else a


def plan_of(algorithm, rounds, patience=60.0, **options):
    options = {"dtype": torch.float64, "model": MODEL} | options
    return make([small(algorithm)], CLIENTS, rounds=rounds, patience=patience, **options)[0]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    with Federation(folder) as f:
        f.start_link()
        for clients in ("0,2", "1,3"):
            f.start_node({"clients": clients, "keep": str(folder / "kept" / clients), "delay": DELAY})
        yield f


def saved_of(federation, plan):
    return Saved.read(load(federation.folder / f"{run_key(plan, 0)}.npz")).state


def two(event):
    """Whether it is of the second node."""
    return event["clients"] == [1, 3]


class Story:
    """The events of a run, as far as they were waited for."""

    def __init__(self, federation):
        self.federation, self.coming, self.seen = federation, federation.events(600), []

    def until(self, kind, that=lambda e: True, seconds=240):
        end = time.monotonic() + seconds
        for event in self.coming:
            self.seen.append(event)
            if event["event"] == kind and that(event):
                return event
            assert time.monotonic() < end, f"{kind} did not come in {seconds} s; the last was {event}"
        raise AssertionError(f"the run ended before {kind}")

    def of(self, kind):
        return [e for e in self.seen if e["event"] == kind]

    def history(self, state):
        """Who took part in each round up to the state's, and (round, client) of what was lost."""
        self.seen += self.federation.new_events()
        rounds = [e for e in self.of("round") if e["round"] <= state.round]
        whos = [e["who"] for e in rounds]
        if rounds[-1]["round"] < state.round:  # killed after it was saved and before it was said
            whos.append(state.participants[0].tolist())
        return whos, [(e["round"] - 1, c) for e in rounds for c in e["lost"]]


METHODS = (fm.FedMAML, fm.Scaffold, fm.FedPer, fm.FedMA)  # all: tests/test_nodes.py, benchmarks/nodes.py


def test_methods_are_the_simulation_to_the_last_bit(federation):
    """One that has all, one that keeps, one that sends a part, one that asks twice a round."""
    plans = [plan_of(a, rounds=2, seed=1) for a in METHODS]
    federation.submit(plans)
    done = {}
    for event in federation.events(600):
        if event["event"] == "finished":
            done[event["part"]] = Saved.read(load(Path(event["state"]))).state
    found = {plan.name: gap(done[i].held, plan.simulation().run().held) for i, plan in enumerate(plans)}
    assert found == {a.__name__: 0.0 for a in METHODS}


def test_killed_late_and_started_again(federation):
    """Node two is killed and comes back as it was, after it was missed, then before and without what its clients kept,
    is slow, and is well again; then the SuperLink is killed, in memory and with its database. Every run goes on from
    the saved round, what is lost is said, and the end is what the core gives with those who were heard of."""
    plan = plan_of(fm.Scaffold, rounds=5000, patience=4.0)
    federation.submit([plan])
    events = Story(federation)
    afresh = str(federation.folder / "kept" / "afresh")

    events.until("round", lambda e: e["round"] == 2)
    federation.kill_node("node1")
    events.until("failed", two)
    federation.restart_node("node1")
    events.until("back", two)
    events.until("round", lambda e: 1 in e["who"])
    assert events.of("lost") == []

    federation.kill_node("node1")
    federation.restart_node("node1", keep=afresh)
    assert events.until("lost")["clients"] == [1, 3]

    federation.kill_node("node1")
    federation.restart_node("node1", delay=2 * plan.patience)
    events.until("back", two)
    assert "no answer in time" in events.until("failed", two)["problem"]
    federation.kill_node("node1")
    federation.restart_node("node1", delay=DELAY)
    events.until("round", lambda e: 1 in e["who"])

    federation.kill_link()
    first = saved_of(federation, plan)
    whos, lost = events.history(first)
    assert gap(first.held, plan.simulation().replay(whos, lost)) == 0.0

    for database in (False, True):  # the link that is killed in the second turn had one
        federation.start_link(database=True)
        before = saved_of(federation, plan).round
        federation.submit([replace(plan, rounds=before + 500, patience=120.0)])  # a slow machine is no lost node here
        events = Story(federation)
        assert events.until("resumed")["round"] == before
        events.until("round", lambda e, last=before + 2: e["round"] >= last and e["who"] == [0, 1, 2, 3])
        federation.kill_link()
        after = saved_of(federation, plan)
        more, more_lost = events.history(after)
        whos, lost = whos + more, lost + more_lost
        assert more_lost == [], database
        assert gap(after.held, plan.simulation().replay(whos, lost)) == 0.0


# --- Bad input ------------------------------------------------------------------------------------------------------


def command(folder, *line):
    """A command of a reader's, and where it prints."""
    folder.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "fmlab.nodes", *line]
    with (folder / "out.txt").open("wb") as out:
        return subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, env=environment(folder), cwd=folder)


def waits_for(path, text, seconds=400):
    until = time.monotonic() + seconds
    while time.monotonic() < until and text not in path.read_text(errors="replace"):
        time.sleep(0.1)
    return path.read_text(errors="replace")


def test_a_room_with_tickets(tmp_path):
    """The link and a student, by their commands; somebody whose ticket the link does not know is told so, and with a
    ticket of another room nobody gets so far."""
    port = free_port()
    rows = "\n".join(f"{i % 7},{i % 3},{i % 5}" for i in range(12))
    where = ["--host", "127.0.0.1", "--port", str(port), "--names", "alice", "--target", "y", "--features", "a", "b"]
    link = command(tmp_path / "link", "link", *where, "--rounds", "2", "--algorithm", "FedAvg")
    students = []
    try:
        assert "NAME=alice" in waits_for(tmp_path / "link" / "out.txt", "NAME=alice")
        make_room(tmp_path / "link" / "class", "127.0.0.1", ["mallory"])  # after the link has heard of its tickets
        make_room(tmp_path / "other", "127.0.0.1", ["eve"])
        for name, ticket in (("mallory", "link/class"), ("eve", "other"), ("alice", "link/class")):
            if name == "alice":  # who comes last, so that the run is still waiting when the others are refused
                waits_for(tmp_path / "mallory" / "out.txt", "ticket")
            (tmp_path / name).mkdir()
            (tmp_path / name / "mine.csv").write_text(f"a,b,y\n{rows}\n")
            shutil.copy(tmp_path / ticket / f"{name}.pem", tmp_path / name)
            here = ["--at", f"127.0.0.1:{port}", "--name", name, "--data", "mine.csv"]
            students.append(command(tmp_path / name, "node", *here))
        assert link.wait(600) == 0
        said = (tmp_path / "link" / "out.txt").read_text()
        assert "alice is enrolled" in said
        assert "somebody whose ticket this link does not know was turned away" in said
        assert re.search(r"FedAvg +round 2/2: 1 client,", said)
        assert "it is no ticket of this room" in waits_for(tmp_path / "mallory" / "out.txt", "ticket")
        assert "CERTIFICATE_VERIFY_FAILED" in waits_for(tmp_path / "eve" / "out.txt", "VERIFY")
    finally:
        for process in (link, *students):
            process.terminate()
            process.wait()


def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FederationError, match=f"port {port} of .* choose another"):
            Federation(tmp_path, port=port).start_link()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["local", "--nodes", "0"], "nodes = 0 is not a whole number >= 1"),
        (["local", "--nodes", "3", "--clients", "2"], "clients = 2 are fewer than nodes = 3"),
        (["node", "--at", "127.0.0.1:1", "--name", "me"], "DATA is missing"),
        (["node", "--at", "127.0.0.1:1", "--name", "me", "--data", "no.csv"], "no.csv does not exist"),
    ],
)
def test_commands_say_what_is_wrong(line, says, capsys):
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == 1
    assert says in capsys.readouterr().err


def test_nothing_answers_at_the_address():
    port = free_port()
    with pytest.raises(warm.Unreachable, match=f"nothing answers at 127.0.0.1:{port}"):
        warm.reachable(f"127.0.0.1:{port}", 0.1)


# --- The process that owns the others -------------------------------------------------------------------------------


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("end", ["its kernel is gone", "kill -9"])
def test_whatever_ends_the_owner_ends_all(end, tmp_path):
    line = [sys.executable, "-m", "fmlab.nodes", "local", "--nodes", "1", "--clients", "2", "--rounds", "100000"]
    owner = subprocess.Popen(
        [*line, "--algorithm", "FedAvg", "--leash", "--json", "--folder", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(tmp_path / "home"),
    )
    wanted = "round" if end == "kill -9" else "started"  # with the ServerApp's process and without
    for text in owner.stdout:
        if json.loads(text)["event"] == wanted:
            break
    family = psutil.Process(owner.pid).children(recursive=True)
    assert len(family) >= 3
    if end == "kill -9":
        owner.kill()
    else:
        owner.stdin.close()
    until = time.monotonic() + 180
    while alive(family) and time.monotonic() < until:
        time.sleep(0.2)
    assert alive(family) == []
    assert owner.wait(120) == (-9 if end == "kill -9" else 130)
    owner.stdout.close()
    with suppress(BrokenPipeError):
        owner.stdin.close()
