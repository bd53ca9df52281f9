"""Open3D's and Redwood's trajectories: ``.log`` in text, and ``PinholeCameraTrajectory`` in JSON.

A ``.log`` has a line of three numbers and a 4x4 world_from_camera for each frame, and no intrinsics. The JSON has
camera_from_world and K, column by column; integer coordinates of K are pixel centres.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import as_array, check_integer
from mosaicmem._files import read_json_object
from mosaicmem._reading import parse_numbers, read_lines
from mosaicmem.camera.formats.foreign import is_json
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.intrinsics import params_of_matrix
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

CLASS_NAME = "PinholeCameraTrajectory"
_HALF = np.array([0.0, 0.0, 0.5, 0.5])  # from pixel centres at integers to ours


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes, last rows and rotations."""
    return _read_json(path, options) if is_json(path) else _read_log(path, options)


def _read_log(path: Path, options: ReadOptions) -> CameraTrajectory:
    intrinsics = options.need_intrinsics(path)
    lines = list(read_lines(path))
    if not lines or len(lines) % 5:
        raise FormatError(path, f"expected five lines for each frame, a heading and a 4x4 matrix, got {len(lines)}")
    check_frames(path, len(lines) // 5, path.stat().st_size)
    matrices = np.empty((len(lines) // 5, 4, 4))
    for i in range(len(matrices)):
        parse_numbers(path, lines[5 * i][1], 3, lines[5 * i][0])
        for row, (number, line) in enumerate(lines[5 * i + 1 : 5 * i + 5]):
            matrices[i, row] = parse_numbers(path, line, 4, number)
    times = options.times(path, len(matrices))
    return trajectory(path, poses_of(path, matrices, times, lambda i: lines[5 * i][0]), intrinsics)


def _read_json(path: Path, options: ReadOptions) -> CameraTrajectory:
    document = read_json_object(path)
    frames = document.get("parameters")
    if document.get("class_name") != CLASS_NAME or not isinstance(frames, list) or not 0 < len(frames) <= MAX_FRAMES:
        raise FormatError(path, f'expected "class_name": "{CLASS_NAME}" and 1 to {MAX_FRAMES} "parameters"')
    matrices, cameras = np.empty((len(frames), 4, 4)), FrameCameras(path, options.intrinsics_mode)
    for i, frame in enumerate(frames):
        where = f"parameters[{i}]"
        try:
            flat = as_array("extrinsic", frame["extrinsic"], np.float64, (16,), finite=True)
            matrices[i] = flat.reshape(4, 4).T
            if options.intrinsics is None:
                fields = frame["intrinsic"]
                width, height = (check_integer(name, fields[name], minimum=1) for name in ("width", "height"))
                options.check_size((width, height))
                k = as_array("intrinsic_matrix", fields["intrinsic_matrix"], np.float64, (9,), finite=True)
                params = np.array(params_of_matrix("intrinsic_matrix", k.reshape(3, 3).T)) + _HALF
                cameras.add(where, params, (width, height))
        except KeyError as error:
            raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{where}: {error}") from None
    times = options.times(path, len(frames))
    poses = poses_of(path, matrices, times, lambda i: f"parameters[{i}]", "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())
