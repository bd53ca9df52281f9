"""What moves, found by depth: a point that other frames see through was not there when they were taken.

The fallback where there are no masks. A pixel of a frame is lifted to 3D and projected to the frames before and after
it. A frame whose surface lies clearly behind the point sees through it; one whose surface is near the point sees the
same. A pixel moves if more frames see through it than see it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mosaicmem._arrays import F32, Bool
from mosaicmem._extras import opencv
from mosaicmem.camera import CameraIntrinsics, CameraPose

_OTHERS = (-24, -16, -10, -6, -3, -1, 1, 3, 6, 10, 16, 24)  # frames that vote, by their distance
_BEHIND = 0.06  # relative depth by which a surface lies behind a point that it shows not to be there
_NEAR = 0.03  # relative depth within which a surface is the point
_LEAST_VOTES = 2
_STEP = 2  # pixels between those that are judged
_OPENING, _CLOSING = 3, 7  # pixels of the judged grid
_EDGE = 0.04  # relative depth across a pixel's neighbours; an edge's own depth is uncertain


def moving_pixels(
    index: int,
    count: int,
    camera: CameraIntrinsics,
    depth_of: Callable[[int], F32],
    pose_of: Callable[[int], CameraPose],
) -> Bool:
    """The pixels (H, W) bool of frame ``index`` that show something that other frames see through.

    Parameters
    ----------
    index, count : int
        The frame, and how many there are.
    camera : CameraIntrinsics
        Of all frames.
    depth_of, pose_of : callable
        Depth (H, W) and pose of a frame by its index.
    """
    cv2 = opencv("finding what moves")
    depth = depth_of(index)
    judged = depth[::_STEP, ::_STEP]
    rows, columns = np.nonzero((judged > 0) & ~_edges(cv2, judged))
    points = _points(depth, rows * _STEP, columns * _STEP, camera, pose_of(index))
    through = np.zeros(len(points), np.int16)
    same = np.zeros(len(points), np.int16)
    for other in sorted({index + offset for offset in _OTHERS} & set(range(count))):
        seen = depth_of(other)
        inverse = pose_of(other).camera_from_world
        pixels, z = camera.project(points @ inverse[:3, :3].T + inverse[:3, 3])
        with np.errstate(invalid="ignore"):
            column, row = np.floor(pixels).T
            inside = (z > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        there = np.zeros(len(points), np.float32)
        there[inside] = seen[row[inside].astype(np.intp), column[inside].astype(np.intp)]
        known = there > 0
        through += known & (there > z * (1 + _BEHIND))
        same += known & (np.abs(there - z) <= _NEAR * z)
    votes = (through >= _LEAST_VOTES) & (through > same)
    grid = np.zeros(judged.shape, np.uint8)
    grid[rows[votes], columns[votes]] = 255
    grid = cv2.morphologyEx(grid, cv2.MORPH_OPEN, np.ones((_OPENING, _OPENING), np.uint8))
    grid = cv2.morphologyEx(grid, cv2.MORPH_CLOSE, np.ones((_CLOSING, _CLOSING), np.uint8))
    grid = cv2.dilate(grid, np.ones((_OPENING, _OPENING), np.uint8))
    full = cv2.resize(grid, (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(full > 0)


def _edges(cv2: object, depth: F32) -> Bool:
    known = depth > 0
    near = np.where(known, depth, np.inf)
    far = np.where(known, depth, 0)
    kernel = np.ones((3, 3), np.uint8)
    low = cv2.erode(near.astype(np.float32), kernel)  # type: ignore[attr-defined]
    high = cv2.dilate(far.astype(np.float32), kernel)  # type: ignore[attr-defined]
    return np.asarray(high / (1 + _EDGE) > low)


def _points(
    depth: F32, rows: np.ndarray, columns: np.ndarray, camera: CameraIntrinsics, pose: CameraPose
) -> np.ndarray:
    local = camera.unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), depth[rows, columns].astype(np.float64))
    return np.asarray(local @ pose.world_from_camera[:3, :3].T + pose.world_from_camera[:3, 3])
