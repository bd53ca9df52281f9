"""The trajectory JSON of the Rust implementation: {"poses": [{"timestamp": ..., "world_to_camera": {...}}, ...]}.

``world_to_camera`` is camera_from_world: a translation tx, ty, tz and a quaternion qx, qy, qz, qw; columns grow with x
and rows with y, as with OpenCV's axes. Times are in seconds. The file has no intrinsics.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem.camera.fields import Unread
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, poses_of, trajectory
from mosaicmem.camera.pose import unit_quaternion
from mosaicmem.camera.pose_stacks import matrices_of_quaternions
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

KEYS = frozenset({"poses"})
_POSE = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks fields, and that quaternions are unit."""
    intrinsics = options.need_intrinsics(path)
    frames = read_json_object(path).get("poses")
    if not isinstance(frames, list) or not 0 < len(frames) <= MAX_FRAMES:
        raise FormatError(path, f"poses: expected a list of 1 to {MAX_FRAMES} poses")
    rows, times = np.empty((len(frames), 7)), np.empty(len(frames))
    unread, unread_pose = Unread(("timestamp", "world_to_camera")), Unread(_POSE)
    for i, frame in enumerate(frames):
        try:
            pose = frame["world_to_camera"]
            unread.check(f"poses[{i}]", frame)
            unread_pose.check(f"poses[{i}]", pose)
            rows[i] = [check_number(name, pose[name]) for name in _POSE]
            times[i] = check_number("timestamp", frame["timestamp"])
            unit_quaternion("world_to_camera", rows[i, :4])
        except KeyError as error:
            raise FormatError(path, f"poses[{i}]: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"poses[{i}]: {error}") from None
    matrices = matrices_of_quaternions(rows[:, :4], rows[:, 4:], lambda i: f"poses[{i}]", path)
    seconds = options.seconds(path, times)
    found = trajectory(
        path, poses_of(path, matrices, seconds, lambda i: f"poses[{i}]", "camera_from_world"), intrinsics
    )
    unread.say(path)
    unread_pose.say(path)
    return found
