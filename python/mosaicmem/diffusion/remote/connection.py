"""Messages between two processes of one machine: JSON over a Unix socket, arrays in shared memory."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<QQ?")  # bytes of the JSON, bytes of the sender's memory, whether its descriptor comes along
_MOST_JSON = 64 << 20
_MOST_MEMORY = 1 << 40
_ALIGNMENT = 64
DTYPES = ("<f4", "<f8", "<f2", "<i4", "<i8", "<u8", "|u1", "|b1")


class ProtocolError(RuntimeError):
    """The other process sent something that is no message."""


class Connection:
    """One end of a connection. Each end owns memory that it writes arrays to, and maps that of the other end.

    An array that `receive` returns is valid until the next `receive`.

    Parameters
    ----------
    end : socket.socket
        Connected, of the family AF_UNIX.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._own: tuple[int, mmap.mmap] | None = None  # descriptor, and its memory
        self._theirs: mmap.mmap | None = None
        self._is_known = False  # whether the other end has our memory

    def send(self, message: Any, arrays: list[NDArray[Any]]) -> None:
        """Send JSON and the arrays that it refers to, by their positions."""
        described, at = [], 0
        for array in arrays:
            described.append([array.dtype.newbyteorder("<").str, list(array.shape), at])
            at = -(-(at + array.nbytes) // _ALIGNMENT) * _ALIGNMENT
        memory = self._room(at)
        for array, (_, _, begin) in zip(arrays, described, strict=True):
            if array.nbytes:
                target: NDArray[Any] = np.frombuffer(memory, array.dtype, array.size, begin)
                target[:] = array.ravel()
        text = json.dumps({"message": message, "arrays": described}, allow_nan=True).encode()
        head = _LENGTH.pack(len(text), len(memory), not self._is_known)
        if self._is_known:
            self._socket.sendall(head)
        else:
            assert self._own is not None
            socket.send_fds(self._socket, [head], [self._own[0]])
            self._is_known = True
        self._socket.sendall(text)

    def receive(self) -> tuple[Any, list[NDArray[Any]]]:
        """The next message, and views of its arrays.

        Raises
        ------
        EOFError
            The other end is closed.
        TimeoutError
            Nothing came within the socket's timeout.
        ProtocolError
            What came is no message.
        """
        head, descriptors = self._head()
        try:
            length, size, has_memory = _LENGTH.unpack(head)
            if length > _MOST_JSON or not 0 < size <= _MOST_MEMORY or has_memory != (len(descriptors) == 1):
                raise ProtocolError("a message of impossible length, or without the memory it speaks of")
            if descriptors:
                if os.fstat(descriptors[0]).st_size < size:
                    raise ProtocolError("memory that is smaller than the message says")
                self._theirs = mmap.mmap(descriptors[0], size, access=mmap.ACCESS_READ)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        text = self._exactly(length)
        try:
            content = json.loads(text)
            message, described = content["message"], content["arrays"]
            return message, [self._view(*each) for each in described]
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"no message: {str(error)[:200]}") from None

    def close(self) -> None:
        """Close the socket, and release our memory."""
        self._socket.close()
        self._theirs = None
        if self._own is not None:
            os.close(self._own[0])
            self._own = None

    def _view(self, dtype: str, shape: list[int], begin: int) -> NDArray[Any]:
        if dtype not in DTYPES or not all(type(n) is int and n >= 0 for n in (*shape, begin)):
            raise ValueError(f"an array of dtype {dtype!r:.20} and shape {shape!r:.80}")
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if self._theirs is None or begin + count * np.dtype(dtype).itemsize > len(self._theirs):
            raise ValueError("an array beyond the shared memory")
        return np.frombuffer(self._theirs, np.dtype(dtype), count, begin).reshape(shape)

    def _room(self, nbytes: int) -> mmap.mmap:
        """Our memory, replaced by a larger one if it is too small."""
        if self._own is not None and nbytes <= len(self._own[1]):
            return self._own[1]
        size = max(mmap.PAGESIZE, 2 * nbytes)
        descriptor = _new_memory()
        try:
            os.ftruncate(descriptor, size)
            memory = mmap.mmap(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        if self._own is not None:
            os.close(self._own[0])  # the other end keeps its mapping until it has the new one
        self._own, self._is_known = (descriptor, memory), False
        return memory

    def _head(self) -> tuple[bytes, list[int]]:
        content, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, 1)
        if not content:
            raise EOFError("the other process has closed the connection")
        return content + self._exactly(_LENGTH.size - len(content)), list(descriptors)

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._socket.recv(min(count, 1 << 20))
            if not part:
                raise EOFError("the other process has closed the connection in the middle of a message")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _new_memory() -> int:
    """A descriptor of memory without a name, which the system frees when the last process that has it ends."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mosaicmem", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
