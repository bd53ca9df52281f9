"""safetensors files: written durably, mapped rather than read."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._files import sync_folder, with_many_files
from mosaicmem._json import decode_json, parse_json
from mosaicmem.errors import FormatError
from mosaicmem.memory.storage.manifest import FileEntry

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_EXTENT = 2**40
_CHUNK = 2**20
_KEEPS_NO_FILE: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str], *, rows: int, durably: bool = True
) -> FileEntry:
    """Write a file, durably unless told otherwise; it gets its name only when it is complete.

    Writes in chunks that do not hold the GIL for long, so that other threads keep running.
    """
    arrays = sorted(tensors.items(), key=_order)
    header = _header_of(arrays, metadata)
    digest = hashlib.sha256(header)
    with _new_file(path, durably=durably) as file:
        file.write(header)
        for _, array in arrays:
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
            for begin in range(0, len(content), _CHUNK):
                digest.update(content[begin : begin + _CHUNK])
                file.write(content[begin : begin + _CHUNK])
        nbytes = file.tell()
    return FileEntry(
        name=path.name,
        nbytes=nbytes,
        rows=rows,
        sha256=digest.hexdigest(),
        header_sha256=hashlib.sha256(header).hexdigest(),
    )


def _order(item: tuple[str, NDArray[Any]]) -> tuple[int, bool]:
    """Larger items first, so that each array is aligned; depth before others, since opening a store reads all of it."""
    name, array = item
    return -array.dtype.itemsize, not name.endswith(".depth")


def copy_file(source: mmap.mmap, path: Path) -> None:
    """Copy the bytes to another file, durably."""
    with _new_file(path) as file, memoryview(source) as content:
        for begin in range(0, len(content), _CHUNK):
            file.write(content[begin : begin + _CHUNK])


@contextmanager
def _new_file(path: Path, *, durably: bool = True) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name, and is durable, when the block ends."""
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "xb") as file:
        try:
            yield file
            file.flush()
            if durably:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durably:
        sync_folder(path.parent)


def _header_of(arrays: list[tuple[str, NDArray[Any]]], metadata: dict[str, str]) -> bytes:
    """The header of a safetensors file: 8 bytes of length, then JSON of that length that locates the arrays."""
    content: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name, array in arrays:
        end = begin + array.nbytes
        content[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": array.shape,
            "data_offsets": (begin, end),
        }
        begin = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class MappedFile(mmap.mmap):
    """The mapped bytes of a store's file, which arrays are views of."""

    path: Path
    entry: FileEntry
    begins: dict[str, int]  # byte offsets of its arrays

    @classmethod
    def of(cls, array: NDArray[Any]) -> MappedFile | None:
        """The file that an array is a view of; None for one in memory."""
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        source = base.obj if isinstance(base, memoryview) else base
        return source if isinstance(source, cls) else None

    def position_of(self, array: NDArray[Any]) -> int:
        """Position in this file of the keyframe with the latents ``array``."""
        return self._positions[array.ctypes.data - np.frombuffer(self, np.uint8).ctypes.data]

    @cached_property
    def _positions(self) -> dict[int, int]:
        """Keyframe positions by the offset of their latents; needed only for damaged files."""
        latents = ((name.partition("."), begin) for name, begin in self.begins.items())
        return {begin: int(position) for (position, _, what), begin in latents if what == "latents"}

    def is_intact(self) -> bool:
        """Whether the content matches the manifest's checksum."""
        digest = hashlib.sha256()
        with memoryview(self) as content:
            for begin in range(0, len(content), _CHUNK):
                digest.update(content[begin : begin + _CHUNK])
        return digest.hexdigest() == self.entry.sha256


