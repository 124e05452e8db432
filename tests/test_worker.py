"""The worker: the newest job wins, a running one ends between rounds, and no thread is left behind."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lab.panel.worker import Superseded, Worker, synchronous

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 30.0  # seconds after which a wait is a failure; none of these tests needs a fraction of it


@pytest.fixture
def failures():
    return []


@pytest.fixture
def worker(failures):
    made = Worker(failures.append)
    yield made
    made.close()


def run(worker):
    assert worker.wait(LIMIT), "still at work"


def gone(worker):
    """Wait until the worker's thread has ended."""
    thread = worker._thread
    if thread is not None:
        thread.join(LIMIT)
    return not worker.alive


def test_of_a_burst_the_first_and_the_last_may_run_and_the_last_does(worker):
    began, release, done = threading.Event(), threading.Event(), []

    def slow(checkpoint):
        began.set()
        assert release.wait(LIMIT)
        checkpoint()
        done.append("slow")

    worker.submit(slow)
    assert began.wait(LIMIT)
    for number in range(300):
        worker.submit(lambda checkpoint, number=number: done.append(number))
    release.set()
    run(worker)
    assert done == [299]


def test_a_job_ends_at_its_next_checkpoint(worker):
    rounds, began = [], threading.Event()

    def endless(checkpoint):
        while True:
            rounds.append(len(rounds))
            began.set()
            checkpoint()

    worker.submit(endless)
    assert began.wait(LIMIT)
    worker.submit(lambda checkpoint: rounds.append("new"))
    run(worker)
    assert rounds[-1] == "new"


def test_an_error_is_shown_and_raised_by_wait_once(worker, failures):
    def bad(checkpoint):
        raise ValueError("three rounds are too few")

    worker.submit(bad)
    with pytest.raises(ValueError, match="three rounds"):
        worker.wait(LIMIT)
    assert [str(f) for f in failures] == ["three rounds are too few"]
    run(worker)
    done = []
    worker.submit(lambda checkpoint: done.append(1))
    run(worker)
    assert done == [1], "an error must not stop the worker"


def test_the_error_of_a_superseded_job_is_not_raised(worker):
    began, release = threading.Event(), threading.Event()

    def bad(checkpoint):
        began.set()
        assert release.wait(LIMIT)
        checkpoint()
        raise AssertionError("went on after it was superseded")

    worker.submit(bad)
    assert began.wait(LIMIT)
    worker.submit(lambda checkpoint: None)
    release.set()
    run(worker)


def test_a_closed_worker_ends_its_thread_and_takes_nothing_more(worker):
    began, ended = threading.Event(), []

    def endless(checkpoint):
        began.set()
        try:
            while True:
                checkpoint()
        except Superseded:
            ended.append(True)
            raise

    worker.submit(endless)
    assert began.wait(LIMIT)
    thread = worker._thread
    worker.close()
    thread.join(LIMIT)
    assert ended
    assert not thread.is_alive()
    worker.submit(endless)
    worker.soon("look", lambda: ended.append("looked"))
    assert not worker.alive
    assert ended == [True]


