"""This library's JSON: intrinsics, and world_from_camera and a time per frame. Values round-trip bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._opening import errors_in
from mosaicmem.camera.formats.options import ReadOptions, cameras_of
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """As `CameraTrajectory.load`."""
    found = CameraTrajectory._load(path, judged=options.time_unit is None)
    if options.time_unit is not None:
        times = options.seconds(path, np.array([pose.timestamp for pose in found]))
        poses = [pose.at(time) for pose, time in zip(found, times, strict=True)]
        found = CameraTrajectory(poses, found.cameras)
    if options.intrinsics is not None:
        return CameraTrajectory(found.poses, options.intrinsics)
    with errors_in(path):
        options.check_size(found.size)
    if options.intrinsics_mode == "per_frame":
        return found
    frames = ((f"frames[{i}]", np.array(camera.params), found.size) for i, camera in enumerate(found.cameras))
    return CameraTrajectory(found.poses, cameras_of(path, options.intrinsics_mode, frames))


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """As `CameraTrajectory.save`."""
    path_of_camera.save(path)
