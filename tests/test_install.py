"""The set-up script, the start script, and what they leave in the environment. No network."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import lockfile
import pipcall
import pytest
import records

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def install(tool):
    return tool("installing")


@pytest.fixture
def start(tool):
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
    files = "pyproject.toml tools/installing.py lab/__init__.py share/a/b.json fmlab/x.py lock/lab.txt"
    for name in files.split():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("pyproject.toml", True),
        ("tools/installing.py", True),
        ("lock/lab.txt", True),  # the lock has moved
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


def test_fingerprint_without_the_lock(install, checkout, monkeypatch):
    """Whoever leaves the lock, or comes back to it, gets the other packages."""
    before = install.fingerprint(checkout)
    monkeypatch.setenv(lockfile.VARIABLE, "1")
    assert install.fingerprint(checkout) != before


@pytest.fixture
def sandbox(install, tmp_path, monkeypatch):
    """The script on a folder of its own, with pip and venv replaced by a record of their calls."""
    env = tmp_path / ".venv"
    calls = []
    monkeypatch.setattr(install, "VENV", env)
    monkeypatch.setattr(install, "STATE", env / "state.json")
    monkeypatch.setattr(install, "pip", lambda step, *args, **_: calls.append(step) or "2.13.0+cpu")
    monkeypatch.setattr(install, "damage", lambda *_, **__: {})
    monkeypatch.setattr(install, "installed", lambda: ["torch"])
    monkeypatch.setattr(install, "stands", lambda: True)
    monkeypatch.setattr(install, "set_up_jupyter", lambda *_: calls.append("jupyter"))
    monkeypatch.setattr(install, "without_compiler", lambda: None)
    monkeypatch.setattr(install.venv, "create", lambda path, **_: (path / "bin").mkdir())
    install.calls = calls
    return install


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_the_second_run_does_nothing(sandbox):
    sandbox.main([])
    assert sandbox.calls[-1] == "learn2learn"
    assert sandbox.calls.index("torch") < sandbox.calls.index("JupyterLab and the rest")
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


@pytest.mark.parametrize(
    ("name", "changed", "afresh"), [("torch", False, False), ("pip", False, True), ("torch", True, True)]
)
def test_damage_is_mended_or_replaced(sandbox, monkeypatch, name, changed, afresh):
    """Afresh without pip, or where another version would be laid over the broken one."""
    sandbox.main(["test"])
    sandbox.calls.clear()
    (sandbox.VENV / "mine").touch()
    forgotten = []
    monkeypatch.setattr(sandbox, "forget", forgotten.extend)
    monkeypatch.setattr(sandbox, "damage", lambda *_, **__: {name: "it is gone"})
    if changed:
        monkeypatch.setattr(sandbox, "fingerprint", lambda _: "newer")
    sandbox.main([])
    assert "torch" in sandbox.calls
    assert (sandbox.VENV / "mine").exists() is not afresh
    assert forgotten == ([] if afresh else [name])


def test_only_the_settings_are_gone(sandbox, monkeypatch):
    sandbox.main([])
    sandbox.calls.clear()
    monkeypatch.setattr(sandbox, "stands", lambda: False)
    sandbox.main([])
    assert sandbox.calls == ["jupyter"]


def test_an_unknown_extra_is_named(sandbox):
    with pytest.raises(sandbox.Stop, match="tset is no extra"):
        sandbox.main(["tset"])


# --- what is damaged ----------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """Two installed packages, as pip leaves them."""
    for name in ("good", "Bad_Name"):
        module, info = tmp_path / f"{name}.py", tmp_path / f"{name}-1.0.dist-info"
        module.write_bytes(b"x = 1\r\n")
        info.mkdir()
        rows = [f"{module.name},{records.checksum(module)},7", f"__pycache__/{name}.pyc,,"]
        rows += ["../share/jupyter/kernels/k.json,sha256=x,9", f"{info.name}/RECORD,,"]
        (info / "RECORD").write_text("\n".join(rows))
    return tmp_path


def test_nothing_is_damaged(site):
    assert records.packages(site).keys() == {"good", "bad-name"}
    assert records.damaged(site, ["good", "bad-name"], checksums=True) == {}


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda site: (site / "Bad_Name.py").unlink(), "Bad_Name.py is missing"),
        (lambda site: (site / "Bad_Name.py").write_text(""), "Bad_Name.py is not as it came"),
        (lambda site: shutil.rmtree(site / "Bad_Name-1.0.dist-info"), "it is gone"),
        (lambda site: (site / "Bad_Name-1.0.dist-info/RECORD").unlink(), "RECORD is missing"),
        (lambda site: (site / "Bad_Name-1.0.dist-info/RECORD").write_text(""), "RECORD is empty"),
        (lambda site: (site / "Bad_Name-1.0.dist-info/RECORD").write_text("a,b"), "cannot be read"),
        (lambda site: (site / "Bad_Name-1.0.dist-info/RECORD").write_text("good.py,b,c"), "cannot be read"),
    ],
    ids=["file", "truncated", "gone", "no list", "empty list", "half a line", "no size"],
)
def test_damage_is_found_and_named(site, harm, says):
    harm(site)
    wrong = records.damaged(site, ["good", "bad-name"])
    assert wrong.keys() == {"bad-name"}
    assert says in wrong["bad-name"]


def test_a_flipped_bit_needs_the_checksums(site):
    (site / "good.py").write_bytes(b"x = 2\r\n")
    assert records.damaged(site, ["good"]) == {}
    assert records.damaged(site, ["good"], checksums=True) == {"good": "good.py is not as it came"}


def test_a_real_package_is_as_pip_left_it():
    """RECORD as pip writes it: an independent source of sizes and checksums."""
    (folder,) = {Path(d.locate_file("")) for d in importlib.metadata.distributions(name="pytest")}
    assert records.damaged(folder, ["pytest"], checksums=True) == {}


def test_what_is_forgotten_is_not_installed_for_pip(install, site, monkeypatch):
    monkeypatch.setattr(install, "site_packages", lambda: site)
    install.forget({"bad-name", "never there"})
    assert records.packages(site).keys() == {"good"}
    assert (site / "Bad_Name.py").exists()  # pip writes over it


def test_the_settings_in_the_environment(install, tmp_path, monkeypatch):
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "PYTHON", tmp_path / "bin" / "python")
    assert not install.stands()
    shutil.copytree(ROOT / "share", tmp_path / "share")
    kernel = tmp_path / "share/jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": [str(tmp_path / "bin" / "python3")]}))
    assert install.stands()
    kernel.write_text(json.dumps({"argv": ["/elsewhere/bin/python"]}))
    assert not install.stands()
    kernel.write_text(json.dumps({"argv": [str(tmp_path / "bin" / "python3")]}))
    next((tmp_path / "share/jupyter/lab").rglob("*.json")).write_text("{}")
    assert not install.stands()


# --- what the user's surroundings may change ----------------------------------------------------


def test_pip_sees_where_packages_come_from_and_no_more():
    environ = {"PATH": "p", "PIP_INDEX_URL": "i", "PIP_CERT": "c", "PIP_TIMEOUT": "9", "PIP_USER": "1"}
    environ |= {"PIP_TARGET": "t", "PIP_NO_BINARY": ":all:", "PYTHONPATH": "/foreign", "PIP_PREFIX": ""}
    assert pipcall.left_out(environ) == ["PIP_NO_BINARY", "PIP_TARGET", "PIP_USER", "PYTHONPATH"]
    seen = pipcall.surroundings(environ)
    assert seen["PIP_USER"] == "0"  # also over a file of settings
    assert {name: seen.get(name) for name in environ} == {
        "PATH": "p", "PIP_INDEX_URL": "i", "PIP_CERT": "c", "PIP_TIMEOUT": "9", "PIP_USER": "0",
        "PIP_TARGET": None, "PIP_NO_BINARY": None, "PYTHONPATH": None, "PIP_PREFIX": "",
    }  # fmt: skip


def test_what_is_left_out_does_not_reach_pip(monkeypatch, tmp_path):
    """pip itself says what it was told."""
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_DRY_RUN", "PIP_NO_BINARY", "PIP_RETRIES"):
        monkeypatch.setenv(name, "7")
    code, output = pipcall.call(sys.executable, ["config", "list"], tmp_path)
    told = set(re.findall(r"^:env:\.([\w-]+)=", output, re.MULTILINE))
    assert code == 0
    assert "retries" in told
    assert not told & {"target", "prefix", "dry-run", "no-binary"}


@pytest.mark.parametrize("key", ["global.target", "install.prefix", "install.no-binary"])
def test_pips_own_settings_that_break_an_install_are_named(monkeypatch, tmp_path, key):
    file = tmp_path / "pip.conf"
    section, name = key.split(".")
    file.write_text(f"[{section}]\n{name} = somewhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    _, output = pipcall.call(sys.executable, ["config", "list"], tmp_path)
    with pytest.raises(pipcall.Stop, match=f"sets {key}.*PIP_CONFIG_FILE"):
        pipcall.refuse(output)
    pipcall.refuse(output.replace(f"{key}=", "global.index-url="))


MAKE = shutil.which("make")


def made(target, **environ):
    """The variables that a recipe of this target would see."""
    lines = f"include {ROOT / 'Makefile'}\n{target}: probe\nprobe:\n\t@env\n"
    asked = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    line = [MAKE, "-f", "-", "PYTHON=true", "RUN=true", target]
    done = subprocess.run(line, input=lines, env=asked | environ, capture_output=True, text=True, check=True, cwd=ROOT)
    pairs = (row.partition("=") for row in done.stdout.splitlines())
    return done.stderr, {name: value for name, _, value in pairs}


@pytest.mark.skipif(not MAKE, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "environ", "threads"),
    [
        ("lab", {}, "1"),
        ("notebooks", {"OMP_NUM_THREADS": "2"}, "2"),
        ("bench", {}, None),  # and not an empty text, of which OpenMP complains
        ("bench", {"OMP_NUM_THREADS": "2"}, "2"),
    ],
)
def test_threads_of_a_recipe(target, environ, threads):
    assert made(target, **environ)[1].get("OMP_NUM_THREADS") == threads


@pytest.mark.skipif(not MAKE, reason="make is not installed")
@pytest.mark.parametrize("target", ["lab", "app", "test", "check", "bench", "notebooks"])
def test_a_recipe_exports_no_empty_variable_of_its_own(target):
    empty = {name for name, value in made(target)[1].items() if not value} - {n for n, v in os.environ.items() if not v}
    assert not {name for name in empty if name.isidentifier() and name.isupper()} - {"MFLAGS", "MAKEFLAGS"}


@pytest.mark.skipif(not MAKE, reason="make is not installed")
def test_a_foreign_pythonpath_is_named_and_kept_out():
    said, seen = made("lab", PYTHONPATH="/foreign")
    assert "PYTHONPATH is set (/foreign); it is left out" in said
    assert "PYTHONPATH" not in seen
    assert "PYTHONPATH" not in made("lab")[0]


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


def old_pythons():
    """Pythons below 3.11 on this machine."""
    names = ["python2.7", "python2", *(f"python3.{minor}" for minor in range(6, 11))]
    found = [path for name in names if (path := shutil.which(name))]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [str(path) for name in names for path in versions.glob(f"*/bin/{name}")]
    too_old = "import sys; sys.exit(sys.version_info >= (3, 11))"
    return [p for p in found if subprocess.run([p, "-c", too_old], capture_output=True).returncode == 0]


def test_a_python_too_old_is_told_so_by_itself():
    if not (found := old_pythons()):
        pytest.skip("no Python below 3.11 is installed here")
    for python in found:
        done = subprocess.run([python, "tools/install.py"], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("fmlab needs Python 3.11 or newer; ")
        assert line.endswith("make lab PYTHON=python3.12")


def test_the_first_file_is_of_words_that_every_python_knows():
    """Without an old Python at hand: no f-string, no annotation, no walrus, ASCII, in what is started first."""
    text = (ROOT / "tools" / "install.py").read_text(encoding="ascii")
    known = (
        ast.Module, ast.Expr, ast.Constant, ast.Import, ast.alias, ast.If, ast.Compare, ast.Lt, ast.Eq, ast.Tuple,
        ast.Call, ast.Attribute, ast.Name, ast.Load, ast.BinOp, ast.Mod, ast.Subscript, ast.Slice, ast.UnaryOp,
    )  # fmt: skip
    assert [type(node).__name__ for node in ast.walk(ast.parse(text)) if not isinstance(node, known)] == []


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
        ("ERROR: No matching distribution found for numpy==2.4.6", "no numpy==2.4.6 for this.*FMLAB_UNLOCKED=1"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "not the one that was locked.*FMLAB_UNLOCKED=1"),
        ("The user requested (constraint) torch<2", "constraints file of your own"),
        ("ERROR: anything else", "the reason stands at the end of the-log"),
    ],
)
def test_a_failed_pip_in_one_line(output, says):
    line = pipcall.explain("torch", output, "the-log")
    assert re.search(says, line)
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
    with pytest.raises(SystemExit, match=f"'{name}' names \\d+ of the notebooks; name one of: 00_start_here, 01_"):
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