class MappedTensors:
    """The arrays of one file, as views of the mapped file; data is read only on access.

    Parameters
    ----------
    folder : Path
    entry : FileEntry
        Its manifest entry. A file of another size or header is rejected; ``whole`` compares every byte.
    """

    def __init__(self, folder: Path, entry: FileEntry, *, whole: bool = False) -> None:
        self.path = folder / entry.name
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = with_many_files(lambda: os.open(self.path, flags))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(self.path, "expected a regular file")
            if status.st_size != entry.nbytes:
                raise FormatError(self.path, f"expected {entry.nbytes} bytes, got {status.st_size}; cut off?")
            end = _header_end(self.path, descriptor)
            header = os.pread(descriptor, end, 0)
            if hashlib.sha256(header).hexdigest() != entry.header_sha256:
                raise FormatError(self.path, "damaged: its header does not match the manifest's checksum")
            self._file = with_many_files(lambda: MappedFile(descriptor, 0, access=mmap.ACCESS_READ, **_KEEPS_NO_FILE))
        finally:
            os.close(descriptor)
        self._file.path, self._file.entry = self.path, entry
        self.metadata, self._specs = _parse_header(self.path, header[8:], entry.nbytes)
        self._file.begins = {name: end + begin for name, (_, _, begin, _) in self._specs.items()}
        self._begin = end  # of the data
        self._address = np.frombuffer(self._file, np.uint8).ctypes.data + end
        self._is_checked = False
        if whole:
            self._check_content()

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def get(self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """A read-only view of an array, which must have one of ``dtypes`` and ``shape``; None stands for any extent."""
        try:
            dtype_name, actual, begin, end = self._specs[name]
        except KeyError:
            raise FormatError(self.path, f"no array named {name!r}") from None
        if dtype_name not in dtypes or not _fits(actual, shape):
            expected = f"{' or '.join(dtypes)} of shape {tuple('any' if n is None else n for n in shape)}"
            raise FormatError(self.path, f"{name}: expected {expected}, got {dtype_name} of shape {actual}")
        dtype = DTYPES[dtype_name]
        if self._begin + end > len(self._file) or end - begin != math.prod(actual) * dtype.itemsize:
            raise FormatError(self.path, f"{name}: damaged: its place in the file does not fit its shape {actual}")
        if (self._address + begin) % dtype.itemsize:
            self._check_content()  # a copy can no longer be traced to this file
            copied = np.frombuffer(self._file[self._begin + begin : self._begin + end], dtype)
            return copied.reshape(actual)
        array: NDArray[Any] = np.ndarray(actual, dtype, self._file, self._begin + begin)
        return array

    def will_read(self, kind: str) -> None:
        """Let the system read all arrays ``NUMBER.kind`` from the disk, without waiting for it."""
        wanted = [spec for name, spec in self._specs.items() if name.endswith(f".{kind}")]
        if not wanted:
            return
        begin = self._begin + min(begin for _, _, begin, _ in wanted)
        end = min(len(self._file), self._begin + max(end for *_, end in wanted))
        begin -= begin % mmap.PAGESIZE
        if begin < end and hasattr(mmap, "MADV_WILLNEED"):
            self._file.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _check_content(self) -> None:
        if not self._is_checked and not self._file.is_intact():
            raise FormatError(self.path, "damaged: its content does not match the manifest's checksum")
        self._is_checked = True


def _fits(actual: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    pairs = zip(actual, shape, strict=False)
    return len(actual) == len(shape) and [own if wanted is None else wanted for own, wanted in pairs] == [*actual]


def _header_end(path: Path, descriptor: int) -> int:
    """Where the header ends: 8 bytes of length, little-endian, then JSON of that length."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, os.fstat(descriptor).st_size - 8):
        raise FormatError(path, f"not a safetensors file: a header of {length} bytes in {os.fstat(descriptor).st_size}")
    return 8 + length


def _parse_header(
    path: Path, header: bytes, size: int
) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], int, int]]]:
    """The metadata; and dtype, shape, begin and end of each array."""
    content = parse_json(path, decode_json(path, header, size))
    try:
        metadata = dict(content.pop("__metadata__", {}))
        specs = {}
        for name, spec in content.items():
            shape, (begin, end) = tuple(spec["shape"]), spec["data_offsets"]
            numbers = (*shape, begin, end)
            if set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) >= _MAX_EXTENT:
                raise ValueError(f"{name:.40}: an impossible extent or offset")
            specs[name] = (str(spec["dtype"])[:40], shape[:8], begin, end)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(path, f"damaged: not a safetensors header: {str(error)[:200]}") from None
    return metadata, specs
