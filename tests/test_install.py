"""The set-up script, the start script, and what they leave in the environment. No network."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def install():
    return tool("install")


@pytest.fixture
def start():
    return tool("start")


# --- when to install ----------------------------------------------------------------------------

DONE = {"made_by": "me", "busy": False, "done": {"lab": "v1", "test": "v1"}}


@pytest.mark.parametrize(
    ("state", "extras", "todo"),
    [
        ({}, [], "fresh"),
        (DONE, [], "ready"),
        (DONE, ["test"], "ready"),
        (DONE, ["dev"], "update"),
        ({**DONE, "done": {"lab": "v0", "test": "v0"}}, [], "update"),
        ({**DONE, "done": {"lab": "v1", "test": "v0"}}, [], "ready"),
        ({**DONE, "done": {"lab": "v1", "test": "v0"}}, ["test"], "update"),
        ({**DONE, "busy": True}, [], "fresh"),
        ({**DONE, "made_by": "another Python"}, [], "fresh"),
    ],
    ids=lambda value: json.dumps(value),
)
def test_plan(install, state, extras, todo):
    assert install.plan(state, "me", "v1", extras) == todo


@pytest.mark.parametrize("text", [None, "", "{half", "[]", "null"])
def test_an_unreadable_state_counts_as_none(install, tmp_path, text):
    file = tmp_path / "state.json"
    if text is not None:
        file.write_text(text)
    assert install.read_state(file) == {}


@pytest.fixture
def checkout(tmp_path):
    for name in ("pyproject.toml", "tools/install.py", "lab/__init__.py", "share/a/b.json", "fmlab/x.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("pyproject.toml", True),
        ("tools/install.py", True),
        ("share/a/b.json", True),
        ("share/a/new.json", True),
        ("fmlab/__init__.py", True),  # a package more
        ("lab/__init__.py", False),  # installed editable: an edit is there already
        ("fmlab/x.py", False),
    ],
)
def test_fingerprint(install, checkout, file, changes):
    before = install.fingerprint(checkout)
    (checkout / file).write_text("2")
    assert (install.fingerprint(checkout) != before) is changes


@pytest.fixture
def sandbox(install, tmp_path, monkeypatch):
    """The script on a folder of its own, with pip and venv replaced by a record of their calls."""
    env = tmp_path / ".venv"
    calls = []
    monkeypatch.setattr(install, "VENV", env)
    monkeypatch.setattr(install, "STATE", env / "state.json")
    monkeypatch.setattr(install, "pip", lambda step, *args, **_: calls.append(step) or "2.13.0+cpu")
    monkeypatch.setattr(install, "damaged", lambda: False)
    monkeypatch.setattr(install, "set_up_jupyter", lambda *_: None)
    monkeypatch.setattr(install, "without_compiler", lambda: None)
    monkeypatch.setattr(install.venv, "create", lambda path, **_: (path / "bin").mkdir())
    install.calls = calls
    return install


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_the_second_run_does_nothing(sandbox):
    sandbox.main([])
    assert sandbox.calls[-1] == "learn2learn"
    assert sandbox.calls.index("torch") < sandbox.calls.index("JupyterLab, fmlab and the rest")
    sandbox.calls.clear()
    sandbox.main([])
    assert sandbox.calls == []


def test_an_interrupted_install_starts_afresh(sandbox, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(sandbox, "set_up_jupyter", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sandbox.main([])
    (sandbox.VENV / "half a package").touch()
    sandbox.main([])
    assert not (sandbox.VENV / "half a package").exists()
    assert sandbox.read_state(sandbox.STATE)["busy"] is False


def test_interrupted_while_the_environment_is_made(sandbox, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(sandbox.venv, "create", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sandbox.main([])
    sandbox.main([])
    assert (sandbox.VENV / "bin").exists()


def test_a_folder_that_the_script_did_not_make_is_replaced(sandbox):
    (sandbox.VENV / "lib").mkdir(parents=True)
    sandbox.main([])
    assert not (sandbox.VENV / "lib").exists()


def test_a_damaged_environment_starts_afresh(sandbox, monkeypatch):
    sandbox.main(["test"])
    sandbox.calls.clear()
    monkeypatch.setattr(sandbox, "damaged", lambda: True)
    sandbox.main([])
    assert "torch" in sandbox.calls


def test_an_update_keeps_the_extras(sandbox, monkeypatch):
    sandbox.main(["test"])
    monkeypatch.setattr(sandbox, "fingerprint", lambda _: "newer")
    sandbox.main([])
    assert sandbox.read_state(sandbox.STATE)["done"] == {"lab": "newer", "test": "newer"}


def test_no_compiler_leaves_only_learn2learn_out(sandbox, monkeypatch, capsys):
    with monkeypatch.context() as m:
        m.setattr(sandbox, "without_compiler", lambda: "no C compiler. To add one: X")
        sandbox.main([])
    assert "learn2learn is left out: no C compiler. To add one: X" in capsys.readouterr().err
    assert "learn2learn" not in sandbox.calls
    sandbox.calls.clear()
    sandbox.main([])  # a compiler has come
    assert sandbox.calls == ["learn2learn"]
    assert sandbox.read_state(sandbox.STATE)["busy"] is False


# --- what the reader is told --------------------------------------------------------------------


def test_a_python_too_old(monkeypatch):
    path = ROOT / "tools" / "install.py"
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))  # it must come to say so
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer.*make lab PYTHON=python3\.12"):
        runpy.run_path(str(path), run_name="__main__")


def test_without_a_compiler(install, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no C compiler (no-such-compiler)" in install.without_compiler()


def test_without_a_network(install, monkeypatch, tmp_path):
    """pip's real words: they are what the script recognises."""
    monkeypatch.setattr(install, "PYTHON", sys.executable)
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    args = ("download", "--no-deps", "--dest", str(tmp_path), "six")
    with pytest.raises(install.Stop, match="step: the package index cannot be reached"):
        install.pip("step", *args, python=sys.executable, log=tmp_path / "log")
    assert "six" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build for Python"),
        ("ERROR: anything else", "the reason stands at the end of the-log"),
    ],
)
def test_a_failed_pip_in_one_line(install, output, says):
    line = install.explain("torch", output, "the-log")
    assert says in line
    assert "\n" not in line


