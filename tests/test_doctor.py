"""`lab.doctor()` says what is wrong, and itself survives it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lab
from lab.install import checkup, l2l

ROOT = Path(__file__).resolve().parents[1]


def report(capsys):
    lab.doctor()
    return capsys.readouterr().out


def test_in_order(capsys):
    out = report(capsys)
    for name in ("Python", "torch", "threads", "torchvision", "learn2learn", "numpy", "jupyterlab"):
        assert name in out
    assert "comms over subshells  disabled" in out
    # A machine without a C compiler has one thing wrong, and it is named.
    if "learn2learn" not in out.partition("Wrong:")[2]:
        assert out.endswith("Nothing is wrong.\n")


def test_it_can_be_called_twice_and_the_module_imported(capsys):
    importlib.import_module("lab.install.checkup")
    assert report(capsys) == report(capsys)


def break_import(monkeypatch, *broken):
    real = importlib.import_module

    def fails(name, package=None):
        if name in broken:
            raise OSError(f"libsomething.so: cannot open\n  ({name})")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fails)


@pytest.mark.parametrize("name", ["torch", "fmlab", "matplotlib", "torchvision", "jupyterlab.commands"])
def test_a_package_that_does_not_import(capsys, monkeypatch, name):
    break_import(monkeypatch, name)
    wrong = report(capsys).partition("Wrong:\n")[2]
    assert "libsomething.so: cannot open" in wrong
    assert "run `make repair`" in wrong


def test_a_foreign_pythonpath_is_the_first_thing_named(tmp_path):
    """A torch of another place hides ours: ten symptoms, and the cause before them."""
    for name in ("torch", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('foreign')")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    line = [sys.executable, "-m", "lab.install.checkup"]
    done = subprocess.run(line, env=environ, capture_output=True, text=True, cwd=ROOT)
    first = done.stdout.partition("Wrong:\n")[2].splitlines()[0]
    assert first.startswith("- PYTHONPATH: torch, numpy: from there, not from")
    assert "unset PYTHONPATH" in first
    assert done.returncode == 1


def test_a_pythonpath_around_the_environment_is_no_fault(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(sys.prefix).parent), sys.prefix]))
    assert "PYTHONPATH" not in report(capsys)


def test_packages_of_the_user_that_hide_ours_are_named(monkeypatch, capsys):
    folder = Path(importlib.util.find_spec("numpy").origin).parents[1]
    monkeypatch.setattr(checkup.sysconfig, "get_path", lambda _: "/the/environment")
    monkeypatch.setattr(checkup.site, "getusersitepackages", lambda: str(folder))
    wrong = report(capsys).partition("Wrong:\n")[2]
    assert "- packages of the user: torch, torchvision, numpy, " in wrong
    assert "set PYTHONNOUSERSITE=1" in wrong


def test_without_learn2learn(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "learn2learn" else find(n))
    wrong = report(capsys).partition("Wrong:\n")[2]
    assert "learn2learn is not installed" in wrong
    assert "C compiler" in " ".join(wrong.split())
    with pytest.raises(ModuleNotFoundError, match="make lab"):
        l2l.load()


def test_subshells_switched_on_by_the_user(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    file = folder / "kernels-settings.jupyterlab-settings"
    file.write_text(json.dumps({"commsOverSubshells": "perCommTarget"}))
    monkeypatch.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path))
    wrong = report(capsys).partition("Wrong:\n")[2]
    assert "comms over subshells: plots may lose their outputs: choose Disabled" in wrong


def test_a_kernel_of_another_python(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/elsewhere/python", "-m", "ipykernel_launcher"], "display_name": "x"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    wrong = report(capsys).partition("Wrong:\n")[2]
    assert "kernel python3: notebooks start that Python" in wrong


def test_a_python_with_nothing_installed():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lab; lab.doctor()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    wrong = done.stdout.partition("Wrong:\n")[2]
    for name in ("torch", "numpy", "jupyterlab", "torchvision"):
        assert f"- {name}: " in wrong
    assert done.stderr == ""


def test_import_lab_is_light():
    heavy = "{'torch', 'matplotlib', 'ipywidgets', 'numpy'}"
    code = f"import lab, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_the_exit_code(monkeypatch):
    assert checkup.Finding("name", "value").wrong == ""
    done = subprocess.run([sys.executable, "-S", "-m", "lab.install.checkup"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
