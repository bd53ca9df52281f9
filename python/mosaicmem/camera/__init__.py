"""Cameras and their paths.

One convention everywhere: camera axes are OpenCV's (+x right, +y down, +z forward); transforms are named
``target_from_source``; pixel (row i, column j) has its centre at (u, v) = (j + 0.5, i + 0.5).
"""

from mosaicmem.camera import formats
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.returns import RETURNS, return_path
from mosaicmem.camera.trajectory import CameraTrajectory

__all__ = ["RETURNS", "CameraIntrinsics", "CameraPose", "CameraTrajectory", "formats", "return_path"]
