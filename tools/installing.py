"""What tools/install.py does: make .venv, install into it what the lock names, find what is damaged.

Standard library only: this runs before anything is installed.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.request
import venv
from pathlib import Path

import lockfile
import pipcall
import records
from pipcall import Stop

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STATE = VENV / "fmlab-install.json"
LOG = VENV / "fmlab-install.log"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def complain(text):
    print(text, file=sys.stderr, flush=True)


# --- what there is to do: pure functions, tested without a network ------------------------------


def fingerprint(root):
    """Changes whenever an installed environment may no longer be what this checkout asks for."""
    digest = hashlib.sha256(b"locked" if lockfile.locked() else b"")
    files = [root / "pyproject.toml", root / "tools" / "installing.py", *sorted((root / "lock").glob("*.txt"))]
    files += sorted(file for file in (root / "share").rglob("*") if file.is_file())
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


def pip(step, *args, note="", python=PYTHON, log=LOG, **more):
    print(f"  {step}{note} ...", flush=True)
    code, output = pipcall.call(python, args, ROOT, **more)
    # pip's own report is long; it goes to the log, and its end to the screen when it fails.
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ pip {' '.join(args)}\n{output}")
    if code:
        details = "\n".join("    " + line[:200] for line in output.splitlines()[-8:])
        raise Stop(pipcall.explain(step, output, log), details)
    return output


def torch_source(torch):
    """(whether torch's CPU build for Linux is to be had, pip's options for it); pip's default one is for CUDA."""
    if not sys.platform.startswith("linux"):
        return False, []
    name, version = torch.split("==")
    with contextlib.suppress(Stop):
        if f"{version}+cpu" in pip("looking for a CPU build of torch", "index", "versions", name):
            return True, []
    if shutil.which("nvidia-smi"):
        return False, []
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10):
            # In place of pip's own index, not beside it: nobody can offer a torch of that name elsewhere.
            return True, ["--index-url", CPU_INDEX]
    except OSError:
        print(f"    {CPU_INDEX} cannot be reached: pip's default build, 5 GB with CUDA, comes instead")
        return False, []


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
    """Everything but learn2learn; what is there already, as it is asked for, is left alone."""
    if lockfile.locked():
        install_locked(pins["torch"], extras)
    else:
        print(f"  {lockfile.VARIABLE} is set: newer versions within the bounds of pyproject.toml come", flush=True)
        install_unlocked(pins, extras)
    set_up_jupyter(PYTHON, VENV)


def install_locked(torch, extras):
    """Only what the lock names, and of that only files with a hash that it names.

    So a package of the same name that another index offers, in whatever version, cannot come in its place.
    """
    lock = lockfile.arguments
    pip("pip and what builds packages", "install", *lock("build"))
    cpu, source = torch_source(torch)
    if cpu:
        pip("torch", "install", *source, *lock("torch-cpu"), note=" (about 200 MB)")
    else:
        pip("torch", "install", *lock("torch", "cuda"), note=" (on Linux with CUDA: some GB)")
    pip("torchvision", "install", *lock("torchvision"))
    # Wheels only: no code of a package runs while it is installed, and nothing unlocked is fetched to build one.
    pip("JupyterLab and the rest", "install", "--only-binary=:all:", *lock("lab", *extras))
    pip("gym", "install", "--no-build-isolation", *lock("source"))
    pip("fmlab", "install", "--no-build-isolation", "--no-deps", "--editable", ".")


def install_unlocked(pins, extras):
    """What pip thinks best within the bounds of pyproject.toml."""
    pip("pip and what builds packages", "install", "--upgrade", *pins["build"])
    cpu, source = torch_source(pins["torch"])
    # The dependencies come with the rest, from the usual index.
    pip("torch", "install", "--no-deps", *source, pins["torch"] + "+cpu" * cpu, note=" (about 200 MB without CUDA)")
    pip("torchvision", "install", "--no-deps", pins["torchvision"])
    target = f".[{','.join(extras)}]" if extras else "."
    pip("JupyterLab, fmlab and the rest", "install", "--editable", target)


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


def install_learn2learn(pin, here=False):
    """Build learn2learn, of which no release installs on Python 3.11 or later as it is.

    Its C files were generated by a Cython that knew no Python 3.11; `build_ext` makes Cython
    generate them again. Without it the lab works, less the comparisons with learn2learn.
    """
    reason = without_compiler()
    where = {"python": sys.executable, "log": Path(sys.prefix) / LOG.name} if here else {}
    if not lockfile.locked():
        options = ["--no-deps", "--config-settings=--build-option=build_ext", pin]
    elif here:
        # conda's own pip and setuptools stay; the build takes the locked ones.
        options = lockfile.arguments("learn2learn")
        where["PIP_BUILD_CONSTRAINT"] = str(lockfile.FOLDER / "build.txt")
    else:
        options = ["--no-build-isolation", *lockfile.arguments("learn2learn")]
    if not reason:
        try:
            pip("learn2learn", "install", *options, note=" (compiles, about 30 s)", **where)
            return True
        except Stop as stop:
            complain(stop.details)
            reason = str(stop)
    complain(f"  learn2learn is left out: {reason}")
    complain("  The lab works without it. The next run tries again.")
    return False


