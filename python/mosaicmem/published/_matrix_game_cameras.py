"""Intrinsics and groups of poses as Matrix-Game 3.5 reads them."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, to_numpy
from mosaicmem._border import to_host

GROUP = 4  # poses
_NORMALISED = 2.0  # no element of normalised intrinsics is larger


def host_array(name: str, value: ArrayLike) -> np.ndarray:
    """A NumPy array of values that may be on a GPU, in bfloat16, or in an autograd graph; maybe not a copy."""
    return np.asarray(to_numpy(name, to_host(name, value), values=True))


def matrix(name: str, value: ArrayLike, size: int) -> F64:
    """A (size, size) matrix in float64."""
    array = host_array(name, value).astype(np.float64)
    if array.shape != (size, size):
        raise ValueError(f"{name}: expected shape ({size}, {size}), got {array.shape}")
    return array


def matrices(name: str, value: ArrayLike, size: int, count: int | None = None) -> F64:
    """Matrices (N, size, size) in float64."""
    array = host_array(name, value).astype(np.float64)
    if array.ndim != 3 or array.shape[1:] != (size, size) or (count is not None and len(array) != count):
        raise ValueError(
            f"{name}: expected shape ({'N' if count is None else count}, {size}, {size}), got {array.shape}"
        )
    return array


def normalised(k: F64) -> F64:
    """fx, fy, cx, cy of K by the size of the image whose centre is K's, unless they are already."""
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    if min(fx, fy, cx, cy) > _NORMALISED:
        width, height = max(2 * cx + 1, 1.0), max(2 * cy + 1, 1.0)
        fx, fy, cx, cy = fx / width, fy / height, (cx + 0.5) / width, (cy + 0.5) / height
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def in_pixels(k: F64, size: tuple[int, int]) -> F64:
    """K of an image of (height, width), from normalised intrinsics; pixel centres are integers."""
    height, width = size
    return np.array(
        [[k[0, 0] * width, 0, k[0, 2] * width - 0.5], [0, k[1, 1] * height, k[1, 2] * height - 0.5], [0, 0, 1]]
    )


def of_memory(k: ArrayLike | None, memory_k: ArrayLike | None, count: int) -> F64 | None:
    """K of frames as an argument gives it, (3, 3) or (N, 3, 3) of float32 values; None if it does not."""
    if k is not None and memory_k is not None:
        raise ValueError("K, memory_K: expected one of them, got both")
    if k is not None:
        return _single(matrix("K", k, 3))
    if memory_k is None:
        return None
    if np.ndim(memory_k) == 2:
        return _single(matrix("memory_K", memory_k, 3))
    return _single(matrices("memory_K", memory_k, 3, count))


def of_query(query_k: ArrayLike | None, query: ArrayLike, where: slice) -> F64 | None:
    """K (G, 3, 3) of the reference pose of each group of query poses, or (3, 3); None if it is not given."""
    if query_k is None:
        return None
    if np.ndim(query_k) == 2:
        return _single(matrix("query_K", query_k, 3))
    return _single(matrices("query_K", query_k, 3, 1 if np.ndim(query) == 2 else len(query))[where])


def _single(array: F64) -> F64:
    return array.astype(np.float32).astype(np.float64)


def groups(query: ArrayLike, reference: int) -> tuple[F64, slice]:
    """The reference poses (G, 4, 4) of groups of four, and where they are; of other numbers each pose is a group."""
    if reference not in range(1, GROUP + 1):
        raise ValueError(f"query_reference_frame: expected 1 to {GROUP}, got {reference}")
    poses = matrices("query_extrinsics", query[None] if np.ndim(query) == 2 else query, 4)
    where = slice(reference - 1, None, GROUP) if len(poses) % GROUP == 0 else slice(None)
    return poses[where], where


def sampled(depth: F32, rows: int, columns: int) -> F32:
    """Depth (H, W) on a grid, in float32."""
    array = np.asarray(depth, dtype=np.float32)
    return np.asarray(array[np.ix_(nearest_rows(rows, array.shape[0]), nearest_rows(columns, array.shape[1]))])


def nearest_rows(size: int, of: int) -> np.ndarray:
    """Which of ``of`` rows each of ``size`` rows takes, as OpenCV's nearest neighbour rounds it."""
    scale = 1 / (size / of)
    return np.asarray(np.minimum(np.floor(np.arange(size) * scale).astype(np.int64), of - 1))
