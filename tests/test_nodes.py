"""The same algorithm objects on nodes: equal to the simulation, with nothing lost and nothing counted twice.

Here on a grid in this process, which runs the ServerApp's rounds and the ClientApp as real nodes do.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch

import fmlab as fm

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")

from fmlab.declare import Validated, step_sizes
from fmlab.engine import answers, in_turn
from fmlab.nodes import node as client
from fmlab.nodes import plan as plans
from fmlab.nodes import wire
from fmlab.nodes.files import Files, Gathered, OwnFile, together
from fmlab.nodes.loop import LoopGrid
from fmlab.nodes.plan import Plan, PlanError, gap, make
from fmlab.nodes.server import Nobody, Run, enrol
from fmlab.populations.collection import DataError

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = fm.Sines(n_clients=5, n_validation=2, n_unseen=3, support=6, query=6, test=5)
ONE_EACH = [{"clients": str(i)} for i in range(5)]
SEVERAL = [{"clients": "2,4"}, {"clients": "0"}, {"clients": "1,3"}]


def small(algorithm, **other):
    a = algorithm(**other)
    a = replace(a, **dict.fromkeys(step_sizes(a), 0.01))
    return replace(a, batch_size=4) if "batch_size" in {f.name for f in fields(a)} else a


def plan_of(algorithm, rounds=3, clients=CLIENTS, patience=0.2, **options):
    options = {"dtype": torch.float64} | options
    return make([algorithm], clients, rounds=rounds, patience=patience, **options)[0]


class Events(list):
    def __call__(self, event, **values):
        self.append({"event": event, **values})

    def of(self, event):
        return [e for e in self if e["event"] == event]


def run(plan, nodes, folder, meanwhile=None, wait=5.0):
    """(the last state, the events, the grid). ``meanwhile(t, grid)`` is called before round t."""
    grid, events = nodes if isinstance(nodes, LoopGrid) else LoopGrid(nodes), Events()
    state = None
    for state in Run(plan, grid, folder, say=events, wait=wait).rounds():
        if meanwhile is not None:
            meanwhile(state.round, grid)
    return state, events, grid


# --- Equality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", fm.ALGORITHMS, ids=lambda a: a.__name__)
def test_nodes_are_the_simulation_to_the_last_bit(algorithm, tmp_path):
    """Three rounds with minibatches: all clients, one a node; and 3 of 5 by size with dropouts, several on a node."""
    small_data = replace(CLIENTS, support=3, query=3)
    for part, (nodes, options) in enumerate(
        [(ONE_EACH, {}), (SEVERAL, {"clients_per_round": 3, "weights": "size", "dropout": 0.3})]
    ):
        model = fm.MLP((1, 8, 8, 1))
        plan = plan_of(small(algorithm), clients=small_data, model=model, **options)
        state, _, _ = run(Plan.read(plan.text()), nodes, tmp_path / str(part))
        assert gap(state.held, plan.simulation().run().held) == 0.0
        moved = algorithm is fm.LocalOnly or gap(state.held, next(plan.simulation().rounds()).held) > 0
        assert moved, "a run in which nothing happens equals itself"


ALONE = """
import sys
from pathlib import Path

import fmlab.nodes  # first: MKL reads how it is to multiply at its first product
import torch
import fmlab as fm
from fmlab.nodes.loop import LoopGrid
from fmlab.nodes.plan import gap, make
from fmlab.nodes.server import Run

