"""Settings as JSON and tensors as ``npz``, without pickle: what studies are saved in."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlab.algorithms import ALGORITHMS
from fmlab.declare import Sweep
from fmlab.models import MLP
from fmlab.optimisers import OPTIMISERS
from fmlab.populations import POPULATIONS

KINDS: tuple[type[Any], ...] = (*ALGORITHMS, *POPULATIONS, *OPTIMISERS, MLP)
CLASSES = {kind.__name__: kind for kind in KINDS}
Nested = dict[str, Any]  # of dicts, lists and tensors


def write(folder: str | Path, config: dict[str, Any], tensors: Nested) -> None:
    """``config.json`` and ``tensors.npz``. Raises ValueError, before anything is written, for what is no JSON."""
    folder = Path(folder)
    text = json.dumps(encode(config), indent=2)
    arrays = {"/".join(path): t.cpu().numpy() for path, t in _leaves(tensors)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    np.savez_compressed(folder / "tensors.npz", **arrays)  # type: ignore[arg-type]


def read(folder: str | Path) -> tuple[dict[str, Any], Nested]:
    """What ``write`` wrote. Raises FileNotFoundError naming the missing file."""
    folder = Path(folder)
    for name in ("config.json", "tensors.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; study.save(folder) writes it")
    config = decode(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    tensors: Nested = {}
    with np.load(folder / "tensors.npz", allow_pickle=False) as stored:
        for key in stored.files:
            *path, last = key.split("/")
            inner = tensors
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = torch.from_numpy(stored[key])
    return config, tensors


def _leaves(nested: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tensor]]:
    if isinstance(nested, Tensor):
        return [(path, nested)]
    items = nested.items() if isinstance(nested, dict) else enumerate(nested)
    return [leaf for key, inner in items for leaf in _leaves(inner, (*path, str(key)))]


def encode(value: Any) -> Any:
    if isinstance(value, Sweep):
        return {"sweep": list(value.values)}
    if is_dataclass(value) and type(value).__name__ in CLASSES:
        return {"class": type(value).__name__} | {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(v) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{value!r} cannot be written as JSON; save studies of fmlab's own classes, without lifted modules"
    )


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(decode(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "sweep" in value:
        return Sweep(tuple(value["sweep"]))
    if "dtype" in value and len(value) == 1:
        return getattr(torch, value["dtype"])
    parts = {k: decode(v) for k, v in value.items() if k != "class"}
    return CLASSES[value["class"]](**parts) if "class" in value else parts
