"""The server's side of the wire: messages that do not block, and which clients are on which node.

Flower's node ids are random and new after every start, so a node is asked which clients it has (the roll), and a
client is known by its own id. A node that fails is asked again, and takes part once it has answered. Two nodes with one
client: the one that is there keeps it, if it still answers; otherwise the other has come in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

NO_ANSWER = "no answer in time"
GONE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
Say = Callable[..., None]  # an event and its values, for whoever watches


class Asked(NamedTuple):
    node: int
    kind: str
    about: Any
    until: float


class Answer(NamedTuple):
    asked: Asked
    content: RecordDict | None  # None: there is none, for the reason below
    problem: str = ""
    silent: bool = False  # nobody was there to say that


class Post:
    """Messages to nodes and their answers. A message that has none in time counts as failed."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.open: dict[str, Asked] = {}
        self.returned: list[Answer] = []

    def ask(self, letters: Iterable[tuple[int, RecordDict, Any]], kind: str, seconds: float, group: str = "") -> None:
        """letters: (node, content, what it is about). Those that share tensors are sent at once."""
        letters = list(letters)
        # The SuperLink throws a question away when its time is up, with the answer; this end keeps the time itself, and
        # may come for an answer late.
        ttl = 2 * seconds
        messages = [Message(content, node, kind, ttl=ttl, group_id=group) for node, content, _ in letters]
        names = list(self.grid.push_messages(messages)) if messages else []
        until = time.monotonic() + seconds
        for (node, _, about), name in zip(letters, names, strict=True):
            asked = Asked(node, kind, about, until)
            if name:
                self.open[name] = asked
            else:
                self.returned.append(Answer(asked, None, "the SuperLink does not know this node any more", True))

    def answers(self) -> list[Answer]:
        """What has come since, in any order. It may take as long as an answer's tensors are waited for, and so long
        again where there is another such answer; time is up for those alone whose time was up before."""
        found, self.returned = self.returned, []
        now = time.monotonic()
        for message in self.grid.pull_messages(list(self.open)) if self.open else ():
            asked = self.open.pop(message.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            if message.has_error():
                code, reason = message.error.code, message.error.reason
                raised = code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                why = NO_ANSWER if code in GONE else f"{'its app failed' if raised else 'no answer'} ({reason})"
                found.append(Answer(asked, None, why, not raised))
            else:
                problem = _problem(message.content)
                found.append(Answer(asked, None if problem else message.content, problem))
        for name in [name for name, asked in self.open.items() if asked.until < now]:
            asked = self.open.pop(name)
            found.append(Answer(asked, None, NO_ANSWER, True))
        return found


def _problem(content: RecordDict) -> str:
    said = content.get("said")
    return str(said["problem"]) if isinstance(said, ConfigRecord) else "the answer is none of fmlab's"


@dataclass
class Here:
    """What is known of a node."""

    state: str = "asked"  # then "here", "away", "refused" or "waiting"
    clients: list[int] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    name: str = ""

    def called(self) -> str:
        return self.name or "the node of clients " + ", ".join(map(str, self.clients)) if self.clients else "a node"


class Roster:
    """Which clients are where. ``letter``: what a node is asked, with the plan; ``patience``: seconds for an answer."""

    def __init__(self, post: Post, letter: Mapping[str, Any], patience: float, say: Say) -> None:
        self.post, self.letter, self.patience, self.say = post, letter, patience, say
        self.nodes: dict[tuple[int, str], Here] = {}
        self.sizes: dict[int, float] = {}  # of every client that was ever here
        self._looked = -1.0

    def look(self, every: float = 0.25) -> None:
        """See who is there, and ask those who are new, at most ``every`` seconds."""
        if time.monotonic() < self._looked + every:
            return
        self._looked = time.monotonic()
        there = {(int(n.node_id), str(n.last_activated_at)) for n in self.post.grid.get_nodes()}
        for key in self.nodes.keys() - there:
            gone = self.nodes.pop(key)
            if gone.state in ("here", "away"):
                self.say("gone", node=str(key[0]), clients=gone.clients, name=gone.name)
        for key in there - self.nodes.keys():
            self.nodes[key] = Here()
            self._ask(key)
        for key, node in self.nodes.items():
            if node.state == "waiting":
                self._settle(key, node)

    def _ask(self, key: tuple[int, str]) -> None:
        content = RecordDict({"asked": ConfigRecord(dict(self.letter))})
        self.post.ask([(key[0], content, key)], "query.clients", self.patience)

    def take(self, answer: Answer) -> bool:
        """Whether it was an answer to the roll; then it is noted."""
        if answer.asked.kind == "query.told":
            return True
        if answer.asked.kind != "query.clients":
            return False
        key = answer.asked.about
        node = self.nodes.get(key)
        if node is None:
            return True
        if answer.content is None:
            self._silent(key, node, answer)
            return True
        said: Any = answer.content["said"]
        before = node.state
        node.clients, node.sizes = [int(c) for c in said["clients"]], [float(s) for s in said["sizes"]]
        node.name = str(said["name"])
        if before == "here":  # asked whether it is alive, since another wants its clients
            for other, rival in self.nodes.items():
                if rival.state == "waiting" and set(rival.clients) & set(node.clients):
                    self._refuse(other, rival, node)
        else:
            self._settle(key, node)
        return True

    def _silent(self, key: tuple[int, str], node: Here, answer: Answer) -> None:
        """It did not say which clients it has: perhaps it will, or it has said why it never will."""
        if not answer.silent:
            node.state = "refused"
            self.say("refused", node=str(key[0]), name=node.name, problem=answer.problem)
        elif node.state == "here":
            self.failed(key[0], answer.problem)
        else:
            self._ask(key)

    def _settle(self, key: tuple[int, str], node: Here) -> None:
        rivals = {k: n for k, n in self.nodes.items() if k != key and set(n.clients) & set(node.clients)}
        live = {k: n for k, n in rivals.items() if n.state == "here"}
        if not live:
            for other in rivals.values():  # it is away, and this one has come in its place
                if other.state == "away":
                    other.clients, other.sizes = [], []
            again = bool(set(node.clients) & self.sizes.keys())
            node.state = "here"
            self.sizes |= dict(zip(node.clients, node.sizes, strict=True))
            self.say("back" if again else "joined", node=str(key[0]), clients=node.clients, name=node.name)
        elif node.state != "waiting":
            node.state = "waiting"
            for other_key in live:
                self._ask(other_key)

    def _refuse(self, key: tuple[int, str], node: Here, holder: Here) -> None:
        both = sorted(set(node.clients) & set(holder.clients))
        text = f"two nodes have client {both[0]}: {holder.called()}, which was here first, and {node.called()}"
        node.state = "refused"
        self.say("refused", node=str(key[0]), name=node.name, problem=text)
        self.tell(key[0], f"this node takes no part: {text}")

    def tell(self, node: int, text: str) -> None:
        """Whoever sits at a node."""
        told = RecordDict({"asked": ConfigRecord({"text": text})})
        self.post.ask([(node, told, None)], "query.told", self.patience)

    def failed(self, node: int, problem: str) -> None:
        """It did not do what it was asked; it takes part again once it has answered the roll."""
        for key, here in self.nodes.items():
            if key[0] == node and here.state == "here":
                here.state = "away"
                self.say("failed", node=str(node), clients=here.clients, name=here.name, problem=problem)
                self._ask(key)

    def where(self, client: int) -> int | None:
        """The node that has the client, if it is here."""
        for (node, _), here in self.nodes.items():
            if here.state == "here" and client in here.clients:
                return node
        return None

    @property
    def clients(self) -> list[int]:
        """Those that are here."""
        return sorted(c for here in self.nodes.values() if here.state == "here" for c in here.clients)