algorithm = getattr(fm, sys.argv[1])(**{sys.argv[2]: 0.01}, adapt_lr=0.01)
clients = fm.Sines(n_clients=3, n_validation=2, n_unseen=2)
(plan,) = make([algorithm], clients, rounds=3, patience=0.2, dtype=torch.float64)
grid = LoopGrid([{"clients": str(i)} for i in range(3)])
*_, state = Run(plan, grid, Path(sys.argv[3]), say=lambda *_, **__: None, wait=5.0).rounds()
print(gap(state.held, plan.simulation().run().held))
"""


@pytest.mark.parametrize(("algorithm", "step"), [("FedMAML", "inner_lr"), ("FedAvg", "lr")])
def test_a_client_alone_is_what_it_is_among_others(algorithm, step, tmp_path):
    """Also with as many examples that MKL has several ways to multiply, by where a matrix lies in memory; in a process
    of its own, as nodes are."""
    line = [sys.executable, "-c", ALONE, algorithm, step, str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0.0"


@pytest.mark.parametrize(
    "server", [fm.SGD(lr=0.01, momentum=0.9), fm.Adam(), fm.Yogi()], ids=lambda s: type(s).__name__
)
def test_moments_of_the_server_are_saved_with_it(server, tmp_path):
    plan = plan_of(small(fm.FedMAML), rounds=4, server=server, clients_per_round=2)
    run(replace(plan, rounds=2), ONE_EACH, tmp_path)
    state, events, _ = run(plan, ONE_EACH, tmp_path)
    assert events[0] == {"event": "resumed", "part": 0, "round": 2, "of": 4, "method": "FedMAML"}
    assert gap(state.held, plan.simulation().run().held) == 0.0


def test_what_goes_over_the_wire_is_what_the_method_says(tmp_path):
    """From the second round on: FedAvg's model both ways, FedPer's body alone, SCAFFOLD's two."""
    number = fm.MLP((1, 8, 1)).size
    head = 9
    for algorithm, numbers in ((fm.FedAvg, number), (fm.FedPer, number - head), (fm.Scaffold, 2 * number)):
        plan = plan_of(small(algorithm), model=fm.MLP((1, 8, 1)), clients_per_round=4)
        _, events, _ = run(plan, ONE_EACH, tmp_path / algorithm.__name__)
        last = events.of("round")[-1]
        assert (last["up"], last["down"]) == (4 * numbers * 8, 4 * numbers * 8)


def test_float32_travels_as_it_is(tmp_path):
    plan = plan_of(small(fm.FedAvg), dtype=torch.float32)
    state, _, _ = run(plan, ONE_EACH, tmp_path)
    assert state.held["model"].dtype == torch.float32
    assert gap(state.held, plan.simulation().run().held) == 0.0


def test_a_replay_of_who_took_part_is_the_simulation_where_those_are_its_participants(tmp_path):
    plan = plan_of(small(fm.Scaffold), rounds=4, clients_per_round=3, server=fm.Adam())
    simulation = plan.simulation()
    *states, last = simulation.rounds()
    whos = [state.participants[0].tolist() for state in (*states[1:], last)]
    assert gap(simulation.replay(whos), last.held) == 0.0
    assert gap(simulation.replay([*whos[:3], [0, 1, 2, 3, 4]]), last.held) > 0


# --- Plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", fm.POPULATIONS, ids=lambda p: p.__name__)
def test_a_plan_is_what_was_written(population):
    algorithm = small(fm.PFedMe, lam=2.0, server=fm.Adam(lr=0.3))
    plan = Plan(algorithm, population(n_clients=6), rounds=9, seed=7, weights="size", model=fm.MLP((3, 2)))
    assert Plan.read(plan.text()) == plan


def test_step_sizes_are_numbers_in_a_plan_and_that_of_adaptation_is_chosen_as_in_a_comparison(tmp_path):
    (plan,) = make([fm.FedMAML()], CLIENTS, rounds=1, dtype=torch.float64)
    assert all(isinstance(getattr(plan.algorithm, f), float) for f in step_sizes(plan.algorithm, ("training",)))
    plan = Plan.read(plan.text())
    assert isinstance(plan.algorithm.adapt_lr, Validated)
    _, events, _ = run(plan, ONE_EACH, tmp_path)
    study = fm.compare([fm.FedMAML()], CLIENTS, rounds=1, seeds=1, clients_per_round=5, dtype=torch.float64)
    (loss,) = (e["loss"] for e in events.of("round"))
    assert loss == pytest.approx(float(study.adaptation["FedMAML"][..., -1].mean()), rel=1e-12)
    with pytest.raises(PlanError, match=r"adapt_lr = validated\(.*\) is chosen on validation clients"):
        replace(plan, clients=FORM).check()


@dataclass(frozen=True)
class Halved:
    """A transform that is declared, so that it can travel to whoever has it."""

    factor: float = 0.5

    def __call__(self, sent, batch):
        return {name: self.factor * t for name, t in sent.items()}


