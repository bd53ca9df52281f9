"""Copies to the device for which the host does not wait.

CUDA copies from ordinary memory only once the stream is empty. So bytes go through blocks of pinned memory, which are
used again when the device is past them; what is small travels with launches.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import View

_BLOCK = 1 << 20  # bytes
_MOST_BLOCKS = 8
_SMALL = 4096


def pinned_empty(nbytes: int) -> Any:
    """Bytes in pinned memory, which lives as long as the array."""
    return np.frombuffer(_core.cuda.PinnedMemory(nbytes), np.uint8)


class Staging:
    """Blocks of pinned memory on the way to a device, in streams that follow each other."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[Any, Any]] = deque()  # and the moment after which each is free; the oldest first

    def upload(self, call: Call, data: Any, target: View, offset: int) -> None:
        """Copy a contiguous array, or bytes, to ``offset`` bytes after where ``target`` begins. ``data`` may change
        when this returns. The host waits only where the device is 8 MiB behind."""
        source = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
        if source.size <= _SMALL:
            _core.cuda.store_bytes(source, target, offset, call.stream)
            return
        for first in range(0, source.size, _BLOCK):
            part = source[first : first + _BLOCK]
            block = self._free_block()
            block[: part.size] = part
            _core.cuda.upload(block[: part.size], target, offset + first, call.stream)
            self._blocks.append((block, _core.cuda.Event(call.stream)))

    def _free_block(self) -> Any:
        if self._blocks and (len(self._blocks) >= _MOST_BLOCKS or self._blocks[0][1].has_passed):
            block, moment = self._blocks.popleft()
            moment.wait()
            return block
        return pinned_empty(_BLOCK)
