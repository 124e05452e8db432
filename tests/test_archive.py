"""Saved studies: what is written is read again, what is not right is refused by one kind of error, nothing is lost."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fmlab as fm
from fmlab import npy
from fmlab.archive import StudyError
from fmlab.data import SPLITS
from fmlab.declare import hyper
from fmlab.setup import Setup
from fmlab.study import METHODS

POPULATION = fm.Sines(n_clients=6, n_validation=2, n_unseen=3, test=4)
SHORT = {"rounds": 2, "seeds": 2, "clients_per_round": 3, "steps": 2, "evaluations": 2, "model": fm.MLP((1, 3, 1))}
FINE = {"lr": 0.01, "adapt_lr": 0.01}


def equal(one, other):
    """Bit for bit, and NaN where NaN is."""
    assert one.keys() == other.keys()
    for name, t in one.items():
        torch.testing.assert_close(t, other[name], rtol=0, atol=0, equal_nan=True)


def same(a, b):
    """Every tensor, and where both would go on from."""
    assert a.names == b.names
    assert torch.equal(a.rounds, b.rounds)
    assert a.seconds == b.seconds
    for kind in METHODS:
        equal(getattr(a, kind), getattr(b, kind))
    for n in a.names:
        for s, t in zip(a.states[n], b.states[n], strict=True):
            assert (s.round, s.up, s.down) == (t.round, t.up, t.down)
            equal(s.held, t.held)
            assert s.moments.keys() == t.moments.keys()
            for k, moments in s.moments.items():
                equal(dict(enumerate(moments)), dict(enumerate(t.moments[k])))
            equal(*({k: getattr(x, k) for k in ("diverged", "heard", "answers")} for x in (s, t)))
        for s, t in zip(a.kept[n], b.kept[n], strict=True):
            equal(s, t)


def run(algorithms=None, clients=POPULATION, **options):
    return fm.compare(algorithms or [fm.FedAvg(**FINE), fm.Ditto(**FINE)], clients, **SHORT | options)


@pytest.fixture(scope="module")
def study():
    return run()


@pytest.fixture(scope="module")
def saved(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "study"
    study.save(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def tensors_of(folder):
    (path,) = folder.glob("tensors-*.npz")
    return path


# --- What is written is read again ----------------------------------------------------------------------------------

STUDIES = {
    "names of any kind": {"algorithms": dict.fromkeys(("a/b", "class", "../é.npy"), fm.Ditto(**FINE))},
    "sweeps": {"algorithms": [fm.FedAvg(local_steps=fm.sweep(1, 2), **FINE), fm.FedPer(lr=fm.sweep(9, 1), adapt_lr=1)]},
    "moments": {"algorithms": [fm.FedAvg(**FINE, server=fm.Yogi())], "server": fm.Adam(lr=0.1)},
    "every kind of part": {"algorithms": [fm.FedMA(**FINE), fm.FedRep(**FINE), fm.FedBABU(**FINE)]},
    "classification": {"clients": fm.Digits(n_clients=6, n_unseen=3), "model": None, "dtype": torch.float32},
    "no model": {"clients": fm.Quadratics(n_clients=6, n_unseen=3), "model": None, "algorithms": [fm.PFedMe(**FINE)]},
    "options": {"weights": "size", "dropout": 0.5, "evaluations": [0, 1, 2], "seeds": [7, -3]},
    "a device": {"device": torch.device("cpu")},
}  # fmt: skip


@pytest.mark.parametrize("options", STUDIES.values(), ids=STUDIES)
def test_a_study_is_read_as_it_was(tmp_path, options):
    ours = run(**options)
    ours.save(tmp_path)
    loaded = fm.load(tmp_path)
    same(ours, loaded)
    assert loaded.config == ours.config
    assert loaded.table() == ours.table()
    same(replace(ours.resume(rounds=4), seconds=0.0), replace(loaded.resume(rounds=4), seconds=0.0))


def test_an_interrupted_study_is_read_before_its_first_evaluation(tmp_path):
    whole = run(rounds=9, evaluations=1)
    begun = next(iter(fm.stream([fm.FedAvg(**FINE)], POPULATION, **SHORT)))
    begun = replace(begun, kept={"FedAvg": [{}]})
    for ours in (whole, begun):
        ours.save(tmp_path)
        same(ours, fm.load(tmp_path))


@pytest.mark.parametrize("population", [*fm.POPULATIONS, *fm.SCENARIOS], ids=lambda p: p.__name__)
def test_a_population_draws_as_many_clients_as_it_says(population):
    """So that the shapes of a study follow from its setting, without the clients."""
    clients = population(n_clients=4, n_validation=2, n_unseen=3)
    assert {s: clients.draw(s, 0).number for s in SPLITS} == dict(zip(SPLITS, (4, 4, 2, 3), strict=True))


def test_opening_a_study_draws_no_million_clients(saved, monkeypatch):
    drawn, draw = [], fm.Sines.draw
    monkeypatch.setattr(
        fm.Sines, "draw", lambda self, split, seed: drawn.append(self.count(split)) or draw(self, split, seed)
    )
    loaded = fm.load(saved)
    assert max(drawn) == 1
    loaded.table()
    assert max(drawn) > 1  # what is asked for is drawn


def test_a_study_of_a_device_that_is_not_here_opens_on_the_cpu(study, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("every device is here")
    replace(study, setup=Setup(study.config | {"device": "cuda"})).save(tmp_path)
    loaded = fm.load(tmp_path)
    assert loaded.config == study.config
    same(study, loaded)


# --- Classes of one's own, and what JSON does not hold --------------------------------------------------------------


@dataclass(frozen=True)
class FedAvg(fm.FedAvg):
    """Called like fmlab's, and something else."""

    halves: float = hyper(0.5, symbol="h", low=0.0, high=1.0, text="how much of a step")


