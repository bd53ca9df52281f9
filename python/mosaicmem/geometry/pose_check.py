"""Do the poses of some frames fit their depth? If not: were they the inverse, or of OpenGL axes?"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, as_depth, check_instance
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.camera.pose import OPENGL_FROM_OPENCV
from mosaicmem.errors import suspect

READINGS: Mapping[str, str] = {
    "as given": "",
    "inverse": "the matrices seem to be camera_from_world: invert them, or use CameraPose.from_camera_from_world",
    "opengl": "the matrices seem to have OpenGL axes (+y up, looking along -z): change the signs of their second and "
    "third columns, or use CameraPose.from_opengl",
    "inverse opengl": "the matrices seem to be camera_from_world with OpenGL axes: invert them, then use "
    "CameraPose.from_opengl",
}
"""How a pose may have been meant, and what to do then."""

_TOLERANCE = 0.05  # of depth, to agree
_LEAST_LANDED = 0.1  # of the points, to say anything
_BAD, _GOOD = 0.75, 0.7  # parts of the landed points that agree: poses as given, and another reading
_REST = 0.5  # of what disagrees as given, at most, under another reading
_MOST_POINTS = 4000
_LEAST_ANGLE, _LEAST_PARALLAX = math.radians(8.0), 0.1  # of depth
_MOST_PAIRS = 16
_ENOUGH, _HOPELESS = 6, 0.6  # pairs, and the part of the points that agree in them, to give up on poses


@dataclass(frozen=True, eq=False)
class _Frame:
    depth: F32
    intrinsics: CameraIntrinsics
    world_from_camera: F64


class PoseCheck:
    """Compares each frame with one before it, and warns once if their depth fits only after reading poses otherwise.

    The surface that one frame has seen is brought into the other by the poses; where it lands, the other's depth should
    be the same. Frames between which the camera has hardly moved say nothing, and only the first pairs are looked at.
    """

    def __init__(self) -> None:
        self._last: _Frame | None = None
        self._agreed: dict[str, list[float]] = {name: [] for name in READINGS}
        self._common: list[float] = []  # as given, of pairs that have something in common
        self._done = False

    def add(self, depth: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose) -> str | None:
        """Look at one more frame.

        Parameters
        ----------
        depth : (H, W) array
            Metres; invalid where not finite or <= 0.
        intrinsics : CameraIntrinsics
        pose : CameraPose

        Returns
        -------
        str or None
            The name in `READINGS` that a warning was given for.

        Warns
        -----
        SuspiciousInput
            Poses do not fit, and would if read otherwise.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        check_instance("pose", pose, CameraPose)
        if self._done:
            return None
        frame = _Frame(
            as_depth("depth", depth, (intrinsics.height, intrinsics.width), own=True),
            intrinsics,
            pose.world_from_camera,
        )
        if self._last is None:
            self._last = frame
            return None
        if not _has_moved(self._last, frame):
            return None
        for name in READINGS:
            landed, agreed = _agreement(self._last, frame, name)
            if landed >= _LEAST_LANDED:
                self._agreed[name].append(agreed)
                if name == "as given":
                    self._common.append(agreed)
            elif name == "as given":
                self._agreed[name].append(0.0)  # nothing in common: other readings may have more
        self._last = frame
        return self._judge()

    def __copy__(self) -> PoseCheck:
        """Another check that goes on from here by itself."""
        return copy.deepcopy(self)

    def _judge(self) -> str | None:
        given = self._agreed["as given"]
        self._done = len(given) >= _MOST_PAIRS
        if len(self._common) >= _ENOUGH and np.mean(self._common) < _HOPELESS:
            self._done = True
            self._warn_of_units()
            return None
        if len(given) < 2 or np.mean(given) >= _BAD:
            return None
        means = {name: float(np.mean(each)) for name, each in self._agreed.items() if len(each) == len(given)}
        best = max(means, key=lambda name: means[name])
        if means[best] < _GOOD or 1 - means[best] > _REST * (1 - means["as given"]):
            return None
        self._done = True
        suspect(
            f"pose: depth of {len(given) + 1} frames fits their poses at {100 * means['as given']:.0f} % of the common "
            f"pixels only; {READINGS[best]} ({100 * means[best]:.0f} % would fit)"
        )
        return best

    def _warn_of_units(self) -> None:
        suspect(
            f"depth: that of {len(self._common) + 1} frames fits their poses at {100 * np.mean(self._common):.0f} % of "
            "the common pixels, however poses are read; units of depth or of positions, depth along the ray, or "
            "intrinsics of another image?"
        )


def _has_moved(a: _Frame, b: _Frame) -> bool:
    """Far enough apart for different readings to differ."""
    relative = np.linalg.inv(b.world_from_camera) @ a.world_from_camera
    angle = math.acos(float(np.clip((np.trace(relative[:3, :3]) - 1) / 2, -1, 1)))
    valid = a.depth[np.isfinite(a.depth) & (a.depth > 0)]
    depth = float(np.median(valid)) if valid.size else math.inf
    return angle > _LEAST_ANGLE or float(np.linalg.norm(relative[:3, 3])) > _LEAST_PARALLAX * depth


def _read(matrix: F64, reading: str) -> F64:
    if "inverse" in reading:
        matrix = np.asarray(np.linalg.inv(matrix), np.float64)
    return np.asarray(matrix @ OPENGL_FROM_OPENCV if "opengl" in reading else matrix)


def _agreement(a: _Frame, b: _Frame, reading: str) -> tuple[float, float]:
    """(the part of the points of a that land on depth of b, the part of those that are as far as b says)."""
    rows, columns = np.nonzero(np.isfinite(a.depth) & (a.depth > 0))
    if not len(rows):
        return 0.0, 0.0
    some = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).astype(np.int64)
    rows, columns = rows[some], columns[some]
    local = a.intrinsics.unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), a.depth[rows, columns])
    b_from_a = np.linalg.inv(_read(b.world_from_camera, reading)) @ _read(a.world_from_camera, reading)
    pixels, z = b.intrinsics.project(local @ b_from_a[:3, :3].T + b_from_a[:3, 3])
    inside = (z > 0) & (pixels >= 0).all(axis=1) & (pixels < [b.intrinsics.width, b.intrinsics.height]).all(axis=1)
    column, row = np.floor(pixels[inside]).astype(np.int64).T
    there = b.depth[row, column]
    known = np.isfinite(there) & (there > 0)
    if not known.any():
        return 0.0, 0.0
    expected, actual = there[known], z[inside][known]
    return float(known.sum() / len(some)), float((np.abs(actual - expected) < _TOLERANCE * expected).mean())
