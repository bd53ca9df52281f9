"""Depth image to points: x_world = world_from_camera * (depth * K^-1 [u, v, 1])."""

from __future__ import annotations

from typing import Any

from mosaicmem import _core
from mosaicmem._arrays import F32, F64, ArrayLike, as_depth, check_instance, check_threads, like
from mosaicmem.camera import CameraIntrinsics, CameraPose


def check_depth(depth: ArrayLike, intrinsics: CameraIntrinsics, name: str = "depth") -> F32:
    """Depth (H, W) as contiguous float32 of the size that ``intrinsics`` says. Invalid values are allowed."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    return as_depth(name, depth, (intrinsics.height, intrinsics.width))


def unproject_depth(
    depth: ArrayLike,
    intrinsics: CameraIntrinsics,
    pose: CameraPose | None = None,
    *,
    num_threads: int = 0,
) -> tuple[Any, Any]:
    """Points of the valid pixels only, in row-major order.

    Parameters
    ----------
    depth : (H, W) array
        Metres along z; values that are not finite or <= 0 are invalid. Zero-copy for contiguous float32.
    intrinsics : CameraIntrinsics
        Of an image of H x W pixels.
    pose : CameraPose, optional
        Where the camera is; without one, points are in the camera frame.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). The result does not depend on it.

    Returns
    -------
    points : (N, 3) float32
        Metres.
    pixels : (N,) int64
        The flat index i * W + j of each point's pixel.
    """
    z = check_depth(depth, intrinsics)
    matrix = _matrix(pose)
    points, pixels = _core.unproject_valid(z, intrinsics.params, matrix, check_threads(num_threads))
    return like(depth, points), like(depth, pixels)


def unproject_to_image(
    depth: ArrayLike,
    intrinsics: CameraIntrinsics,
    pose: CameraPose | None = None,
    *,
    num_threads: int = 0,
) -> tuple[Any, Any]:
    """Points as an image: (H, W, 3) float32, zero where invalid, and the mask (H, W) of valid pixels.

    Parameters are those of `unproject_depth`.
    """
    z = check_depth(depth, intrinsics)
    matrix = _matrix(pose)
    points, valid = _core.unproject_dense(z, intrinsics.params, matrix, check_threads(num_threads))
    return like(depth, points), like(depth, valid)


def _matrix(pose: CameraPose | None) -> F64:
    return (
        CameraPose().world_from_camera if pose is None else check_instance("pose", pose, CameraPose).world_from_camera
    )
