"""The ClientApp: convert, the core's ``work``, convert.

    query.clients   a plan -> which clients are here and how many examples they have, or what does not fit
    train           what the server holds, for these clients, from these versions of what they keep -> what they send
    evaluate        what the server holds -> losses on examples that they do not train on
    query.told      a sentence of the server's for whoever sits here

It runs only code that is installed here. A ValueError goes back as one sentence; the server goes on with the others.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fmlab.data import Tree
from fmlab.nodes import wire
from fmlab.nodes.desk import Config, Desk, own_file
from fmlab.nodes.plan import Plan


@lru_cache(maxsize=2)
def _desk(text: str, config: str) -> Desk:
    return Desk(Plan.read(text), json.loads(config))


def desk(text: str, config: Config) -> Desk:
    """The last two stay, so that a node that stays draws its clients once."""
    return _desk(text, json.dumps(dict(config), sort_keys=True))


def run_key(plan: Plan, part: int) -> str:
    """What clients keep belongs to a plan, however many rounds it has and however long it waits."""
    written = json.loads(plan.text())
    for name in ("rounds", "patience"):
        del written["plan"][name]
    return f"{part}-{hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:16]}"


def _shelf(context: Context, run: str) -> wire.Shelf:
    keep = context.node_config.get("keep")
    return wire.InFolder(Path(str(keep)), run) if keep else wire.InContext(context.state, run)


def _asked(message: Message) -> ConfigRecord:
    found = message.content["asked"]
    assert isinstance(found, ConfigRecord)
    return found


def _reply(message: Message, **values: object) -> Message:
    return Message(RecordDict({"said": ConfigRecord(values)}), reply_to=message)


def clients(message: Message, context: Context) -> Message:
    asked = _asked(message)
    try:
        if asked.get("enrol"):  # who is there is not known yet: what this file adds to the mean and spread of all
            plan = Plan.read(str(asked["plan"]))
            file = own_file(plan, context.node_config)
            support, query, mean, squares = file.moments(plan.seed)
            counts = [support, query]
            for text in (*file.decided, f"{support + query} examples are to train; the run begins when all have come"):
                print(text, flush=True)
            return _reply(message, name=file.name, counts=counts, mean=mean, squares=squares, problem="")
        here = desk(str(asked["plan"]), context.node_config)
        return _reply(message, clients=here.ids, sizes=here.sizes, name=here.name, problem="")
    except ValueError as problem:
        print(f"this node takes no part: {problem}", flush=True)
        return _reply(message, problem=str(problem))


def told(message: Message, context: Context) -> Message:
    print(str(_asked(message)["text"]), flush=True)
    return _reply(message, problem="")


def train(message: Message, context: Context) -> Message:
    began = time.perf_counter()
    asked = _asked(message)
    if delay := context.node_config.get("delay"):  # a slow machine, to see what becomes of it
        time.sleep(float(delay))
    try:
        here = desk(str(asked["plan"]), context.node_config)
        ids, named, bases = ([int(i) for i in asked[key]] for key in ("clients", "versions", "bases"))
        now, shelf = int(asked["version"]), _shelf(context, str(asked["run"]))
        kept, lost = _kept(here, shelf, ids, named, bases)
        held = {name: t[None, None] for name, t in _tree(message).items()}
        sent, after = here.work(ids, int(asked["round"]), int(asked["phase"]), held, kept)
    except ValueError as problem:
        return _reply(message, problem=str(problem))
    for place, client in enumerate(ids) if after else ():
        shelf.put(client, now, {name: t[0, place] for name, t in after.items()})
    content = RecordDict({
        "sent": wire.record({name: t[0] for name, t in sent.items()}),
        "said": ConfigRecord({"problem": "", "lost": lost}),
        "took": MetricRecord({"seconds": time.perf_counter() - began}),
    })  # fmt: skip
    return Message(content, reply_to=message)


def _tree(message: Message) -> Tree:
    found = message.content["held"]
    assert isinstance(found, ArrayRecord)
    return wire.tree(found)


def _kept(here: Desk, shelf: wire.Shelf, ids: list[int], named: list[int], bases: list[int]) -> tuple[Tree, list[int]]:
    """What clients ids keep (1, C, .), in the versions named, and those of which that version is gone: they begin
    afresh."""
    parts, lost = [], []
    for client, version, base in zip(ids, named, bases, strict=True):
        if not here.fresh:
            continue
        wire.tidy(shelf, client, base, version)
        if version == 0:
            parts.append(here.fresh)
        elif version in shelf.versions(client):
            parts.append(shelf.get(client, version))
        else:
            parts.append(here.fresh)
            lost.append(client)
    return {name: torch.stack([part[name] for part in parts])[None] for name in here.fresh}, lost


def evaluate(message: Message, context: Context) -> Message:
    try:
        here = desk(str(_asked(message)["plan"]), context.node_config)
        found = here.score({name: t[None, None] for name, t in _tree(message).items()})
    except ValueError as problem:
        return _reply(message, problem=str(problem))
    hits = [] if found.accuracy is None else found.accuracy[0, :, -1].tolist()
    return _reply(message, problem="", clients=here.ids, losses=found.loss[0, :, -1].tolist(), hits=hits)


app = ClientApp()
app.query("clients")(clients)
app.query("told")(told)
app.train()(train)
app.evaluate()(evaluate)
