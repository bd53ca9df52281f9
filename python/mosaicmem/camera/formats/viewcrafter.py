"""ViewCrafter's camera paths: three lines of keys at equal distances, phi and theta in degrees, and r.

The camera moves on a sphere about the point that the middle of the image shows: phi turns it about the vertical axis,
theta about the horizontal one, and r moves it away from that point, as a fraction of its distance. More than three keys
are smoothed by a spline, as ViewCrafter does, which needs SciPy. The path has 25 frames, as many as the model makes.
Its unit is the distance of that point, and the camera of the given image, which ViewCrafter takes to look down by 5
degrees, is at the origin. Only read if the format is named, since any three lines of numbers look like it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._reading import read_lines
from mosaicmem.camera.formats.options import ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

FRAMES = 25
_ELEVATION = np.radians(5.0)
_MOST_KEYS = 10_000
_SPLINE = 3  # keys, with more of which a spline smooths them


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for three lines of finite numbers."""
    intrinsics = options.need_intrinsics(path)
    keys = []
    for number, line in read_lines(path):
        try:
            values = np.array([float(word) for word in line.split()], np.float64)
        except ValueError:
            raise FormatError(path, f"expected numbers, got {line[:80]!r}", number) from None
        if not 0 < len(values) <= _MOST_KEYS or not (np.abs(values) < 1e6).all():
            raise FormatError(path, f"expected 1 to {_MOST_KEYS} finite numbers, got {len(values)}", number)
        keys.append(values)
    if len(keys) != 3:
        raise FormatError(path, f"expected three lines, phi, theta and r, got {len(keys)}")
    phi, theta, r = (_interpolated(each) for each in keys)
    eye = _eye()
    matrices = np.stack([_moved(eye, np.radians(p), np.radians(t), d) for p, t, d in zip(phi, theta, r, strict=True)])
    suspect(
        f"{path}: positions are in units of the distance to what the middle of the image shows; scale them to the scene"
    )
    poses = poses_of(path, np.linalg.inv(eye) @ matrices, options.times(path, FRAMES), lambda i: f"frame {i}")
    return trajectory(path, poses, intrinsics)


def _interpolated(keys: F64) -> F64:
    """25 values of the keys at equal distances."""
    at, wanted = np.linspace(0, 1, len(keys)), np.linspace(0, 1, FRAMES)
    if len(keys) <= _SPLINE:
        return np.interp(wanted, at, keys)
    try:
        from scipy.interpolate import UnivariateSpline
    except ImportError:
        raise ModuleNotFoundError(
            "more than three keys of ViewCrafter: need SciPy: pip install scipy (mosaicmem's extra [evaluate])"
        ) from None
    values: F64 = np.asarray(UnivariateSpline(at, keys, k=3)(wanted), np.float64)
    values[0], values[-1] = keys[0], keys[-1]
    return values


def _eye() -> F64:
    """The given image's camera, world_from_camera: at distance 1 from the origin, above it, in a world with y up."""
    sine, cosine = np.sin(_ELEVATION), np.cos(_ELEVATION)
    return np.array([[1, 0, 0, 0], [0, -cosine, -sine, sine], [0, sine, -cosine, cosine], [0, 0, 0, 1]])


def _moved(eye: F64, phi: float, theta: float, r: float) -> F64:
    """A camera moved along the world's z, then turned about x by theta and about y by phi."""
    moved = eye.copy()
    moved[2, 3] += r * eye[2, 3]
    about_x, about_y = np.eye(4), np.eye(4)
    about_x[1:3, 1:3] = [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]
    about_y[0, 0] = about_y[2, 2] = np.cos(phi)
    about_y[0, 2], about_y[2, 0] = np.sin(phi), -np.sin(phi)
    return np.asarray(about_y @ about_x @ moved)
