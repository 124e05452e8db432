"""The lock: in `lock/`, the version and the hashes of every package that an install may bring.

One file a group, in pip's own format, so that `pip install --require-hashes --no-deps -r lock/lab.txt` is all
it takes. `make lock` writes them (tools/lock.py); tools/installing.py installs them.

build         what installs and builds the others
torch         torch as the package index has it, on Linux for CUDA
torch-cpu     torch's CPU build for Linux, from PyTorch's own index
cuda          what torch needs besides where it is built for CUDA
torchvision   from the package index everywhere: see fmlab/vision.py for why that serves beside a CPU build
lab           all else that the lab needs
source        what has no wheel and is built here
learn2learn   built here too, where there is a compiler
test, ...     what an extra of pyproject.toml needs beyond that
"""

import os
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "lock"
# The way out, for whoever wants newer packages or has an index that lacks these.
VARIABLE = "FMLAB_UNLOCKED"
# Nothing but what the file names, and no file but those whose hash it names.
STRICT = ("--require-hashes", "--no-deps")


def locked():
    """Whether the lock is to be used."""
    return os.environ.get(VARIABLE, "") in ("", "0")


def normal(name):
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def arguments(*groups, folder=FOLDER):
    """pip's options that install these groups and nothing else."""
    files = [option for group in groups for option in ("-r", str(folder / f"{group}.txt"))]
    return [*STRICT, *files]


def entries(text):
    """{normal name: [its entries]}; several where the version depends on the Python.

    An entry is its requirement line and the indented lines of hashes after it.
    """
    found = {}
    for entry in re.findall(r"^[A-Za-z0-9].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE):
        found.setdefault(normal(re.match(r"[\w.-]+", entry)[0]), []).append(entry)
    return found


def read(group, folder=FOLDER):
    return entries((folder / f"{group}.txt").read_text(encoding="utf-8"))
