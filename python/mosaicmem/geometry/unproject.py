"""Depth image to points: x_world = world_from_camera * (depth * K^-1 [u, v, 1])."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, ArrayT, as_depth, check_instance
from mosaicmem._border import Call
from mosaicmem.camera import CameraIntrinsics, CameraPose


def check_depth(depth: ArrayLike, intrinsics: CameraIntrinsics, name: str = "depth") -> F32:
    """Depth (H, W) as contiguous float32, of the image size of ``intrinsics``. Invalid values are allowed."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    return as_depth(name, depth, (intrinsics.height, intrinsics.width))


def unproject_depth(
    depth: ArrayT,
    intrinsics: CameraIntrinsics,
    pose: CameraPose | None = None,
    *,
    num_threads: int = 0,
) -> tuple[ArrayT, ArrayT]:
    """Points of the valid pixels only, in row-major order.

    Parameters
    ----------
    depth : (H, W) array
        Metres along z; values that are not finite or <= 0 are invalid. Zero-copy for contiguous float32. On the GPU
        this synchronizes, since the size of the result depends on the values; `unproject_to_image` does not.
    intrinsics : CameraIntrinsics
        Of an image of H x W pixels.
    pose : CameraPose, optional
        Camera pose; without one, points are in the camera frame.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Returns
    -------
    points : (N, 3) float32
        Metres.
    pixels : (N,) int64
        The flat index i * W + j of each point's pixel.
    """
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    call = Call("depth", depth, num_threads)
    z = call.depth("depth", depth, (intrinsics.height, intrinsics.width))
    _, offsets = call.empty((intrinsics.height + 1,), "int64")
    count = call.core.count_valid(z, offsets, call.handle)
    points, to_points = call.empty((count, 3), "float32")
    pixels, to_pixels = call.empty((count,), "int64")
    call.core.unproject_valid(z, intrinsics.params, _matrix(pose), offsets, to_points, to_pixels, call.handle)
    return points, pixels


def unproject_to_image(
    depth: ArrayT,
    intrinsics: CameraIntrinsics,
    pose: CameraPose | list[CameraPose] | tuple[CameraPose, ...] | None = None,
    *,
    num_threads: int = 0,
) -> tuple[ArrayT, ArrayT]:
    """Points as an image: (H, W, 3) float32, zero where invalid, and the mask (H, W) of valid pixels.

    Parameters are those of `unproject_depth`. With a list of B poses, depth is (B, H, W) and the results have a leading
    axis B.
    """
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    size: tuple[int, ...] = (intrinsics.height, intrinsics.width)
    single = not isinstance(pose, (list, tuple))
    matrices = [_matrix(one) for one in pose] if isinstance(pose, (list, tuple)) else [_matrix(pose)]
    shape: tuple[int, ...] = size if single else (len(matrices), *size)
    world_from_camera = np.stack(matrices) if matrices else np.empty((0, 4, 4))
    call = Call("depth", depth, num_threads)
    z = call.depth("depth", depth, shape)
    points, to_points = call.empty((*shape, 3), "float32")
    valid, to_valid = call.empty(shape, "bool")
    call.core.unproject_dense(z, size, intrinsics.params, world_from_camera, to_points, to_valid, call.handle)
    return points, valid


def _matrix(pose: Any) -> F64:
    return (
        CameraPose().world_from_camera if pose is None else check_instance("pose", pose, CameraPose).world_from_camera
    )
