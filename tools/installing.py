"""Make .venv and install the lab into it; do next to nothing when that is done already.

    python tools/install.py [extra ...]        extras of pyproject.toml: test, dev, bench
    python tools/install.py --here             no .venv: finish the environment of this Python (conda)

Standard library only: this runs before anything is installed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (older Pythons do start this file)
    sys.exit(
        f"fmlab needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Install a "
        "newer one, or name one that you have: make lab PYTHON=python3.12"
    )

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sysconfig
import time
import tomllib
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STATE = VENV / "fmlab-install.json"
LOG = VENV / "fmlab-install.log"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Stop(Exception):
    """The install cannot go on; the text says what to do, after `details` where there are some."""

    def __init__(self, text, details=""):
        super().__init__(text)
        self.details = details


def complain(text):
    print(text, file=sys.stderr, flush=True)


# --- what there is to do: pure functions, tested without a network ------------------------------


def fingerprint(root):
    """Changes whenever an installed environment may no longer be what this checkout asks for."""
    digest = hashlib.sha256()
    files = [root / "pyproject.toml", root / "tools" / "install.py"]
    files += sorted((root / "share").rglob("*.json"))
    # Which packages exist is part of it: the editable install maps each by name.
    files += [p for p in (root / "fmlab" / "__init__.py", root / "lab" / "__init__.py") if p.exists()]
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        if file.name != "__init__.py":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def maker(environment):
    """Who made the environment and where: another Python or another folder makes it unusable."""
    return f"{sys.version.split()[0]} {sys.base_prefix} {environment}"


def plan(state, made_by, wanted, extras):
    """`fresh`: start from nothing; `update`: install into what is there; `ready`: nothing to do."""
    if not state or state.get("made_by") != made_by or state.get("busy"):
        return "fresh"
    done = state.get("done", {})
    return "ready" if all(done.get(e) == wanted for e in ("lab", *extras)) else "update"


def read_state(file):
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def explain(step, output, log):
    """One line for a failed pip: what to do about it."""
    if "No space left" in output:
        return f"{step}: the disk is full; the lab needs 2 GB, and as much again while it installs."
    if any(s in output for s in ("Retrying (Retry(", "NewConnectionError", "NameResolutionError")):
        return (
            f"{step}: the package index cannot be reached. Check the network (behind a proxy: set "
            "HTTPS_PROXY), then run the same command again."
        )
    if "No matching distribution found for torch" in output:
        return (
            f"{step}: torch 2.13 has no build for Python {sys.version.split()[0]} on this system. "
            "Name another Python (make lab PYTHON=python3.12) or use conda (environment.yml)."
        )
    return f"{step}: failed; the reason stands at the end of {log}. Mend it and run the same command again."


def without_compiler():
    """Why learn2learn cannot be built here, or None."""
    way_out = {
        "linux": "sudo apt install build-essential python3-dev (or your distribution's equivalent)",
        "darwin": "xcode-select --install",
    }.get(sys.platform, "install the Build Tools for Visual Studio")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if os.name != "nt" and not shutil.which(compiler):
        return f"no C compiler ({compiler}) was found. To add one: {way_out}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"Python's C headers are missing. To add them: {way_out}"
    return None


# --- doing it -----------------------------------------------------------------------------------


def pip(step, *args, note="", python=PYTHON, log=LOG):
    print(f"  {step}{note} ...", flush=True)
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(
        [str(python), "-m", "pip", *args], env=environ, cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    output = done.stdout + done.stderr
    # pip's own report is long; it goes to the log, and its end to the screen when it fails.
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ pip {' '.join(args)}\n{output}")
    if done.returncode:
        details = "\n".join("    " + line[:200] for line in output.splitlines()[-8:])
        raise Stop(explain(step, output, log), details)
    return done.stdout


def torch_source(torch):
    """Options that make pip take torch's CPU build on Linux, where its default one is for CUDA."""
    if not sys.platform.startswith("linux") or shutil.which("nvidia-smi"):
        return []
    name, version = torch.split("==")
    with contextlib.suppress(Stop):
        if f"{version}+cpu" in pip("looking for a CPU build of torch", "index", "versions", name):
            return []
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10):
            return ["--extra-index-url", CPU_INDEX]
    except OSError:
        print(f"    {CPU_INDEX} cannot be reached: pip's default build, 5 GB with CUDA, comes instead")
        return []