def test_a_declared_transform_travels_to_those_who_have_it_and_a_function_does_not():
    plan = plan_of(small(fm.FedAvg), transforms=[Halved()])
    assert Plan.read(plan.text(), classes=[Halved]) == plan
    with pytest.raises(PlanError, match=r"Halved.*no class of the fmlab installed here"):
        Plan.read(plan.text())
    with pytest.raises(PlanError, match=r"transforms holds .*<lambda>, which is code"):
        plan_of(small(fm.FedAvg), transforms=[lambda sent, batch: sent])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p | {"fmlab": "9.9.9"}, r"fmlab 0\.1\.0 .* is installed here, and the plan is of fmlab 9\.9\.9"),
        (lambda p: p | {"format": 2}, "format 2"),
        (lambda p: p | {"plan": p["plan"] | {"more": 1}}, "has the fields"),
        (lambda p: p | {"plan": p["plan"] | {"patience": 0}}, "patience = 0"),
        (lambda p: p | {"plan": p["plan"] | {"algorithm": {"class": "os:system", "fields": {}}}}, "os:system"),
        (lambda p: {"some": "thing"}, "no plan of fmlab"),
    ],
)
def test_another_plan_is_refused_in_a_sentence(change, says):
    text = json.dumps(change(json.loads(plan_of(small(fm.FedAvg)).text())))
    with pytest.raises(PlanError, match=says):
        Plan.read(text)


def test_sweeps_and_clients_with_data_do_not_travel():
    with pytest.raises(PlanError, match="swept"):
        plan_of(fm.FedAvg(lr=fm.sweep(0.1, 0.2), adapt_lr=0.1))
    with pytest.raises(PlanError, match="tune: not done on nodes, and left out it would be another run"):
        plan_of(small(fm.FedAvg), tune=True)
    with pytest.raises(ValueError, match="clients_per_round = 9"):
        plan_of(small(fm.FedAvg), clients_per_round=9)


# --- Nodes that fail ------------------------------------------------------------------------------------------------


def test_the_next_in_turn_replaces_who_is_dead(tmp_path):
    """Node 1 dies after round 1, unannounced: the round in which it is missed goes on with the next in turn."""
    plan = plan_of(small(fm.Scaffold), rounds=6, clients_per_round=3)
    state, events, _ = run(plan, ONE_EACH, tmp_path, lambda t, g: g.dead.add(1002) if t == 1 else None)
    whos = [e["who"] for e in events.of("round")]
    expected = []
    for t in range(6):
        turn = in_turn(5, 0, t).tolist()
        expected.append([c for c in turn if t < 1 or c != 1][:3])
    assert [sorted(w) for w in whos] == [sorted(w) for w in expected]
    assert any(1 in in_turn(5, 0, t)[:3] for t in range(1, 6)), "it is missed"
    assert [e["clients"] for e in events.of("failed")] == [[1]]
    assert gap(state.held, plan.simulation().replay(whos)) == 0.0


def control_is_the_mean(plan, state, shelf):
    """SCAFFOLD's c beside the mean of all c_i, in the versions that the server has heard of."""
    kept = torch.stack([shelf(c) for c in range(plan.number)])
    return float((state.held["control"][0, 0] - kept.mean(0)).abs().max())


def test_a_lost_answer_is_counted_neither_twice_nor_half(tmp_path):
    """Node 2 works and keeps, and its answer is lost: what it kept is named by nobody, and c stays the mean."""
    plan = plan_of(small(fm.Scaffold), rounds=4)
    lose = {"now": False}

    def app(message, context):
        reply = client.app(message, context)
        if lose["now"] and message.metadata.message_type == "train" and context.node_config["clients"] == "2":
            lose["now"] = False
            raise ConnectionError("the answer is lost on the way")
        return reply

    grid = LoopGrid([c | {"keep": str(tmp_path / "kept")} for c in ONE_EACH], app)

    def before(t, grid):
        lose["now"] = t == 1

    state, events, _ = run(plan, grid, tmp_path, before)
    whos = [e["who"] for e in events.of("round")]
    assert [2 in w for w in whos] == [True, False, True, True]
    assert gap(state.held, plan.simulation().replay(whos)) == 0.0
    key = client.run_key(plan, 0)
    last = {c: max(t for t, w in enumerate(whos) if c in w) + 1 for c in range(5)}

    def heard(c):
        return wire.InFolder(tmp_path / "kept", key).get(c, last[c])["control"]

    assert control_is_the_mean(plan, state, heard) < 1e-15


