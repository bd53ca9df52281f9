"""The published patch memory on the device: what `_core.PatchMemory` does, over arrays of the caller's framework."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, F64
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import StreamOrder, View
from mosaicmem._border.frameworks import is_on_device

_PICKS = 5
_DOWNSAMPLE = 4
_POOL_STRIDE = 2
_LATENTS, _MATRICES, _INVERSES = 0, 3, 4  # of what a frame holds


class DevicePatchMemory:
    """Frames in the memory of a GPU. Room for them doubles as they grow; choices stay on the device too.

    Matrices are on the host, and are copied to the device with each call.
    """

    def __init__(self, channels: int, rows: int, columns: int) -> None:
        coarse = (rows // _DOWNSAMPLE) * (columns // _DOWNSAMPLE)
        self._shapes: tuple[tuple[int, ...], ...] = (
            (channels, rows, columns),
            (rows, columns),
            (3, coarse),
            (4, 4),
            (3, 3),
        )
        self._dtypes = ("float32", "float32", "float64", "float32", "float32")
        self._sizes = [int(np.prod(s)) * np.dtype(d).itemsize for s, d in zip(self._shapes, self._dtypes, strict=True)]
        self._grid = (channels, rows, columns)
        self._arrays: list[Any] = []
        self._room = 0
        self._order = StreamOrder()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, latents: Any, w2c: F32, k_inverse: F32, k_inverse_double: F64, depths: Any) -> None:
        """latents (C, F, h, w) and depths (F, H, W) on the device, the rest on the host."""
        call = Call("latents", latents)
        channels, rows, columns = self._grid
        frames = len(w2c)
        grid = call.array("latents", latents, "float32", (channels, frames, rows, columns), values=True)
        depth = call.depth("depths", depths, (frames, "H", "W"))
        self._order.follow(call)
        arrays = self._with_room(call, self._count + frames)
        held = [call.view(array) for array in arrays]
        for index, matrices in ((_MATRICES, w2c), (_INVERSES, k_inverse)):
            _, moved = call.constant(matrices)
            size = self._sizes[index]
            _core.cuda.copy_bytes(moved, held[index], self._count * size, frames * size, call.stream)
        _, double = call.constant(k_inverse_double)
        _core.cuda.patch_memory_append(held, grid, depth, double, self._count, call.stream)
        self._arrays = arrays
        self._count += frames

    def select_pose_nearest(self, camera_from_world: F64) -> Any:
        """(G, 4, 4) -> frame ids (G, 5) int64 on the device; -1 for none."""
        call, held = self._call()
        groups = len(camera_from_world)
        picks, chosen = call.empty((groups, _PICKS), "int64")
        keys = call.scratch((groups, self._count), "float64")
        _core.cuda.patch_memory_pose_nearest(
            held, self._count, call.constant(camera_from_world)[1], keys, chosen, call.stream
        )
        return picks

    def select_coverage(self, camera_from_world: F64, k: F64, _threads: int) -> Any:
        """(G, 4, 4) and (G, 3, 3) -> frame ids (G, 5) int64 on the device; -1 where nothing covers anything."""
        call, held = self._call()
        groups, coarse = len(camera_from_world), self._shapes[2][1]
        picks, chosen = call.empty((groups, _PICKS), "int64")
        pool = -(-self._count // _POOL_STRIDE)
        masks = call.scratch((groups, pool, -(-coarse // 64)), "int64")
        projection = np.zeros((groups, 3, 4))
        for j in range(3):  # one product after the other, as the core sums
            projection += k[:, :, j, None] * camera_from_world[:, j, None, :]
        _core.cuda.patch_memory_coverage(held, self._count, call.constant(projection)[1], masks, chosen, call.stream)
        return picks

    def fuse(self, camera_from_world: F32, k: F32, candidates: Any, keep: _core.Keep, _threads: int) -> tuple[Any, Any]:
        """candidates (G, N) int64, on the device or the host -> latents (C, G, h, w) and valid (G, h, w).

        Ids of frames that do not exist count as none.
        """
        call, held = self._call()
        groups = len(camera_from_world)
        channels, rows, columns = self._grid
        if is_on_device(candidates):
            ids = call.array("candidate_frame_ids", candidates, "int64", (groups, "N"))
        else:
            ids = call.constant(candidates)[1]
        latents, fused = call.empty((channels, groups, rows, columns), "float32")
        valid, there = call.empty((groups, rows, columns), "bool")
        places = (groups, rows, columns)
        scratch = (call.scratch(places, "int64"), call.scratch(places, "float32"), call.scratch(places, "int64"))
        cameras = call.constant(camera_from_world)[1], call.constant(k)[1]
        keep_nearest = keep == _core.Keep.nearest
        _core.cuda.patch_memory_fuse(
            held, self._count, *cameras, ids, keep_nearest, *scratch, fused, there, call.stream
        )
        return latents, valid

    def _call(self) -> tuple[Call, list[View]]:
        call = Call("PatchMemory", self._arrays[_LATENTS])
        self._order.follow(call)
        return call, [call.view(array) for array in self._arrays]

    def _with_room(self, call: Call, count: int) -> list[Any]:
        """Arrays that hold ``count`` frames, with those of before."""
        if self._arrays and call.place != Call("PatchMemory", self._arrays[_LATENTS]).place:
            raise ValueError("latents: expected arrays of the framework and device of the frames before")
        if count <= self._room:
            return self._arrays
        room = max(count, 2 * self._room)
        grown = []
        for i, (shape, dtype) in enumerate(zip(self._shapes, self._dtypes, strict=True)):
            array, view = call.empty((room, *shape), dtype)
            if self._arrays:
                held = call.view(self._arrays[i])
                _core.cuda.copy_bytes(held, view, 0, self._count * self._sizes[i], call.stream)
                call.release(self._arrays[i])
            grown.append(array)
        self._room = room
        return grown
