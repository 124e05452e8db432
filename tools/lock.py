"""Write the lock anew: resolve for every supported system at once, with the hashes of all files of each version.

    make lock                 the newest versions within the bounds of pyproject.toml
    make lock ARGS=--keep     the versions that are locked, where they still fit: after an edit of the bounds

Nothing is installed. The files name no index, so whatever index serves these files can be used. Another index is
asked where uv is told so (UV_DEFAULT_INDEX).
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from pathlib import Path

import lockfile
from lockfile import FOLDER, entries

ROOT = FOLDER.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu/torch/"
# On Linux only, and only where torch is built for CUDA.
CUDA = re.compile(r"(nvidia|cuda)-.+|triton")
# No release of theirs that fits has a wheel.
SOURCE = {"gym"}
# What makes learn2learn's set-up run Cython: see install_learn2learn in installing.py.
CYTHON = "--build-option=build_ext"
PYTHONS = ("3.11", "3.12", "3.13")
# macOS 14: torch has no wheel for an older one.
SYSTEMS = ("x86_64-manylinux_2_28", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
HEAD = "# Written by `make lock`; what each file is for stands in tools/lockfile.py.\n"


def uv(requirements, *options):
    """What uv makes of the requirements, as text."""
    line = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", *options]
    environ = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    text = "\n".join(requirements)
    done = subprocess.run(line, input=text, env=environ, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"uv found no answer:\n{done.stderr}")
    return done.stdout


def resolve(requirements, *options):
    """One version of everything for all Pythons and systems, where there is one."""
    floor = f"--python-version={PYTHONS[0]}"
    return uv(requirements, "--universal", "--fork-strategy=fewest", floor, *options)


def cpu_entry(pin, page):
    """torch's CPU build for Linux as an entry, with the hashes that PyTorch's index lists."""
    version = re.escape(pin.partition("==")[2])
    wheel = rf"torch-{version}(?:\+|%2B)cpu-cp3(?!10)\d\d-cp3\d\dt?-manylinux_\w+_(?:x86_64|aarch64)\.whl"
    hashes = sorted(set(re.findall(rf"{wheel}#sha256=([0-9a-f]{{64}})", page)))
    if not hashes:
        sys.exit(f"{CPU_INDEX} lists no CPU build of {pin} for Linux")
    return " \\\n    ".join([f"{pin}+cpu", *(f"--hash=sha256:{h}" for h in hashes)]) + "\n"


def torch_cpu(pin):
    """From PyTorch's index; where it cannot be reached, what is locked already, if that is this version."""
    try:
        with urllib.request.urlopen(CPU_INDEX, timeout=30) as page:
            return cpu_entry(pin, page.read().decode())
    except OSError as error:
        file = FOLDER / "torch-cpu.txt"
        (entry,) = lockfile.read("torch-cpu")["torch"] if file.exists() else [""]
        if not entry.startswith(f"{pin}+cpu "):
            sys.exit(f"{CPU_INDEX} cannot be reached ({error}), and only it has the hashes of {pin}+cpu")
        print(f"{CPU_INDEX} cannot be reached: the hashes of {pin}+cpu stay as they are")
        return entry


def groups(project, everything, needs):
    """{group: names}; `needs(requirements)` are the names that these come to, all told."""
    steps, base = project["tool"]["fmlab"], project["project"]["dependencies"]
    lab = needs(base)
    cuda = {name for name in everything if CUDA.fullmatch(name)}
    build = needs(steps["build"])
    made = {"build": build, "torch": {"torch"}, "cuda": cuda, "torchvision": {"torchvision"}, "source": SOURCE}
    made["lab"] = lab.difference(*made.values())
    for extra, lines in project["project"]["optional-dependencies"].items():
        made[extra] = needs([*base, *lines]) - lab - build
    return made


def wanted(project):
    steps = project["tool"]["fmlab"]
    extras = project["project"]["optional-dependencies"].values()
    lines = [*project["project"]["dependencies"], *(line for extra in extras for line in extra)]
    return [*lines, *project["build-system"]["requires"], *steps["build"], steps["torch"], steps["torchvision"]]


def check_wheels(text):
    """Every version has a wheel for every supported Python and system: the install builds nothing but SOURCE."""
    for system in SYSTEMS:
        for python in PYTHONS:
            only = ("--only-binary=:all:", *(f"--no-binary={name}" for name in sorted(SOURCE)))
            uv([text], "--no-deps", f"--python-platform={system}", f"--python-version={python}", *only)


def main(arguments):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    steps = project["tool"]["fmlab"]
    cpu = torch_cpu(steps["torch"])
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        if arguments == ["--keep"]:
            # uv takes the versions that it finds in the file it is to write.
            # Of these two one has a version of its own, and one an option that uv does not read.
            kept = [f for f in sorted(FOLDER.glob("*.txt")) if f.stem not in ("torch-cpu", "learn2learn")]
            pins.write_text("".join(f.read_text() for f in kept))
        resolve(wanted(project), "--generate-hashes", f"--output-file={pins}")
        everything = entries(pins.read_text())
        made = groups(project, everything, lambda lines: set(entries(resolve(lines, f"--constraints={pins}"))))
        check_wheels(pins.read_text())
    texts = {group: "".join(e for n in sorted(names) for e in everything[n]) for group, names in made.items()}
    texts["torch-cpu"] = cpu
    plain = uv([steps["learn2learn"]], "--no-deps", "--generate-hashes")
    # pip follows such an option for a package of a file only where it stands in that file.
    texts["learn2learn"] = plain.replace(" \\\n", f" \\\n    --config-settings={CYTHON} \\\n", 1)
    for group, entry in texts.items():
        (FOLDER / f"{group}.txt").write_text(HEAD + entry, encoding="utf-8", newline="\n")
    print(f"{len(everything)} packages locked in {FOLDER.name}/")


if __name__ == "__main__":
    main(sys.argv[1:])
