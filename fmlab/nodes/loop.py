"""A grid in this process: the same ServerApp and ClientApp as on real nodes, without a network.

For tests, and for hundreds of nodes on one machine. A message is answered when it is pushed, by one node after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fmlab.nodes import node as client

App = Callable[[Message, Context], Message]


class LoopGrid(Grid):
    """``nodes``: the configuration of each, see ``fmlab.nodes.desk.KEYS``. One that is in ``dead`` answers nothing."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]], app: App = client.app) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.app = app
        self.contexts: dict[int, Context] = {}
        self.dead: set[int] = set()
        self._ready: dict[str, Message] = {}
        self._number = 0
        self._run = Run.create_empty(1)
        for config in nodes:
            self.add(config)

    def add(self, config: Mapping[str, Any]) -> int:
        """One more node; its id."""
        self._number += 1
        number = 1000 + self._number
        self.contexts[number] = Context(1, number, dict(config), RecordDict(), {})
        return number

    def remove(self, node: int) -> None:
        """As after a clean end: the grid knows that it is gone."""
        del self.contexts[node]

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._number += 1
        name = f"message {self._number}"
        message.metadata.__dict__["_message_id"] = name
        node = message.metadata.dst_node_id
        if node not in self.contexts or node in self.dead:
            return name
        try:
            self._ready[name] = self.app(message, self.contexts[node])
        except Exception as problem:
            self._ready[name] = Message(Error(code=2, reason=repr(problem)), reply_to=message)
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._ready.pop(name) for name in list(message_ids) if name in self._ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
