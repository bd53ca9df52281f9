"""The TUM RGB-D benchmark: ``timestamp tx ty tz qx qy qz qw`` a line, world_from_camera, seconds and metres.

Lines that begin with # are comments. There are no intrinsics.
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._files import atomic_write
from mosaicmem._reading import errors_in, read_numbers
from mosaicmem.camera.formats.options import ReadOptions, trajectory
from mosaicmem.camera.pose import CameraPose, quaternion_from_rotation
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks eight numbers a line, unit quaternions and times that do not decrease."""
    rows, lines = read_numbers(path, 8)
    poses = []
    for row, line in zip(rows, lines, strict=True):
        with errors_in(path, line):
            poses.append(CameraPose.from_quaternion(row[[7, 4, 5, 6]], row[1:4], float(row[0])))
    return trajectory(path, poses, options.need_intrinsics(path))


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Intrinsics are not kept."""
    lines = ["# timestamp tx ty tz qx qy qz qw (world_from_camera)"]
    for pose in path_of_camera:
        w, x, y, z = quaternion_from_rotation(pose.world_from_camera[:3, :3])
        values = (pose.timestamp, *pose.position, x, y, z, w)
        lines.append(" ".join(repr(float(value)) for value in values))
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())