@dataclass(frozen=True)
class Shifted(fm.Sines):
    shift: float = 1.0

    def draw(self, split, seed):
        drawn = super().draw(split, seed)
        return replace(drawn, query=drawn.query._replace(y=drawn.query.y + self.shift))


@dataclass(frozen=True)
class Rounded:
    digits: tuple[int, ...] = (3,)

    def __call__(self, sent, batch):
        return {name: t.round(decimals=self.digits[0]) for name, t in sent.items()}


def halved(sent, batch):
    return {name: t / 2 for name, t in sent.items()}


def test_own_classes_are_read_where_the_reader_names_them(tmp_path):
    ours = run({"mine": FedAvg(**FINE)}, Shifted(n_clients=6, n_unseen=3), transforms=[Rounded((2,))])
    ours.save(tmp_path)
    for known in ([], [FedAvg, Shifted]):
        with pytest.raises(StudyError, match=r"config\.json: .*:Rounded.*fm\.load\(folder, classes=\[.*Rounded"):
            fm.load(tmp_path, classes=known)
    loaded = fm.load(tmp_path, classes=[FedAvg, Shifted, Rounded])
    same(ours, loaded)
    assert loaded.config == ours.config
    assert type(loaded.setup.algorithms["mine"]) is FedAvg


def test_an_own_class_is_never_taken_for_fmlabs(tmp_path):
    run({"mine": FedAvg(**FINE)}).save(tmp_path)
    with pytest.raises(StudyError, match=r"classes that are not fmlab's: .*test_archive:FedAvg"):
        fm.load(tmp_path)
    with pytest.raises(StudyError, match=r"FedAvg has the fields"):  # it is not another of that name either
        fm.load(tmp_path, classes=[fm.FedAvg])
    posing = type("FedAvg", (FedAvg,), {"__module__": fm.FedAvg.__module__, "__qualname__": "FedAvg"})
    with pytest.warns(UserWarning, match="algorithms"):
        run({"mine": posing(**FINE)}).save(tmp_path)
    with pytest.raises(StudyError, match=r"algorithms=\.\.\."):
        fm.load(tmp_path)


