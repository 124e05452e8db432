"""The panel of real nodes: what it shows is a run of processes, and its buttons end and start them."""

import html
import time

import psutil
import pytest

import lab

pytest.importorskip("flwr", reason="needs Flower: the extra nodes, which make test and make federation install")


def until(that, seconds=240):
    end = time.monotonic() + seconds
    while not that():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def words(panel):
    return [row.words for row in panel._rows]


def test_a_run_lies_on_the_simulation_to_the_last_bit():
    panel = lab.federation(nodes=2, rounds=3, algorithm="Scaffold", patience=200.0, synchronous=True)
    try:
        assert panel.gap == 0.0
        assert panel.told.loss == {t: panel.told.simulated[t] for t in (1, 2, 3)}
        assert panel.told.simulated[3] < panel.told.simulated[0]
        assert panel.told.answered == {0: [1, 2, 3], 1: [1, 2, 3]}
        size = 3 * 2 * 2 * 1761 * 8  # rounds, clients, SCAFFOLD's two, numbers, bytes
        assert (panel.told.up, panel.told.down) == (size, size)
        assert "After round 3 of 3: 169 kB up and 169 kB down" in panel.sentence
        assert "the simulation's, to the last bit" in panel.sentence
        assert words(panel) == ["answered in round 3"] * 2
        assert all(row._kill.disabled and row._start.disabled for row in panel._rows)
        assert panel._repr_mimebundle_()["image/png"]
    finally:
        panel.close()


def test_buttons_end_a_node_and_start_it_and_one_that_was_to_come_late():
    panel = lab.federation(nodes=3, rounds=1000, algorithm="FedAvg", late=1, patience=5.0, synchronous=False)
    told, rows = panel.told, panel._rows
    try:
        assert words(panel)[2] == "comes when it is started"
        assert [(r._kill.disabled, r._start.disabled) for r in rows] == [(False, True), (False, True), (True, False)]
        until(lambda: told.done >= 2)
        rows[1]._kill.click()
        until(lambda: rows[1]._kill.disabled)
        assert not rows[1]._start.disabled
        done = told.done
        until(lambda: max(told.missed.get(1, [0])) > done)
        gone = told.missed[1][-1]
        until(lambda: told.done > gone)
        assert gone not in told.answered[1]
        for row in rows[1:]:
            row._start.click()
        until(lambda: all(max(told.answered.get(c, [0])) > gone for c in (1, 2)))
        assert told.absent > 0
        family = psutil.Process(panel._owner.pid).children(recursive=True)
        assert len(family) >= 4
        panel._stop.click()
        panel.wait(1)
        assert "The run was stopped" in panel.sentence
        until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 30)
        panel.kill(0)  # nothing is there any more
    finally:
        panel.close()


def test_a_run_that_fails_is_said_in_the_panel():
    panel = lab.federation(nodes=1, rounds=2, synchronous=False)
    try:
        panel._owner.kill()
        with pytest.raises(RuntimeError, match="has ended, and did not say why"):
            panel.wait(60)
        assert "has ended" in html.unescape(panel._error.value)
    finally:
        panel.close()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"nodes": 0}, "nodes = 0 is not a whole number from 1 to 20"),
        ({"nodes": 2.0}, "nodes = 2.0 is not"),
        ({"nodes": 2, "late": 2}, "late = 2 is not a whole number from 0 to 1: one node has to start"),
        ({"algorithm": "FedSGD"}, "algorithm = 'FedSGD' is none of .*FedAvg"),
        ({"rounds": 0}, "rounds = 0"),
        ({"patience": 0}, "patience = 0"),
        ({"theme": "pink"}, "theme = 'pink'"),
    ],
)
def test_a_wrong_value_starts_nothing(wrong, says):
    before = len(psutil.Process().children())
    with pytest.raises(ValueError, match=says):
        lab.federation(**wrong)
    assert len(psutil.Process().children()) == before