@contextlib.contextmanager
def alone():
    """Wait while another install works on the same environment.

    The lock sits on this file: the environment itself may be removed, and a lock ends with its process.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with Path(__file__).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another install is at work here; waiting for it ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def make_environment():
    if not importlib.util.find_spec("ensurepip"):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise Stop(f"this Python has no pip to give: sudo apt install python{version}-venv, then again")
    if VENV.exists():
        print(f"  removing an incomplete or outdated {VENV.name} ...", flush=True)
        shutil.rmtree(VENV)
    VENV.mkdir()
    save(busy=True, made_by=maker(VENV), done={})
    venv.create(VENV, with_pip=True)


def save(**changes):
    STATE.write_text(json.dumps({**read_state(STATE), **changes}, indent=1))


def install(pins, extras):
    # 25: older ones build learn2learn on a path that fails (seen with 23.2).
    pip("pip", "install", "--upgrade", "pip>=25")
    source = torch_source(pins["torch"])
    pip("torch", "install", *source, pins["torch"], note=" (about 200 MB without CUDA)")
    pip("torchvision", "install", "--no-deps", *source, pins["torchvision"])
    target = f".[{','.join(extras)}]" if extras else "."
    pip("JupyterLab, fmlab and the rest", "install", "--editable", target)
    set_up_jupyter(PYTHON, VENV)


def set_up_jupyter(python, prefix):
    """JupyterLab's settings and the kernel, inside the environment and nowhere else."""
    # Copied here and not by pip: an editable install leaves data files out.
    shutil.copytree(ROOT / "share", prefix / "share", dirs_exist_ok=True)
    # The kernel by its full path: a spec that says `python` runs whatever stands first on PATH.
    # One thread for torch: all clients are one batch of small products, which a second thread hardly
    # speeds up on two idle cores (1.4 times in float64), and slows twentyfold while a browser keeps one
    # of them busy, for torch's threads then wait for each other. A large convolutional net may gain by
    # torch.set_num_threads(2).
    options = ["--display-name", "Python 3 (fmlab)", "--env", "OMP_NUM_THREADS", "1"]
    subprocess.run(
        [python, "-m", "ipykernel", "install", "--sys-prefix", *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def install_learn2learn(pin, **where):
    """Build learn2learn, of which no release installs on Python 3.11 or later as it is.

    Its C files were generated by a Cython that knew no Python 3.11; `build_ext` makes Cython
    generate them again. Without it the lab works, less the comparisons with learn2learn.
    """
    reason = without_compiler()
    if not reason:
        build = ("--no-deps", "--config-settings=--build-option=build_ext")
        try:
            pip("learn2learn", "install", *build, pin, note=" (compiles, about 30 s)", **where)
            return True
        except Stop as stop:
            complain(stop.details)
            reason = str(stop)
    complain(f"  learn2learn is left out: {reason}")
    complain("  The lab works without it. The next run tries again.")
    return False


def damaged():
    """Whether something vanished from a finished environment."""
    names = ["pip", "torch", "torchvision", "jupyterlab", "ipykernel", "voila", "fmlab", "lab"]
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {names})))"
    try:
        return bool(subprocess.run([PYTHON, "-c", code], capture_output=True).returncode)
    except OSError:
        return True


def finish_here(pins):
    prefix = Path(sys.prefix)
    set_up_jupyter(sys.executable, prefix)
    install_learn2learn(pins["learn2learn"], python=sys.executable, log=prefix / LOG.name)


def main(extras):
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["fmlab"]
    if extras == ["--here"]:
        return finish_here(pins)
    state, wanted = read_state(STATE), fingerprint(ROOT)
    todo = plan(state, maker(VENV), wanted, extras)
    if todo == "fresh" or damaged():
        todo = "fresh"
        print(f"Installing into {VENV}: a few minutes the first time", flush=True)
        make_environment()
    if todo != "ready":
        start = time.monotonic()
        done = read_state(STATE).get("done", {})
        # An update keeps the extras that are there already.
        extras = sorted({*extras, *done} - {"lab"})
        save(busy=True)
        install(pins, extras)
        save(done=dict.fromkeys(("lab", *extras), wanted))
        print(f"Installed in {time.monotonic() - start:.0f} s", flush=True)
    if read_state(STATE).get("learn2learn") != pins["learn2learn"]:
        save(busy=True)
        if install_learn2learn(pins["learn2learn"]):
            save(learn2learn=pins["learn2learn"])
    if read_state(STATE).get("busy"):
        save(busy=False)


if __name__ == "__main__":
    try:
        with alone():
            main(sys.argv[1:])
    except Stop as stop:
        if stop.details:
            complain(stop.details)
        sys.exit(f"fmlab: {stop}")
    except KeyboardInterrupt:
        sys.exit("\nfmlab: interrupted; the next run starts the install afresh")