def test_no_module_that_a_file_names_is_imported(saved, tmp_path):
    (tmp_path / "hostile.py").write_text("raise SystemExit")
    folder = shutil.copytree(saved, tmp_path / "copy")
    forge(folder, text=lambda t: t.replace("fmlab.algorithms.fedavg:FedAvg", "hostile:FedAvg"))
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(StudyError, match="hostile:FedAvg"):
            fm.load(folder)
    finally:
        sys.path.remove(str(tmp_path))
    assert "hostile" not in sys.modules


def lifted(width=4):
    return fm.lift(nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1)))


def test_what_json_does_not_hold_is_left_out_and_asked_for(tmp_path):
    given = {"model": lifted(), "transforms": [halved]}
    ours = run(**given)
    with pytest.warns(UserWarning, match=r"is saved, but JSON does not hold its model and transforms"):
        ours.save(tmp_path)
    with pytest.raises(
        StudyError, match=r"model \(.*Sequential\), transforms \(.*halved\); give it.*model=\.\.\., trans"
    ):
        fm.load(tmp_path)
    with pytest.raises(StudyError, match=r"transforms=\.\.\."):
        fm.load(tmp_path, model=lifted())
    with pytest.raises(
        StudyError, match=r'model\.0 = "Linear\(in_features=1, out_features=4.*out_features=5.* is given'
    ):
        fm.load(tmp_path, **given | {"model": lifted(5)})
    loaded = fm.load(tmp_path, **given | {"model": lifted()})
    same(ours, loaded)
    same(replace(ours.resume(rounds=3), seconds=0.0), replace(loaded.resume(rounds=3), seconds=0.0))


def test_what_cannot_even_be_looked_at_does_not_lose_a_study(tmp_path):
    ring = []
    ring.append(ring)
    ours = run({("a", 1): fm.FedAvg(**FINE)}, transforms=[Rounded(digits=(3, ring))])
    with pytest.warns(UserWarning, match="transforms"):
        ours.save(tmp_path)
    same(ours, fm.load(tmp_path, transforms=Rounded()))


def test_what_is_given_in_place_of_what_is_there_has_to_be_the_same(saved, study):
    same(study, fm.load(saved, clients=POPULATION, algorithms=[fm.FedAvg(**FINE), fm.Ditto(**FINE)]))
    with pytest.raises(StudyError, match=r"config\.json: clients\.noise = 0\.0, and 0\.1 is given"):
        fm.load(saved, clients=replace(POPULATION, noise=0.1))
    with pytest.raises(StudyError, match=r"algorithms\.Ditto\.lam = "):
        fm.load(saved, algorithms=[fm.FedAvg(**FINE), fm.Ditto(lam=2.0, **FINE)])
    with pytest.raises(TypeError, match=r"unknown arguments \['rounds'\]; it takes classes and algorithms"):
        fm.load(saved, rounds=2)


def network(activation, head=None):
    return fm.lift(nn.Sequential(nn.Linear(1, 4), activation, nn.Linear(4, 1)), head)


def another(sent, batch):
    return sent


@pytest.mark.parametrize(
    ("ours", "same", "others"),
    [
        ({"transforms": [halved]}, [another], [[], [fm.Clip(1.0)], [halved, halved], None]),
        ({"transforms": [fm.Clip(1.0), halved]}, [fm.Clip(1.0), halved], [
            [fm.Clip(2.0), halved], [fm.Clip(1.0)], [halved, fm.Clip(1.0)], [fm.Clip(1.0), fm.Clip(1.0)]]),
        ({"transforms": [fm.Clip(1.0)]}, [fm.Clip(1.0)], [[halved], [fm.Clip(1.0), halved]]),
        ({"model": network(nn.ReLU())}, network(nn.ReLU()), [
            network(nn.Tanh()), network(nn.LeakyReLU()), network(nn.ReLU(), "0"), fm.MLP((1, 4, 1))]),
        ({"model": network(nn.LeakyReLU())}, network(nn.LeakyReLU()), [network(nn.LeakyReLU(0.5))]),
        ({"model": fm.MLP((1, 4, 1))}, fm.MLP((1, 4, 1)), [network(nn.ReLU())]),
    ],
)  # fmt: skip
def test_what_stands_beside_what_json_does_not_hold_has_to_be_the_same(tmp_path, ours, same, others):
    (name,) = ours
    study, whole = (
        run([fm.FedAvg(**FINE)], **ours),
        ours in ({"transforms": [fm.Clip(1.0)]}, {"model": fm.MLP((1, 4, 1))}),
    )
    with nullcontext() if whole else pytest.warns(UserWarning, match=f"JSON does not hold its {name}"):
        study.save(tmp_path)
    assert fm.load(tmp_path, **{name: same}).resume(rounds=3).rounds[-1] == 3
    for other in others:
        with pytest.raises(StudyError, match=rf"config\.json: {name}.* = .*, and .* is given; give {name} as it was"):
            fm.load(tmp_path, **{name: other})


