"""Streaming fusion on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, I64
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import StreamOrder, View

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
        self._table: tuple[Any, Any, Any] | None = None  # keys, words, and how many voxels there are
        self._most = 0  # voxels that there may be
        self._order = StreamOrder()

    def add(
        self, depth: Any, color: Any, intrinsics: tuple[float, float, float, float], pose: F64, timestamp: float
    ) -> tuple[Any, Any, Any]:
        """Points, points out of range and new voxels, as arrays () on the device."""
        call = Call("depth", depth)
        z = call.depth("depth", depth, ("H", "W"))
        rgb = None if color is None else call.array("color", color, "uint8", (*z.shape, 3))
        if self._table is not None and call.place != Call("StreamingFusion", self._table[0]).place:
            raise ValueError("depth: expected an array of the framework and device of the frames before")
        self._order.follow(call)
        table = self._with_room(call, z.shape[0] * z.shape[1])
        counts, counted = call.empty((3,), "int64")
        _core.cuda.add_voxels(table, z, rgb, intrinsics, pose, timestamp, self._voxel_size, counted, call.stream)
        return counts[0], counts[1], counts[2]

    def export(self, min_count: int) -> dict[str, Any]:
        """Means of the voxels with at least ``min_count`` points, by key, on the host: as ``_core.VoxelMap`` does."""
        assert self._table is not None
        call = Call("StreamingFusion", self._table[0])
        self._order.follow(call)
        keys: I64 = call.to_host(self._table[0])
        taken = np.flatnonzero(keys != _FREE)
        words: I64 = call.to_host(self._table[1])[taken]
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
        return 0 if self._table is None else self._look(Call("StreamingFusion", self._table[0]))

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return 8 * self._capacity * (1 + int(_core.cuda.voxel_words))

    @property
    def _capacity(self) -> int:
        return 0 if self._table is None else int(self._table[0].shape[0])

    def _look(self, call: Call) -> int:
        """The number of voxels; waits for the device."""
        assert self._table is not None
        self._order.follow(call)
        self._most = int(call.to_host(self._table[2])[0])
        return self._most

    def _with_room(self, call: Call, pixels: int) -> tuple[View, View, View]:
        """The table, half of which stays free whatever the next frame brings."""
        if self._table is not None and 2 * (self._most + pixels) > self._capacity:
            self._look(call)
        needed = 2 * (self._most + pixels)
        self._most += pixels
        if self._table is not None and needed <= self._capacity:
            return _views(call, self._table)
        room = _LEAST_CAPACITY
        while room < 2 * needed:
            room *= 2
        table = (
            call.empty((room,), "int64")[0],
            call.empty((room, _core.cuda.voxel_words), "int64")[0],
            call.empty((1,), "int64")[0],
        )
        views = _views(call, table)
        _core.cuda.clear_voxels(views, call.stream)
        if self._table is not None:
            _core.cuda.move_voxels(_views(call, self._table), views, call.stream)
            for array in self._table:
                call.release(array)
        self._table = table
        return views


def _views(call: Call, table: tuple[Any, Any, Any]) -> tuple[View, View, View]:
    keys, words, voxels = table
    return call.view(keys), call.view(words), call.view(voxels)


def _times(ordered: I64) -> F64:
    """Seconds, from the integers that are ordered as they are."""
    bits = np.where(ordered < 0, ordered ^ _LARGEST, ordered)
    return np.ascontiguousarray(bits).view(np.float64)
