"""Camera paths through given poses, and from the keys of a game. The world's up is -y."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mosaicmem._arrays import F64, check_number
from mosaicmem.camera.pose import CameraPose

MOVES = {"w": (0.0, 1.0), "s": (0.0, -1.0), "a": (-1.0, 0.0), "d": (1.0, 0.0)}  # to the right, ahead
TURNS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, 1.0), "down": (0.0, -1.0)}  # yaw, pitch
_STEEPEST = math.radians(85)
_MOST_FRAMES = 1 << 20


def spline(
    poses: Sequence[CameraPose], fps: float, metres_per_second: float, degrees_per_second: float
) -> list[CameraPose]:
    """Poses on a smooth path through others, as fast as both speeds allow between each two of them.

    Positions, and quaternions before they are normalised, are cubic Hermite curves of time, whose slope at a pose is
    that of the parabola through its neighbours.
    """
    fps = check_number("fps", fps, above=0.0)
    speed = check_number("metres_per_second", metres_per_second, above=0.0)
    rate = math.radians(check_number("degrees_per_second", degrees_per_second, above=0.0))
    keys = list(poses)
    if len(keys) < 2:
        raise ValueError(f"poses: expected at least two to pass through, got {len(keys)}")
    steps = [max(a.distance_to(b) / speed, a.angle_to(b) / rate, 1 / fps) for a, b in pairwise(keys)]
    knots = np.concatenate([[0.0], np.cumsum(steps)])
    if knots[-1] * fps > _MOST_FRAMES:
        got = f"{knots[-1] * fps:.4g}; are the speeds too low?"
        raise ValueError(f"poses: expected a path of at most {_MOST_FRAMES} frames, got {got}")
    values = np.array([[*pose.position, *pose.quaternion] for pose in keys])
    for before, after in pairwise(values):
        if before[3:] @ after[3:] < 0:
            after[3:] *= -1  # the same rotation, on the near side
    times = np.arange(math.floor(knots[-1] * fps + 1e-9) + 1) / fps
    points = _hermite(knots, values, times)
    return [
        CameraPose.from_quaternion(point[3:] / np.linalg.norm(point[3:]), point[:3], float(time))
        for point, time in zip(points, times, strict=True)
    ]


def _hermite(knots: F64, values: F64, times: F64) -> F64:
    gaps = np.diff(knots)[:, None]
    rises = np.diff(values, axis=0) / gaps
    slopes = np.empty_like(values)
    slopes[0], slopes[-1] = rises[0], rises[-1]
    slopes[1:-1] = (rises[:-1] * gaps[1:] + rises[1:] * gaps[:-1]) / (gaps[:-1] + gaps[1:])
    i = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(knots) - 2)
    gap = gaps[i]
    t = (times - knots[i])[:, None] / gap
    return np.asarray(
        (1 + 2 * t) * (1 - t) ** 2 * values[i]
        + t * (1 - t) ** 2 * gap * slopes[i]
        + t**2 * (3 - 2 * t) * values[i + 1]
        + t**2 * (t - 1) * gap * slopes[i + 1]
    )


def by_keys(
    keys: str, start: CameraPose, fps: float, metres_per_second: float, degrees_per_second: float
) -> list[CameraPose]:
    """Poses of a walk by keys: ``w-31, wa-8, w+left-4`` holds w for 31 frames, then w and a for 8, and so on.

    w, a, s and d move in the horizontal plane, from where the camera looks; left, right, up and down turn it. The first
    pose is ``start``, without roll. Its pitch stays within 85 degrees.
    """
    fps = check_number("fps", fps, above=0.0)
    step = check_number("metres_per_second", metres_per_second, above=0.0) / fps
    turn = math.radians(check_number("degrees_per_second", degrees_per_second, above=0.0)) / fps
    ahead = start.world_from_camera[:3, 2]
    yaw, pitch = math.atan2(ahead[0], ahead[2]), math.asin(max(-1.0, min(1.0, -ahead[1])))
    position, poses = start.position.copy(), [_looking(start.position, yaw, pitch, start.timestamp)]
    for held in _held(keys):
        yaw += turn * sum(TURNS[key][0] for key in held if key in TURNS)
        pitch += turn * sum(TURNS[key][1] for key in held if key in TURNS)
        pitch = max(-_STEEPEST, min(_STEEPEST, pitch))
        move = np.sum([MOVES[key] for key in held if key in MOVES] or [(0.0, 0.0)], axis=0)
        length = float(np.linalg.norm(move))
        if length > 0:  # two keys are no faster than one
            right, forward = move / length * step
            z, x = math.cos(yaw), math.sin(yaw)
            position = position + np.array([right * z + forward * x, 0.0, forward * z - right * x])
        poses.append(_looking(position, yaw, pitch, start.timestamp + len(poses) / fps))
    return poses


def _looking(position: F64, yaw: float, pitch: float, time: float) -> CameraPose:
    level = math.cos(pitch)
    ahead = np.array([level * math.sin(yaw), -math.sin(pitch), level * math.cos(yaw)])
    return CameraPose.look_at(position, position + ahead, timestamp=time)


def _held(keys: str) -> list[set[str]]:
    """The keys that are held in each frame after the first."""
    frames: list[set[str]] = []
    for part in (part.strip() for part in keys.split(",")):
        match = re.fullmatch(r"([a-z+]+)-(\d{1,7})", part)
        names = [] if match is None else [name for word in match[1].split("+") for name in _names(word)]
        if match is None or not names or None in names:
            raise ValueError(
                "keys: expected keys that are held, of w, a, s, d, left, right, up and down, and for how many frames, "
                f"such as 'w-31, wa-8, w+left-4', got {part!r}"
            )
        frames += [set(names)] * int(match[2])  # type: ignore[arg-type]
        if len(frames) > _MOST_FRAMES:
            raise ValueError(f"keys: expected at most {_MOST_FRAMES} frames, got more")
    return frames


def _names(word: str) -> list[str | None]:
    if word in TURNS:
        return [word]
    return [letter if letter in MOVES else None for letter in word] or [None]
