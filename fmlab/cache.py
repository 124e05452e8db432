"""What was searched on this machine, in the user's cache folder: step sizes that nobody recorded."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import CodeType

import platformdirs


def folder() -> Path:
    """Where it is kept; the environment's FMLAB_CACHE overrides it."""
    given = os.environ.get("FMLAB_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("fmlab")


def key(*kinds: type) -> str:
    """Names the classes, and changes when the files do in which they are written, or where there is none their code.

    Not ``inspect.getsource``: it parses a class's whole file, and in Python 3.11 two threads that parse at once, a
    panel's and the one that runs the cells, fail with a SystemError (cpython 106905).
    """
    digest = hashlib.sha256()
    for kind in kinds:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        try:
            digest.update(Path(file or "").read_bytes())
        except OSError:  # typed at a prompt or in a notebook's cell: what Python made of it
            digest.update(kind.__qualname__.encode())
            for name, part in sorted(vars(kind).items()):
                if isinstance(code := getattr(_function(part), "__code__", None), CodeType):
                    digest.update(f"{name} {_said(code)}".encode())
    return f"{'/'.join(kind.__name__ for kind in kinds)}/{digest.hexdigest()[:12]}"


def _function(part: object) -> object:
    """Of a method of any kind, the function."""
    return getattr(part, "fget", getattr(part, "__func__", part))


def _said(code: CodeType) -> str:
    """What the code does, without the place where it stands."""
    consts = [_said(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {consts}"


def get(name: str) -> dict[str, float] | None:
    """What was put there, or None: also where the file is damaged, so that it is found anew."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder() / "step_sizes.json").read_text(encoding="utf-8")).get(name)
        if isinstance(found, dict) and all(isinstance(v, float) for v in found.values()):
            return found
    return None


def put(name: str, sizes: dict[str, float]) -> None:
    """Keep it for later sessions. Where the folder cannot be written, later sessions search again."""
    with suppress(OSError):
        file = folder() / "step_sizes.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        known = {}
        with suppress(OSError, ValueError):
            known = json.loads(file.read_text(encoding="utf-8"))
        with NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as new:
            json.dump((known if isinstance(known, dict) else {}) | {name: sizes}, new, indent=1)
        Path(new.name).replace(file)
