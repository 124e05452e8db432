"""A node that stays: it speaks the same Fleet API to the same SuperLink as Flower's own SuperNode, which starts a
process and imports torch for every message.

It runs the ClientApp that is installed here and nothing else: what a run carries as its app is never fetched. Flower's
own node runs whatever anybody submits who reaches the SuperLink's port.

The only file, but for ``loop`` and ``tied``, that leans on Flower's insides; the extra ``nodes`` pins their version.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import TIMESTAMP_TOLERANCE, ErrorCode
from flwr.supercore.heartbeat import HeartbeatFailure, HeartbeatSender
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key
from flwr.supercore.retry import RetryInvoker, RetryState, exponential, http_retry, make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_connection import http_request_response

from fmlab.nodes.desk import Config
from fmlab.nodes.keys import authority, private_key

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
MINUTE = 75.0  # seconds; Flower misses a silent node after 60
ABSENCE = 600.0  # seconds that a node waits for a SuperLink that was there
SOON, LATER = 0.02, 0.3  # seconds between two looks for a message: just after one, and when nothing goes on
MORE = 1.4  # from one look to the next; each takes the link some milliseconds
# For the tensors of a message, which come after it. Flower's own waits a second first, and then till the SuperLink
# gives them up, which takes three minutes.
PATIENT = partial(
    inflatable_utils.pull_objects, initial_backoff=0.05, backoff_cap=0.5, max_tries_per_object=None, max_time=MINUTE
)


def enlist(address: str, roots: bytes, tickets: Mapping[str, bytes]) -> None:
    """Tell a SuperLink the public keys of those who may be its nodes, by name."""
    from flwr.proto.control_pb2 import RegisterNodeRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    with ControlHttpClient.from_server_address(address, False, roots, interceptors=[version]) as client:
        for name, key in tickets.items():
            client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))


class Unreachable(OSError):
    """Nothing answers at the SuperLink's address."""


class Forgotten(BaseException):
    """The SuperLink answers this node that it is nobody: it was started again, or takes no signature of the node's."""


class NoInterrupts:
    """Stands for ``os`` in the two modules of Flower's that interrupt their own process when a node is nobody to its
    SuperLink. An exception in its place ends the call that asked, so a reader's Ctrl-C remains the only interrupt."""

    getpid = staticmethod(os.getpid)

    def kill(self, pid: int, number: int) -> None:
        raise Forgotten


class Heart(HeartbeatSender):
    """Flower's, which beats on whatever a SuperLink answers; the main thread's calls hear the same and see to it."""

    def _heartbeat(self) -> None:
        try:
            super()._heartbeat()
        except (httpx.HTTPError, RuntimeError, Forgotten):
            raise HeartbeatFailure from None


class Refused(Exception):
    """The SuperLink does not take this node, or there is none; the exception that said so is its context."""


def _refuse(code: int, message: str = "", **_: Any) -> NoReturn:
    """In place of Flower's exit, which prints a page and ends the process five seconds later."""
    raise Refused(message)


def _impatient() -> RetryInvoker:
    """Flower's waits up to 20 s between two tries, in which a SuperLink that is back misses its nodes, and says so at
    each; this one waits a second at most, and says so once."""
    invoker, away = make_simple_http_retry_invoker(), threading.Event()
    others = invoker.should_giveup

    def missed(state: RetryState) -> None:
        if state.tries == 2 and not away.is_set():
            away.set()
            print("the SuperLink does not answer; waiting for it", flush=True)

    def found(state: RetryState) -> None:
        if state.tries > 2 and away.is_set():
            away.clear()
            print("it answers again", flush=True)

    invoker.wait_gen_factory = partial(exponential, max_delay=1)
    invoker.wait_function = time.sleep
    invoker.should_giveup = lambda problem: UNTRUSTED in str(problem) or others(problem)
    invoker.on_backoff, invoker.on_success, invoker.on_giveup = missed, found, None
    return invoker


def _prepare() -> None:
    """Flower's own connection, with these in place of some of its parts."""
    http_retry.os = fleet_http_connection.os = NoInterrupts()
    fleet_http_connection.flwr_exit = _refuse
    fleet_http_connection.HeartbeatSender = Heart
    fleet_http_connection.make_simple_http_retry_invoker = _impatient


def wait_for_tensors(seconds: float) -> None:
    """The server's side of ``PATIENT``: an answer's tensors arrive a moment after it, or never, where its node was
    killed in between. Then it counts as none after so long, in which the server hears nobody else."""
    from flwr.superlink.grid import http_grid

    http_grid.pull_objects = partial(PATIENT, max_time=seconds)


