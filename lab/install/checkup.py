"""`lab.doctor()`: what is installed, what imports, and what is wrong.

Standard library only until a check runs: this has to work where the rest does not. The module is not
named after its function, because importing `lab.doctor` would then hide `lab.doctor()`.
"""

import importlib
import importlib.metadata
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

REINSTALL = "run `make repair` (conda: `python tools/install.py --here`, or make the environment anew)"
PLAIN = ("numpy", "matplotlib", "pandas", "sklearn", "PIL", "ipywidgets", "jupyterlab", "ipykernel")
SHARED = ("torch", "torchvision", *PLAIN, "scipy")  # what a foreign folder is likely to bring
SETTING = ("@jupyterlab/apputils-extension:kernels-settings", "commsOverSubshells")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `wrong` says what to do where something is."""

    name: str
    value: str
    wrong: str = ""


def doctor() -> None:
    """Print versions, threads, what imports and JupyterLab's subshell setting, then what is wrong."""
    findings = examine()
    width = max(len(f.name) for f in findings)
    for f in findings:
        print(f"{f.name:{width}}  {f.value}")
    wrong = [f for f in findings if f.wrong]
    print("\nNothing is wrong." if not wrong else "\nWrong:")
    for f in wrong:
        print(f"- {f.name}: {f.wrong}")


def examine() -> list[Finding]:
    """Every finding; a check that fails is itself a finding, never an exception."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", python),
        ("packages from elsewhere", elsewhere),
        ("fmlab", fmlab),
        ("torch", torch),
        ("packages", packages),
        ("torchvision", torchvision),
        ("learn2learn", learn2learn),
        ("kernel", kernel),
        ("comms over subshells", subshells),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken install fails in any way it likes
            reason = " ".join(str(error).split())[:200]
            findings.append(Finding(name, "fails", f"{type(error).__name__}: {reason}; {REINSTALL}"))
    return findings


def version(module: str) -> str:
    names = {"sklearn": "scikit-learn", "PIL": "pillow"}
    return importlib.metadata.version(names.get(module, module))


def python() -> Iterator[Finding]:
    wrong = "" if sys.version_info >= (3, 11) else "fmlab needs Python 3.11 or newer"
    yield Finding("Python", f"{sys.version.split()[0]} ({sys.executable})", wrong)


def elsewhere() -> Iterator[Finding]:
    """Folders whose packages hide the environment's own: whatever else fails then, this is why."""
    named = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    places = [(folder, "PYTHONPATH", "unset PYTHONPATH") for folder in named]
    places += [(site.getusersitepackages(), "packages of the user", "set PYTHONNOUSERSITE=1")]
    homes = {name: Path(spec.origin).parents[1] for name in SHARED if (spec := find_spec(name)) and spec.origin}
    for folder, name, cure in places:
        inside = [package for package, home in homes.items() if home == Path(folder).absolute()]
        if inside and Path(folder) != Path(sysconfig.get_path("purelib")):
            wrong = f"{', '.join(inside)}: from there, not from {sys.prefix}; {cure}, then start the lab again"
            yield Finding(name, folder, wrong)


def fmlab() -> Iterator[Finding]:
    importlib.import_module("fmlab")
    yield Finding("fmlab", version("fmlab"))


def torch() -> Iterator[Finding]:
    module = importlib.import_module("torch")
    gpu = module.cuda.get_device_name() if module.cuda.is_available() else "no GPU"
    yield Finding("torch", f"{module.__version__}, {module.get_num_threads()} threads, {gpu}")


def packages() -> Iterator[Finding]:
    for name in PLAIN:
        try:
            importlib.import_module(name)
            yield Finding(name, version(name))
        except Exception as error:
            yield Finding(name, "does not import", f"{error}; {REINSTALL}")


def torchvision() -> Iterator[Finding]:
    from lab.install.l2l import import_torchvision

    module = import_torchvision()
    loaded = module.extension._has_ops()
    note = "imports" if loaded else "imports; its detection operators do not load, none is used"
    yield Finding("torchvision", f"{version('torchvision')}, {note}")


def learn2learn() -> Iterator[Finding]:
    from lab.install.l2l import load

    try:
        load()
        yield Finding("learn2learn", f"{version('learn2learn')}, imports")
    except ModuleNotFoundError as error:
        yield Finding("learn2learn", "does not import", str(error))


def kernel() -> Iterator[Finding]:
    specs = importlib.import_module("jupyter_client.kernelspec")
    program = specs.KernelSpecManager().get_kernel_spec("python3").argv[0]
    # A bare name means the Python that the server runs on.
    ours = program.startswith("python") or Path(program).parent == Path(sys.executable).parent
    wrong = "" if ours else f"notebooks start that Python, not {sys.executable}; {REINSTALL}"
    yield Finding("kernel python3", program, wrong)


def subshells() -> Iterator[Finding]:
    value = subshell_setting()
    wrong = (
        ""
        if value == "disabled"
        else "plots may lose their outputs: choose Disabled in JupyterLab under Settings > Settings "
        "Editor > Kernel > Kernel Comms over subshells"
    )
    yield Finding("comms over subshells", value, wrong)


def subshell_setting() -> str:
    """What JupyterLab will use: the user's own setting, the environment's, or its default."""
    commands = importlib.import_module("jupyterlab.commands")
    utils = importlib.import_module("jupyterlab_server.settings_utils")
    app = Path(commands.get_app_dir())
    plugin, key = SETTING
    overrides, error = utils._get_overrides(str(app / "settings"))
    if error:
        raise ValueError(error)
    settings, _ = utils.get_settings(
        str(app / "settings"), str(app / "schemas"), commands.get_user_settings_dir(), plugin,
        overrides=overrides,
    )  # fmt: skip
    schema = settings["schema"]["properties"][key]["default"]
    return str(settings["settings"].get(key, schema))


if __name__ == "__main__":
    doctor()
    sys.exit(any(f.wrong for f in examine()))
