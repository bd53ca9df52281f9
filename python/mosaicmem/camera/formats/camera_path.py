"""``camera_path.json`` of nerfstudio's viewer: poses to render, with a vertical field of view for each.

``camera_to_world`` are 16 numbers, row by row, with OpenGL axes; ``fov`` is in degrees. The file has the size of the
images, and frames per second.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mosaicmem._arrays import as_array, check_integer, check_number
from mosaicmem._files import read_json_object
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for a perspective camera, numbers and rotations."""
    document = read_json_object(path)
    frames = document.get("camera_path")
    if not isinstance(frames, list) or not 0 < len(frames) <= MAX_FRAMES:
        raise FormatError(path, f"camera_path: expected a list of 1 to {MAX_FRAMES} frames")
    kind = document.get("camera_type", "perspective")
    if kind != "perspective":
        raise FormatError(path, f"camera_type: expected perspective, got {kind!r}")
    matrices, cameras = np.empty((len(frames), 4, 4)), FrameCameras(path, options.intrinsics_mode)
    where = "render_width, render_height"
    try:
        width = check_integer("render_width", document["render_width"], minimum=1)
        height = check_integer("render_height", document["render_height"], minimum=1)
        if options.intrinsics is None:
            options.check_size((width, height))
        rate = check_number("fps", document.get("fps", options.fps), above=0.0)
        for i, frame in enumerate(frames):
            where = f"camera_path[{i}]"
            flat = as_array("camera_to_world", frame["camera_to_world"], np.float64, (16,), finite=True)
            matrices[i] = flat.reshape(4, 4)
            angle = check_number("fov", frame["fov"], above=0.0)
            if not 1e-6 < angle < 180:
                raise ValueError(f"fov: expected degrees between 0 and 180, got {angle:g}")
            focal = height / 2 / math.tan(math.radians(angle) / 2)
            cameras.add(where, np.array([focal, focal, width / 2, height / 2]), (width, height))
    except KeyError as error:
        raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise FormatError(path, f"{where}: {error}") from None
    times = [i / rate for i in range(len(frames))] if options.time_unit is None else options.times(path, len(frames))
    poses = poses_of(path, matrices, times, lambda i: f"camera_path[{i}]", "opengl")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())
