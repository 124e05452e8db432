"""What a node does with the answers of a SuperLink that does not take it, and what the link says of it."""

from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from fmlab.nodes import keys, roster, warm
from fmlab.nodes.federation import Federation, FederationError, Room, check_port, line
from fmlab.nodes.keys import make_room

HERE = "127.0.0.1:1"


def refused(status, said):
    """As Flower's connection raises it."""
    request = httpx.Request("POST", f"https://{HERE}/v1/fleet/activate-node")
    try:
        raise httpx.HTTPStatusError(said, request=request, response=httpx.Response(status, request=request))
    except httpx.HTTPError:
        warm._refuse(600, f"Failed to initialize the connection to the SuperLink.\n{said}")


@pytest.fixture
def answers(monkeypatch):
    """``answers(a, b, ...)``: what becomes of one connection after another; a number is a status."""

    def come(*coming):
        left = list(coming)

        @contextmanager
        def connection(*_, **__):
            now = left.pop(0)
            if isinstance(now, BaseException):
                raise now
            if now is not None:
                refused(*now)
            yield None

        monkeypatch.setattr(warm, "http_request_response", connection)
        monkeypatch.setattr(warm, "reachable", lambda *_: None)
        monkeypatch.setattr(warm, "_answer", lambda *_: left.pop(0)())
        monkeypatch.setattr(warm.time, "sleep", lambda _: None)

    return come


@pytest.fixture
def run(monkeypatch):
    """Flower's messages want to know whose they are."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def forgets():
    warm.NoInterrupts().kill(0, 2)


def stops():
    raise KeyboardInterrupt


def test_who_is_forgotten_connects_anew_and_a_readers_interrupt_ends_it(answers, capsys):
    answers(None, forgets, None, stops)
    with pytest.raises(KeyboardInterrupt):
        warm.stay(HERE, {}, None)
    said = capsys.readouterr().out.splitlines()
    connected = f"connected to {HERE}"
    assert said == [connected, "the SuperLink does not know this node any more; connecting anew", connected]


def test_whose_signature_is_never_taken_hears_of_clocks(answers):
    answers(warm.Forgotten())
    with pytest.raises(warm.Unreachable, match="clocks of the two machines may differ by 5 minutes"):
        warm.stay(HERE, {}, None)


@pytest.mark.parametrize(
    ("status", "said", "says"),
    [
        (0, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", r"alice\.pem is not of the room at"),
        (404, "Not Found", "takes no node: Not Found"),
    ],
)
def test_what_waiting_does_not_change_ends_at_once(status, said, says, answers, tmp_path):
    make_room(tmp_path, "127.0.0.1", ["alice"])
    answers((status, said))
    with pytest.raises(warm.Unreachable, match=says):
        warm.stay(HERE, {}, None, ticket=tmp_path / "alice.pem")


def test_a_ticket_that_is_not_taken_is_tried_for_a_minute_and_that_is_said_once(answers, tmp_path, monkeypatch, capsys):
    make_room(tmp_path, "127.0.0.1", ["alice"])
    answers(*[(412, "no")] * 9)
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(warm.time, "monotonic", lambda: next(clock))
    with pytest.raises(warm.Unreachable, match="no ticket of this room, or somebody else has it"):
        warm.stay(HERE, {}, None, ticket=tmp_path / "alice.pem")
    assert capsys.readouterr().out.count("trying again for a minute") == 1


@pytest.mark.parametrize("address", ["192.168.1.10", ":8000", "host:port"])
def test_an_address_that_is_none_is_said(address):
    with pytest.raises(ValueError, match=f"AT = '{address}' is not HOST:PORT"):
        warm.reachable(address, 1.0)


def test_an_address_of_another_machine_is_said():
    with pytest.raises(FederationError, match=r"192\.0\.2\.1 is no address of this machine"):
        check_port("192.0.2.1", 8000)


def test_the_link_says_whom_it_turned_away_and_why_once(tmp_path):
    """From lines as Flower writes them."""
    room = Room(tmp_path / "class", ("alice",))
    make_room(room.folder, "127.0.0.1", room.names)
    federation = Federation(tmp_path, room=room)
    federation._tickets = {"alice": keys.public_key(room.ticket("alice"))}
    refusal = "ERROR: [/v1/fleet/activate-node][ApiError:2004] Attempted to register SuperNode with public key: "
    lines = [
        f"{refusal}{federation._tickets['alice']!r}, exception: SuperNode with node ID 7 could not be activated.",
        f"{refusal}b'-----BEGIN', exception: No SuperNode found with the given public key.",
        'Z INFO [uvicorn.access] 10.0.0.3:58530 - "POST /v1/fleet/activate-node HTTP/1.1" 401',
        'Z INFO [uvicorn.access] 10.0.0.4:58531 - "POST /v1/fleet/activate-node HTTP/1.1" 200',
    ]
    Path(federation.log("superlink")).write_text("\n".join([*lines, *lines, ""]))
    assert [line(event) for event in federation._turned_away()] == [
        "a node with the ticket of alice was turned away: there is one, or there was a moment ago",
        "somebody whose ticket this link does not know was turned away",
        "10.0.0.3 was turned away: its clock and this machine's differ by more than five minutes",
    ]


def test_an_answer_whose_tensors_never_come_counts_as_none_in_time(monkeypatch, run):
    """A node that is killed between its answer and the tensors of it; Flower's own server would wait three minutes."""
    asked = Message(RecordDict({"asked": ConfigRecord({"round": 1})}), 7, "train", ttl=60.0)
    asked.metadata.__dict__["_message_id"] = "asked"
    reply = Message(RecordDict({"said": ConfigRecord({"lost": [1]})}), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    tree = get_object_tree(reply)

    class Link:
        def PullMessages(self, _):
            envelope = message_to_proto(remove_content_from_message(reply))
            return PullAppMessagesResponse(messages_list=[envelope], message_object_trees=[tree])

        def PullObject(self, request):
            return PullObjectResponse(object_found=True, object_available=request.object_id == reply.object_id)

    grid = http_grid.HttpGrid(token="none")
    grid.set_run(Run.create_empty(1))
    grid._client = Link()
    monkeypatch.setattr(http_grid, "pull_objects", http_grid.pull_objects)  # put back afterwards
    warm.wait_for_tensors(0.3)
    (message,) = grid.pull_messages(["asked"])
    assert message.has_error()
    assert message.error.code in roster.GONE
    assert message.metadata.reply_to_message_id == "asked"


def test_who_answered_in_time_is_heard_although_the_server_waited_for_another(run, monkeypatch):
    """The time that an answer's tensors are waited for is nobody else's."""
    came, clock = [], [0.0]
    monkeypatch.setattr(roster.time, "monotonic", lambda: clock[0])

    class Grid:
        def push_messages(self, messages):
            self.until = clock[0] + messages[0].metadata.ttl
            return [f"{m.metadata.dst_node_id}" for m in messages]

        def pull_messages(self, names):
            if not came:  # the tensors of another answer are waited for; meanwhile this one comes
                clock[0] += 15.0
                came.append(Message(RecordDict({"said": ConfigRecord({"problem": ""})}), 7, "train"))
                came[0].metadata.__dict__["_reply_to_message_id"] = "7"
                return []
            return [m for m in came if m.metadata.reply_to_message_id in names and clock[0] < self.until]

    post = roster.Post(Grid())
    post.ask([(7, RecordDict({"asked": ConfigRecord({})}), "about")], "train", 10.0)
    assert post.answers() == []
    (answer,) = post.answers()
    assert answer.content is not None
    assert not answer.problem
