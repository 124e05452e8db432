"""What the repository says holds: commands that are promised, the help, CI's script, no folder of one machine."""

import ast
import inspect
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import fmlab as fm

ROOT = Path(__file__).resolve().parents[1]


def targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_has_one_line_of_help():
    done = subprocess.run(["make", "-C", ROOT, "-s"], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {command for command, _, _ in lines} == {"make"}
    assert sorted(name for _, name, _ in lines) == sorted(targets() - {"help"})


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_commands_that_are_promised_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^|\s)make ([a-z]+)\b(?=[`\s])", text, re.MULTILINE))
    assert named
    assert named <= targets()


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 60


@pytest.mark.parametrize("cls", fm.ALGORITHMS)
def test_an_algorithm_is_one_short_file(cls):
    """As the README asks of a new one."""
    file = Path(inspect.getfile(cls))
    assert file.name == f"{cls.__name__.lower()}.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 80


def test_ci_is_a_script_that_bash_reads():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n", ROOT / ".ci/run"], check=True)


# What a wing of the lab may import of it: plots know no panel, and the doctor has to work where the rest does not.
WINGS = {
    "plots": {"plots"},
    "panel": {"plots", "panel"},
    "lessons": {"plots", "panel", "lessons"},
    "install": {"panel", "install"},  # its button is a part of a page, and looks like one
}


@pytest.mark.parametrize("wing", WINGS)
def test_wings_of_the_lab_import_only_what_they_may(wing):
    files = list((ROOT / "lab" / wing).glob("*.py"))
    assert len(files) > 3
    met = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "lab":
                met |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab."):
                met.add(node.module.split(".")[1])
            elif isinstance(node, ast.Import):
                met |= {(alias.name + ".").split(".")[1] for alias in node.names if alias.name.split(".")[0] == "lab"}
    assert met <= WINGS[wing]
    flat = {f.name for f in (ROOT / "lab").iterdir() if f.name != "__pycache__"}
    assert flat == {"__init__.py", *WINGS}


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of files")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_names_a_folder_of_one_machine():
    folders = "work|opt|root|home|Users|tmp|mnt"
    # Not inside a web address, whose path follows a letter; "me" and "x" are no machine's names.
    pattern = re.compile(rf"(?<![\w.~}}>])/(?:{folders})/(?!me\b|x\b)\w|[A-Z]:\\\\?Users")
    found = []
    for file in tracked():
        if not file.is_file() or file.suffix in {".png", ".npz", ".gz", ".jpg"}:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found
