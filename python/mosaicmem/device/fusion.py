"""Streaming fusion on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, I64
from mosaicmem.device.arrays import Call, StreamOrder

_LEAST_CAPACITY = 1 << 16
_FREE = -1  # as int64
_AXIS_BITS = 21
_LARGEST = np.iinfo(np.int64).max


class DeviceVoxelMap:
    """Voxels in the memory of a GPU, of which `StreamingFusion` makes one when its first frame is there.

    Adding a frame waits for the device only where the table may be full: it is then looked at, and perhaps doubled.
    """

    def __init__(self, voxel_size: float) -> None:
        self._voxel_size = voxel_size
        self._keys: Any = None
        self._words: Any = None
        self._most = 0  # voxels that there may be
        self._order = StreamOrder()

    def add(
        self, depth: Any, color: Any, intrinsics: tuple[float, float, float, float], pose: F64, timestamp: float
    ) -> tuple[Any, Any, Any]:
        """Points, points out of range and new voxels, as arrays () on the device."""
        call = Call("depth", depth)
        z = call.depth("depth", depth, ("H", "W"))
        rgb = None if color is None else call.array("color", color, "uint8", (*z.shape, 3))
        if self._keys is not None and call.place != Call("StreamingFusion", self._keys).place:
            raise ValueError("depth: expected an array of the framework and device of the frames before")
        self._order.follow(call)
        self._make_room(call, z.shape[0] * z.shape[1])
        counts, counted = call.empty((3,), "int64")
        held = call.view(self._keys), call.view(self._words)
        _core.cuda.add_voxels(*held, z, rgb, intrinsics, pose, timestamp, self._voxel_size, counted, call.stream)
        return counts[0], counts[1], counts[2]

    def export(self, min_count: int) -> dict[str, Any]:
        """Means of the voxels with at least ``min_count`` points, by key, on the host: as ``_core.VoxelMap`` does."""
        call = Call("StreamingFusion", self._keys)
        self._order.follow(call)
        keys: I64 = call.to_host(self._keys)
        taken = np.flatnonzero(keys != _FREE)
        words: I64 = call.to_host(self._words)[taken]
        keys = keys[taken]
        order = np.argsort(keys)[words[np.argsort(keys), 0] >= min_count]
        keys, words = keys[order], words[order]
        count = words[:, 0].astype(np.float64)[:, None]
        shifts = np.array([2 * _AXIS_BITS, _AXIS_BITS, 0])
        corner = (keys[:, None] >> shifts & (1 << _AXIS_BITS) - 1) - (1 << _AXIS_BITS - 1)
        inside = words[:, 1:4] / count * _core.cuda.voxel_position_unit
        normals = words[:, 7:10].astype(np.float64)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return {
            "points": ((corner + inside) * self._voxel_size).astype(np.float32),
            "colors": (words[:, 4:7] / count + 0.5).astype(np.uint8),
            "normals": np.divide(normals, length, out=np.zeros_like(normals), where=length > 0).astype(np.float32),
            "counts": words[:, 0],
            "times": _times(words[:, 10:]),
        }

    def __len__(self) -> int:
        return 0 if self._keys is None else self._look(Call("StreamingFusion", self._keys))

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return 0 if self._keys is None else int(self._keys.shape[0]) * 8 * (1 + int(_core.cuda.voxel_words))

    def _look(self, call: Call) -> int:
        """The number of voxels; waits for the device."""
        self._order.follow(call)
        self._most = int(np.count_nonzero(call.to_host(self._keys) != _FREE))
        return self._most

    def _make_room(self, call: Call, pixels: int) -> None:
        """Sees to it that half of the table stays free, whatever the next frame brings."""
        capacity = 0 if self._keys is None else int(self._keys.shape[0])
        if 2 * (self._most + pixels) > capacity and capacity:
            self._look(call)
        needed = 2 * (self._most + pixels)
        self._most += pixels
        if needed <= capacity:
            return
        room = _LEAST_CAPACITY
        while room < 2 * needed:
            room *= 2
        keys, to_keys = call.empty((room,), "int64")
        words, to_words = call.empty((room, _core.cuda.voxel_words), "int64")
        _core.cuda.clear_voxels(to_keys, to_words, call.stream)
        if capacity:
            _core.cuda.move_voxels(call.view(self._keys), call.view(self._words), to_keys, to_words, call.stream)
            call.release(self._keys)
            call.release(self._words)
        self._keys, self._words = keys, words


def _times(ordered: I64) -> F64:
    """Seconds, from the integers that are ordered as they are."""
    bits = np.where(ordered < 0, ordered ^ _LARGEST, ordered)
    return np.ascontiguousarray(bits).view(np.float64)