def test_python_may_end_while_a_panel_trains():
    program = (
        "import torch; from lab.panel.worker import Worker\n"
        "def job(checkpoint):\n"
        "    while True:\n"
        "        torch.ones(300, 300) @ torch.ones(300, 300); checkpoint()\n"
        "Worker(print).submit(job)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_idle_worker_has_no_thread(worker):
    worker.submit(lambda checkpoint: None)
    run(worker)
    assert gone(worker)
    done = []
    worker.submit(lambda checkpoint: done.append(1))
    run(worker)
    assert done == [1]


def test_pause_step_and_resume(worker):
    rounds, end = [], threading.Event()

    def job(checkpoint):
        while not end.is_set():
            rounds.append(len(rounds))
            checkpoint()

    worker.pause()
    worker.submit(job)
    run(worker)  # returns at the pause
    assert rounds == [0]
    for count in (2, 3):
        worker.step()
        run(worker)
        assert len(rounds) == count
    end.set()
    worker.resume()
    run(worker)
    assert not worker.busy


def test_a_newer_job_gets_through_a_pause(worker):
    done = []

    def endless(checkpoint):
        while True:
            checkpoint()

    worker.pause()
    worker.submit(endless)
    run(worker)
    worker.submit(lambda checkpoint: done.append(1))
    run(worker)
    assert done == [1]


def test_short_calls_run_between_rounds_and_do_not_end_the_job(worker):
    looked, asked, rounds = [], threading.Event(), []

    def job(checkpoint):
        assert asked.wait(LIMIT)
        for t in range(3):
            rounds.append((t, len(looked)))
            checkpoint()

    worker.submit(job)
    for _ in range(5):
        worker.soon("look", lambda: looked.append(1))
    asked.set()
    run(worker)
    assert [t for t, _ in rounds] == [0, 1, 2]
    assert len(looked) in (1, 2), "calls of the same key are merged"


def test_short_calls_run_where_nothing_else_does(worker):
    looked = []
    worker.soon("look", lambda: looked.append(1))
    run(worker)
    assert looked == [1]


def test_short_calls_run_during_a_pause(worker):
    looked = []

    def endless(checkpoint):
        while True:
            checkpoint()

    worker.pause()
    worker.submit(endless)
    run(worker)
    worker.soon("look", lambda: looked.append(1))
    run(worker)
    assert looked == [1]
    assert worker.busy


def test_what_follows_in_the_background_is_not_waited_for_and_gives_way(worker):
    began, done = threading.Event(), []

    def background(checkpoint):
        began.set()
        while True:
            checkpoint()

    worker.submit(lambda checkpoint: done.append("job"), background)
    run(worker)
    assert began.wait(LIMIT)
    worker.submit(lambda checkpoint: done.append("newer"))
    run(worker)
    assert worker.wait(LIMIT, background=True)
    assert done == ["job", "newer"]


def test_waiting_for_the_background(worker):
    done = []
    worker.submit(lambda checkpoint: done.append("job"), lambda checkpoint: done.append("map"))
    assert worker.wait(LIMIT, background=True)
    assert done == ["job", "map"]


def test_rest_gives_way_to_something_newer(worker):
    began, done = threading.Event(), []

    def job(checkpoint):
        began.set()
        worker.rest(LIMIT)
        done.append("rested")

    worker.submit(job)
    assert began.wait(LIMIT)
    worker.submit(lambda checkpoint: done.append("newer"))
    run(worker)
    assert done == ["newer"]


def test_wait_says_when_it_gave_up(worker):
    release = threading.Event()
    worker.submit(lambda checkpoint: release.wait(LIMIT))
    assert not worker.wait(0.01)
    release.set()
    run(worker)


def test_synchronous_mode_runs_here_and_raises_here(failures):
    worker, where = Worker(failures.append, synchronous=True), []
    worker.submit(lambda checkpoint: where.append(threading.current_thread()))
    worker.soon("look", lambda: where.append(threading.current_thread()))
    assert where == [threading.current_thread()] * 2
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda checkpoint: 1 / 0)
    assert len(failures) == 1
    worker.pause()
    assert not worker.paused, "nothing could resume it"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"PYTEST_VERSION": "9"}, True),
        ({"PYTEST_VERSION": "9", "JPY_SESSION_NAME": "a.ipynb"}, False),
        ({"PYTEST_VERSION": "9", "SERVER_SOFTWARE": "voila/0.5"}, False),
        ({"PYTEST_VERSION": "9", "VOILA_PREHEAT": "False"}, False),
        ({"FMLAB_SYNCHRONOUS": "1", "JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"FMLAB_SYNCHRONOUS": "0", "PYTEST_VERSION": "9"}, False),
    ],
)
def test_where_panels_are_synchronous(monkeypatch, environment, expected):
    for name in ("PYTEST_VERSION", "JPY_SESSION_NAME", "SERVER_SOFTWARE", "FMLAB_SYNCHRONOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert synchronous() is expected


def test_colab_is_synchronous(monkeypatch):
    monkeypatch.delenv("FMLAB_SYNCHRONOUS", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert synchronous()
