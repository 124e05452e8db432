"""The lock is complete, within the bounds, of exact versions and hashes; pip keeps to it; the environment equals it."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tomllib
import urllib.error
import zipfile
from pathlib import Path

import lockfile
import pipcall
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STEPS = PROJECT["tool"]["fmlab"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
FILES = sorted(lockfile.FOLDER.glob("*.txt"))


@pytest.fixture
def lock(tool):
    return tool("lock")


def pins(*groups):
    """{name: [requirements]} of these groups, or of all."""
    groups = groups or [file.stem for file in FILES]
    found = {}
    for group in groups:
        for name, entries in lockfile.read(group).items():
            found.setdefault(name, []).extend(Requirement(e.partition("\\")[0]) for e in entries)
    return found


def version(requirement):
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def here(requirements):
    """The version that holds for this Python and system, or None."""
    found = {version(r) for r in requirements if not r.marker or r.marker.evaluate()}
    assert len(found) <= 1, f"two versions for one Python: {requirements}"
    return next(iter(found), None)


# --- the files ----------------------------------------------------------------------------------


def test_there_is_a_file_for_every_step_and_extra():
    steps = {"build", "torch", "torch-cpu", "cuda", "torchvision", "lab", "source", "learn2learn"}
    assert {file.stem for file in FILES} == steps | EXTRAS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_is_an_exact_version_and_its_hashes(file):
    """And nothing else: no index, no URL, no option but the one that learn2learn's build needs."""
    entry = re.compile(
        r"[a-z0-9-]+==[\w.+]+( ; [^\\\n]+?)?( \\\n    --config-settings=\S+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    )
    head, _, rest = file.read_text(encoding="utf-8").partition("\n")
    assert head.startswith("# Written by `make lock`")
    assert entry.sub("", rest) == ""
    assert len(entry.findall(rest)) == sum(map(len, lockfile.read(file.stem).values()))


def test_a_package_has_one_version_in_all_files():
    del (everything := pins())["torch"]  # whose two builds are told apart below
    for requirements in everything.values():
        here(requirements)


@pytest.mark.parametrize("extra", ["lab", *EXTRAS])
def test_what_the_project_asks_for_is_locked_within_its_bounds(extra):
    ours = pins("build", "torch", "torchvision", "source", "lab", *([] if extra == "lab" else [extra]))
    lines = PROJECT["project"]["dependencies"] if extra == "lab" else EXTRAS[extra]
    for wanted in map(Requirement, lines):
        versions = [version(r) for r in ours[lockfile.normal(wanted.name)]]
        assert versions
        assert all(v in wanted.specifier for v in versions), (
            f"{wanted} is locked as {versions}: run make lock ARGS=--keep"
        )


def test_what_builds_and_the_steps_of_their_own_are_those_of_the_project():
    build = pins("build")
    for wanted in map(Requirement, [*STEPS["build"], *PROJECT["build-system"]["requires"]]):
        assert here(build[wanted.name]) in wanted.specifier
    for step in ("torch", "torchvision", "learn2learn"):
        assert [str(r) for r in pins(step)[step]] == [STEPS[step]]
    assert [str(r) for r in pins("torch-cpu")["torch"]] == [STEPS["torch"] + "+cpu"]


# --- this environment ---------------------------------------------------------------------------


def state():
    file = Path(sys.prefix) / "fmlab-install.json"
    return json.loads(file.read_text()) if file.exists() else {}


@pytest.fixture(scope="module")
def installed():
    """{name: distribution} of an environment that the lock made."""
    if not state().get("locked"):
        assert not os.environ.get("FMLAB_REQUIRE_LOCK"), "this environment was to be made with the lock"
        pytest.skip("this environment was not made with the lock (conda, or FMLAB_UNLOCKED=1)")
    return {lockfile.normal(d.name): d for d in importlib.metadata.distributions()}


def groups():
    extras = [extra for extra in state()["done"] if extra != "lab"]
    torch = ["torch-cpu"] if "+cpu" in importlib.metadata.version("torch") else ["torch", "cuda"]
    return ["build", *torch, "torchvision", "lab", "source", *extras]


def test_the_environment_equals_the_lock(installed):
    wanted = {name: v for name, requirements in pins(*groups()).items() if (v := here(requirements))}
    assert {name: d.version for name, d in installed.items() if name in wanted} == wanted


def test_the_environment_holds_nothing_else(installed):
    others = installed.keys() - pins(*groups()).keys() - {"fmlab", "learn2learn"}
    if others and not os.environ.get("FMLAB_REQUIRE_LOCK"):
        pytest.skip(f"the user's own packages are here: {', '.join(sorted(others))}")
    assert others == set()


def test_every_need_of_a_package_is_there_in_a_version_that_it_takes(installed):
    """pip was told to look at no dependency: the lock alone has to be complete."""
    lacking = {}
    for name, distribution in installed.items():
        # Its needs are declared as 45 packages that it never imports: see pyproject.toml.
        if name == "learn2learn":
            continue
        for need in map(Requirement, distribution.requires or []):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            got = installed.get(lockfile.normal(need.name))
            if got is None or not need.specifier.contains(got.version, prereleases=True):
                lacking[f"{name}: {need}"] = got and got.version
    assert lacking == {}


# --- pip keeps to it ----------------------------------------------------------------------------


def wheel(folder, number, text):
    """A tiny package in a folder that serves as an index."""
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny-{number}-py3-none-any.whl"
    info = f"tiny-{number}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny.py", text)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {number}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """pip, told to install the locked version of a tiny package, and the folders it looks into."""
    trusted, foreign = tmp_path / "trusted", tmp_path / "foreign"
    digest = hashlib.sha256(wheel(trusted, "1.0", "x = 1").read_bytes()).hexdigest()
    (tmp_path / "tiny.txt").write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    foreign.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{foreign} {trusted}")

    def install():
        line = ["install", "--dry-run", "--ignore-installed", *lockfile.arguments("tiny", folder=tmp_path)]
        return pipcall.call(sys.executable, line, tmp_path)

    return install, trusted, foreign


