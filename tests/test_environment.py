"""environment.yml and pyproject.toml ask for the same packages with the same bounds.

conda-forge is not asked: what is compared is the two files.
"""

import copy
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

# conda-forge's name, where it is another one; pytorch-cpu also keeps CUDA out.
NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
# For a maintainer, for measuring, for one kind of file and for other machines; not for a reader or Binder.
LEFT_OUT = {"dev", "bench", "lock", "parquet", "nodes", "privacy"}


def project_wants(project):
    extras = project["project"]["optional-dependencies"]
    lines = list(project["project"]["dependencies"])
    lines += [line for extra in extras.keys() - LEFT_OUT for line in extras[extra]]
    lines += project["build-system"]["requires"]
    wanted = map(Requirement, lines)
    return {NAMES.get(r.name, r.name): r.specifier for r in wanted}


def conda_wants(conda):
    lines = []
    for entry in conda["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    assert lines.count("--editable .") == 1, "the lab itself, editable"
    wanted = [Requirement(line) for line in lines if not line.startswith("--")]
    assert len({r.name for r in wanted}) == len(wanted), "a package stands twice"
    return {r.name: r.specifier for r in wanted if r.name not in ("python", "pip")}


def differences(project, conda):
    ours, theirs = project_wants(project), conda_wants(conda)
    return {
        name: (str(ours.get(name)), str(theirs.get(name)))
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    }


def test_the_two_agree():
    assert differences(PROJECT, CONDA) == {}


def test_only_conda_forge_is_asked():
    assert CONDA["channels"] == ["conda-forge"]


def test_python_is_one_that_the_project_takes():
    (line,) = [e for e in CONDA["dependencies"] if isinstance(e, str) and e.startswith("python>")]
    floor = SpecifierSet(PROJECT["project"]["requires-python"])
    assert set(floor) <= set(Requirement(line).specifier)


@pytest.mark.parametrize("step", [s for s in PROJECT["tool"]["fmlab"].values() if isinstance(s, str)])
def test_pins_of_the_set_up_script_are_within_the_bounds(step):
    pin = Requirement(step)
    (version,) = [s.version for s in pin.specifier]
    bounds = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    # learn2learn is named only there: its metadata would drag in what it never imports.
    assert (pin.name in bounds) is (pin.name != "learn2learn")
    assert version in bounds.get(pin.name, SpecifierSet())


def without(lines, name):
    return [e for e in lines if isinstance(e, dict) or Requirement(e).name != name]


@pytest.mark.parametrize("name", sorted(project_wants(PROJECT)))
def test_a_package_missing_on_either_side_is_found(name):
    conda, project = copy.deepcopy(CONDA), copy.deepcopy(PROJECT)
    conda["dependencies"] = without(conda["dependencies"], name)
    for entry in conda["dependencies"]:
        if isinstance(entry, dict):
            entry["pip"] = [e for e in entry["pip"] if not e.startswith(name)]
    assert set(differences(PROJECT, conda)) == {name}

    pip_name = {v: k for k, v in NAMES.items()}.get(name, name)
    groups = [project["build-system"], project["project"], project["project"]["optional-dependencies"]]
    for group, key in zip(groups, ("requires", "dependencies", "test"), strict=True):
        group[key] = without(group[key], pip_name)
    assert set(differences(project, CONDA)) == {name}


@pytest.mark.parametrize("bound", ["numpy", "numpy>=2", "numpy>=2,<4", "numpy>=1,<3"])
def test_another_bound_is_found(bound):
    conda = copy.deepcopy(CONDA)
    conda["dependencies"] = [*without(conda["dependencies"], "numpy"), bound]
    assert set(differences(PROJECT, conda)) == {"numpy"}


def test_jupyterlabs_extension_is_where_it_says():
    for package in (ROOT / "share/jupyter/labextensions").glob("*/package.json"):
        said = json.loads(package.read_text())
        assert said["name"] == package.parent.name
        code = (package.parent / said["jupyterlab"]["_build"]["load"]).read_text()
        assert f"(window._JUPYTERLAB ??= {{}}).{said['name']} =" in code
