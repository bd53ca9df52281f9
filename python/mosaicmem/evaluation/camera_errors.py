"""How well a generated video follows its camera path: RotErr and TransErr."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F64, check_choice, check_instance, check_integer
from mosaicmem.camera import CameraPose, CameraTrajectory


@dataclass(frozen=True, eq=False)
class CameraErrors:
    """Errors of recovered camera poses.

    Attributes
    ----------
    frames : tuple of int
        The frames whose pose was recovered.
    asked : int
        How many frames were to be recovered. An error of few recovered frames says little.
    rotation : (N,) float64
        Angle between recovered and given rotation of each of ``frames``, radians.
    translation : (N,) float64
        Distance between recovered and given position of each, in units of the scene.
    scale : float
        Factor by which recovered translations were multiplied, >= 0.
    """

    frames: tuple[int, ...]
    asked: int
    rotation: F64
    translation: F64
    scale: float

    @property
    def rot_err(self) -> float:
        """The sum of the rotations' errors over frames, radians, as CameraCtrl (arXiv 2404.02101) reports it."""
        return float(self.rotation.sum()) if self.frames else math.nan

    @property
    def trans_err(self) -> float:
        """The sum of the translations' errors over frames, as CameraCtrl reports it."""
        return float(self.translation.sum()) if self.frames else math.nan

    @property
    def mean_rotation(self) -> float:
        """Radians per frame; NaN without frames. It does not grow with the length of a video."""
        return float(self.rotation.mean()) if self.frames else math.nan

    @property
    def mean_translation(self) -> float:
        """Units of the scene per frame; NaN without frames."""
        return float(self.translation.mean()) if self.frames else math.nan


def camera_errors(
    recovered: CameraTrajectory | Mapping[int, CameraPose], given: CameraTrajectory, *, align: str = "first"
) -> CameraErrors:
    """Compare recovered camera poses with those that a video was generated for.

    RotErr = sum_j arccos((tr(R_j R'_j^T) - 1) / 2), TransErr = sum_j |t_j - t'_j|, of poses world_from_camera.

    Parameters
    ----------
    recovered : CameraTrajectory, or mapping of frames to CameraPose
        A mapping may lack frames.
    given : CameraTrajectory
    align : {"first", "none"}
        ``first``: both relative to the first recovered frame, and the recovered translations scaled to fit best, since
        structure from motion knows neither a world nor a scale. ``none``: they share a world and its unit.

    Raises
    ------
    ValueError
        A frame is not of the path.
    """
    check_instance("given", given, CameraTrajectory)
    check_choice("align", align, ("first", "none"))
    poses = dict(enumerate(recovered)) if isinstance(recovered, CameraTrajectory) else dict(recovered)
    if isinstance(recovered, CameraTrajectory) and len(recovered) != len(given):
        raise ValueError(f"recovered: expected {len(given)} poses, one per frame of the path, got {len(recovered)}")
    for frame, pose in poses.items():
        check_integer("recovered: frame", frame, minimum=0, maximum=len(given) - 1)
        check_instance(f"recovered[{frame}]", pose, CameraPose)
    frames = sorted(poses)
    if not frames:
        return CameraErrors((), len(given), np.empty(0), np.empty(0), 1.0)
    theirs = np.stack([poses[i].world_from_camera for i in frames])
    ours = np.stack([given[i].world_from_camera for i in frames])
    scale = 1.0
    if align == "first":
        theirs, ours = np.linalg.inv(theirs[0]) @ theirs, np.linalg.inv(ours[0]) @ ours
        moved = float((theirs[:, :3, 3] ** 2).sum())
        scale = float((theirs[:, :3, 3] * ours[:, :3, 3]).sum()) / moved if moved > 0 else 1.0
        scale = max(0.0, scale)  # a negative one would mirror the path
    apart = theirs[:, :3, :3] @ ours[:, :3, :3].transpose(0, 2, 1)
    # atan2 keeps its precision where arccos of the trace loses it, at small angles.
    sine = np.linalg.norm([apart[:, i, j] - apart[:, j, i] for i, j in ((0, 1), (0, 2), (1, 2))], axis=0)
    angle = np.arctan2(sine, np.trace(apart, axis1=1, axis2=2) - 1)
    distance = np.linalg.norm(scale * theirs[:, :3, 3] - ours[:, :3, 3], axis=1)
    return CameraErrors(tuple(frames), len(given), angle, distance, scale)
