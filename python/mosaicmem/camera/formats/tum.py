"""The TUM RGB-D benchmark: ``timestamp tx ty tz qx qy qz qw`` per line, world_from_camera, seconds and metres.

Lines that begin with # are comments. There are no intrinsics.
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._files import atomic_write
from mosaicmem._opening import errors_in
from mosaicmem._reading import read_numbers
from mosaicmem.camera.formats.options import ReadOptions, check_frames, trajectory
from mosaicmem.camera.pose import CameraPose, quaternion_from_rotation, unit_quaternion
from mosaicmem.camera.pose_stacks import make_poses, matrices_of_quaternions
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for eight numbers per line, unit quaternions and times that do not decrease."""
    intrinsics = options.need_intrinsics(path)
    rows, lines = read_numbers(path, 8)
    check_frames(path, len(lines), path.stat().st_size, rows.itemsize * 12)
    times = options.seconds(path, rows[:, 0])
    quaternions = rows[:, [7, 4, 5, 6]]
    matrices = matrices_of_quaternions(quaternions, rows[:, 1:4], lambda i: f"line {lines[i]}", path)

    def one(i: int) -> CameraPose:
        with errors_in(path, lines[i]):
            quaternion, _ = unit_quaternion("wxyz", quaternions[i])
            return CameraPose.from_quaternion(quaternion, rows[i, 1:4], times[i])

    return trajectory(path, make_poses(matrices, times, one), intrinsics)


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Intrinsics are not kept."""
    lines = ["# timestamp tx ty tz qx qy qz qw (world_from_camera)"]
    for pose in path_of_camera:
        w, x, y, z = quaternion_from_rotation(pose.world_from_camera[:3, :3])
        values = (pose.timestamp, *pose.position, x, y, z, w)
        lines.append(" ".join(repr(float(value)) for value in values))
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())
