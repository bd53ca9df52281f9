"""Camera paths that leave and come back, for measuring whether a place is as it was."""

from __future__ import annotations

import math

import numpy as np

from mosaicmem._arrays import F64, check_choice, check_instance, check_integer, check_number
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.trajectory import CameraTrajectory

RETURNS = ("forward-back", "lateral", "yaw", "arc", "orbit", "peek")


def return_path(
    template: str,
    intrinsics: CameraIntrinsics,
    num_frames: int,
    *,
    start: CameraPose | None = None,
    distance: float = 1.0,
    angle: float = math.pi / 2,
    fps: float = 30.0,
) -> CameraTrajectory:
    """A path that ends at the pose it begins with. All but the orbit go back as they came: frame i, mirrored in time,
    has the same pose.

    - ``forward-back``: ``distance`` ahead, and back
    - ``lateral``: ``distance`` to the right, and back
    - ``yaw``: a turn to the right by ``angle`` on the spot, and back
    - ``arc``: by ``angle`` around the point that is ``distance`` ahead, looking at it, and back
    - ``orbit``: once around that point
    - ``peek``: a turn by ``angle`` in a sixth of the time, a look until the last sixth, and back

    Parameters
    ----------
    template : str
        One of `RETURNS`.
    intrinsics : CameraIntrinsics
    num_frames : int
        At least 3.
    start : CameraPose, optional
        The first pose and the last; the origin, looking along +z, if not given. Its time is that of the first frame.
    distance : float
        Metres.
    angle : float
        Radians, to the right.
    fps : float
        Frames per second.
    """
    check_choice("template", template, RETURNS)
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    count = check_integer("num_frames", num_frames, minimum=3, maximum=2**20)
    begin = CameraPose() if start is None else check_instance("start", start, CameraPose)
    far = check_number("distance", distance, above=0.0)
    angle = check_number("angle", angle)
    rate = check_number("fps", fps, above=0.0)
    poses = []
    for i in range(count):
        share = min(i, count - 1 - i) / ((count - 1) / 2)  # 0 at both ends, 1 in the middle; the same both ways
        if template == "orbit":
            share = i / (count - 1)
        elif template == "peek":
            share = min(1.0, 3 * share)
        time = begin.timestamp + i / rate
        poses.append(CameraPose(_moved(begin.world_from_camera, template, share, far, angle), time))
    if template == "orbit":
        poses[-1] = CameraPose(poses[0].world_from_camera, poses[-1].timestamp)
    return CameraTrajectory(poses, intrinsics)


def _moved(world_from_camera: F64, template: str, share: float, distance: float, angle: float) -> F64:
    right, ahead = world_from_camera[:3, 0], world_from_camera[:3, 2]
    matrix: F64 = world_from_camera.copy()
    if template in ("forward-back", "lateral"):
        matrix[:3, 3] += share * distance * (ahead if template == "forward-back" else right)
        return matrix
    turn = share * (2 * math.pi if template == "orbit" else angle)
    if template in ("yaw", "peek"):
        matrix[:3, :3] = _yaw(turn) @ matrix[:3, :3]
        return matrix
    centre = matrix[:3, 3] + distance * ahead  # moving to the right around it turns the camera to the left
    matrix[:3, 3] = centre + _yaw(-turn) @ (matrix[:3, 3] - centre)
    matrix[:3, :3] = _yaw(-turn) @ matrix[:3, :3]
    return matrix


def _yaw(angle: float) -> F64:
    """A rotation about the vertical, to the right."""
    yaw = np.eye(3)
    yaw[0, 0] = yaw[2, 2] = math.cos(angle)
    yaw[0, 2], yaw[2, 0] = math.sin(angle), -math.sin(angle)
    return yaw
