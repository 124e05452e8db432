"""A node that stays: it speaks the same Fleet API to the same SuperLink as Flower's own SuperNode, which starts a
process and imports torch for every message.

It runs the ClientApp that is installed here and nothing else: what a run carries as its app is never fetched. Flower's
own node runs whatever anybody submits who reaches the SuperLink's port.

The only file, but for ``loop`` and ``tied``, that leans on Flower's insides; the extra ``nodes`` pins their version.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_connection import http_request_response

from fmlab.nodes.desk import Config
from fmlab.nodes.keys import authority, private_key

SOON, LATER = 0.02, 0.3  # seconds between two looks for a message: just after one, and when nothing goes on
PATIENT = partial(inflatable_utils.pull_objects, initial_backoff=0.05)  # Flower's own first pause is a second


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


class Interrupts:
    """Stands for ``os`` in the two modules of Flower's that end a node by an interrupt of its own, when a SuperLink
    that was started again does not know it: so it can be told from a reader's, and the node introduce itself anew."""

    getpid = staticmethod(os.getpid)

    def __init__(self) -> None:
        self._own = False
        for module in (fleet_http_connection, http_retry):
            module.os = self

    def kill(self, pid: int, number: int) -> None:
        self._own = True
        os.kill(pid, number)

    def own(self) -> bool:
        """Whether the last one was Flower's."""
        own, self._own = self._own, False
        return own


def look_often() -> None:
    """The server's side of ``PATIENT``: an answer's tensors arrive a moment after the answer."""
    from flwr.superlink.grid import http_grid

    http_grid.pull_objects = PATIENT


def reachable(address: str, seconds: float) -> None:
    """Raises Unreachable unless somebody answers in time."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
            return
        except (OSError, ValueError) as problem:
            if time.monotonic() > until:
                raise Unreachable(
                    f"nothing answers at {address} ({problem}); is the link up, and is that its address and port?"
                ) from None
            time.sleep(0.2)


def stay(
    address: str,
    config: Config,
    app: Callable[[Message, Context], Message],
    *,
    ticket: Path | None = None,
    patience: float = 30.0,
) -> None:
    """Answer messages until interrupted; when the SuperLink goes and comes again, so does the node.

    Args:
        address: host:port of the SuperLink.
        config: the node's own, see ``fmlab.nodes.desk.KEYS``.
        ticket: of a room, see ``fmlab.nodes.keys``; None: without TLS, for this machine alone.
        patience: seconds to wait for a SuperLink that is not there.

    Raises Unreachable, and SystemExit where the SuperLink refuses the node, with its reason.
    """
    pair, roots = None, None
    if ticket is not None:
        private, roots = bytes_to_private_key(private_key(ticket)), authority(ticket)
        pair = (private, private.public_key())
    state: dict[int, Context] = {}
    interrupts = Interrupts()
    while True:
        try:
            reachable(address, patience)
            with http_request_response(address, roots is None, roots, pair, max_wait_time=patience) as link:
                print(f"connected to {address}", flush=True)
                _answer(link, config, app, state)
            print("the SuperLink is gone; waiting for it", flush=True)
            time.sleep(1)
        except KeyboardInterrupt:
            if not interrupts.own():
                raise
            print("the SuperLink does not know this node any more; connecting anew", flush=True)


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
                pause = min(LATER, 1.2 * pause)
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
