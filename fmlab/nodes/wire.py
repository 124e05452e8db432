"""Named tensors as Flower's records and back, and what a node's clients keep.

An ArrayRecord is named ``.npy`` bytes, so that float64 and float32 arrive as they were sent.

Versions. What a client keeps after exchange p of round t is version t * phases + p + 1; version 0 is what it starts
with. The server names, in every request, the version that it heard of last, and the client starts from that one. So a
reply that never arrived leaves a version that nobody names: nothing is counted twice, and nothing is lost. A client
holds the version that its round began with, in case the round begins anew, and what has come since.
"""

from __future__ import annotations

import os
import re
import secrets
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fmlab import npy
from fmlab.data import Tree


def record(tree: Tree) -> ArrayRecord:
    return ArrayRecord({name: Array(t.detach().cpu().contiguous().numpy()) for name, t in tree.items()})


def tree(record: ArrayRecord) -> Tree:
    return {name: torch.from_numpy(np.array(a.numpy())) for name, a in record.items()}


def size(tree: Tree) -> int:
    """Bytes of the numbers."""
    return sum(t.numel() * t.element_size() for t in tree.values())


class Shelf(Protocol):
    """Where the clients of a node leave what they keep, run by run."""

    def versions(self, client: int) -> set[int]: ...

    def get(self, client: int, version: int) -> Tree: ...

    def put(self, client: int, version: int, tree: Tree) -> None: ...

    def drop(self, client: int, version: int) -> None: ...


def tidy(shelf: Shelf, client: int, base: int, named: int) -> None:
    """Drop what is older than the version the round began with, and what came after the one the server named."""
    for version in shelf.versions(client):
        if version < base or version > named:
            shelf.drop(client, version)


class InContext:
    """In Flower's ``Context.state``: gone when the node ends."""

    def __init__(self, state: RecordDict, run: str) -> None:
        self.state, self.run = state, run

    def _key(self, client: int, version: int) -> str:
        return f"{self.run}.{client}.{version}"

    def versions(self, client: int) -> set[int]:
        start = f"{self.run}.{client}."
        return {int(key[len(start) :]) for key in self.state if key.startswith(start)}

    def get(self, client: int, version: int) -> Tree:
        found = self.state[self._key(client, version)]
        assert isinstance(found, ArrayRecord)
        return tree(found)

    def put(self, client: int, version: int, tree: Tree) -> None:
        self.state[self._key(client, version)] = record(tree)

    def drop(self, client: int, version: int) -> None:
        del self.state[self._key(client, version)]


class InFolder:
    """In files, one a client and version: there again when the node is."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder / run

    def _path(self, client: int, version: int) -> Path:
        return self.folder / f"{client}.{version}.npz"

    def versions(self, client: int) -> set[int]:
        found = (re.fullmatch(rf"{client}\.(\d+)", path.stem) for path in self.folder.glob(f"{client}.*.npz"))
        return {int(m[1]) for m in found if m}

    def get(self, client: int, version: int) -> Tree:
        return load(self._path(client, version))

    def put(self, client: int, version: int, tree: Tree) -> None:
        save(self._path(client, version), tree)

    def drop(self, client: int, version: int) -> None:
        with suppress(FileNotFoundError):
            self._path(client, version).unlink()


def save(path: Path, tree: Tree) -> None:
    """In one step: whatever happens, the old file or the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as f:
            with zipfile.ZipFile(f, "w") as archive:
                for name, t in tree.items():
                    npy.write(archive, name, t.detach().cpu().contiguous().numpy())
            f.flush()
            os.fsync(f.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load(path: Path, names: Iterable[str] | None = None) -> Tree:
    """Raises ValueError where the file is damaged, FileNotFoundError where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.namelist() if names is None else [f"{n}.npy" for n in names]:
                name = member.removesuffix(".npy")
                said = npy.header(archive, name)
                found[name] = torch.from_numpy(npy.read(archive, name, said.shape, said.dtype))
            return found
    except FileNotFoundError:
        raise
    except Exception as problem:
        raise ValueError(f"{path} is damaged ({problem}); remove it to begin anew") from problem