def reachable(address: str, seconds: float) -> None:
    """Raises Unreachable unless somebody answers in time, ValueError for what is no address."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"AT = {address!r} is not HOST:PORT, as in 192.168.1.10:8000")
    until, said = time.monotonic() + seconds, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except (OSError, OverflowError) as problem:
            if time.monotonic() > until:
                raise Unreachable(
                    f"nothing answers at {address} ({problem}); is the link up, and is that its address and port?"
                ) from None
            if not said:
                said = True
                print(f"nothing answers at {address} ({problem}); trying for {seconds:g} s", flush=True)
            time.sleep(0.2)


def stay(
    address: str,
    config: Config,
    app: Callable[[Message, Context], Message],
    *,
    ticket: Path | None = None,
    patience: float = 30.0,
) -> NoReturn:
    """Answer messages until interrupted; when the SuperLink goes and comes again, so does the node.

    Args:
        address: host:port of the SuperLink.
        config: the node's own, see ``fmlab.nodes.desk.KEYS``.
        ticket: of a room, see ``fmlab.nodes.keys``; None: without TLS, for this machine alone.
        patience: seconds to wait for a SuperLink that is not there; for one that has been, ABSENCE.

    Raises Unreachable where nothing answers, or nothing that takes this node; with the reason.
    """
    pair, roots = None, None
    if ticket is not None:
        private, roots = bytes_to_private_key(private_key(ticket)), authority(ticket)
        pair = (private, private.public_key())
    state: dict[int, Context] = {}
    since: float | None = None  # when the SuperLink began to refuse this node
    _prepare()
    while True:
        reachable(address, patience)
        connected = False
        try:
            with http_request_response(address, roots is None, roots, pair, max_wait_time=patience) as link:
                connected, since, patience = True, None, max(patience, ABSENCE)
                print(f"connected to {address}", flush=True)
                _answer(link, config, app, state)
            time.sleep(1)
        except Forgotten:
            if not connected:
                raise Unreachable(
                    f"{address} takes no signature of this node; the clocks of the two machines may differ by "
                    f"{TIMESTAMP_TOLERANCE // 60} minutes at most"
                ) from None
            print("the SuperLink does not know this node any more; connecting anew", flush=True)
        except Refused as refused:
            since = _wait(address, ticket, refused, since)


def _wait(address: str, ticket: Path | None, refused: Refused, since: float | None) -> float:
    """A while, where the reason may pass: a SuperLink takes a node that was killed for one that is there, until it has
    missed it for a minute. Since when it refuses. Raises Unreachable where waiting changes nothing."""
    why, said = refused.__context__, " ".join(str(refused).splitlines()[1:])
    if UNTRUSTED in said:
        raise Unreachable(
            f"{ticket} is not of the room at {address}, or the link was started with another address ({said}); the "
            "instructor has the ticket that is"
        ) from None
    status = why.response.status_code if isinstance(why, httpx.HTTPStatusError) else 0
    if ticket is None or status != httpx.codes.PRECONDITION_FAILED:
        raise Unreachable(f"what answers at {address} takes no node: {said}") from None
    now = time.monotonic()
    if since is None:
        print(
            f"the link does not take {ticket}: it is no ticket of this room, or a node with it was here a moment ago; "
            "trying again for a minute",
            flush=True,
        )
    elif now > since + MINUTE:
        raise Unreachable(f"the link does not take {ticket}: it is no ticket of this room, or somebody else has it")
    time.sleep(2)
    return now if since is None else since


def _answer(link: Any, config: Config, app: Callable[[Message, Context], Message], states: dict[int, Context]) -> None:
    """Until the SuperLink does not know the node any more."""
    node, receive, send, _, _, pull, push, confirm = link
    TaskIdentity.node_id, TaskIdentity.task_id = node, 0
    pause = SOON
    while True:
        try:
            got = receive()
            if got is None:
                time.sleep(pause)
                pause = min(LATER, MORE * pause)
                continue
            pause = SOON
            message, tree = got
            run, name = message.metadata.run_id, message.metadata.message_id
            TaskIdentity.run_id = run
            parts = PATIENT([t.object_id for t in iterate_object_tree(tree)], partial(pull, run))
            confirm(run, name)
            message = inflatable_utils.inflate_object_from_contents(name, parts)
            message.metadata.__dict__["_message_id"] = name
            context = states.setdefault(run, Context(run, node, dict(config), RecordDict(), {}))
            began = time.perf_counter()
            _reply(_work(app, message, context), run, send, push, began)
        except RunNotRunningException:
            continue
        except (httpx.HTTPError, inflatable_utils.ObjectPullError, inflatable_utils.ObjectPushError) as problem:
            status = problem.response.status_code if isinstance(problem, httpx.HTTPStatusError) else 0
            if status in (401, 403, 404) or isinstance(problem, httpx.TransportError):
                return
            print(f"a message was lost: {problem}", flush=True)


def _work(app: Callable[[Message, Context], Message], message: Message, context: Context) -> Message:
    try:
        return app(message, context)
    except Exception as problem:  # whatever it is, the server hears of it, and the next message may go well
        print(f"failed: {problem!r}", flush=True)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(problem)), reply_to=message)


def _reply(reply: Message, run: int, send: Any, push: Any, began: float) -> None:
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        wanted, session = send(reply, get_object_tree(reply), time.perf_counter() - began)
        inflatable_utils.push_objects(objects, partial(push, run, session), object_ids_to_push=wanted)
