"""Leaving and returning: whether a video shows a place again as it showed it before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, as_pixels, check_instance, check_number
from mosaicmem.camera import CameraTrajectory
from mosaicmem.evaluation.consistency import least_in_view
from mosaicmem.evaluation.image_metrics import lpips_where, psnr_where, require_metrics, ssim_where


@dataclass(frozen=True)
class Revisit:
    """A frame whose camera is back where it was before, and how alike the two are.

    Attributes
    ----------
    frame, first : int
        The frame of the return, and the earlier frame with the nearest pose before the camera left.
    seconds_away : float
        Between the two.
    angle_away : float
        How far the camera turned away in between, at most, radians.
    distance_away : float
        How far it moved away in between, at most, in units of the scene.
    psnr, ssim, lpips : float
        Of the return beside the earlier frame; lpips is NaN where its network is missing.
    least_in_view : float
        The least part of what the earlier frame shows that was in view in between (see `least_in_view`); NaN without
        depth.
    """

    frame: int
    first: int
    seconds_away: float
    angle_away: float
    distance_away: float
    psnr: float
    ssim: float
    lpips: float
    least_in_view: float = math.nan


@dataclass(frozen=True)
class RevisitBin:
    """The mean scores of the revisits with ``since`` <= time (or angle) away < ``until``; NaN if there are none."""

    since: float
    until: float
    revisits: int
    psnr: float
    ssim: float
    lpips: float


def find_revisits(
    path: CameraTrajectory, *, distance: float = 0.1, angle: float = 0.1, away: float | None = None
) -> list[tuple[int, int]]:
    """The frames at which a camera is back at an earlier pose, having left in between; pairs (frame, earlier frame).

    Parameters
    ----------
    path : CameraTrajectory
    distance, angle : float
        How near to an earlier pose a return is: units of the scene, radians.
    away : float, optional
        The camera has left once it is this many times as far away; 3 if not given.

    Returns
    -------
    list of (int, int)
        One per frame of a return, with the nearest of the earlier poses.
    """
    check_instance("path", path, CameraTrajectory)
    distance = check_number("distance", distance, above=0.0)
    angle = check_number("angle", angle, above=0.0)
    factor = check_number("away", 3.0 if away is None else away, minimum=1.0)
    apart = _apart(path, distance, angle)
    found = []
    for frame in range(len(path)):
        near = [
            first
            for first in range(frame)
            if apart[frame, first] <= 1 and apart[frame, first + 1 : frame].max(initial=0.0) > factor
        ]
        if near:
            found.append((frame, min(near, key=lambda first: (apart[frame, first], first))))
    return found


def score_revisits(
    video: ArrayLike,
    path: CameraTrajectory,
    *,
    truth: ArrayLike | None = None,
    depth: Mapping[int, ArrayLike] | Sequence[ArrayLike] | None = None,
    gate: float | None = None,
    **limits: float,
) -> list[Revisit]:
    """Compare each return of a video with what it showed of the place before.

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
    path : CameraTrajectory
        The camera of each frame.
    truth : (F, H, W, 3) array, optional
        Compare with the truth of the frame of the return, in place of the video's own earlier frame.
    depth : F (H, W) arrays, or a mapping of frames to them, optional
        Metres: tells how much of a place was out of view before the return.
    gate : float, optional
        In [0, 1], needs ``depth``: keep only the returns whose content had left the view up to this part; without it, a
        camera that hardly looked away counts as one that came back.
    **limits
        Of `find_revisits`.

    Raises
    ------
    ValueError
        The camera does not come back, or no return passes the gate.
    """
    require_metrics()
    width, height = check_instance("path", path, CameraTrajectory).size
    shape = (len(path), height, width, 3)
    frames = as_pixels("video", video, shape)
    expected = None if truth is None else as_pixels("truth", truth, shape)
    pairs = find_revisits(path, **limits)
    if not pairs:
        raise ValueError(
            f"path: expected a camera that leaves and comes back, got none of {len(path)} frames near an earlier pose; "
            "a larger distance or angle finds more"
        )
    if gate is not None:
        gate = check_number("gate", gate, minimum=0.0, maximum=1.0)
        if depth is None:
            raise ValueError("gate: expected depth with it, which tells what was out of view")
    left = {
        pair: math.nan if depth is None else least_in_view(path, depth[pair[1]], pair[1], pair[0]) for pair in pairs
    }
    if gate is not None:
        least = min(left.values())
        pairs = [pair for pair in pairs if left[pair] <= gate]
        if not pairs:
            raise ValueError(
                f"gate: expected at least {least:.2f}, the least of any return that was in view, got {gate:g}"
            )
    everywhere = np.ones(shape[1:3], bool)
    scores = []
    for frame, first in pairs:
        shown, beside = frames[frame], frames[first] if expected is None else expected[frame]
        between = path[first : frame + 1]
        scores.append(
            Revisit(
                frame,
                first,
                seconds_away=path[frame].timestamp - path[first].timestamp,
                angle_away=max(path[frame].angle_to(pose) for pose in between),
                distance_away=max(path[frame].distance_to(pose) for pose in between),
                psnr=psnr_where(shown, beside, everywhere),
                ssim=ssim_where(shown, beside, everywhere),
                lpips=lpips_where(shown, beside, everywhere),
                least_in_view=left[frame, first],
            )
        )
    return scores


def revisits_by(revisits: Sequence[Revisit], field: str, edges: Sequence[float]) -> list[RevisitBin]:
    """Mean scores by ``seconds_away``, ``angle_away`` or ``distance_away``, in bins with these ascending edges."""
    if field not in ("seconds_away", "angle_away", "distance_away"):
        raise ValueError(f"field: expected seconds_away, angle_away or distance_away, got {field!r}")
    bins = []
    for since, until in pairwise(edges):
        inside = [one for one in revisits if since <= getattr(one, field) < until]
        means = {name: _mean([getattr(one, name) for one in inside]) for name in ("psnr", "ssim", "lpips")}
        bins.append(RevisitBin(since, until, len(inside), **means))
    return bins


def gain_per_gigabyte(with_memory: float, without_memory: float, nbytes: int) -> float:
    """What memory gains on return (dB of PSNR, say) per 10^9 bytes that it holds: `MosaicMemoryStore.nbytes`."""
    if nbytes <= 0:
        raise ValueError(f"nbytes: expected more than 0, got {nbytes}; was anything remembered?")
    return (with_memory - without_memory) / (nbytes / 1e9)


def _apart(path: CameraTrajectory, distance: float, angle: float) -> F64:
    """How far apart all pairs of poses are, in units of the limits: the larger of distance and angle."""
    world_from_camera = path.world_from_camera
    position, rotation = world_from_camera[:, :3, 3], world_from_camera[:, :3, :3]
    far = np.linalg.norm(position[:, None] - position[None], axis=-1) / distance
    cosine = (np.einsum("aij,bij->ab", rotation, rotation) - 1) / 2
    return np.asarray(np.maximum(far, np.arccos(np.clip(cosine, -1, 1)) / angle))


def _mean(values: list[float]) -> float:
    real = [value for value in values if not math.isnan(value)]
    return float(np.mean(real)) if real else math.nan
