"""Unprojection and reprojection on the device."""

from __future__ import annotations

from typing import Any

from mosaicmem import _core
from mosaicmem._arrays import F64
from mosaicmem.device.arrays import Call


def unproject_to_image(
    depth: Any, intrinsics: tuple[float, float, float, float], shape: tuple[int, ...], world_from_camera: F64
) -> tuple[Any, Any]:
    """depth of ``shape`` (..., H, W) -> points (..., H, W, 3) and valid; world_from_camera (N, 4, 4), one an image."""
    call = Call("depth", depth)
    z = call.depth("depth", depth, shape)
    points, p = call.empty((*shape, 3), "float32")
    valid, ok = call.empty(shape, "bool")
    _core.cuda.unproject_dense(z, shape[-2:], intrinsics, world_from_camera, p, ok, call.stream)
    return points, valid


def median_depth_grid(depth: Any, stride: int, min_valid: int) -> Any:
    """depth (H, W) -> (H / stride, W / stride) float32; see `depth_to_grid`."""
    call = Call("depth", depth)
    height, width = depth.shape
    grid, cells = call.empty((height // stride, width // stride), "float32")
    _core.cuda.median_depth_grid(call.depth("depth", depth, (height, width)), stride, min_valid, cells, call.stream)
    return grid


def reproject_grid(
    depth: Any,
    stride: int,
    source_intrinsics: tuple[float, float, float, float],
    world_from_source: F64,
    camera: tuple[float, ...],
    camera_from_world: F64,
) -> tuple[Any, Any]:
    """depth (h, w) -> projected (h, w, 3) and valid (h, w); see `reproject_depth_grid`."""
    call = Call("depth", depth)
    z = call.depth("depth", depth, ("h", "w"))
    projected, p = call.empty((*z.shape, 3), "float32")
    valid, ok = call.empty(z.shape, "bool")
    views = (stride, source_intrinsics, world_from_source, camera, camera_from_world)
    _core.cuda.reproject_grid(z, *views, p, ok, call.stream)
    return projected, valid
