"""Going on: stop, save, load, Ctrl-C, and the study is that of a run that was never interrupted, bit for bit."""

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import fields, replace

import pytest
import torch

import fmlab as fm
from fmlab import tuning
from fmlab.interrupt import Interrupted
from fmlab.progress import Progress, Undoable

POPULATION = fm.Sines(n_clients=12, n_validation=3, n_unseen=5, test=5)
OPTIONS = {"seeds": 2, "clients_per_round": 4, "steps": 2, "evaluations": 4, "dropout": 0.2}
ENDS = ("adaptation", "accuracy", "personal", "personal_accuracy", "diverged")
COUNTED = ("bytes_up", "bytes_down", "gradient_evaluations")


def small_batches(algorithm, filled):
    a = filled(algorithm())
    return replace(a, batch_size=4) if "batch_size" in {f.name for f in fields(a)} else a


def same_end(ours, theirs):
    """Everything at the last round, and what a further round would start from."""
    for name in theirs.names:
        for kind in ENDS:
            mine, other = getattr(ours, kind).get(name), getattr(theirs, kind).get(name)
            assert (mine is None) is (other is None)
            assert mine is None or torch.equal(mine, other), (name, kind)
        for kind in COUNTED:
            assert torch.equal(getattr(ours, kind)[name][..., -1], getattr(theirs, kind)[name][..., -1]), (name, kind)
        for a, b in zip(ours.states[name], theirs.states[name], strict=True):
            assert a.round == b.round
            assert all(torch.equal(t, b.held[k]) for k, t in a.held.items())
            for k, moments in a.moments.items():
                assert all(torch.equal(x, y) for x, y in zip(moments, b.moments[k], strict=True))
        for a, b in zip(ours.kept[name], theirs.kept[name], strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(t, b[k]) for k, t in a.items())


@pytest.mark.parametrize("algorithm", fm.ALGORITHMS, ids=lambda a: a.__name__)
def test_stopping_and_going_on_is_never_having_stopped(filled, tmp_path, algorithm):
    """Stop at 8 and resume to 20 = 20 at once, for every method, with minibatches and clients that do not answer."""
    a = small_batches(algorithm, filled)
    whole = fm.compare([a], POPULATION, rounds=20, **OPTIONS)
    part = fm.compare([a], POPULATION, rounds=8, **OPTIONS)
    same_end(part.resume(rounds=20), whole)
    part.save(tmp_path)
    same_end(fm.load(tmp_path).resume(rounds=20), whole)
    same_end(part.resume(rounds=13).resume(rounds=20), whole)


def test_a_resumed_study_keeps_its_curves_and_its_config_makes_it_again():
    methods = {"swept": fm.FedAvg(lr=fm.sweep(0.01, 0.02), adapt_lr=0.01), "by value": fm.FedMAML(
        inner_steps=fm.sweep(1, 2), inner_lr=0.01, adapt_lr=0.01)}  # fmt: skip
    part = fm.compare(methods, POPULATION, rounds=8, **OPTIONS)
    study = part.resume(rounds=20)
    assert study.rounds.tolist() == [0, 2, 4, 6, 8, 10, 15, 20]
    again = fm.compare(**study.config)
    same_end(study, again)
    for name in methods:
        assert torch.equal(study.learning[name], again.learning[name])
        assert torch.equal(study.learning[name][..., :5, :], part.learning[name])
        for kind in COUNTED:
            assert torch.equal(getattr(study, kind)[name], getattr(again, kind)[name])
    assert study.table() == again.table()
    assert part.rounds.tolist() == [0, 2, 4, 6, 8], "the study that was resumed is as it was"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s: s.resume(rounds=8), ValueError, "rounds = 8 is not a whole number > 8"),
        (lambda s: s.resume(rounds=9.5), ValueError, r"rounds = 9\.5"),
        (lambda s: s.resume(rounds=20, seeds=3), TypeError, r"cannot change \['seeds'\].*starts anew"),
        (lambda s: s.resume(), TypeError, "rounds"),
    ],
)
def test_resuming_otherwise_is_refused_before_training(call, error, says):
    study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], POPULATION, rounds=8, **OPTIONS)
    with pytest.raises(error, match=says):
        call(study)


