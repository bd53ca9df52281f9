"""TartanAir's ``pose_left.txt``: ``tx ty tz qx qy qz qw`` per line, world_from_camera in metres, north-east-down.

Its cameras look along +x, with +y to the right and +z down; here the world is turned with them, so that up is -y.
Without others, intrinsics are those of its first version, 640x480 with a field of view of 90 degrees; give those of the
second (320, 320, 320, 320 of 640x640).
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._opening import errors_in
from mosaicmem._reading import read_numbers
from mosaicmem.camera.formats.options import ReadOptions, check_frames, trajectory
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose, unit_quaternion
from mosaicmem.camera.pose_stacks import make_poses, matrices_of_quaternions
from mosaicmem.camera.trajectory import CameraTrajectory

_ORDER = [1, 2, 0, 3]  # right, down, forward of north, east, down
_SIZE, _FOCAL = (640, 480), 320.0


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for seven numbers per line and unit quaternions."""
    rows, lines = read_numbers(path, 7)
    check_frames(path, len(lines), path.stat().st_size, rows.itemsize * 12)
    times = options.times(path, len(lines))
    quaternions = rows[:, [6, 3, 4, 5]]
    turned = matrices_of_quaternions(quaternions, rows[:, :3], lambda i: f"line {lines[i]}", path)

    def one(i: int) -> CameraPose:
        with errors_in(path, lines[i]):
            quaternion, _ = unit_quaternion("wxyz", quaternions[i])
            return CameraPose.from_quaternion(quaternion, rows[i, :3], times[i])

    matrices = turned[:, _ORDER][:, :, _ORDER]
    with errors_in(path):
        if options.intrinsics is None:
            options.check_size(_SIZE)
    own = CameraIntrinsics(_FOCAL, _FOCAL, _SIZE[0] / 2, _SIZE[1] / 2, *_SIZE)
    return trajectory(path, make_poses(matrices, times, one), options.intrinsics or own)
