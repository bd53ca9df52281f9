"""This library's JSON: world_from_camera and a time for each frame, one camera. Everything is kept, bit for bit."""

from __future__ import annotations

from pathlib import Path

from mosaicmem._reading import errors_in
from mosaicmem.camera.formats.options import ReadOptions
from mosaicmem.camera.trajectory import CameraTrajectory


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """As `CameraTrajectory.load`."""
    found = CameraTrajectory.load(path)
    if options.intrinsics is None:
        with errors_in(path):
            options.check_size((found.intrinsics.width, found.intrinsics.height))
    return found if options.intrinsics is None else CameraTrajectory(found.poses, options.intrinsics)


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """As `CameraTrajectory.save`."""
    path_of_camera.save(path)