def test_a_study_from_the_middle_of_a_run_cannot_go_on():
    studies = list(fm.stream([fm.LocalOnly(lr=0.01)], POPULATION, rounds=4, **OPTIONS))
    assert [s.kept is None for s in studies] == [True] * 4 + [False]
    for call in (lambda s: s.resume(rounds=9), lambda s: s.save("nowhere")):
        with pytest.raises(ValueError, match="in the middle of a run"):
            call(studies[1])


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


def press_after(seconds):
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.fixture
def ctrl_c():
    """Python's own handler, which a process that was started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="os.kill does not send Ctrl-C on Windows")
def test_ctrl_c_loses_nothing(ctrl_c):
    """Nothing is timed: wherever it strikes after the first round, going on gives the uninterrupted run."""
    methods, rounds = [fm.FedAvg(lr=0.01, adapt_lr=0.01), fm.LocalOnly(lr=0.01)], 100_000
    timer = press_after(1.0)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after round \d+ of 100000; nothing is lost") as stopped:
        fm.compare(methods, POPULATION, rounds=rounds, **OPTIONS)
    timer.cancel()
    study = stopped.value.study
    done = int(study.rounds[-1])
    assert 0 < done < rounds
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = fm.compare(methods, POPULATION, rounds=done + 3, **OPTIONS)
    same_end(study.resume(rounds=done + 3), whole)


KEEPING = [fm.FedPer(lr=0.01, adapt_lr=0.01), fm.Ditto(lr=0.01, adapt_lr=0.01), fm.LocalOnly(lr=0.01)]


@pytest.fixture
def press(monkeypatch, ctrl_c):
    """press(owner, name, call, times): Ctrl-C so often right after that call, from 1 on, of a function of fmlab's."""

    def put(owner, name, call, times=1):
        original, called = getattr(owner, name), []

        def pressing(*args, **options):
            result = original(*args, **options)
            called.append(name)
            for _ in range(times if len(called) == call else 0):
                signal.raise_signal(signal.SIGINT)
            return result

        monkeypatch.setattr(owner, name, pressing)

    return put


def stopped(says, **options):
    with pytest.raises(Interrupted, match=says) as error:
        fm.compare(KEEPING, POPULATION, **OPTIONS | options)
    assert fm.interrupted() is error.value.study
    return fm.interrupted()


@pytest.mark.parametrize(("call", "done"), [(2, 0), (13, 4), (14, 4), (15, 4)])
def test_a_second_ctrl_c_stops_within_the_round_and_keeps_those_before(press, call, done):
    """Pressed when the 1st, 2nd or 3rd method's clients have kept the models of the next round."""
    whole = fm.compare(KEEPING, POPULATION, rounds=7, **OPTIONS)
    press(Undoable, "put", call, times=2)
    study = stopped(f"stopped after round {done} of 7", rounds=7)
    if done:
        same_end(study, fm.compare(KEEPING, POPULATION, rounds=done, **OPTIONS))
    press(Undoable, "put", 2, times=2)
    with pytest.raises(Interrupted, match=f"stopped after round {done} of 7"):
        study.resume(rounds=7)
    for part in (study, fm.interrupted()):
        assert part.rounds.tolist()[-1] == done
        same_end(part.resume(rounds=7), whole)


def test_a_third_ctrl_c_while_the_study_is_scored_loses_nothing(press):
    press(Undoable, "put", 14, times=2)
    with pytest.raises(Interrupted) as error:
        fm.compare(KEEPING, POPULATION, rounds=7, **OPTIONS)
    press(Progress, "study", 1)
    with pytest.raises(KeyboardInterrupt):
        fm.interrupted()
    same_end(error.value.study, fm.compare(KEEPING, POPULATION, rounds=4, **OPTIONS))


@pytest.mark.parametrize(("owner", "call", "times"), [(Undoable, 13, 1), (Progress, 5, 1), (Progress, 5, 2)])
def test_ctrl_c_in_the_last_round_or_its_scoring_is_neither_lost_nor_told_to_go_on(press, owner, call, times):
    press(owner, {Undoable: "put", Progress: "study"}[owner], call, times)
    study = stopped(r"after the last of 5 rounds; nothing is lost: fm\.interrupted\(\) is the study so far$", rounds=5)
    same_end(study, fm.compare(KEEPING, POPULATION, rounds=5, **OPTIONS))
    assert study.rounds.tolist() == study.setup.evaluated


