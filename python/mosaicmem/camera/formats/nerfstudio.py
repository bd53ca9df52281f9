"""nerfstudio's transforms.json: world_from_camera with OpenGL axes (+y up, looking along -z), pixels as COLMAP's.

Intrinsics stand once, or in each frame: fl_x, fl_y, cx, cy, w, h. Frames may have a "time".
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, as_array, check_number
from mosaicmem._files import read_json_object, write_json
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, one_camera, trajectory
from mosaicmem.camera.pose import OPENGL_FROM_OPENCV, CameraPose
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the camera model, that nothing is distorted, and rotations. Frames keep the order of the file."""
    document = read_json_object(path)
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames or len(frames) > MAX_FRAMES:
        raise FormatError(path, f"frames: expected a list of 1 to {MAX_FRAMES} frames")
    times = options.times(len(frames))
    poses, cameras = [], []
    for i, frame in enumerate(frames):
        where = f"frames[{i}]"
        try:
            if not isinstance(frame, dict):
                raise TypeError(f"expected an object, got {type(frame).__name__}")
            matrix = as_array("transform_matrix", _matrix(frame), np.float64, (4, 4), finite=True)
            time = check_number("time", frame["time"]) if "time" in frame else times[i]
            poses.append(CameraPose.from_opengl(matrix, time))
            if options.intrinsics is None:
                cameras.append((where, *_camera({**document, **frame}, options)))
        except KeyError as error:
            raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{where}: {error}") from None
    return trajectory(path, poses, options.intrinsics or one_camera(path, cameras))


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """With a "time" in seconds for each frame, which nerfstudio reads where a method wants it."""
    k = path_of_camera.intrinsics
    document = {
        "camera_model": "OPENCV",
        "w": k.width,
        "h": k.height,
        "fl_x": k.fx,
        "fl_y": k.fy,
        "cx": k.cx,
        "cy": k.cy,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "frames": [
            {
                "file_path": f"images/frame_{i:06d}.png",
                "transform_matrix": (pose.world_from_camera @ OPENGL_FROM_OPENCV).tolist(),
                "time": pose.timestamp,
            }
            for i, pose in enumerate(path_of_camera)
        ],
    }
    write_json(path, document)


def _matrix(frame: dict[str, Any]) -> list[Any]:
    matrix = frame["transform_matrix"]
    if not isinstance(matrix, list):
        raise TypeError(f"transform_matrix: expected four rows, got {type(matrix).__name__}")
    return [*matrix, [0, 0, 0, 1]] if len(matrix) == 3 else matrix


def _camera(fields: dict[str, Any], options: ReadOptions) -> tuple[F64, tuple[int, int]]:
    """((fx, fy, cx, cy), (width, height)) of a frame, from its own fields or those of the file."""
    model = fields.get("camera_model", "OPENCV")
    if model not in _MODELS:
        raise ValueError(f"camera_model: expected one of {', '.join(_MODELS)}, got {model!r:.40}")
    bent = {name: fields[name] for name in _DISTORTION if fields.get(name)}
    if bent:
        raise ValueError(f"expected no distortion, got {bent}; undistort the images first")
    if options.size is not None and not {"w", "h"} <= set(fields):
        size = options.size
    else:
        size = (int(check_number("w", fields["w"], minimum=1)), int(check_number("h", fields["h"], minimum=1)))
        options.check_size(size)
    if "fl_x" in fields:
        fx = check_number("fl_x", fields["fl_x"], above=0.0)
    else:
        angle = check_number("camera_angle_x", fields["camera_angle_x"], above=0.0, maximum=3.14)
        fx = 0.5 * size[0] / math.tan(0.5 * angle)
    fy = check_number("fl_y", fields.get("fl_y", fx), above=0.0)
    cx = check_number("cx", fields.get("cx", 0.5 * size[0]))
    cy = check_number("cy", fields.get("cy", 0.5 * size[1]))
    return np.array([fx, fy, cx, cy]), size
