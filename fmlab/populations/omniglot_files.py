"""Reads Omniglot as it was published (Lake et al. 2015, Science 350:1332; github.com/brendenlake/omniglot, MIT).

Under ``root`` (or ``root/omniglot-py``, torchvision's folder) stand one or more of the four sets, each as its zip or
as the folder the zip holds. One drawing is SET/ALPHABET/characterNN/NNNN_DD.png, 105 x 105 with dark ink, DD = the
drawer within the alphabet. The minimal sets share alphabets with each other and with the full one: a drawing that
stands in several is taken once.

Zips are read in place and never unpacked. An archive with a member that could leave its folder, a link, a member of an
absurd size, or far more members than were published is refused as a whole; in folders, whatever is no regular file.
Whatever is wrong is an OmniglotError. The resampled ink is cached beside the files (``omniglot-<size>.npz``, no pickle,
written under another name and then moved), under a digest of everything it was made from; with any problem of the
cache it is made anew, and where ``root`` cannot be written there is none and nothing else changes.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fmlab import npy

SETS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")
SIDE = 105  # pixels of a published drawing
MAX_BYTES = 2**20  # one drawing; the published ones stay below 1 kB
MAX_TOTAL = 2**31
MAX_ZIP = 2**25  # of a whole zip; the larger published one has 10 MB
MAX_MEMBERS = 50_000  # of one set; the largest published one has 20,300, folders counted
WHERE = (
    "get the zips from the folder `python` of github.com/brendenlake/omniglot and put them under root as they are, "
    "or pass download=True for the full set (20 MB)"
)
_DRAWING = re.compile(
    r"(?P<alphabet>[^/]{1,100})/(?P<character>character\d{1,9})/\d{1,9}_(?P<drawer>\d{1,9})\.png", re.ASCII
)


Key = tuple[str, str, int]


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
        folder = self.path.is_dir()
        with damage(self.path), nullcontext() if folder else zipfile.ZipFile(self.path) as archive:
            for m in self.members:
                opened = (self.path / m).open("rb") if archive is None else archive.open(f"{self.name}/{m}")
                with opened as f:
                    content = f.read(MAX_BYTES)  # so one call inflates no more, whatever the sizes say
                    if f.read(1):  # at the end a zip's checksum is compared
                        raise ValueError(f"{m} goes on after {MAX_BYTES:,} bytes")
                yield m, content


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Whatever zipfile, the operating system or a decoder says of this file, as an OmniglotError."""
    try:
        yield
    except OmniglotError:
        raise
    except PermissionError as error:
        raise OmniglotError(f"{path} cannot be read ({error})") from error
    except Exception as error:
        raise OmniglotError(f"{path} is damaged ({error or repr(error)}); delete it and {WHERE}") from error


def load(root: str | Path, size: int = 28) -> Drawings:
    """All drawings under ``root`` at size x size, decoded once in a process and once in the cache.

    Raises OmniglotError where nothing is found or anything is damaged or unsafe.
    """
    found = sources(Path(root))
    digest = hashlib.sha256(repr([(s.name, sorted(s.members.items())) for s in found]).encode()).hexdigest()
    return _load(Path(root).resolve(), size, digest)


@lru_cache(maxsize=4)
def _load(root: Path, size: int, digest: str) -> Drawings:
    cache, found = root / f"omniglot-{size}.npz", sources(root)
    keys = sorted({key(m) for source in found for m in source.members})
    ink = _from_cache(cache, digest, (len(keys), size, size))
    if ink is None:
        small = decode(found, size)
        ink = np.stack([small[k] for k in keys])
        _to_cache(cache, digest, ink)
    alphabet, character, drawer = (np.array(column) for column in zip(*keys, strict=True))
    evaluation = {m.split("/")[0] for s in found if s.name == "images_evaluation" for m in s.members}
    return Drawings(ink, alphabet, character, drawer, frozenset(evaluation))


def key(member: str) -> Key:
    """Alphabet, character, drawer."""
    match = _DRAWING.fullmatch(member)
    assert match is not None  # _drawings kept nothing else
    return match["alphabet"], match["character"], int(match["drawer"])


def sources(root: Path) -> list[Source]:
    """The sets under ``root``, in the order of ``SETS``; a zip goes before a folder: it knows when it is damaged."""
    if not root.is_dir():
        raise OmniglotError(f"Omniglot.root = {str(root)!r} is not a folder; {WHERE}")
    found = []
    for name in SETS:
        for path in (home / f"{name}{end}" for end in (".zip", "") for home in (root, root / "omniglot-py")):
            with damage(path):
                if path.exists():
                    found.append(Source(name, path, _folder(path) if path.is_dir() else _zip(path, name)))
                    break
    if not found:
        raise OmniglotError(f"no Omniglot set stands under {str(root)!r}: looked for {', '.join(SETS)}; {WHERE}")
    return found