@pytest.mark.parametrize("keep", [True, False])
def test_a_node_that_is_started_again(tmp_path, keep):
    """With what its client kept, as if nothing had been; without, the client begins afresh, and that is said."""
    kept = {"keep": str(tmp_path / "kept")} if keep else {}
    plan = plan_of(small(fm.Scaffold), rounds=9, clients_per_round=3)

    def restart(t, grid):
        if t == 2:
            grid.dead.add(1002)
            grid.add({"clients": "1"} | kept)
        if t >= 2:
            time.sleep(0.3)  # longer than the server's looks are apart, and than its patience: the node is back in time

    state, events, _ = run(plan, [c | kept for c in ONE_EACH], tmp_path, restart)
    whos = [e["who"] for e in events.of("round")]
    first = next(t for t, w in enumerate(whos) if 1 in w and t >= 2)
    assert any(1 in w for w in whos[:2]), "it has something to lose"
    lost = [(e["round"] - 1, c) for e in events.of("lost") for c in e["clients"]]
    assert lost == ([] if keep else [(first, 1)])
    assert gap(state.held, plan.simulation().replay(whos, lost)) == 0.0
    if not keep:
        assert gap(state.held, plan.simulation().replay(whos)) > 0, "what is lost makes a difference"


def test_a_client_lost_between_two_exchanges_begins_the_round_again_without_it(tmp_path):
    """FedMA asks twice a round; node 2 answers the first time only. Nothing of the first exchange is counted."""
    plan = plan_of(small(fm.FedMA), clients=replace(CLIENTS, support=3, query=3), model=fm.MLP((1, 4, 1)))
    ill = {"now": False}

    def app(message, context):
        asked = message.content.get("asked", {})
        if ill["now"] and asked.get("phase") == 1 and context.node_config["clients"] == "2":
            raise ConnectionError
        return client.app(message, context)

    def before(t, grid):
        ill["now"] = t == 1

    state, events, _ = run(plan, LoopGrid(ONE_EACH, app), tmp_path, before)
    whos = [e["who"] for e in events.of("round")]
    assert [2 in w for w in whos] == [True, False, True]
    assert events.of("lost") == []
    assert gap(state.held, plan.simulation().replay(whos)) == 0.0


def test_a_server_that_is_started_again_goes_on(tmp_path):
    """Killed after its nodes have worked and before the round is saved: the round is done again, to the same end."""
    plan = plan_of(small(fm.Scaffold), rounds=4)
    grid = LoopGrid([c | {"keep": str(tmp_path / "kept")} for c in ONE_EACH])
    first = Run(plan, grid, tmp_path, wait=5.0)
    states = first.rounds()
    for _ in range(3):
        next(states)
    first._round(set())  # the nodes have kept version 3, and the server dies before it has saved it
    again = LoopGrid([c | {"keep": str(tmp_path / "kept")} for c in ONE_EACH])
    state, events, _ = run(plan, again, tmp_path)
    assert events[0]["round"] == 2
    assert events.of("lost") == []
    assert gap(state.held, plan.simulation().run().held) == 0.0
    with pytest.raises(PlanError, match=r"rounds = 3, and .* after round 4"):
        Run(replace(plan, rounds=3), again, tmp_path)


