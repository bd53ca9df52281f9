"""Pairs of posed depth frames: where the surface of one lands in the other, under several readings of the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F32, F64, Bool
from mosaicmem.camera import CameraIntrinsics, CameraPose

_TOLERANCE = 0.05  # relative disagreement up to which points agree
_MOST_POINTS = 2000
_LEAST_ANGLE, _LEAST_PARALLAX = math.radians(8.0), 0.1  # parallax as a fraction of depth
_DENSE = 0.5  # fraction of pixels with depth above which fewer points suffice
CAP = 0.2  # relative disagreement is capped here, as points may be occluded or wrong
LEAST_OVERLAP, CLEAR_OVERLAP = 0.1, 0.25  # minimum fraction of points; the second if none overlap as given
_LEAST_LANDED, _LEAST_FOR_SCALE = 16, 100  # points; the best of many scales fits a few points by chance

_FINE = np.exp(np.arange(-16, 17) * math.log(1.05))
_COARSE = np.exp(np.arange(1, 42) * math.log(1.18)) * _FINE[-1]
SCALES: F64 = np.concatenate([1 / _COARSE[::-1], _FINE, _COARSE])
"""Candidate scales of depth relative to the poses, ascending, from 1 / 2000 to 2000."""

_AXES: Mapping[str, tuple[float, float, float]] = {
    "opengl": (1, -1, -1),
    "inverse opengl": (1, -1, -1),
    "upside down": (1, -1, 1),
    "mirrored": (-1, 1, 1),
    "rotated": (-1, -1, 1),
}


@dataclass(frozen=True, eq=False)
class Frame:
    """A posed depth image with a sample of its points.

    Attributes
    ----------
    depth : (H, W) float32
        Metres; invalid where not finite or <= 0.
    intrinsics : CameraIntrinsics
    world_from_camera : (4, 4) float64
    timestamp : float
        Seconds.
    rays : (N, 3) float64
        Camera frame, z = 1, of the sampled pixels.
    z : (N,) float64
        Their depth.
    density : float
        The fraction of all pixels that have depth.
    """

    depth: F32
    intrinsics: CameraIntrinsics
    world_from_camera: F64
    timestamp: float
    rays: F64
    z: F64
    density: float

    @classmethod
    def of(cls, depth: F32, intrinsics: CameraIntrinsics, pose: CameraPose) -> Frame:
        """Sample at most 2000 points, spread over the valid pixels; copies ``depth``, as callers reuse buffers."""
        rows, columns = np.nonzero(np.isfinite(depth) & (depth > 0))
        density = max(len(rows), 1) / depth.size
        if len(rows):
            some = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).astype(np.int64)
            rows, columns = rows[some], columns[some]
        rays = intrinsics.unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), np.ones(len(rows)))
        z = depth[rows, columns].astype(np.float64)
        return cls(depth.copy(), intrinsics, pose.world_from_camera, pose.timestamp, rays, z, density)


def has_moved(a: Frame, b: Frame) -> bool:
    """Whether the frames are far enough apart for the readings to differ."""
    relative = np.linalg.inv(b.world_from_camera) @ a.world_from_camera
    angle = math.acos(float(np.clip((np.trace(relative[:3, :3]) - 1) / 2, -1, 1)))
    depth = float(np.median(a.z)) if len(a.z) else math.inf
    return angle > _LEAST_ANGLE or float(np.linalg.norm(relative[:3, 3])) > _LEAST_PARALLAX * depth


def score(a: Frame, b: Frame, reading: str) -> tuple[float, float, float]:
    """The overlap of ``a`` with ``b``, the fraction of overlapping points that agree with the depth of ``b``, and their
    mean capped disagreement."""
    poses = [frame.world_from_camera for frame in (b, a)]
    if "inverse" in reading:
        poses = [np.asarray(np.linalg.inv(pose)) for pose in poses]
    axes = np.diag([*_AXES.get(reading, (1, 1, 1)), 1])
    b_from_a = axes @ np.linalg.inv(poses[0]) @ poses[1] @ axes
    along_ray = reading == "ray"
    reach = a.z / np.linalg.norm(a.rays, axis=1) if along_ray else a.z
    points = a.rays * reach[:, None] @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    projected, off = _disagreement(b, points, along_ray=along_ray)
    if not projected.any():
        return 0.0, 0.0, CAP
    return (
        _overlap(b, projected),
        float((off[projected] < _TOLERANCE).mean()),
        float(np.minimum(off[projected], CAP).mean()),
    )


def scale_curve(a: Frame, b: Frame, *, disparity: bool, least_overlap: float) -> F64:
    """The mean capped disagreement with depth divided by each of `SCALES`; the cap where too few points overlap."""
    b_from_a = np.linalg.inv(b.world_from_camera) @ a.world_from_camera
    z = 1 / a.z if disparity else a.z
    some = slice(None, None, 3 if b.density > _DENSE else 1)
    points = (a.rays * z[:, None])[some] @ b_from_a[:3, :3].T
    curve = np.full(len(SCALES), CAP)
    for i, scale in enumerate(SCALES):
        projected, off = _disagreement(b, points + scale * b_from_a[:3, 3], disparity=disparity)
        if projected.sum() >= _LEAST_FOR_SCALE and _overlap(b, projected) >= least_overlap:
            curve[i] = np.minimum(off[projected], CAP).mean()
    return curve


def _overlap(b: Frame, projected: Bool) -> float:
    """The estimated fraction of points that would land on ``b`` if all of it had depth; 0 for too few points."""
    count = int(projected.sum())
    return min(1.0, count / len(projected) / b.density) if count >= _LEAST_LANDED else 0.0


def _disagreement(b: Frame, points: F64, *, disparity: bool = False, along_ray: bool = False) -> tuple[Bool, F64]:
    """Which points, in the camera frame of ``b``, project onto its depth, and |a - b| / max(a, b) of the two depths."""
    camera = b.intrinsics
    z = points[:, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        u = points[:, 0] / z * camera.fx + camera.cx
        v = points[:, 1] / z * camera.fy + camera.cy
        inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        column: NDArray[np.int64] = np.where(inside, u, 0).astype(np.int64)
        row: NDArray[np.int64] = np.where(inside, v, 0).astype(np.int64)
        there = b.depth[row, column].astype(np.float64)
        projected = inside & np.isfinite(there) & (there > 0)
        expected = 1 / there if disparity else there
        z = np.linalg.norm(points, axis=1) if along_ray else z
        off = np.abs(z - expected) / np.maximum(z, expected)
    return projected, off