# --- what is damaged ----------------------------------------------------------------------------


def site_packages():
    places = {"base": str(VENV), "platbase": str(VENV)}
    return Path(sysconfig.get_path("purelib", "venv", places))


def stands():
    """Whether JupyterLab's settings and the kernel are as set_up_jupyter leaves them."""
    try:
        kernel = json.loads((VENV / "share/jupyter/kernels/python3/kernel.json").read_text(encoding="utf-8"))
        ours = [file for file in (ROOT / "share").rglob("*") if file.is_file()]
        same = all((VENV / file.relative_to(ROOT)).read_bytes() == file.read_bytes() for file in ours)
        return same and Path(kernel["argv"][0]).parent == PYTHON.parent
    except (OSError, ValueError, LookupError):
        return False


def damage(state, checksums):
    """{package: what is wrong with it} of those that this script installed; all of it where nothing can be mended."""
    names = state.get("packages", [])
    wrong = records.damaged(site_packages(), names, checksums)
    if not PYTHON.exists():
        wrong["pip"] = f"{PYTHON} is missing"
    return wrong


def installed():
    return sorted(records.packages(site_packages()))


def forget(names):
    """Make pip take these packages for not installed, so that it installs them again over what is there."""
    folders = records.packages(site_packages())
    for name in names & folders.keys():
        shutil.rmtree(folders[name])


# --- the whole ----------------------------------------------------------------------------------


def finish_here(pins):
    set_up_jupyter(sys.executable, Path(sys.prefix))
    install_learn2learn(pins["learn2learn"], here=True)


def main(arguments):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = project["tool"]["fmlab"]
    if arguments == ["--here"]:
        return finish_here(pins)
    repair = "--repair" in arguments
    extras = [extra for extra in arguments if extra != "--repair"]
    if unknown := set(extras) - project["project"]["optional-dependencies"].keys():
        raise Stop(f"{', '.join(unknown)} is no extra of pyproject.toml")
    state, wanted = read_state(STATE), fingerprint(ROOT)
    todo = plan(state, maker(VENV), wanted, extras)
    wrong = {} if todo == "fresh" else damage(state, checksums=repair)
    for name, what in wrong.items():
        print(f"{name} is damaged: {what}", flush=True)
    if wrong:
        # Without pip nothing can be mended, and over another version not cleanly.
        todo = "mend" if todo == "ready" and "pip" not in wrong else "fresh"
    if todo == "mend":
        print("Only that is installed again:", flush=True)
    if todo == "fresh":
        print(f"Installing into {VENV}: a few minutes the first time", flush=True)
        make_environment()
    if todo != "ready":
        start = time.monotonic()
        # An update keeps the extras that are there already.
        extras = sorted({*extras, *read_state(STATE).get("done", {})} - {"lab"})
        save(busy=True)
        if names := pipcall.left_out(os.environ):
            print(f"  left out of the install, since they would change what lands in .venv: {', '.join(names)}")
        pipcall.refuse(pip("pip's settings", "config", "list"))
        if todo == "mend":
            forget(wrong.keys())
        install(pins, extras)
        save(done=dict.fromkeys(("lab", *extras), wanted), packages=installed(), locked=lockfile.locked())
        print(f"Installed in {time.monotonic() - start:.0f} s", flush=True)
    elif not stands():
        print("Setting JupyterLab's settings and the kernel right", flush=True)
        set_up_jupyter(PYTHON, VENV)
    elif repair:
        print(
            f"Every file of {len(state['packages'])} packages is as it came. If lab.doctor() still finds something "
            f"wrong: delete {VENV}, then make lab"
        )
    if read_state(STATE).get("learn2learn") != pins["learn2learn"] or "learn2learn" in wrong:
        save(busy=True, learn2learn=None)
        if install_learn2learn(pins["learn2learn"]):
            save(learn2learn=pins["learn2learn"], packages=installed())
    if read_state(STATE).get("busy"):
        save(busy=False)


def run(arguments):
    """The script: what goes wrong ends in a sentence, not in a traceback."""
    try:
        with alone():
            main(arguments)
    except Stop as stop:
        if stop.details:
            complain(stop.details)
        sys.exit(f"fmlab: {stop}")
    except KeyboardInterrupt:
        sys.exit("\nfmlab: interrupted; the next run starts the install afresh")
