"""Camera paths: construction, windows, keyframe selection, and files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, as_array, check_integer, check_number
from mosaicmem._files import write_json
from mosaicmem.camera import path_shapes
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.trajectory_file import SCHEMA, read_frames
from mosaicmem.errors import FormatError

_DOWN = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class CameraTrajectory(Sequence[CameraPose]):
    """A sequence of poses with intrinsics; one pose per frame.

    The shapes (`circle`, `orbit`, `line`, `dolly`, `look_around`, `by_keys`) move in the horizontal plane of a
    world whose up is -y, one pose every 1 / ``fps`` seconds.

    Parameters
    ----------
    poses : sequence of CameraPose
        At least one; timestamps must not decrease.
    intrinsics : CameraIntrinsics, or a sequence of one for each pose
        Of images of one size. Frames may zoom: ``cameras`` has the intrinsics of each frame, and ``intrinsics`` those
        that all frames share; it raises if they differ.
    """

    poses: tuple[CameraPose, ...]
    cameras: tuple[CameraIntrinsics, ...]

    def __init__(self, poses: Sequence[CameraPose], intrinsics: CameraIntrinsics | Sequence[CameraIntrinsics]) -> None:
        poses = tuple(poses)
        for i, pose in enumerate(poses):
            if not isinstance(pose, CameraPose):
                raise TypeError(f"poses[{i}]: expected a CameraPose, got {type(pose).__name__}")
            if i and pose.timestamp < poses[i - 1].timestamp:
                raise ValueError(
                    f"poses[{i}]: expected timestamps that do not decrease, got {pose.timestamp} after "
                    f"{poses[i - 1].timestamp}"
                )
        if not poses:
            raise ValueError("poses: expected at least one pose, got none")
        object.__setattr__(self, "poses", poses)
        object.__setattr__(self, "cameras", _cameras(intrinsics, len(poses)))

    def __len__(self) -> int:
        return len(self.poses)

    @overload
    def __getitem__(self, index: int) -> CameraPose: ...
    @overload
    def __getitem__(self, index: slice) -> CameraTrajectory: ...
    def __getitem__(self, index: int | slice) -> CameraPose | CameraTrajectory:
        if isinstance(index, slice):
            return CameraTrajectory(self.poses[index], self.cameras[index])
        return self.poses[index]

    def __iter__(self) -> Iterator[CameraPose]:
        return iter(self.poses)

    # Cameras

    @property
    def zooms(self) -> bool:
        """Whether the intrinsics of any two frames differ."""
        first = self.cameras[0]
        return any(camera is not first and camera != first for camera in self.cameras)

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """The intrinsics that all frames share.

        Raises
        ------
        ValueError
            Those of some frames differ; the message says which.
        """
        first = self.cameras[0]
        for i, camera in enumerate(self.cameras):
            if camera is not first and camera != first:
                raise ValueError(
                    f"intrinsics: expected those that all frames share, got {camera} of frame {i} after {first}; use "
                    "cameras[i], or read the trajectory with intrinsics_mode='first_frame' or 'mean' (on the command "
                    "line: convert --intrinsics-mode)"
                )
        return first

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the images, pixels."""
        return self.cameras[0].width, self.cameras[0].height

    def taken(self, frames: Sequence[int]) -> CameraTrajectory:
        """The frames of these indices."""
        return CameraTrajectory([self.poses[i] for i in frames], [self.cameras[i] for i in frames])

    def padded(self, multiple: int) -> CameraTrajectory:
        """The same path of images that are padded on the right and at the bottom; see `CameraIntrinsics.padded`."""
        padded = {camera: camera.padded(multiple) for camera in set(self.cameras)}
        return CameraTrajectory(self.poses, [padded[camera] for camera in self.cameras])

    # Shapes

    @classmethod
    def circle(
        cls,
        center: ArrayLike,
        radius: float,
        num_frames: int,
        intrinsics: CameraIntrinsics,
        *,
        turns: float = 1.0,
        fps: float = 30.0,
    ) -> CameraTrajectory:
        """A walk around a circle, looking in the direction of motion. Integer ``turns`` end at the first pose."""
        center = as_array("center", center, np.float64, (3,), finite=True)
        radius = check_number("radius", radius, above=0.0)
        poses = []
        for angle, time in _sweep(turns, num_frames, fps):
            out = np.array([math.cos(angle), 0.0, math.sin(angle)])
            ahead = np.array([-math.sin(angle), 0.0, math.cos(angle)])
            eye = center + radius * out
            poses.append(CameraPose.look_at(eye, eye + math.copysign(1.0, turns) * ahead, timestamp=time))
        return cls(poses, intrinsics)

    @classmethod
    def orbit(
        cls,
        target: ArrayLike,
        radius: float,
        num_frames: int,
        intrinsics: CameraIntrinsics,
        *,
        height: float = 0.0,
        turns: float = 1.0,
        fps: float = 30.0,
    ) -> CameraTrajectory:
        """A circle around ``target``, ``height`` metres above it, looking at it."""
        target = as_array("target", target, np.float64, (3,), finite=True)
        radius = check_number("radius", radius, above=0.0)
        height = check_number("height", height)
        poses = []
        for angle, time in _sweep(turns, num_frames, fps):
            eye = target + radius * np.array([math.cos(angle), 0.0, math.sin(angle)]) - height * _DOWN
            poses.append(CameraPose.look_at(eye, target, timestamp=time))
        return cls(poses, intrinsics)

    @classmethod
    def line(
        cls,
        start: CameraPose,
        end: CameraPose,
        num_frames: int,
        intrinsics: CameraIntrinsics,
        *,
        fps: float = 30.0,
    ) -> CameraTrajectory:
        """From ``start`` to ``end``: position in a straight line, rotation along the shortest arc."""
        steps = _frame_times(num_frames, fps)
        last = max(1, num_frames - 1)
        return cls([start.interpolate(end, i / last).at(t) for i, t in enumerate(steps)], intrinsics)

    @classmethod
    def look_around(
        cls,
        start: CameraPose,
        num_frames: int,
        intrinsics: CameraIntrinsics,
        *,
        angle: float = 2 * math.pi,
        fps: float = 30.0,
    ) -> CameraTrajectory:
        """A turn on the spot by ``angle`` radians about the vertical, to the right if positive."""
        poses = []
        for turned, time in _sweep(angle / (2 * math.pi), num_frames, fps):
            yaw = np.eye(4)
            yaw[0, 0] = yaw[2, 2] = math.cos(turned)
            yaw[0, 2], yaw[2, 0] = math.sin(turned), -math.sin(turned)
            matrix = yaw @ start.world_from_camera
            matrix[:3, 3] = start.position
            poses.append(CameraPose(matrix, time))
        return cls(poses, intrinsics)

    @classmethod
    def dolly(
        cls,
        start: CameraPose,
        distance: float,
        num_frames: int,
        intrinsics: CameraIntrinsics,
        *,
        fps: float = 30.0,
    ) -> CameraTrajectory:
        """Straight ahead from ``start``, or backwards if ``distance`` (metres) is negative, without turning."""
        ahead = start.world_from_camera.copy()
        ahead[:3, 3] += check_number("distance", distance) * ahead[:3, 2]
        return cls.line(start, CameraPose(ahead), num_frames, intrinsics, fps=fps)

    @classmethod
    def spline(
        cls,
        poses: Sequence[CameraPose],
        intrinsics: CameraIntrinsics,
        *,
        fps: float = 30.0,
        metres_per_second: float = 1.0,
        degrees_per_second: float = 60.0,
    ) -> CameraTrajectory:
        """A smooth path through two poses or more, as fast as both speeds allow between each two of them."""
        return cls(path_shapes.spline(poses, fps, metres_per_second, degrees_per_second), intrinsics)

    @classmethod
    def by_keys(
        cls,
        keys: str,
        intrinsics: CameraIntrinsics,
        *,
        start: CameraPose | None = None,
        fps: float = 30.0,
        metres_per_second: float = 1.0,
        degrees_per_second: float = 60.0,
    ) -> CameraTrajectory:
        """A walk by the keys of a game: ``"w-31, wa-8, w+left-4"`` holds w for 31 frames, then w and a for 8.

        w, a, s and d move in the horizontal plane, from where the camera looks; left, right, up and down turn it.
        ``start``, at the origin along +z if not given, is the first pose; the camera does not roll.
        """
        first = CameraPose() if start is None else start
        return cls(path_shapes.by_keys(keys, first, fps, metres_per_second, degrees_per_second), intrinsics)

    def there_and_back(self) -> CameraTrajectory:
        """This path, then the same poses in reverse; the turning point is not repeated. Time keeps increasing."""
        end = self.poses[-1].timestamp
        back = [pose.at(end + (end - pose.timestamp)) for pose in reversed(self.poses[:-1])]
        return CameraTrajectory([*self.poses, *back], [*self.cameras, *reversed(self.cameras[:-1])])

    def then(self, other: CameraTrajectory) -> CameraTrajectory:
        """This path, then ``other``, its times shifted to start one of its frame intervals after this path ends."""
        if other.size != self.size:
            raise ValueError(f"other: expected images of {self.size} pixels, got {other.size}")
        if not (self.zooms or other.zooms) and other.cameras[0] != self.cameras[0]:
            raise ValueError(f"other: expected the intrinsics {self.cameras[0]}, got {other.cameras[0]}")
        step = other[1].timestamp - other[0].timestamp if len(other) > 1 else 0.0
        offset = self.poses[-1].timestamp + step - other[0].timestamp
        poses = [*self.poses, *(pose.at(pose.timestamp + offset) for pose in other)]
        return CameraTrajectory(poses, [*self.cameras, *other.cameras])

    # Measures

    @property
    def length(self) -> float:
        """The distance that the camera centre travels, metres."""
        return sum(a.distance_to(b) for a, b in pairwise(self.poses))

    @property
    def duration(self) -> float:
        """From the first to the last timestamp, seconds."""
        return self.poses[-1].timestamp - self.poses[0].timestamp

    @property
    def camera_from_world(self) -> F64:
        """(N, 4, 4) float64."""
        return np.stack([pose.camera_from_world for pose in self.poses])

    @property
    def world_from_camera(self) -> F64:
        """(N, 4, 4) float64."""
        return np.stack([pose.world_from_camera for pose in self.poses])

    def windows(self, size: int, overlap: int = 0) -> list[range]:
        """Frame ranges of at most ``size`` that cover the path, each sharing ``overlap`` frames with the one before."""
        size = check_integer("size", size, minimum=1)
        overlap = check_integer("overlap", overlap, minimum=0, maximum=size - 1)
        windows = [range(0, min(size, len(self)))]
        while windows[-1].stop < len(self):
            start = windows[-1].stop - overlap
            windows.append(range(start, min(start + size, len(self))))
        return windows

    def select_keyframes(self, min_translation: float, min_angle: float, max_gap: int | None = None) -> list[int]:
        """Indices of keyframes: the first frame, then each that moved enough since the last one; zooms do not count.

        Parameters
        ----------
        min_translation : float
            Metres; a frame that moved at least this far is a keyframe.
        min_angle : float
            Radians; a frame that turned at least this far is a keyframe.
        max_gap : int, optional
            The maximum index distance between consecutive keyframes.
        """
        min_translation = check_number("min_translation", min_translation, minimum=0.0)
        min_angle = check_number("min_angle", min_angle, minimum=0.0)
        if max_gap is not None:
            max_gap = check_integer("max_gap", max_gap, minimum=1)
        kept = [0]
        for i in range(1, len(self)):
            last = self.poses[kept[-1]]
            moved = last.distance_to(self.poses[i]) >= min_translation or last.angle_to(self.poses[i]) >= min_angle
            if moved or (max_gap is not None and i - kept[-1] >= max_gap):
                kept.append(i)
        return kept

    # Files

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: schema, version, intrinsics, and world_from_camera with a timestamp per frame.

        Frames whose intrinsics differ from those of the first have their own.
        """
        first = self.cameras[0]
        frames: list[dict[str, Any]] = [
            {"timestamp": pose.timestamp, "world_from_camera": pose.world_from_camera.tolist()} for pose in self.poses
        ]
        for frame, camera in zip(frames, self.cameras, strict=True):
            if camera != first:
                frame["intrinsics"] = camera.to_dict()
        version = 2 if self.zooms else 1  # readers of version 1 would give all frames the first one's
        return {"schema": SCHEMA, "schema_version": version, "intrinsics": first.to_dict(), "frames": frames}

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, atomically. Numbers round-trip exactly."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> CameraTrajectory:
        """Read what `save` wrote.

        Raises
        ------
        FormatError
            The file is not of this schema and version, or a frame in it is not a valid pose; the message says which.

        Warns
        -----
        SuspiciousInput
            The file has fields that the schema does not define, or times that do not look like seconds.
        """
        return cls._load(path, judged=True)

    @classmethod
    def _load(cls, path: str | Path, *, judged: bool) -> CameraTrajectory:
        """`load`; pass ``judged=False`` where the caller knows the unit of the times."""
        poses, cameras = read_frames(path, judged=judged)
        try:
            return cls(poses, cameras)
        except ValueError as error:
            raise FormatError(path, f"frames: {error}") from None


def _cameras(intrinsics: CameraIntrinsics | Sequence[CameraIntrinsics], frames: int) -> tuple[CameraIntrinsics, ...]:
    """The intrinsics of each frame, those that are equal as one object."""
    if isinstance(intrinsics, CameraIntrinsics):
        return (intrinsics,) * frames
    if not isinstance(intrinsics, Sequence):
        raise TypeError(f"intrinsics: expected CameraIntrinsics, or one for each pose, got {type(intrinsics).__name__}")
    if len(intrinsics) != frames:
        raise ValueError(f"intrinsics: expected one, or one for each of the {frames} poses, got {len(intrinsics)}")
    if all(camera is intrinsics[0] for camera in intrinsics) and isinstance(intrinsics[0], CameraIntrinsics):
        return tuple(intrinsics)
    known: dict[CameraIntrinsics, CameraIntrinsics] = {}
    for i, camera in enumerate(intrinsics):
        if not isinstance(camera, CameraIntrinsics):
            raise TypeError(f"intrinsics[{i}]: expected CameraIntrinsics, got {type(camera).__name__}")
        known.setdefault(camera, camera)
        if (camera.width, camera.height) != (intrinsics[0].width, intrinsics[0].height):
            raise ValueError(
                f"intrinsics[{i}]: expected those of images of {intrinsics[0].width}x{intrinsics[0].height}, as all "
                f"frames of a trajectory, got {camera.width}x{camera.height}"
            )
    return tuple(known[camera] for camera in intrinsics)


def _frame_times(num_frames: int, fps: float) -> list[float]:
    num_frames = check_integer("num_frames", num_frames, minimum=1)
    fps = check_number("fps", fps, above=0.0)
    return [i / fps for i in range(num_frames)]


def _sweep(turns: float, num_frames: int, fps: float) -> list[tuple[float, float]]:
    """(angle in radians, time) of each frame of a sweep over ``turns`` revolutions."""
    turns = check_number("turns", turns)
    times = _frame_times(num_frames, fps)
    last = max(1, num_frames - 1)
    return [(2 * math.pi * turns * i / last, time) for i, time in enumerate(times)]