def test_a_damaged_state_is_said(tmp_path):
    plan = plan_of(small(fm.FedAvg))
    run(plan, ONE_EACH, tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is damaged"):
        Run(plan, LoopGrid(ONE_EACH), tmp_path)


def test_dropouts_of_the_plan_are_those_of_the_simulation(tmp_path):
    plan = plan_of(small(fm.FedAvg), rounds=5, dropout=0.5)
    state, events, _ = run(plan, SEVERAL, tmp_path)
    for t, e in enumerate(events.of("round")):
        there = answers((0,), torch.arange(5)[None], t, 0.5)[0]
        assert sorted(e["who"]) == there.nonzero()[:, 0].tolist()
    assert gap(state.held, plan.simulation().run().held) == 0.0


# --- Bad input ------------------------------------------------------------------------------------------------------


def problems(plan, nodes, folder, wait=5.0):
    events = Events()
    ran = Run(plan, LoopGrid(nodes), folder, say=events, wait=wait)
    for _ in ran.rounds():
        pass
    return [e["problem"] for e in events.of("refused")], events


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"clients": "7"}, "from 0 to 4: the plan has 5 clients"),
        ({"clients": "one"}, "is not a list of whole numbers"),
        ({}, "this node has no clients"),
        ({"clients": "4", "colour": "red"}, r"was given \['colour'\], and a node takes"),
        ({"name": "alice", "data": "alice.csv"}, "has a file of its own, and the plan draws Sines"),
    ],
)
def test_a_node_that_does_not_fit_is_told_why_on_both_sides(config, says, tmp_path, capsys):
    said, events = problems(plan_of(small(fm.FedAvg), rounds=1), [*ONE_EACH[:4], config], tmp_path)
    assert len(said) == 1
    assert re.search(says, said[0])
    assert re.search(says, capsys.readouterr().out), "on the node's side too"
    assert events.of("without")[0]["clients"] == [4]
    assert events.of("round")[0]["who"] == [0, 1, 2, 3]


def test_a_node_with_another_version_is_told_so(tmp_path, monkeypatch, capsys):
    plan = plan_of(small(fm.FedAvg), rounds=1)
    ran = Run(plan, LoopGrid(ONE_EACH), tmp_path, say=(events := Events()), wait=0.5)
    client._desk.cache_clear()
    monkeypatch.setattr(plans, "version", lambda: "0.0.9")
    with pytest.raises(Nobody, match="5 are connected and 5 of them do not fit the plan"):
        list(ran.rounds())
    says = "fmlab 0.0.9 (plans of format 1) is installed here, and the plan is of fmlab 0.1.0"
    assert all(says in e["problem"] for e in events.of("refused"))
    assert says in capsys.readouterr().out


def test_no_node_at_all_is_said(tmp_path):
    with pytest.raises(Nobody, match=r"for 0\.3 s: none is connected"):
        run(plan_of(small(fm.FedAvg)), [], tmp_path, wait=0.3)


def test_two_nodes_with_one_client_the_first_keeps_it(tmp_path, capsys):
    said, events = problems(plan_of(small(fm.FedAvg), rounds=1), [*ONE_EACH, {"clients": "3"}], tmp_path)
    assert len(said) == 1
    assert "two nodes have client 3" in said[0]
    assert "takes no part: two nodes have client 3" in capsys.readouterr().out
    assert events.of("round")[0]["who"] == [0, 1, 2, 3, 4]


def test_a_method_that_fails_on_the_nodes_ends_the_run_with_its_reason(tmp_path):
    def app(message, context):
        if message.metadata.message_type == "train":
            raise RuntimeError("no room left")
        return client.app(message, context)

    with pytest.raises(Nobody, match=r"no client could do its part of round 1: .*no room left"):
        run(plan_of(small(fm.FedAvg)), LoopGrid(ONE_EACH, app), tmp_path)


# --- Files of one's own -----------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path):
    """Three clients of different size, whose columns have different scales."""
    files, g = {}, torch.Generator().manual_seed(0)
    for name, n in (("alice", 9), ("bob", 14), ("carol", 20)):
        x = torch.randn(n, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 100.0]) + torch.tensor([0.0, 1e4])
        y = x[:, 0] * 3 + x[:, 1] / 50 + len(name)
        lines = [f"{a},{b},{c}" for (a, b), c in zip(x.tolist(), y.tolist(), strict=True)]
        path = tmp_path / f"{name}.csv"
        path.write_text("a,b,y\n" + "\n".join(lines) + "\n")
        files[name] = str(path)
    return files


FORM = Files(target="y", features=("a", "b"), n_clients=3)


def own(files):
    return [{"name": name, "data": path} for name, path in files.items()]


def plan_of_files(algorithm, **options):
    a = replace(small(algorithm), batch_size=3)
    return Plan(a, FORM, 3, clients_per_round=3, dtype=torch.float64, patience=0.2, weights="size", **options)


