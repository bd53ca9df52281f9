"""Reads arrays from .npy and .npz files; a header is checked before its data is read."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mosaicmem._opening import check_growth, file_size, foreign_parser
from mosaicmem.errors import FormatError

_PREFIX = {1: 10, 2: 12, 3: 12}  # bytes before the header's text, by version
_MOST_HEADER = 10_000  # bytes, NumPy's own limit
_MOST_ENTRIES = 4096
_CENTRAL = b"PK\1\2"  # signature of each entry in an archive's directory
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 1 << 20


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return self.elements * self.dtype.itemsize


def read_header(path: str | Path, file: _Readable, what: str) -> Header:
    """Read the header of a .npy file, leaving ``file`` at the data; error messages start with ``what``."""
    prefix = file.read(8)
    size = _PREFIX.get(prefix[6]) if len(prefix) == 8 and prefix[:6] == b"\x93NUMPY" else None
    if size is None:
        raise FormatError(path, f"{what}: it does not begin as an array of NumPy does")
    prefix += file.read(size - 8)
    length = int.from_bytes(prefix[8:], "little")
    if length > _MOST_HEADER:
        raise FormatError(path, f"{what}: expected a header of at most {_MOST_HEADER} bytes, got {length}")
    text = io.BytesIO(prefix + file.read(length))
    with foreign_parser(path, what):
        version = np.lib.format.read_magic(text)
        # Version 3 differs from 2 only in the field names of structured arrays, which arrays of numbers do not have.
        read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(text)
    if dtype.hasobject:
        raise FormatError(path, f"{what}: expected numbers, got objects, which are not read since they may run code")
    if any(side < 0 for side in shape):
        raise FormatError(path, f"{what}: expected a shape without negative sides, got {shape}")
    return Header(shape, is_fortran, dtype)


def read_data(path: str | Path, file: _Readable, header: Header, what: str) -> NDArray[Any]:
    """Read the data of ``header``, after which the file must end, as a writable array."""
    data = bytearray()
    while len(data) <= header.nbytes:
        chunk = file.read(min(_CHUNK, header.nbytes + 1 - len(data)))
        if not chunk:
            break
        data += chunk
    if len(data) != header.nbytes:
        got = "more" if len(data) > header.nbytes else len(data)
        raise FormatError(path, f"{what}: expected {header.nbytes} bytes of numbers, as its header says, got {got}")
    with foreign_parser(path, what):
        array: NDArray[Any] = np.ndarray(header.shape, header.dtype, data, order="F" if header.is_fortran else "C")
    return array


def read_npz(
    path: Path, file: IO[bytes], is_wanted: Callable[[str], bool], max_bytes: int, *, converted: bool = True
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The wanted arrays of an archive by name, and the names of the others.

    Unpacks no more than ``max_bytes``, and no more than a file of this size may take in memory; ``converted``: with a
    copy of each array in float64.

    Raises
    ------
    FormatError
    """
    what = "not a readable npz file"
    check_entries(path, file)
    found: dict[str, NDArray[Any]] = {}
    others: list[str] = []
    needed = 0
    with foreign_parser(path, what):
        archive = zipfile.ZipFile(file)
    with archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > max_bytes:
            raise FormatError(path, f"expected at most {max_bytes} bytes, got {total}")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if not is_wanted(name):
                others.append(name)
                continue
            if name in found or entry.compress_type not in _COMPRESSIONS:
                wrong = "is there twice" if name in found else "is compressed by another method than deflate"
                raise FormatError(path, f"{what}: {name} {wrong}")
            with _Entry(path, archive, entry, what) as stream:
                header = read_header(path, stream, f"{what}: {name}")
                if header.nbytes > entry.file_size:
                    raise FormatError(
                        path, f"{what}: {name}: its header says {header.shape}, the file holds {entry.file_size} bytes"
                    )
                needed += 2 * header.nbytes + 8 * header.elements if converted else header.nbytes
                check_growth(path, file_size(file), needed, f"{name} of shape {header.shape}")
                found[name] = read_data(path, stream, header, f"{what}: {name}")
    return found, others


class _Entry(io.RawIOBase):
    """An entry of an archive as a file; errors of the zip parser become FormatErrors."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> None:
        self._path, self._what = path, f"{what}: {entry.filename:.40}"
        self._stream: IO[bytes] = io.BytesIO()  # the base class calls close() even if opening fails
        with foreign_parser(path, self._what):
            self._stream = archive.open(entry)

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes."""
        with foreign_parser(self._path, self._what):
            return self._stream.read(size)

    def close(self) -> None:
        """Close the entry; may be called twice."""
        self._stream.close()
        super().close()


def check_entries(path: Path, file: IO[bytes]) -> None:
    """Reject a directory with so many entries that listing it would take more memory than all arrays."""
    count, before = 0, b""
    while chunk := file.read(_CHUNK):
        count += (before + chunk).count(_CENTRAL)
        before = chunk[-len(_CENTRAL) + 1 :]
    if count > _MOST_ENTRIES:
        raise FormatError(path, f"not a readable npz file: expected at most {_MOST_ENTRIES} arrays, got {count}")
    file.seek(0)