def _zip(path: Path, name: str) -> dict[str, str]:
    """The drawings of one zip; the whole zip is refused if any member is unsafe."""
    if not path.is_file():
        raise OmniglotError(f"{path} is no regular file; delete it and {WHERE}")
    if path.stat().st_size > MAX_ZIP:
        raise OmniglotError(f"{path} has {path.stat().st_size:,} bytes; the published ones have 10 MB at most")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise OmniglotError(f"{path} has {len(infos):,} members; do not use this file")
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
        if max(i.file_size, i.compress_size) > MAX_BYTES or total > MAX_TOTAL:
            size = max(i.file_size, i.compress_size)
            raise OmniglotError(f"{path}: member {i.filename!r} unpacks to {size:,} bytes; do not use this file")
        if i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OmniglotError(f"{path}: member {i.filename!r} is packed by method {i.compress_type}, not by deflate")
    prefix = f"{name}/"
    inside = {i.filename.removeprefix(prefix): f"{i.CRC:08x}" for i in infos if i.filename.startswith(prefix)}
    return _drawings(path, inside)


def _folder(path: Path) -> dict[str, str]:
    """The drawings of one unpacked set; links are refused, they may lead anywhere."""
    inside = {}
    for p in path.glob("*/*/*"):
        if p.is_symlink() or p.parent.is_symlink() or p.parent.parent.is_symlink():
            raise OmniglotError(f"{p} is a link or stands in a linked folder; put the files themselves there")
        now = p.stat()
        if p.suffix == ".png" and not stat.S_ISREG(now.st_mode):
            raise OmniglotError(f"{p} is no regular file; {WHERE}")
        if p.suffix == ".png" and now.st_size > MAX_BYTES:
            raise OmniglotError(f"{p} has {now.st_size:,} bytes; a published drawing has less than 1,000")
        inside[p.relative_to(path).as_posix()] = f"{now.st_size} {now.st_mtime_ns}"
        if len(inside) > MAX_MEMBERS:
            raise OmniglotError(f"{path} has more than {MAX_MEMBERS:,} files; {WHERE}")
    return _drawings(path, inside)


def _drawings(path: Path, inside: dict[str, str]) -> dict[str, str]:
    members = {m: mark for m, mark in sorted(inside.items()) if _DRAWING.fullmatch(m)}
    if strange := [m for m in members if not m.isprintable()]:
        raise OmniglotError(f"{path}: {strange[0]!r} is no file name of Omniglot's; {WHERE}")
    if not members:
        raise OmniglotError(f"{path} holds no drawing ALPHABET/characterNN/NNNN_DD.png; {WHERE}")
    return members


def decode(found: list[Source], size: int) -> dict[Key, NDArray[np.uint8]]:
    """Read, check and resample every drawing; one that stands in several sets is kept once."""
    coverage = area(SIDE, size)
    kept: dict[Key, bytes] = {}
    small: dict[Key, NDArray[np.uint8]] = {}
    for source in found:
        for member, content in source.read():
            where, k = f"{source.path}: {member}", key(member)
            ink = _ink(where, content)
            bits = np.packbits(ink > 0).tobytes()
            if kept.setdefault(k, bits) != bits:
                raise OmniglotError(f"{where} differs from the same drawing in another set; delete the wrong one")
            if k not in small:
                small[k] = np.rint(255 * (coverage @ ink @ coverage.T)).astype(np.uint8)
    return small


def _ink(where: str, content: bytes) -> NDArray[np.float64]:
    """(SIDE, SIDE), 1 = ink. The size is checked before anything is decompressed."""
    from PIL import Image

    try:
        if content[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("it does not begin as one")
        sides = struct.unpack(">II", content[16:24])  # before PIL, which may find them too many
        if sides != (SIDE, SIDE):
            raise OmniglotError(f"{where} is {sides[0]} x {sides[1]}; Omniglot's drawings are {SIDE} x {SIDE}")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != sides:
                raise ValueError("it says two sizes")
            return (np.asarray(image.convert("L")) < 128).astype(np.float64)
    except OmniglotError:
        raise
    except Exception as error:
        raise OmniglotError(f"{where} is no readable PNG ({error}); unpack or download the set again") from error


def area(full: int, size: int) -> NDArray[np.float64]:
    """(size, full): row i holds the share of every pixel that output pixel i covers; rows sum to 1."""
    step = full / size
    left = np.arange(size)[:, None] * step
    pixel = np.arange(full)[None]
    covered: NDArray[np.float64] = np.clip(np.minimum(left + step, pixel + 1) - np.maximum(left, pixel), 0.0, None)
    return covered / step


def _from_cache(cache: Path, digest: str, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """None where there is no cache, it is of other files, or anything is wrong with it."""
    try:
        if not cache.is_file() or cache.stat().st_size > math.prod(shape) + 10_000:
            return None
        with zipfile.ZipFile(cache) as archive:
            held = npy.read(archive, "digest", (32,), np.dtype(np.uint8))
            if held.tobytes().hex() != digest:
                return None
            return npy.read(archive, "ink", shape, np.dtype(np.uint8))
    except Exception:  # whatever it is, the drawings themselves are there
        return None


def _to_cache(cache: Path, digest: str, ink: NDArray[np.uint8]) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            npy.write(archive, "digest", np.frombuffer(bytes.fromhex(digest), np.uint8))
            npy.write(archive, "ink", ink)

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
