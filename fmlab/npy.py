"""Arrays as ``.npy`` members of a zip, without pickle: what one claims to be is read first, and the array only where
that is what is expected. So no file can ask for more memory than its reader has planned for."""

from __future__ import annotations

import math
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_PIECE = 2**20  # bytes that one call reads, and at most inflates


class Header(NamedTuple):
    """What a member says it holds, in C order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int  # bytes before the numbers

    @property
    def end(self) -> int:
        """How many bytes the member has."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def write(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def header(archive: zipfile.ZipFile, name: str) -> Header:
    """Raises whatever a damaged file makes numpy and zipfile raise: the caller knows what to say of it."""
    with archive.open(f"{name}.npy") as member:
        return _header(member)


def _header(member: Any) -> Header:
    shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
    if fortran or dtype.hasobject:
        raise ValueError("it is in Fortran's order or holds objects")
    return Header(shape, dtype, member.tell())


def read(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array, in memory of its own. Raises ValueError where it is another, and as ``header`` does; a wrong checksum
    is among that."""
    with archive.open(f"{name}.npy") as member:
        found = _header(member)
        if (found.shape, found.dtype) != (shape, dtype):
            raise ValueError(f"it is {found.dtype} {found.shape}, not {dtype} {shape}")
        array = np.empty(shape, dtype)
        numbers = array.reshape(-1).view(np.uint8)
        at = 0
        while at < len(numbers):
            piece = member.read(min(_PIECE, len(numbers) - at))
            if not piece:
                raise EOFError("it ends too early")
            numbers[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        if member.read(1):  # at the end the checksum is compared
            raise ValueError("it goes on after its numbers")
        return array
