"""LEAF's JSON (Caldas et al. 2018, 1812.01097): {"users": [...], "num_samples": [...], "user_data": {u: {"x", "y"}}}.

The folder holds such files, or folders ``train`` and ``test`` of them, as LEAF's scripts leave them. Both are read: a
user of both has the examples of both, in this order. x holds numbers, all of one shape; y whole numbers (classes as
they are), other numbers, or texts (classes in the order of the alphabet). What becomes of users is in ``collection``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlab.populations.collection import Collection, DataError, Rows, gathered


@dataclass(frozen=True)
class Leaf(Collection):
    """Raises DataError (a ValueError) for files that are missing, damaged or do not keep to the format."""

    def read(self) -> tuple[Rows, list[str]]:
        return _read(self.source)


def _read(folder: Any) -> tuple[Rows, list[str]]:
    if not isinstance(folder, (str, Path)):
        raise DataError(f"fm.Leaf: source = {type(folder).__name__} is no path of a folder")
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give the one that holds LEAF's JSON files")
    parts = [p for p in (path / "train", path / "test") if p.is_dir()] or [path]
    found: dict[str, list[tuple[Path, Any, Any]]] = {}
    for part in parts:
        here: dict[str, Path] = {}
        files = sorted(part.glob("*.json"))
        if not files:
            raise DataError(f"{part} holds no JSON file; LEAF's scripts write all_data/, or train/ and test/")
        for file in files:
            for user, x, y in _users(file):
                if user in here:
                    raise DataError(f"{file} and {here[user].name} both hold user {user!r}; keep one of them")
                here[user] = file
                found.setdefault(user, []).append((file, x, y))
    texts = sorted({v for parts_ in found.values() for _, _, y in parts_ for v in y if isinstance(v, str)})
    place = {t: i for i, t in enumerate(texts)}
    clients: list[tuple[str, Tensor, Tensor]] = []
    for user in sorted(found):
        each = [_tensors(file, user, x, y, place) for file, x, y in found[user]]
        each = [e for e in each if len(e[1])]
        kinds = {(e[0].shape[1:], e[1].dtype) for e in each}
        if len(kinds) > 1:
            raise DataError(f"{path}: user {user!r} has examples of different kinds in train and test")
        if each:
            clients.append((user, torch.cat([e[0] for e in each]), torch.cat([e[1] for e in each])))
    return gathered(str(path), clients, tuple(texts))


def _users(file: Path) -> Iterator[tuple[str, Any, Any]]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as problem:
        raise DataError(f"{file} is no JSON in UTF-8: {problem}") from problem
    keys = ("users", "num_samples", "user_data")
    if not isinstance(held, dict) or (gone := [k for k in keys if k not in held]):
        what = f"{gone[0]!r} is missing in it" if isinstance(held, dict) else "it holds no object"
        raise DataError(f"{file} is not of LEAF: {what}; it holds users, num_samples and user_data")
    users, numbers, data = (held[k] for k in keys)
    if not (isinstance(users, list) and isinstance(numbers, list) and isinstance(data, dict)):
        raise DataError(f"{file}: users and num_samples are lists and user_data is an object")
    if len(set(map(str, users))) < len(users) or sorted(map(str, users)) != sorted(data):
        raise DataError(f"{file}: users and user_data do not name the same users once each")
    if len(numbers) != len(users):
        raise DataError(f"{file}: {len(users)} users and {len(numbers)} num_samples")
    for user, n in zip(map(str, users), numbers, strict=True):
        one = data[user]
        x, y = (one.get(k) for k in "xy") if isinstance(one, dict) else (None, None)
        if not isinstance(x, list) or not isinstance(y, list) or not len(x) == len(y) == n:
            said = f"{len(x)} x and {len(y)} y" if isinstance(x, list) and isinstance(y, list) else "no lists x and y"
            raise DataError(f"{file}: user {user!r} has {said}, and num_samples says {n!r}")
        yield user, x, y


def _tensors(file: Path, user: str, x: Any, y: Any, place: dict[str, int]) -> tuple[Tensor, Tensor]:
    where = f"{file}: user {user!r}"
    try:
        inputs = np.array(x)
    except ValueError:
        inputs = np.array(None)
    if inputs.dtype.kind not in "biuf" or not np.isfinite(inputs).all():
        raise DataError(
            f"{where} has an x that is not numbers of one shape; turn texts and names of files into numbers and give "
            "fm.Datasets([...])"
        )
    if place and not all(isinstance(v, str) for v in y):
        raise DataError(f"{where} has a y that is no text, and elsewhere there are texts; give all the same")
    labels = [place[v] for v in y] if place else y
    try:
        targets = np.array(labels)
    except ValueError:
        targets = np.array(None)
    if targets.dtype.kind not in "biuf" or not np.isfinite(targets).all():
        raise DataError(f"{where} has a y that is not one number or text for each example")
    whole = targets.dtype.kind in "biu" and targets.ndim == 1
    t = torch.from_numpy(targets.astype(np.int64 if whole else np.float64))
    return torch.from_numpy(inputs.astype(np.float64)), t if whole else t.reshape(len(y), -1)