def test_what_differs_is_named_and_an_older_study_without_its_layers_opens(tmp_path):
    with pytest.warns(UserWarning, match="model"):
        run(model=network(nn.ReLU()), transforms=[fm.Clip(1.0)]).save(tmp_path)
    with pytest.raises(StudyError, match=r'model\.1 = "ReLU\(\)", and "Tanh\(\)" is given; give model as it was'):
        fm.load(tmp_path, model=network(nn.Tanh()))
    with pytest.raises(StudyError, match=r"transforms\[0\]\.norm = 1\.0, and 2\.0 is given"):
        fm.load(tmp_path, model=network(nn.ReLU()), transforms=[fm.Clip(2.0)])
    older = json.loads((tmp_path / "config.json").read_text())["config"]["model"]
    del older["held"]
    forge(tmp_path, text=lambda t: json.dumps(json.loads(t) | {"config": json.loads(t)["config"] | {"model": older}}))
    assert fm.load(tmp_path, model=network(nn.ReLU())).rounds.tolist() == [0, 1, 2]
    with pytest.raises(StudyError, match=r"held/model is float64 \(2, 1, 13\); by .* the given model.*\(2, 1, 16\)"):
        fm.load(tmp_path, model=lifted(5))


# --- What is not right ----------------------------------------------------------------------------------------------


def edit(folder, change):
    """Change config.json by hand, and nothing else."""
    path = folder / "config.json"
    head = json.loads(path.read_text())
    change(head)
    path.write_text(json.dumps(head))


def field(head, name, value):
    head["config"]["clients"]["fields"][name] = value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda h: h["config"].update(seeds=[0, 2]), r"seeds = \[0, 2\], but the study was made with \[0, 1\]"),
        (lambda h: h["config"].update(rounds=True), "rounds = true, but the study was made with 2"),
        (lambda h: field(h, "n_unseen", 4), r"clients\.n_unseen = 4, but the study was made with 3"),
        (lambda h: field(h, "n_clients", 10**6), r"clients\.n_clients = 1000000"),
        (lambda h: h["config"]["algorithms"]["dict"][0].__setitem__(0, "FedProx"), "algorithms = "),
        (lambda h: h["config"]["algorithms"]["dict"].reverse(), r"algorithms = \[\[\"Ditto\""),
        (lambda h: h.update(methods=["Ditto", "FedAvg"]), r'methods = \["Ditto", "FedAvg"\], but'),
        (lambda h: h["config"].pop("dropout"), "config"),
        (lambda h: h.update(fmlab="9.0"), 'fmlab = "9.0"'),
        (lambda h: h.update(format=3, fmlab="9.0"), r"format = 3, .* reads format 2; .* by fmlab '9\.0': update fmlab"),
        (lambda h: h.update(format=True), "format = True"),
        (lambda h: h.pop("format"), "no format number"),
        (lambda h: h.update(config=[]), r"config = \[\] is not what"),
        (lambda h: h["tensors"].update(file="../x.npz"), "tensors = "),
        (lambda h: h["tensors"].update(file=None), r"tensors = .*null"),
        (lambda h: h.pop("tensors"), "tensors = null"),
        (lambda h: h["tensors"].update(sha256="0" * 64), r"its sha256 is .*, not tensors\.sha256"),
    ],
)
def test_an_edited_config_names_the_field(copied, change, says):
    edit(copied, change)
    with pytest.raises(StudyError, match=says) as refused:
        fm.load(copied)
    assert str(copied) in str(refused.value)
    assert ".npz" in str(refused.value) or "config.json" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"[]", b"\xff\xfe{\x00", b'{"format": 1}', b"[" * 10**5, b'{"format": ' + b"9" * 5000 + b"}"],
    ids=["empty", "half", "null", "list", "UTF-16", "no more", "deep", "digits"],
)
def test_what_is_no_config(copied, text):
    (copied / "config.json").write_bytes(text)
    with pytest.raises(StudyError, match=r"config\.json: "):
        fm.load(copied)