@pytest.mark.parametrize("algorithm", [fm.FedAvg, fm.Scaffold, fm.FedPer], ids=lambda a: a.__name__)
def test_files_on_nodes_are_the_simulation_that_has_them_all(algorithm, tables, tmp_path):
    grid = LoopGrid(own(tables))
    plan = enrol(plan_of_files(algorithm), grid, 3, 5.0, Events())
    assert plan.clients.names == ("alice", "bob", "carol")
    plan = Plan.read(plan.text())
    ran = Run(plan, grid, tmp_path, wait=5.0)
    *_, state = ran.rounds()

    @dataclass(frozen=True, kw_only=True)
    class AllOfThem(Files):
        def draw(self, split, seed):
            return Gathered(self, tables).draw(split, seed)

    whole = replace(plan, clients=AllOfThem(**{f.name: getattr(plan.clients, f.name) for f in fields(plan.clients)}))
    assert gap(state.held, whole.simulation().run().held) == 0.0
    losses = ran.judge()
    assert list(losses) == [0, 1, 2]
    assert all(loss > 0 for loss in losses.values())


def test_whoever_sits_at_a_node_hears_that_the_file_fits_and_what_the_server_says(tables, tmp_path, capsys):
    grid = LoopGrid(own(tables))
    plan = enrol(plan_of_files(fm.FedAvg), grid, 3, 5.0, Events())
    assert "8 examples are to train; the run begins when all have come" in capsys.readouterr().out
    ran = Run(plan, grid, tmp_path, wait=5.0)
    next(ran.rounds())
    ran.tell("that was all")
    assert capsys.readouterr().out == "that was all\n" * 3


def test_mean_and_spread_over_nodes_are_those_of_all_examples_together(tables):
    files = [OwnFile(FORM, name, path) for name, path in tables.items()]
    mean, spread = together([f.moments(0) for f in files])
    rows = torch.cat([torch.cat([f.x, f.y[:, None]], 1)[torch.cat(f._cut(0)[:2])] for f in files])
    assert torch.allclose(torch.tensor(mean), rows.mean(0), rtol=1e-13)
    assert torch.allclose(torch.tensor(spread), rows.std(0, correction=0), rtol=1e-12)


def test_the_server_never_holds_an_example(tables):
    plan = enrol(plan_of_files(fm.FedAvg), LoopGrid(own(tables)), 3, 5.0, Events())
    with pytest.raises(DataError, match="stand in files on the nodes, and only there"):
        plan.clients.draw("training", 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,c,y\n1,2,3\n" * 4, "no column is called 'b'"),
        ("a,b,y\n1,2,3\n", "1 complete rows; 3 are the least"),
        ("a,b,y\n" + "1,red,3\n" * 4, "holds texts"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_does_not_fit_is_said_on_both_sides(text, says, tables, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    if text is not None:
        path.write_text(text)
    events = Events()
    with pytest.raises(Nobody, match="3 of 4 nodes with a file that fits"):
        enrol(plan_of_files(fm.FedAvg), LoopGrid([*own(tables), {"name": "dan", "data": str(path)}]), 4, 0.5, events)
    assert says in events.of("refused")[0]["problem"]
    assert says in capsys.readouterr().out


def test_two_nodes_with_one_name_the_first_keeps_it(tables, capsys):
    events = Events()
    twice = LoopGrid([*own(tables), {"name": "bob", "data": tables["alice"]}])
    with pytest.raises(Nobody, match="3 of 4 nodes"):
        enrol(plan_of_files(fm.FedAvg), twice, 4, 0.5, events)
    assert [e["problem"] for e in events.of("refused")] == [
        "two nodes are called 'bob', and the other one was here first"
    ]
    assert "takes no part: two nodes are called 'bob'" in capsys.readouterr().out


def test_who_is_not_enrolled_waits_for_the_next_run(tables, tmp_path):
    plan = enrol(plan_of_files(fm.FedAvg), LoopGrid(own(tables)), 3, 5.0, Events())
    late = {"name": "dan", "data": tables["bob"]}
    said, _ = problems(plan, [*own(tables), late], tmp_path)
    assert len(said) == 1
    assert "'dan' is not enrolled in this run, which has alice, bob, carol" in said[0]