def test_ctrl_c_while_an_evaluation_is_scored_stops_before_the_next_round(press):
    press(Progress, "study", 3)
    assert stopped("stopped after round 4 of 8", rounds=8).rounds.tolist() == [0, 2, 4]


def test_ctrl_c_ends_a_search_of_step_sizes_at_once(press, monkeypatch):
    validated = []
    monkeypatch.setattr(
        tuning, "rank", lambda loss, useless, rank=tuning.rank: validated.append(1) or rank(loss, useless)
    )
    press(tuning, "rank", 2)
    with pytest.raises(KeyboardInterrupt) as error:
        fm.compare([fm.FedAvg()], POPULATION, rounds=2, tune=True, **OPTIONS)
    assert not isinstance(error.value, Interrupted)
    assert len(validated) == 2


def test_a_script_has_the_study_and_a_stopped_one_goes_when_the_next_comes(press, monkeypatch):
    monkeypatch.setattr(Interrupted, "last", None)
    monkeypatch.delattr(sys, "last_value", raising=False)
    with pytest.raises(LookupError, match="no comparison of this session was interrupted"):
        fm.interrupted()
    for rounds in (7, 9):
        press(Undoable, "put", 4)
        try:
            fm.compare(KEEPING, POPULATION, rounds=rounds, **OPTIONS)
        except KeyboardInterrupt:
            assert fm.interrupted().config["rounds"] == rounds
        if rounds == 7:
            first = weakref.ref(fm.interrupted())
    gc.collect()
    assert first() is None
    assert fm.interrupted().rounds.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("evaluations", "rounds", "further"),
    [
        (10, 100, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        (10, 55, [10, 20, 30, 40, 50, 55]),
        (10, 200, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200]),
        ([0, 2, 99, 100], 100, [99, 100]),
        ([0, 2, 99, 100], 99, [99]),
        ([0, 2, 99, 100], 150, [99, 100, 150]),
    ],
)
def test_a_stopped_study_goes_on_with_the_evaluations_that_were_asked_for(press, evaluations, rounds, further):
    methods = [fm.LocalOnly(lr=0.01)]
    press(Undoable, "put", 3)
    with pytest.raises(Interrupted) as error:
        fm.compare(methods, POPULATION, rounds=100, **OPTIONS | {"evaluations": evaluations})
    before = error.value.study.rounds.tolist()
    assert before == ([0, 3] if evaluations == 10 else [0, 2, 3])
    study = error.value.study.resume(rounds=rounds)
    assert study.rounds.tolist() == before + further
    if rounds == 100:
        whole = fm.compare(methods, POPULATION, rounds=100, **OPTIONS | {"evaluations": evaluations})
        places = [before.index(t) if t in before else len(before) + further.index(t) for t in whole.rounds.tolist()]
        assert torch.equal(study.learning["LocalOnly"][:, places], whole.learning["LocalOnly"])


@pytest.mark.skipif(os.name == "nt", reason="os.kill does not send Ctrl-C on Windows")
def test_in_an_interactive_session_the_study_is_at_hand():
    """As a reader would: Ctrl-C at the prompt, then the line that the message names."""
    code = """
import os, signal, threading
import fmlab as fm
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], fm.Sines(n_clients=12), rounds=10**5, seeds=1, clients_per_round=4)

done = int(fm.interrupted().rounds[-1])
print("went on", int(fm.interrupted().resume(rounds=done + 2).rounds[-1]) - done)
"""
    done = subprocess.run([sys.executable, "-i", "-q"], input=code, capture_output=True, text=True, timeout=120)
    assert "fm.interrupted().resume(rounds=100000) goes on" in done.stderr
    assert "went on 2" in done.stdout


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    found = []

    def run():
        study = fm.compare([fm.FedAvg(lr=0.01, adapt_lr=0.01)], POPULATION, rounds=2, **OPTIONS | {"evaluations": 1})
        found.append(study)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert int(found[0].rounds[-1]) == 2
