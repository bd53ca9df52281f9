"""HY-WorldPlay's choice of memory frames, under its names: by how much of the current view an earlier one saw.

Its code calls these unchanged once they stand in for its own::

    import hyvideo.pipelines.worldplay_video_pipeline as worldplay
    from mosaicmem.published import worldplay as ours

    worldplay.select_aligned_memory_frames = ours.select_aligned_memory_frames
    worldplay.generate_points_in_sphere = ours.generate_points_in_sphere

It knows no depth: points are drawn in a ball around the camera, and a view counts as seeing a point that lies within a
box of 60 x 35 degrees around its axis, at most 8 units away. Roll and intrinsics are ignored. Matrices are
camera_from_world, OpenCV axes, one per latent frame. Needs torch, whose generator draws the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, Bool, as_array, check_integer, to_numpy

if TYPE_CHECKING:
    from torch import Tensor

_RADIUS = 8.0  # of view, whatever the radius of the ball
_FIELD_OF_VIEW = (60.0, 35.0)  # degrees, horizontal and vertical
_CLIP = 4  # latent frames that are chosen together
_SINK = range(_CLIP)  # always remembered


def generate_points_in_sphere(n_points: int, radius: float) -> Tensor:
    """Points spread evenly in a ball, (n, 3) float32, from three draws of torch's global generator."""
    import torch

    share, azimuth, height = (torch.rand(n_points) for _ in range(3))
    distance, azimuth, polar = radius * share ** (1 / 3), 2 * torch.pi * azimuth, torch.acos(1 - 2 * height)
    ring = distance * torch.sin(polar)
    return torch.stack([ring * torch.cos(azimuth), ring * torch.sin(azimuth), distance * torch.cos(polar)], dim=1)


def calculate_fov_overlap_similarity(
    w2c_matrix_curr: ArrayLike,
    w2c_matrix_hist: ArrayLike,
    fov_h_deg: float = 105.0,
    fov_v_deg: float = 75.0,
    device: Any = None,
    points_local: ArrayLike | None = None,
) -> float:
    """The share of the points in the current view that an earlier view saw, in [0, 1]; 0 if there are none.

    Parameters
    ----------
    w2c_matrix_curr, w2c_matrix_hist : (4, 4) array
    fov_h_deg, fov_v_deg : float
        Of both views, degrees.
    device
        Not used.
    points_local : (N, 3) array
        In the current camera's frame: `generate_points_in_sphere`.
    """
    current = as_array("w2c_matrix_curr", w2c_matrix_curr, np.float64, (4, 4), finite=True)
    earlier = as_array("w2c_matrix_hist", w2c_matrix_hist, np.float64, (4, 4), finite=True)
    half = fov_h_deg / 2, fov_v_deg / 2
    return float(_overlaps(current, earlier[None], _in_view(points_local, half), half)[0])


def select_aligned_memory_frames(
    w2c_list: ArrayLike,
    current_frame_idx: int,
    memory_frames: int,
    temporal_context_size: int,
    pred_latent_size: int,
    pos_weight: float = 1.0,
    ang_weight: float = 1.0,
    device: Any = None,
    points_local: ArrayLike | None = None,
) -> list[int]:
    """The latent frames that a chunk sees: the first four, the last ones, and clips of four whose views overlap most.

    Parameters
    ----------
    w2c_list : (T, 4, 4) array, or a list of (4, 4)
        Frames that are not looked at, such as those still to come, may be anything.
    current_frame_idx : int
        The first latent frame of the chunk.
    memory_frames : int
        How many frames to return, about.
    temporal_context_size : int
        How many of the last frames always belong to them.
    pred_latent_size : int
        Latent frames of the chunk, over whose views the overlap is averaged.
    pos_weight, ang_weight, device
        Not used.
    points_local : (N, 3) array
        `generate_points_in_sphere`.

    Returns
    -------
    list of int
        In ascending order. All earlier frames, if they are ``memory_frames`` at most.
    """
    start, most = check_integer("current_frame_idx", current_frame_idx, minimum=0), memory_frames
    check_integer("pred_latent_size", pred_latent_size, minimum=1)
    if start <= most:
        return list(range(start))
    _check_range(start, w2c_list)
    context = range(max(0, start - temporal_context_size), start)
    ranked = _ranked(w2c_list, start, range(_CLIP, context.start, _CLIP), pred_latent_size, points_local)
    chosen = list(_SINK)
    for clip in ranked:
        if len(chosen) >= most - temporal_context_size:
            break
        if clip not in chosen:
            chosen.extend(range(clip, clip + _CLIP))
    return sorted({*context, *chosen})


