"""The TUM RGB-D benchmark: ``timestamp tx ty tz qx qy qz qw`` a line, world_from_camera, seconds and metres.

Lines that begin with # are comments. There are no intrinsics.
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._files import atomic_write
from mosaicmem._opening import errors_in
from mosaicmem._reading import read_numbers
from mosaicmem.camera.formats.options import Coarse, ReadOptions, check_frames, trajectory
from mosaicmem.camera.pose import CameraPose, quaternion_from_rotation, unit_quaternion
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks eight numbers a line, unit quaternions and times that do not decrease."""
    intrinsics = options.need_intrinsics(path)
    rows, lines = read_numbers(path, 8)
    check_frames(path, len(lines), path.stat().st_size, rows.itemsize * 12)
    times = options.seconds(path, rows[:, 0])
    poses = []
    coarse = Coarse()
    for row, line, time in zip(rows, lines, times, strict=True):
        with errors_in(path, line):
            quaternion, norm = unit_quaternion("wxyz", row[[7, 4, 5, 6]])
            poses.append(CameraPose.from_quaternion(quaternion, row[1:4], time))
        coarse.add(f"line {line}", norm)
    coarse.say(path)
    return trajectory(path, poses, intrinsics)


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Intrinsics are not kept."""
    lines = ["# timestamp tx ty tz qx qy qz qw (world_from_camera)"]
    for pose in path_of_camera:
        w, x, y, z = quaternion_from_rotation(pose.world_from_camera[:3, :3])
        values = (pose.timestamp, *pose.position, x, y, z, w)
        lines.append(" ".join(repr(float(value)) for value in values))
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())
