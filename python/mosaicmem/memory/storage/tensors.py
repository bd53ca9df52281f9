"""safetensors files: written durably, mapped rather than read."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem._files import sync_folder
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
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_EXTENT = 2**40
_CHUNK = 2**20


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str], *, rows: int) -> FileEntry:
    """Write a file and make it durable; it takes its name when it is whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    temporary = path.with_name(f".{path.name}.writing")
    try:
        try:
            save_file(dict(tensors), temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written: {error}") from error
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            entry = FileEntry(
                name=path.name,
                nbytes=os.fstat(file.fileno()).st_size,
                rows=rows,
                sha256=hash_file(file.fileno()),
                header_sha256=hashlib.sha256(os.pread(file.fileno(), _header_end(path, file.fileno()), 0)).hexdigest(),
            )
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return entry


def hash_file(descriptor: int) -> str:
    """SHA-256 of an open file, in bounded memory."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


class MappedTensors:
    """The arrays of one file, as views of the mapped file. Nothing is read that is not looked at.

    Parameters
    ----------
    folder : Path
    entry : FileEntry
        What the manifest says of it. A file of another size or header is refused; ``whole`` compares every byte.
    """

    def __init__(self, folder: Path, entry: FileEntry, *, whole: bool = False) -> None:
        self.path = folder / entry.name
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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
            if whole and hash_file(descriptor) != entry.sha256:
                raise FormatError(self.path, "damaged: its content does not match the manifest's checksum")
            self._specs = _parse_header(self.path, header[8:])
            self._data = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)[end:]
        finally:
            os.close(descriptor)

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def get(self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """A read-only view of one array of one of these dtypes and this shape; None stands for any extent."""
        try:
            dtype_name, actual, begin, end = self._specs[name]
        except KeyError:
            raise FormatError(self.path, f"no array named {name!r}") from None
        fits = len(actual) == len(shape) and all(n is None or n == m for n, m in zip(shape, actual, strict=True))
        if dtype_name not in dtypes or not fits:
            expected = f"{' or '.join(dtypes)} of shape {tuple('any' if n is None else n for n in shape)}"
            raise FormatError(self.path, f"{name}: expected {expected}, got {dtype_name} of shape {actual}")
        dtype = DTYPES[dtype_name]
        if end > len(self._data) or end - begin != math.prod(actual) * dtype.itemsize:
            raise FormatError(self.path, f"{name}: damaged: its place in the file does not fit its shape {actual}")
        content = self._data[begin:end]
        if content.ctypes.data % dtype.itemsize:
            content = np.frombuffer(content.tobytes(), np.uint8)
        array: NDArray[Any] = content.view(dtype).reshape(actual)
        return array


def _header_end(path: Path, descriptor: int) -> int:
    """Where the header ends: 8 bytes of length, little-endian, then as many of JSON."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, os.fstat(descriptor).st_size - 8):
        raise FormatError(path, f"not a safetensors file: a header of {length} bytes in {os.fstat(descriptor).st_size}")
    return 8 + length


def _parse_header(path: Path, header: bytes) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """dtype, shape, begin and end of each array."""
    try:
        content = json.loads(header)
        content.pop("__metadata__", None)
        specs = {}
        for name, spec in content.items():
            shape, (begin, end) = tuple(spec["shape"]), spec["data_offsets"]
            if not all(type(n) is int and 0 <= n < _MAX_EXTENT for n in (*shape, begin, end)):
                raise ValueError(f"{name:.40}: an impossible extent or offset")
            specs[name] = (str(spec["dtype"])[:40], shape[:8], begin, end)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(path, f"damaged: not a safetensors header: {str(error)[:200]}") from None
    return specs
