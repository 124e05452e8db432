"""Reads Omniglot as it was published (Lake et al. 2015, Science 350:1332; github.com/brendenlake/omniglot, MIT).

Under ``root`` (or ``root/omniglot-py``, torchvision's folder) stand one or more of the four sets, each as its zip or
as the folder the zip holds. One drawing is SET/ALPHABET/characterNN/NNNN_DD.png, 105 x 105 with dark ink, DD = the
drawer within the alphabet. The minimal sets share alphabets with each other and with the full one: a drawing that
stands in several is taken once.

Zips are read in place and never unpacked. An archive with a member that could leave its folder, a link, or a member
of an absurd size is refused as a whole. Decoded arrays are cached beside the files (``omniglot-<size>.npz``, no
pickle, written under another name and then moved), under a digest of everything they were made from; where ``root``
cannot be written there is no cache and nothing else changes.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

SETS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")
SIDE = 105  # pixels of a published drawing
MAX_BYTES = 2**20  # one drawing; the published ones stay below 1 kB
MAX_TOTAL = 2**31
WHERE = (
    "get the zips from the folder `python` of github.com/brendenlake/omniglot and put them under root as they are, "
    "or pass download=True for the full set (20 MB)"
)
_DRAWING = re.compile(r"(?P<alphabet>[^/]+)/(?P<character>character\d+)/\d+_(?P<drawer>\d+)\.png")


class OmniglotError(ValueError):
    """Missing, damaged or unsafe files; the message says which and what to do."""


@dataclass(frozen=True, eq=False)  # one object is one cache key
class Drawings:
    """Every drawing, sorted by alphabet, character, drawer."""

    ink: NDArray[np.uint8]  # (images, size, size), 255 where all is ink
    alphabet: NDArray[np.str_]  # (images,)
    character: NDArray[np.str_]  # (images,)
    drawer: NDArray[np.int64]  # (images,)
    evaluation: frozenset[str]  # alphabets of the evaluation set, held out by the data set's authors


@dataclass(frozen=True)
class Source:
    """One set as it stands: every drawing's path inside it, and how to read one."""

    name: str
    path: Path
    members: dict[str, str]  # ALPHABET/characterNN/NNNN_DD.png -> what changes when the file does

    def read(self) -> Iterator[tuple[str, bytes]]:
        if self.path.is_dir():
            yield from ((m, (self.path / m).read_bytes()) for m in self.members)
            return
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield from ((m, archive.read(f"{self.name}/{m}")) for m in self.members)  # checks each CRC
        except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, OSError) as error:  # type: ignore[attr-defined]
            raise OmniglotError(f"{self.path} is damaged ({error}); delete it and {WHERE}") from error


def load(root: str | Path, size: int = 28) -> Drawings:
    """All drawings under ``root`` at size x size, decoded once in a process and once in the cache.

    Raises OmniglotError where nothing is found or anything is damaged or unsafe.
    """
    found = sources(Path(root))
    digest = hashlib.sha256(repr([(s.name, sorted(s.members.items())) for s in found]).encode()).hexdigest()
    return _load(Path(root).resolve(), size, digest)


@lru_cache(maxsize=4)
def _load(root: Path, size: int, digest: str) -> Drawings:
    cache = root / f"omniglot-{size}.npz"
    drawings = _from_cache(cache, digest)
    if drawings is None:
        drawings = decode(sources(root), size)
        _to_cache(cache, digest, drawings)
    return drawings


def sources(root: Path) -> list[Source]:
    """The sets under ``root``, in the order of ``SETS``; a zip goes before a folder: it knows when it is damaged."""
    if not root.is_dir():
        raise OmniglotError(f"Omniglot.root = {str(root)!r} is not a folder; {WHERE}")
    found = []
    for name in SETS:
        for path in (home / f"{name}{end}" for end in (".zip", "") for home in (root, root / "omniglot-py")):
            if path.exists():
                found.append(Source(name, path, _folder(path) if path.is_dir() else _zip(path, name)))
                break
    if not found:
        raise OmniglotError(f"no Omniglot set stands under {str(root)!r}: looked for {', '.join(SETS)}; {WHERE}")
    return found