def occupied():
    s = socket.create_server(("127.0.0.1", 0))
    return s, s.getsockname()[1]


@pytest.mark.parametrize("option", ["--port={}", "--port {}", "--ServerApp.port={}"])
def test_an_occupied_port_that_was_asked_for(start, option):
    taken, port = occupied()
    with taken, pytest.raises(SystemExit, match=f"port {port} is in use.*--port={port + 1}"):
        start.choose_port("lab", option.format(port).split())


def test_the_usual_port_moves_on(start, monkeypatch, capsys):
    taken, port = occupied()
    with taken:
        monkeypatch.setitem(start.PORT, "lab", port)
        (option,) = start.choose_port("lab", [])
    assert int(option.removeprefix("--port=")) > port
    assert f"Port {port} is in use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("named", "name"), [([], "00_start_here"), (["playground"], "playground"), (["04"], "04_heterogeneity")]
)
def test_lab_and_page_open_on_the_first_notebook_or_the_named_one(start, monkeypatch, named, name):
    monkeypatch.setattr(start, "free", lambda _: True)
    path = f"notebooks/{name}.ipynb"
    assert (ROOT / path).exists()
    line = start.command("lab", [*named, "--no-browser"])
    assert line[-1] == "--no-browser"
    assert f"--LabApp.default_url=/lab/tree/{path}" in line
    assert path in start.command("app", [*named, "--no-browser"])


@pytest.mark.parametrize("name", ["0", "99"])
def test_a_name_of_no_notebook_or_of_several_says_which_there_are(start, name):
    with pytest.raises(SystemExit, match=f"'{name}' names . of the notebooks; name one of: 00_start_here, 01_"):
        start.command("app", [name])


# --- what stands in the environment -------------------------------------------------------------


def test_settings_stand_in_the_environment():
    name = "share/jupyter/lab/settings/overrides.d/fmlab.json"
    settings = json.loads((Path(sys.prefix) / name).read_text())
    assert settings == json.loads((ROOT / name).read_text())
    assert settings == {
        "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
    }


def test_the_kernel_points_into_the_environment():
    spec = json.loads((Path(sys.prefix) / "share/jupyter/kernels/python3/kernel.json").read_text())
    assert Path(spec["argv"][0]).parent == Path(sys.executable).parent
    assert spec["env"] == {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def built(install):
    """Skips where learn2learn cannot be installed; where it can be, it must be."""
    if reason := install.without_compiler():
        pytest.skip(f"learn2learn is not installed: {reason}")


@pytest.mark.usefixtures("built")
def test_learn2learn_trains_and_says_nothing():
    code = """
import lab.install.l2l
l2l = lab.install.l2l.load()
import torch
torch.manual_seed(0)
model = l2l.algorithms.MAML(torch.nn.Linear(1, 1), lr=0.1)
x = torch.randn(20, 1)
learner = model.clone()
loss = lambda: torch.nn.functional.mse_loss(learner(x), 3 * x)
first = loss()
learner.adapt(first)
second = loss()
second.backward()
assert second < first and model.module.weight.grad is not None
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("built")
def test_learn2learn_came_alone():
    installed = {d.name.lower() for d in importlib.metadata.distributions()}
    assert "learn2learn" in installed
    assert not installed & {"gsutil", "boto", "qpth", "cvxpy", "oauth2client"}
    assert int(importlib.metadata.version("numpy").split(".")[0]) >= 2


def test_the_core_imports_no_widget_no_plot_and_no_peer():
    others = {"learn2learn", "gym", "torchvision", "lab", "ipywidgets", "IPython", "matplotlib", "pandas", "jax"}
    code = f"import fmlab, sys; print({others} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
