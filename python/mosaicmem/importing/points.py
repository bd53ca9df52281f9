"""Where the points of a structure land in an image, how deep, and which of them to believe."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F64, I64, Bool
from mosaicmem.camera import CameraIntrinsics

_NEIGHBOURS, _SUPPORT, _ALIKE = 8, 2, 0.15
_MOST_POINTS = 2000  # whose neighbours are compared at once, all with all


def supported(row: I64, column: I64, depth: F64) -> Bool:
    """Which points of an image are borne out: at least two of the eight nearest have a depth within 15 %.

    Points that were matched wrongly lie at depths of their own.
    """
    if len(depth) <= _NEIGHBOURS:
        return np.ones(len(depth), np.bool_)
    order = np.argsort(row, kind="stable")
    found = np.ones(len(depth), np.bool_)
    for start in range(0, len(depth), _MOST_POINTS):
        some = order[start : start + _MOST_POINTS]
        if len(some) <= _NEIGHBOURS:
            break
        apart = (row[some, None] - row[some]) ** 2 + (column[some, None] - column[some]) ** 2
        np.fill_diagonal(apart, np.iinfo(np.int64).max)
        near = np.argpartition(apart, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
        ratio = depth[some][near] / depth[some, None]
        found[some] = ((ratio < 1 + _ALIKE) & (ratio > 1 / (1 + _ALIKE))).sum(axis=1) >= _SUPPORT
    return found


def depth_of_points(points: F64, world_from_camera: F64, camera: CameraIntrinsics) -> tuple[I64, I64, F64]:
    """Rows, columns and depths of the points (n, 3) that a camera sees in its image, the nearest last in each pixel."""
    inverse = np.linalg.inv(world_from_camera)
    local = points @ inverse[:3, :3].T + inverse[:3, 3]
    pixels, depth = camera.project(local)
    with np.errstate(invalid="ignore"):
        column, row = np.floor(pixels).T
        inside = (depth > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    column, row, depth = column[inside].astype(np.int64), row[inside].astype(np.int64), depth[inside]
    order = np.argsort(-depth, kind="stable")
    return row[order], column[order], depth[order]