def test_a_missing_file(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; study\.save"):
        fm.load(tmp_path / "nowhere")
    path = tensors_of(copied)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing; config\.json beside it names it") as error:
        fm.load(copied)
    assert isinstance(error.value, StudyError)
    if hasattr(os, "mkfifo"):
        (copied / "config.json").unlink()
        os.mkfifo(copied / "config.json")
        with pytest.raises(FileNotFoundError):
            fm.load(copied)


def header(shape, dtype="<f8", order=False):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": order, "shape": shape})
    return out.getvalue()


def array(a):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(a), allow_pickle=True)
    return out.getvalue()


def forge(folder, members=lambda m: m, text=lambda t: t, **written):
    """Other tensors and settings under a digest that is right: what no accident makes."""
    path = tensors_of(folder)
    with zipfile.ZipFile(path) as z:
        held = {name: z.read(name) for name in z.namelist()}
    held["config.json"] = text(held["config.json"].decode()).encode()
    held = members(dict(held)) or held
    with zipfile.ZipFile(path, "w", **written) as z:
        for name, data in held.items():
            z.writestr(zipfile.ZipInfo(name), data, compress_type=written.get("compression", zipfile.ZIP_STORED))
    head = json.loads(held.get("config.json", (folder / "config.json").read_text()))
    head["tensors"] = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(head))


def put(name, data):
    return lambda m: m | {name: data}


def without(name):
    return lambda m: {k: v for k, v in m.items() if k != name}


class Runs:
    def __reduce__(self):
        return os.abort, ()


