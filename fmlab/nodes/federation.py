"""A SuperLink and nodes on this machine, owned by the process that makes them.

    with Federation(folder) as federation:
        federation.start_link()
        federation.start_node({"clients": "0"})
        federation.submit(plans)
        for event in federation.events():
            ...

Everything is on loopback, on free ports, with folders of its own and without telemetry. Whoever ends this process ends
the others: orderly on leaving, and by themselves where it is killed (see ``tied``).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import fmlab
from fmlab.nodes import keys, warm
from fmlab.nodes.plan import Plan

THIN = Path(__file__).parent / "thin"
TIED = ("-P", str(Path(__file__).parent / "tied.py"))  # by its file: as a module it would import torch with fmlab first
SILENCE = 60.0  # seconds without an event after which the run is looked after
LOOK = 0.1
UNKNOWN = re.compile(rb'No SuperNode found with the given public key|"POST /v1/fleet/register-node HTTP/1.1" 4')
CLOCK = re.compile(rb'INFO .* ([0-9a-fA-F.:]+):\d+ - "POST /v1/fleet/activate-node HTTP/1.1" 401')


class FederationError(RuntimeError):
    """The run did not end well; the message says why, and where the logs are."""


def environment(home: Path) -> dict[str, str]:
    """For a program of Flower's: its own home, no telemetry, no downloads, no colours, and the fmlab that runs here."""
    left_out = ("CLICOLOR_FORCE", "FORCE_COLOR")
    inherited = {k: v for k, v in os.environ.items() if k not in left_out}
    paths = [str(Path(fmlab.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return inherited | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",  # s, all through a run; each look takes the link some milliseconds
        "NO_COLOR": "1",
        "TERM": "dumb",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raises FederationError where somebody has it, or the address is not this machine's."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as problem:
            if isinstance(problem, socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
                raise FederationError(f"{host} is no address of this machine ({problem})") from None
            raise FederationError(
                f"port {port} of {host} cannot be had ({problem}); choose another one with --port"
            ) from None


@dataclass(frozen=True)
class Room:
    """Who may come, and the folder of their tickets, see ``fmlab.nodes.keys``."""

    folder: Path
    names: tuple[str, ...]

    def ticket(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def options(self) -> list[str]:
        files = {"ca-certfile": "ca.crt", "certfile": "server.pem", "keyfile": "server.key"}
        named = [part for option, file in files.items() for part in (f"--ssl-{option}", str(self.folder / file))]
        return [*named, "--enable-supernode-auth"]


class Federation:
    """``folder``: for states, events, logs and homes. ``room``: with TLS, and tickets for those who may come; None:
    without, for this machine alone."""

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", port: int | None = None, room: Room | None = None
    ) -> None:
        self.folder, self.host, self.room = folder.absolute(), host, room
        self.port = free_port() if port is None else port
        self.link: subprocess.Popen[bytes] | None = None
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.read = 0  # bytes of the events that were read
        self.run = ""
        self._turned: set[tuple[str, str]] = set()  # who was turned away and why, so that it is said once
        self._log_read = 0
        self._tickets: dict[str, bytes] = {}  # the public keys
        self._others: list[subprocess.Popen[bytes]] = []
        self._started = self._runs = 0
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def progress(self) -> Path:
        """The events of the last run that was submitted."""
        return self.folder / f"events-{self._runs}.jsonl"

    # --- Processes ---

    def _start(self, name: str, *line: str) -> subprocess.Popen[bytes]:
        self._started += 1
        home = self.folder / "homes" / f"{name}-{self._started}"
        home.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *line],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(home),
                start_new_session=True,
                cwd=home,
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_link(self, database: bool = False, seconds: float = 180.0) -> None:
        """``database``: it remembers in a file. Raises FederationError where the port is taken, or it is not up in
        time."""
        check_port(self.host, self.port)
        if self.room is not None:
            keys.make_room(self.room.folder, self.host, self.room.names)
        options = ["--insecure"] if self.room is None else self.room.options()
        if database:
            options += ["--database", str(self.folder / "superlink.db")]
        where = ["--host", self.host, "--port", str(self.port)]
        self.link = self._start("superlink", *TIED, "flower-superlink", *options, *where)
        until = time.monotonic() + seconds
        while not self._answers():
            if self.link.poll() is not None or time.monotonic() > until:
                raise FederationError(f"the SuperLink did not start: {tail(self.log('superlink'))}")
            time.sleep(LOOK)
        if self.room is not None:
            self._tickets = {name: keys.public_key(self.room.ticket(name)) for name in self.room.names}
            warm.enlist(self.address, (self.room.folder / "ca.crt").read_bytes(), self._tickets)
            self._log_read = self.log("superlink").stat().st_size  # before, it refused everybody

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        return False

    def start_node(self, config: Mapping[str, Any], stock: bool = False) -> str:
        """Its name. ``stock``: Flower's own node, which starts a process for every message."""
        name = f"node{len(self.configs)}"
        self.configs[name] = dict(config)
        self.restart_node(name, stock=stock)
        return name

    def restart_node(self, name: str, *, stock: bool = False, **changed: Any) -> None:
        """Started again, with what it was told before; a change of None takes a setting away."""
        config = {k: v for k, v in (self.configs[name] | changed).items() if v is not None}
        self.configs[name] = config
        if stock:
            text = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
            port = str(free_port())
            line = ["flower-supernode", "--insecure", "--superlink", self.address, "--node-config", text]
            self.nodes[name] = self._start(name, *TIED, *line, "--host", "127.0.0.1", "--port", port)
            return
        options = ["--config", json.dumps(config), "--tied"]
        if self.room is not None:
            options += ["--ticket", str(self.room.ticket(str(config["name"])))]
        self.nodes[name] = self._start(name, "-m", "fmlab.nodes", "node", "--at", self.address, *options)

    def kill_node(self, name: str) -> None:
        """kill -9: nobody is told."""
        kill(self.nodes.pop(name))

    def kill_link(self) -> None:
        assert self.link is not None
        kill(self.link)
        self.link = None

    # --- Runs ---

    def submit(self, plans: Sequence[Plan], *, nodes: int = 0, wait: float = 180.0) -> None:
        """Start a run of these plans; from where it stands, where the folder holds such a run."""
        self._runs, self.read = self._runs + 1, 0
        self.progress.unlink(missing_ok=True)
        app, home = self.folder / "app", self.folder / "homes" / "cli"
        shutil.copytree(THIN, app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        home.mkdir(parents=True, exist_ok=True)
        how = "insecure = true"
        if self.room is not None:
            how = f'root-certificates = "{self.room.folder / "ca.crt"}"'
        (home / "config.toml").write_text(f'[superlink.fmlab]\naddress = "{self.address}"\n{how}\n')
        settings = self.folder / "run.toml"
        texts = json.dumps([plan.text() for plan in plans])
        settings.write_text(
            f"plans = {json.dumps(texts)}\nfolder = {json.dumps(str(self.folder))}\n"
            f"events = {json.dumps(str(self.progress))}\n"
            f"nodes = {nodes}\nwait = {float(wait)}\n"
        )
        said = self._flwr("run", str(app), "fmlab", "--run-config", str(settings), "--format", "json")
        self.run = str(said["run-id"])

    def _flwr(self, *line: str) -> dict[str, Any]:
        """Its exit code says little; what it prints is JSON."""
        done = subprocess.run(
            [sys.executable, *TIED, "flwr", *line],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment(self.folder / "homes" / "cli"),
            cwd=self.folder,
            timeout=300,
        )
        with suppress(ValueError):
            found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
            if found.get("success"):
                return found
        raise FederationError(f"flwr {line[0]} failed: {(done.stdout + done.stderr).strip()[-600:]}")

    def new_events(self) -> list[dict[str, Any]]:
        """What the run has said since the last call."""
        lines, self.read = _whole_lines(self.progress, self.read)
        return [json.loads(line) for line in lines]

    def events(self, seconds: float = 3600.0) -> Iterator[dict[str, Any]]:
        """Until the run is done. Raises FederationError where it fails, or says nothing for so long."""
        last = looked = time.monotonic()
        while True:
            for event in self.new_events():
                last = looked = time.monotonic()
                yield event
                if event["event"] == "error":
                    raise FederationError(str(event["problem"]))
                if event["event"] == "done":
                    return
            yield from self._turned_away()
            now = time.monotonic()
            if self.link is not None and self.link.poll() is not None:
                raise FederationError(f"the SuperLink ended: {tail(self.log('superlink'))}")
            if self.nodes and all(p.poll() is not None for p in self.nodes.values()):
                name, _ = next(iter(self.nodes.items()))
                raise FederationError(f"every node has ended; {name} said: {tail(self.log(name))}")
            if now > looked + SILENCE:
                looked = now
                self._look_after()
            if now > last + seconds:
                raise FederationError(f"the run has said nothing for {seconds:g} s; its log is in {self.folder}")
            time.sleep(LOOK)

    def _turned_away(self) -> Iterator[dict[str, Any]]:
        """Whom the SuperLink has refused, each once, from what it logs."""
        if self.room is None:
            return
        lines, self._log_read = _whole_lines(self.log("superlink"), self._log_read)
        for line in lines:
            kind, name = "", ""
            if UNKNOWN.search(line):
                kind = "stranger"
            elif found := CLOCK.search(line):
                kind, name = "clock", found[1].decode()
            elif b"could not be activated" in line:
                kind, name = (
                    "twice",
                    next((n for n, key in self._tickets.items() if repr(key)[2:-1].encode() in line), "?"),
                )
            if kind and (kind, name) not in self._turned:
                self._turned.add((kind, name))
                yield {"event": kind, "name": name}

    def _look_after(self) -> None:
        found = self._flwr("list", "fmlab", "--run-id", self.run, "--format", "json")
        status = str(found["runs"][0].get("status", ""))
        silent = not _whole_lines(self.progress, self.read)[0]  # else it has said why
        if status.startswith("finished:") and status != "finished:completed" and silent:
            raise FederationError(f"the run is {status}: {tail(self.log('superlink'))}")

    def stop(self) -> None:
        """End everything, in order, then by force."""
        every = [*self.nodes.values(), *([] if self.link is None else [self.link]), *self._others]
        for process in every:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        until = time.monotonic() + 4
        for process in every:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in every:
            kill(process)
        self.nodes, self.link = {}, None


@dataclass
class Watcher:
    """What of a run's events a reader wants to see, a line each."""

    out: IO[str]
    seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: dict[str, Any]) -> None:
        if text := line(event):
            print(text, file=self.out, flush=True)


def line(event: dict[str, Any]) -> str:
    """An event in words; "" for those that come too often."""
    kind = event["event"]
    who = event.get("name") or ", ".join(f"client {c}" for c in event.get("clients", []))
    if kind == "round":
        loss = "" if event["loss"] is None else f"  loss {event['loss']:.4f}"
        size = f"{event['up'] / 1000:.1f} kB up, {event['down'] / 1000:.1f} down"
        n = len(event["who"])
        return (
            f"{event['method']:<10} round {event['round']}/{event['of']}: {n} client{'s' * (n != 1)}, {size}, "
            f"{event['seconds']:.2f} s{loss}"
        )
    words = {
        "joined": f"{who} joined",
        "back": f"{who} is back",
        "gone": f"{who} has left",
        "enrolled": f"{who} is enrolled",
        "failed": f"{who}: {event.get('problem', '')}",
        "refused": f"a node takes no part: {event.get('problem', '')}",
        "lost": f"{who}: what was kept is lost, so it begins afresh",
        "without": f"beginning without {who}",
        "stranger": "somebody whose ticket this link does not know was turned away",
        "twice": f"a node with the ticket of {who} was turned away: there is one, or there was a moment ago",
        "clock": f"{who} was turned away: its clock and this machine's differ by more than five minutes",
        "resumed": f"{event.get('method', '')} goes on from round {event.get('round')} of {event.get('of')}",
    }
    if kind == "judged" and event["losses"]:
        mean = sum(event["losses"]) / len(event["losses"])
        return f"{event['method']:<10} after round {event['round']}: mean loss on the nodes {mean:.4f}"
    return words.get(kind, "")


def _whole_lines(path: Path, begin: int) -> tuple[list[bytes], int]:
    """Of a file that grows, from a byte on, and the byte after the last whole one."""
    if not path.exists():
        return [], begin
    with path.open("rb") as f:
        f.seek(begin)
        whole, end, _ = f.read().rpartition(b"\n")
    return whole.splitlines(), begin + len(whole) + len(end)


def kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, where the system has sessions."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def tail(path: Path, characters: int = 600) -> str:
    return path.read_text(errors="replace")[-characters:].strip() if path.exists() else ""