def _zip(path: Path, name: str) -> dict[str, str]:
    """The drawings of one zip; the whole zip is refused if any member is unsafe."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise OmniglotError(f"{path} is damaged ({error}); delete it and {WHERE}") from error
    total = 0
    for i in infos:
        parts = PurePosixPath(i.filename).parts
        total += i.file_size
        if i.filename.startswith("/") or ".." in parts or "\\" in i.filename or ":" in i.filename:
            raise OmniglotError(f"{path}: member {i.filename!r} points outside the archive; do not use this file")
        if stat.S_ISLNK(i.external_attr >> 16):
            raise OmniglotError(f"{path}: member {i.filename!r} is a link; do not use this file")
        if i.flag_bits & 1:
            raise OmniglotError(f"{path}: member {i.filename!r} is encrypted; the published files are not")
        if i.file_size > MAX_BYTES or total > MAX_TOTAL:
            raise OmniglotError(f"{path}: member {i.filename!r} unpacks to {i.file_size:,} bytes; do not use this file")
    prefix = f"{name}/"
    inside = {i.filename.removeprefix(prefix): f"{i.CRC:08x}" for i in infos if i.filename.startswith(prefix)}
    return _drawings(path, inside)


def _folder(path: Path) -> dict[str, str]:
    """The drawings of one unpacked set; links are refused, they may lead anywhere."""
    inside = {}
    for p in sorted(path.glob("*/*/*")):
        if p.is_symlink() or p.parent.is_symlink() or p.parent.parent.is_symlink():
            raise OmniglotError(f"{p} is a link or stands in a linked folder; put the files themselves there")
        if p.suffix == ".png" and p.stat().st_size > MAX_BYTES:
            raise OmniglotError(f"{p} has {p.stat().st_size:,} bytes; a published drawing has less than 1,000")
        inside[p.relative_to(path).as_posix()] = f"{p.stat().st_size} {p.stat().st_mtime_ns}"
    return _drawings(path, inside)


def _drawings(path: Path, inside: dict[str, str]) -> dict[str, str]:
    members = {m: mark for m, mark in sorted(inside.items()) if _DRAWING.fullmatch(m)}
    if not members:
        raise OmniglotError(f"{path} holds no drawing ALPHABET/characterNN/NNNN_DD.png; {WHERE}")
    return members


def decode(found: list[Source], size: int) -> Drawings:
    """Read, check and resample every drawing; one that stands in several sets is kept once."""
    coverage = area(SIDE, size)
    kept: dict[tuple[str, str, int], bytes] = {}
    small: dict[tuple[str, str, int], NDArray[np.uint8]] = {}
    for source in found:
        for member, content in source.read():
            where = f"{source.path}: {member}"
            ink = _ink(where, content)
            match = _DRAWING.fullmatch(member)
            assert match is not None  # _drawings kept nothing else
            key = (match["alphabet"], match["character"], int(match["drawer"]))
            bits = np.packbits(ink > 0).tobytes()
            if kept.setdefault(key, bits) != bits:
                raise OmniglotError(f"{where} differs from the same drawing in another set; delete the wrong one")
            if key not in small:
                small[key] = np.rint(255 * (coverage @ ink @ coverage.T)).astype(np.uint8)
    keys = sorted(small)
    alphabet, character, drawer = (np.array(column) for column in zip(*keys, strict=True))
    evaluation = {m.split("/")[0] for s in found if s.name == "images_evaluation" for m in s.members}
    return Drawings(np.stack([small[k] for k in keys]), alphabet, character, drawer, frozenset(evaluation))


def _ink(where: str, content: bytes) -> NDArray[np.float64]:
    """(SIDE, SIDE), 1 = ink. The size is checked before anything is decompressed."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE):
                width, height = image.size
                raise OmniglotError(f"{where} is {width} x {height}; Omniglot's drawings are {SIDE} x {SIDE}")
            return (np.asarray(image.convert("L")) < 128).astype(np.float64)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, OmniglotError):
            raise
        raise OmniglotError(f"{where} is no readable PNG ({error}); unpack or download the set again") from error


def area(full: int, size: int) -> NDArray[np.float64]:
    """(size, full): row i holds the share of every pixel that output pixel i covers; rows sum to 1."""
    step = full / size
    left = np.arange(size)[:, None] * step
    pixel = np.arange(full)[None]
    covered: NDArray[np.float64] = np.clip(np.minimum(left + step, pixel + 1) - np.maximum(left, pixel), 0.0, None)
    return covered / step


def _from_cache(cache: Path, digest: str) -> Drawings | None:
    """None where there is no cache, it is of other files, or it does not read."""
    try:
        with cache.open("rb") as opened, np.load(opened, allow_pickle=False) as f:
            if str(f["digest"]) != digest:
                return None
            evaluation = frozenset(map(str, f["evaluation"]))
            return Drawings(f["ink"], f["alphabet"], f["character"], f["drawer"], evaluation)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _to_cache(cache: Path, digest: str, d: Drawings) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.savez_compressed(
                f, ink=d.ink, alphabet=d.alphabet, character=d.character, drawer=d.drawer,
                evaluation=np.array(sorted(d.evaluation), dtype=np.str_), digest=np.array(digest),
            )  # fmt: skip

    if os.access(cache.parent, os.W_OK):
        with suppress(OSError):  # a full disk costs the cache, not the study
            put(cache, write)


def put(target: Path, write: Callable[[Path], object]) -> None:
    """``write`` into a folder beside ``target``, then move in one step: target is whole or not there."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".omniglot-") as folder:
        partial = Path(folder) / target.name
        write(partial)
        partial.replace(target)


def download(root: str | Path) -> None:
    """The full set's two zips (20 MB) into ``root``, by torchvision's addresses and checksums; kept if they stand.

    Raises OmniglotError where the download fails or its checksum is wrong; then no part of that zip is left.
    """
    from fmlab.vision import import_torchvision

    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    utils = import_torchvision().datasets.utils
    published = import_torchvision().datasets.Omniglot
    for name, md5 in published.zips_md5.items():
        target = root / f"{name}.zip"
        if target.exists() and utils.check_integrity(str(target), md5):
            continue
        url = f"{published.download_url_prefix}/{name}.zip"
        try:
            put(target, lambda path, url=url, md5=md5: utils.download_url(url, str(path.parent), path.name, md5))  # type: ignore[misc]
        except (OSError, RuntimeError) as error:
            raise OmniglotError(
                f"could not download {url} ({error}); nothing was kept. Try again, or {WHERE.partition(', or')[0]}"
            ) from error