def test_pip_takes_the_locked_file(tiny):
    install, _, _ = tiny
    code, output = install()
    assert (code, "Would install tiny-1.0" in output) == (0, True)


def test_a_higher_version_from_elsewhere_is_not_taken(tiny):
    """Dependency confusion: another index offers the same name with a higher version."""
    install, _, foreign = tiny
    wheel(foreign, "9.9", "import evil")
    code, output = install()
    assert (code, "Would install tiny-1.0" in output) == (0, True)


def test_another_file_of_the_locked_version_is_refused(tiny):
    install, trusted, foreign = tiny
    wheel(foreign, "1.0", "import evil")
    (trusted / "tiny-1.0-py3-none-any.whl").unlink()
    code, output = install()
    assert code != 0
    assert "not the one that was locked" in pipcall.explain("tiny", output, "the-log")


def test_a_locked_version_that_no_index_has(tiny):
    install, trusted, foreign = tiny
    wheel(foreign, "9.9", "import evil")
    (trusted / "tiny-1.0-py3-none-any.whl").unlink()
    code, output = install()
    assert code != 0
    assert "has no tiny==1.0 for this system" in pipcall.explain("tiny", output, "the-log")


@pytest.mark.parametrize(("value", "locked"), [(None, True), ("", True), ("0", True), ("1", False)])
def test_the_way_out(monkeypatch, value, locked):
    monkeypatch.delenv(lockfile.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(lockfile.VARIABLE, value)
    assert lockfile.locked() is locked


# --- moving it ----------------------------------------------------------------------------------

PAGE = """
<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256={a}">x</a>
<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp314-cp314t-manylinux_2_28_aarch64.whl#sha256={b}">x</a>
<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp310-cp310-manylinux_2_28_x86_64.whl#sha256={c}">too old a Python</a>
<a href="/whl/cpu/torch-2.13.0%2Bcpu-cp311-cp311-win_amd64.whl#sha256={c}">another system</a>
<a href="/whl/cpu/torch-2.13.0-cp311-cp311-macosx_14_0_arm64.whl#sha256={c}">another build</a>
<a href="/whl/cpu/torch-2.13.01%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256={c}">another version</a>
""".format(a="a" * 64, b="b" * 64, c="c" * 64)


def test_torchs_cpu_build_is_read_from_its_index(lock):
    expected = "torch==2.13.0+cpu" + "".join(f" \\\n    --hash=sha256:{h * 64}" for h in "ab") + "\n"
    assert lock.cpu_entry("torch==2.13.0", PAGE) == expected
    with pytest.raises(SystemExit, match="lists no CPU build of torch==9"):
        lock.cpu_entry("torch==9", PAGE)


def test_without_torchs_index_only_the_same_version_stays(lock, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(lock.urllib.request, "urlopen", unreachable)
    assert lock.torch_cpu(STEPS["torch"]) in (lockfile.FOLDER / "torch-cpu.txt").read_text()
    assert "stay as they are" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"only it has the hashes of torch==9\.0\+cpu"):
        lock.torch_cpu("torch==9.0")


def test_every_package_comes_into_one_group(lock):
    needs = {
        "torch": "torch triton nvidia-nccl-cu13 filelock",
        "gym": "gym numpy",
        "pytest": "pytest filelock iniconfig",
    }
    project = {
        "project": {"dependencies": ["torch", "gym"], "optional-dependencies": {"test": ["pytest"]}},
        "tool": {"fmlab": {"build": ["pip"]}},
    }

    def closure(lines):
        return {name for line in lines for name in needs.get(line, line).split()}

    everything = closure(["torch", "gym", "pytest", "pip"])
    groups = lock.groups(project, everything, closure)
    assert groups["lab"] == {"filelock", "numpy"}
    assert groups["test"] == {"pytest", "iniconfig"}
    assert groups["cuda"] == {"triton", "nvidia-nccl-cu13"}
    assert sorted(name for names in groups.values() for name in names if name in everything) == sorted(everything)