BAD_TENSORS = {
    "missing adaptation": (without("adaptation/1.npy"), "adaptation/1 is missing"),
    "missing diverged": (without("diverged/0.npy"), "diverged/0 is missing"),
    "missing state": (without("states/0/0/held/model.npy"), "states/0/0/held/model is missing"),
    "missing rounds": (without("rounds.npy"), "rounds is missing"),
    "missing copy": (without("config.json"), "config.json is missing in it"),
    "one more": (put("adaptation/2.npy", array(1.0)), r"adaptation/2\.npy has no place"),
    "no array": (put("notes.txt", b"?"), r"notes\.txt has no place"),
    "shape": (put("adaptation/0.npy", array(np.zeros((2, 3, 4)))), r"adaptation/0 is float64 \(2, 3, 4\); by config"),
    "integers": (put("adaptation/0.npy", array(np.zeros((2, 3, 3), int))), "adaptation/0 is int64"),
    "float32": (put("learning/0.npy", array(np.zeros((2, 3, 3), "f4"))), "learning/0 is float32"),
    "no rounds": (put("rounds.npy", array(np.zeros(0, int))), r"learning/0 is|is float64 .* by config"),
    "rounds of none": (put("rounds.npy", array(0)), "rounds has shape"),
    "rounds that fall": (put("rounds.npy", array(np.array([0, 2, 1]))), r"rounds = \[0, 2, 1\]"),
    "rounds beyond": (put("rounds.npy", array(np.array([0, 1, 10**9]))), r"rounds = \[0, 1, 1000000000\]: .* most 2"),
    "1e12 numbers": (put("adaptation/0.npy", header((10**12,))), "adaptation/0 says"),
    "1e12 rounds": (put("rounds.npy", header((10**12,), "<i8")), "rounds says"),
    "Fortran's order": (put("adaptation/0.npy", header((2, 3, 3), order=True) + bytes(144)), "adaptation/0 is damaged"),
    "pickle": (put("adaptation/0.npy", array(np.array([Runs()], object))), "adaptation/0 is damaged"),
    "only pickle": (put("adaptation/0.npy", pickle.dumps(Runs())), "adaptation/0 is damaged"),
    "too short": (put("adaptation/0.npy", header((2, 3, 3)) + bytes(99)), "adaptation/0 says"),
    "too long": (put("adaptation/0.npy", array(np.zeros((2, 3, 3))) + b"?"), "adaptation/0 says"),
    "not finite": (put("states/0/0/held/model.npy", array(np.full((2, 1, 10), np.nan))), "model is not finite where"),
    "kept not finite": (put("kept/1/0/model.npy", array(np.full((2, 6, 10), np.inf))), "model is not finite where"),
    "diverged": (put("diverged/0.npy", array(np.array([1, 1]))), "diverged/0 .* is not what states/0 holds"),
    "diverged in no round": (
        lambda m: m | dict.fromkeys(("diverged/0.npy", "states/0/0/diverged.npy"), array(np.array([-1, 0]) * 7)),
        r"diverged = \[-7, 0\] is not in \[-1, 2\]",
    ),
    "rounds of the state": (put("states/0/0/round.npy", array(1)), "after round 1, not 2"),
    "answers": (put("states/1/0/answers.npy", array(np.array([7, 6]))), r"answers = \[7, 6\] is not in \[0, 6\]"),
    "bytes": (put("bytes_up/0.npy", array(np.array([0.0, -1.0, np.nan]))), "bytes_up/0 .* counts"),
    "seconds": (put("seconds.npy", array(np.nan)), "seconds = nan"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "says"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(copied, members, says):
    forge(copied, members)
    with pytest.raises(StudyError, match=says) as refused:
        fm.load(copied)
    assert str(tensors_of(copied)) in str(refused.value)


def test_forging_alone_changes_nothing(copied, study):
    forge(copied)
    same(study, fm.load(copied))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace('"n_unseen": 3', '"n_unseen": 5'), r"adaptation/0 is .*\(2, 3, 3\).*\(2, 5, 3\)"),
        (lambda t: t.replace('"n_unseen": 3', '"n_unseen": -5'), r"clients: Sines\.n_unseen = -5 is outside"),
        (lambda t: t.replace('"n_clients": 6', '"n_clients": 1'), "clients_per_round = 3 of 1 clients"),
        (lambda t: t.replace('"lr": 0.01', '"lr": null', 1), r"FedAvg\.lr = None"),
        (lambda t: t.replace('"lr": 0.01', '"rate": 0.01', 1), "FedAvg has the fields"),
        (lambda t: t.replace('"sizes": [1, 3, 1]', '"sizes": [1, 1000000000, 1]'), "model = MLP.* parameters a seed"),
        (lambda t: t.replace('"sizes": [1, 3, 1]', '"sizes": [1, 4, 1]'), r"held/model is .* 10\).* 13\)"),
        (lambda t: t.replace('"sizes": [1, 3, 1]', '"sizes": [2, 2, 1]'), "does not fit the"),
        (lambda t: t.replace('"dropout": 0.0', '"dropout": 2.0'), "dropout = 2.0"),
        (lambda t: t.replace('"dropout": 0.0', '"drops": 0.0'), "drops"),
        (lambda t: t.replace('{"dtype": "float64"}', '{"dtype": "save"}'), "dtype = .* is not what"),
        (lambda t: t.replace('{"dtype": "float64"}', '{"dtype": "float32"}'), "float64 .* float32"),
        (lambda t: t.replace('"methods": ["FedAvg"', '"methods": ["Evil"'), "methods = "),
        (lambda t: t.replace('"server": null', '"server": {"list": [{"sweep": []}]}'), "server = "),
        (lambda t: t.replace('"evaluations": 2', '"evaluations": "2"'), "evaluations = '2'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(copied, change, says):
    forge(copied, text=change)
    with pytest.raises(StudyError, match=says):
        fm.load(copied)


def test_small_files_hold_no_large_tensors(copied):
    """A header of two gigabytes, compressed or in bytes that many members share, is refused by sizes alone."""
    forge(copied, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StudyError, match="is compressed or encrypted"):
        fm.load(copied)


@given(
    which=st.sampled_from(["config.json", "tensors"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.none() | st.integers(0, 7),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_and_any_cut_gives_the_study_or_the_one_error(saved, study, tmp_path, which, where, bit):
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    path = folder / which if which == "config.json" else tensors_of(folder)
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    if bit is None:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    path.write_bytes(data)
    try:
        loaded = fm.load(folder)
    except StudyError as refused:
        said = str(refused)
    else:
        same(study, loaded)
        return
    assert str(folder) in said


# --- Nothing is lost ------------------------------------------------------------------------------------------------


def test_a_save_replaces_the_study_and_tidies_up(copied, study):
    before = tensors_of(copied)
    old, young, other = (copied / f"tensors-{c * 16}.npz" for c in "abc")
    half, mine = copied / ".config-0.json", copied / "tensors-mine.npz"
    for path in (old, young, half, mine):
        path.write_bytes(b"")
    for path in (old, half, mine):
        os.utime(path, (0, 0))
    run(rounds=1).save(copied)
    assert fm.load(copied).rounds.tolist() == [0, 1]
    left = set(copied.iterdir())
    assert not left & {before, old, half, other}
    assert {young, mine} < left  # of a save that may be under way, and somebody's own
    assert len(left) == 4


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 3])
def test_a_save_that_fails_leaves_the_old_study(copied, study, monkeypatch, error, after):
    calls, write = [], npy.write

    def fails(*args):
        calls.append(args)
        if len(calls) > after:
            raise error
        write(*args)

    before = sorted(copied.iterdir())
    monkeypatch.setattr(npy, "write", fails)
    with pytest.raises(type(error)):
        run(rounds=1).save(copied)
    assert sorted(copied.iterdir()) == before
    same(study, fm.load(copied))


def test_who_reads_while_another_saves_gets_one_of_the_two(copied):
    both = [run(rounds=1), run(rounds=2)]
    both[0].save(copied)
    done = threading.Event()

    def saves():
        for k in range(40):
            both[k % 2].save(copied)
        done.set()

    saving = threading.Thread(target=saves)
    saving.start()
    seen = 0
    while not done.is_set():
        loaded = fm.load(copied)
        same(both[int(loaded.rounds[-1]) - 1], loaded)
        seen += 1
    saving.join()
    assert seen
    assert len(list(copied.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that share two studies are forked")
def test_a_killed_save_leaves_a_whole_study(tmp_path):
    """A process that does nothing but save is killed at random moments; each time the folder holds one of its two."""
    code = """
        import os, random, signal, sys, time
        import fmlab as fm
        from test_archive import same

        clients, options = fm.Sines(n_clients=200, n_validation=2, n_unseen=3), {"seeds": 1, "clients_per_round": 3}
        both = [fm.compare([fm.Ditto(lr=0.01, adapt_lr=0.01)], clients, rounds=r, **options) for r in (1, 2)]
        folder, moments = sys.argv[1], random.Random(0)
        both[0].save(folder)
        for k in range(40):
            child = os.fork()
            while not child:
                k += 1
                both[k % 2].save(folder)
            time.sleep(moments.uniform(0, 0.08))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            loaded = fm.load(folder)
            same(both[int(loaded.rounds[-1]) - 1], loaded)
            print(int(loaded.rounds[-1]), len(os.listdir(folder)))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    seen = done.stdout.splitlines()
    assert len(seen) == 40
    assert len(set(seen)) > 1  # some saves were done, or were under way: their files are left