def select_mem_frames_wan(
    w2c_list: ArrayLike,
    current_frame_idx: int,
    memory_frames: int,
    temporal_context_size: int,
    pred_latent_size: int,
    pos_weight: float = 1.0,
    ang_weight: float = 1.0,
    device: Any = None,
    points_local: ArrayLike | None = None,
) -> list[int]:
    """As `select_aligned_memory_frames`, but the first frames are not special, and the result has ``memory_frames``.

    Raises
    ------
    AssertionError
        Clips of four and the last frames do not make exactly ``memory_frames``.
    """
    start = check_integer("current_frame_idx", current_frame_idx, minimum=0)
    check_integer("pred_latent_size", pred_latent_size, minimum=1)
    _check_range(start, w2c_list)
    context = range(max(0, start - temporal_context_size), start)
    chosen: list[int] = []
    for clip in _ranked(w2c_list, start, range(0, context.start, _CLIP), pred_latent_size, points_local):
        if clip not in chosen:
            chosen.extend(range(clip, clip + _CLIP))
        if len(chosen) >= memory_frames - temporal_context_size:
            break
    frames = sorted({*context, *chosen})
    if len(frames) != memory_frames:  # Wan's rotary positions count on it
        raise AssertionError(f"memory_frames: expected {memory_frames} frames, got {len(frames)}: {frames}")
    return frames


def _check_range(start: int, w2c_list: Any) -> None:
    if not 3 <= start < len(w2c_list):
        raise ValueError(f"current_frame_idx: expected 3 to {len(w2c_list) - 1}, a frame of w2c_list, got {start}")


def _ranked(w2c_list: Any, start: int, clips: Sequence[int], ahead: int, points_local: Any) -> list[int]:
    """The first frames of clips, those whose views overlap most with the chunk's first; ties keep their order."""
    if not clips:
        return []
    half = _FIELD_OF_VIEW[0] / 2, _FIELD_OF_VIEW[1] / 2
    seen = _in_view(points_local, half)
    looked_at = [frame for clip in clips for frame in (clip, clip + 2)]
    earlier = np.stack([_matrix(w2c_list, frame) for frame in looked_at])
    queries = range(start, min(start + ahead, len(w2c_list)))
    distance = np.zeros(len(clips))
    for query in queries:
        missed = 1 - _overlaps(_matrix(w2c_list, query), earlier, seen, half).astype(np.float64)
        distance += (missed[::2] + missed[1::2]) / 2
    return [clips[i] for i in np.argsort(distance / len(queries), kind="stable")]


def _matrix(w2c_list: Any, frame: int) -> F64:
    return as_array(f"w2c_list[{frame}]", w2c_list[frame], np.float64, (4, 4), finite=True)


def _in_view(points_local: Any, half: tuple[float, float]) -> F64:
    """The points in a view along +z from the origin."""
    if points_local is None:
        raise TypeError("points_local: expected points from generate_points_in_sphere, got None")
    points = as_array("points_local", to_numpy("points_local", points_local), np.float64, ("N", 3), finite=True)
    return points[_inside(points, np.zeros(()), np.zeros(()), half)]


def _overlaps(current: F64, earlier: F64, points: F64, half: tuple[float, float]) -> Any:
    """The share of points, given in the current camera's frame, that each of the earlier cameras (H, 4, 4) sees."""
    if len(points) == 0:
        return np.zeros(len(earlier), np.float32)
    current_from_earlier = current @ np.linalg.inv(earlier)
    forward, centre = current_from_earlier[:, :3, 2], current_from_earlier[:, :3, 3]
    yaw, pitch = _angles(forward)
    away = points - centre[:, None]
    seen = _inside(away, yaw[:, None], pitch[:, None], half) & (np.linalg.norm(away, axis=-1) < _RADIUS)
    return seen.sum(axis=1).astype(np.float32) / np.float32(len(points))


def _inside(away: F64, yaw: F64, pitch: F64, half: tuple[float, float]) -> Bool:
    """Whether directions (..., 3) are less than the half angles from yaw and pitch, all in degrees."""
    azimuth, elevation = _angles(away)
    return np.asarray((np.abs(_wrapped(azimuth - yaw)) < half[0]) & (np.abs(_wrapped(elevation - pitch)) < half[1]))


def _angles(direction: F64) -> tuple[F64, F64]:
    """Yaw, from +z to +x, and pitch, downwards, degrees."""
    x, y, z = np.moveaxis(direction, -1, 0)
    return np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(y, np.hypot(x, z)))


def _wrapped(degrees: F64) -> F64:
    return np.asarray((degrees + 180) % 360 - 180)
