"""Whether a video agrees with itself: on the way back with the way there, and from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, Bool, as_array, as_pixels, check_instance, check_integer, check_number
from mosaicmem.camera import CameraPose, CameraTrajectory
from mosaicmem.evaluation.image_metrics import psnr_where, require_metrics, ssim_where

_NEAR = 1e-3  # of a path's extent, and radians: how far mirrored poses may be apart
_OCCLUDED = 0.03  # relative depth beyond which a surface is another one
_STEP = 4  # pixels between the points that stand for a view


@dataclass(frozen=True)
class MirrorScore:
    """A frame on the way back beside the one with the same pose on the way there."""

    frame: int
    first: int
    psnr: float
    ssim: float


def is_mirrored(path: CameraTrajectory) -> bool:
    """Whether a path goes back as it came: frame i has the pose of frame n - 1 - i."""
    extent = max((path[0].distance_to(pose) for pose in path), default=0.0)
    pairs = ((path[i], path[len(path) - 1 - i]) for i in range(len(path) // 2))
    return len(path) > 2 and all(
        a.distance_to(b) <= _NEAR * max(extent, 1e-9) and a.angle_to(b) <= _NEAR for a, b in pairs
    )


def mirror_consistency(video: ArrayLike, path: CameraTrajectory) -> list[MirrorScore]:
    """Compare each frame of the way back with that of the way there; see `return_path` for such paths.

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
    path : CameraTrajectory
        The camera of each frame.

    Raises
    ------
    ValueError
        The path does not go back as it came.
    """
    require_metrics()
    width, height = check_instance("path", path, CameraTrajectory).size
    frames = as_pixels("video", video, (len(path), height, width, 3))
    if not is_mirrored(path):
        raise ValueError("path: expected one that goes back as it came, frame i with the pose of frame n - 1 - i")
    everywhere = np.ones((height, width), np.bool_)
    scores = []
    for frame in range((len(path) + 1) // 2, len(path)):
        first = len(path) - 1 - frame
        pair = frames[frame], frames[first]
        scores.append(MirrorScore(frame, first, psnr_where(*pair, everywhere), ssim_where(*pair, everywhere)))
    return scores


def least_in_view(path: CameraTrajectory, depth: ArrayLike, first: int, frame: int) -> float:
    """The least part of what frame ``first`` shows that any frame up to ``frame`` has in its image, in [0, 1].

    A return is one only if its content has left the view: with 0.9 the camera never looked away, and a model that
    copies the last frame is as good as one that remembers. Occlusion is not considered.

    Parameters
    ----------
    path : CameraTrajectory
    depth : (H, W) array
        Of frame ``first``, metres; invalid where not finite or <= 0.
    first, frame : int
        ``first`` < ``frame``.
    """
    check_instance("path", path, CameraTrajectory)
    first = check_integer("first", first, minimum=0, maximum=len(path) - 1)
    frame = check_integer("frame", frame, minimum=first + 1, maximum=len(path) - 1)
    width, height = path.size
    z = as_array("depth", depth, np.float32, (height, width))[::_STEP, ::_STEP]
    rows, columns = np.nonzero(np.isfinite(z) & (z > 0))
    if not len(rows):
        return math.nan
    pixels = np.stack([columns * _STEP + 0.5, rows * _STEP + 0.5], axis=1)
    local = path.cameras[first].unproject(pixels, z[rows, columns])
    world = local @ path[first].world_from_camera[:3, :3].T + path[first].world_from_camera[:3, 3]
    shares = []
    for i in range(first, frame + 1):
        points = world @ path[i].camera_from_world[:3, :3].T + path[i].camera_from_world[:3, 3]
        k, ahead = path.cameras[i], points[:, 2] > 1e-6
        u, v = (
            f * points[:, axis] / np.where(ahead, points[:, 2], 1) + c
            for axis, f, c in ((0, k.fx, k.cx), (1, k.fy, k.cy))
        )
        shares.append(float((ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)).mean()))
    return min(shares)


@dataclass(frozen=True)
class WarpConsistency:
    """How well frames agree with those before them, warped to their cameras.

    Attributes
    ----------
    psnr : float
        Mean over the pairs of frames, dB, of the pixels that both see.
    shared : float
        The mean fraction of pixels that both see.
    sharpness : float
        The mean difference between neighbouring pixels, divided by that of the first frame. Blur raises the PSNR: quote
        both.
    """

    psnr: float
    shared: float
    sharpness: float


def warp_consistency(
    video: ArrayLike, path: CameraTrajectory, depth: ArrayLike, *, step: int = 1, tolerance: float = _OCCLUDED
) -> WarpConsistency:
    """Warp each frame to the camera ``step`` frames later by its depth, and compare.

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
    path : CameraTrajectory
    depth : (F, H, W) array
        Of each frame, metres; invalid where not finite or <= 0.
    step : int
    tolerance : float
        Relative difference of depth beyond which a pixel shows another surface, and is left out.
    """
    require_metrics()
    width, height = check_instance("path", path, CameraTrajectory).size
    frames = as_pixels("video", video, (len(path), height, width, 3))
    depths = as_array("depth", depth, np.float32, (len(path), height, width))
    step = check_integer("step", step, minimum=1)
    if step >= len(path):
        raise ValueError(f"step: expected less than the {len(path)} frames, got {step}")
    most = check_number("tolerance", tolerance, above=0.0, maximum=1.0)
    psnr, shared = [], []
    for after in range(step, len(path)):
        before = after - step
        warped, seen = _looked_up(frames[before], depths[before], depths[after], path, before, after, most)
        shared.append(float(seen.mean()))
        psnr.append(psnr_where(warped, frames[after], seen))
    contrast = [float(np.abs(np.diff(frame, axis=1)).mean()) for frame in frames]
    known = [value for value in psnr if not math.isnan(value)]
    return WarpConsistency(
        float(np.mean(known)) if known else math.nan,
        float(np.mean(shared)),
        float(np.mean(contrast)) / contrast[0] if contrast[0] > 0 else math.nan,
    )


def _looked_up(
    image: F32, image_depth: F32, depth: F32, path: CameraTrajectory, source: int, target: int, tolerance: float
) -> tuple[F32, Bool]:
    """The colours of one frame at the surfaces that another sees, and where it sees them too."""
    height, width = depth.shape
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    z = depth.reshape(-1).astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    local = path.cameras[target].unproject(np.stack([columns + 0.5, rows + 0.5], axis=1), np.where(known, z, 1.0))
    points = _between(path[target], path[source], local)
    k, ahead = path.cameras[source], points[:, 2] > 1e-6
    u, v = (
        f * points[:, axis] / np.where(ahead, points[:, 2], 1) + c for axis, f, c in ((0, k.fx, k.cx), (1, k.fy, k.cy))
    )
    seen = known & ahead & (u >= 0.5) & (u < width - 0.5) & (v >= 0.5) & (v < height - 0.5)
    x, y = np.where(seen, u - 0.5, 0), np.where(seen, v - 0.5, 0)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    upper = (1 - dx) * image[top, left] + dx * image[top, left + 1]
    lower = (1 - dx) * image[top + 1, left] + dx * image[top + 1, left + 1]
    there = image_depth[np.rint(y).astype(int), np.rint(x).astype(int)]
    seen &= np.abs(there - points[:, 2]) <= tolerance * points[:, 2]
    warped = np.asarray((1 - dy) * upper + dy * lower, np.float32).reshape(height, width, 3)
    return warped, seen.reshape(height, width)


def _between(source: CameraPose, target: CameraPose, points: np.ndarray) -> np.ndarray:
    """Points in one camera's frame, in that of another."""
    matrix = target.camera_from_world @ source.world_from_camera
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])
