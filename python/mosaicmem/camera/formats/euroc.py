"""EuRoC's ``data.csv``: time in nanoseconds, position and quaternion (w, x, y, z) of the body in the world, in metres.

The camera's pose in the body is that of ``cam0/sensor.yaml``, found beside the folder of the file; without it the poses
are those of the body, which a warning says. Its lens is distorted: give the intrinsics of the undistorted images.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._opening import open_file, read_bytes
from mosaicmem._reading import read_lines, table_of
from mosaicmem.camera.formats.options import ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.pose_stacks import matrices_of_quaternions
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

_LEAST_COLUMNS = 8
_MOST_BYTES = 1 << 20
_TRANSFORM = re.compile(r"^T_BS:.*?data:\s*\[([^\]]*)\]", re.MULTILINE | re.DOTALL)


def is_euroc(line: str) -> bool:
    """Whether a line of text, without comments, may be of this format."""
    words = line.split(",")
    return len(words) >= _LEAST_COLUMNS and words[0].strip().isdecimal() and len(words[0].strip()) > 15


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for numbers, and unit quaternions."""
    intrinsics = options.need_intrinsics(path)
    lines = [(number, line.replace(",", " ")) for number, line in read_lines(path)]
    columns = len(lines[0][1].split()) if lines else 0
    if columns < _LEAST_COLUMNS:
        raise FormatError(path, f"expected lines of at least {_LEAST_COLUMNS} numbers with commas, got {columns}")
    rows, numbers = table_of(path, lines, columns)
    check_frames(path, len(numbers), path.stat().st_size, rows.itemsize * 16)
    times = options.seconds(path, rows[:, 0], "ns")
    bodies = matrices_of_quaternions(rows[:, 4:8], rows[:, 1:4], lambda i: f"line {numbers[i]}", path)
    with np.errstate(over="ignore", invalid="ignore"):  # values may be huge
        matrices = bodies @ _body_from_camera(path)
    return trajectory(path, poses_of(path, matrices, times, lambda i: numbers[i]), intrinsics)


def _body_from_camera(path: Path) -> F64:
    sensor = path.resolve().parent.parent / "cam0" / "sensor.yaml"
    if not sensor.is_file():
        suspect(f"{path}: poses are those of the body, not of a camera, as {sensor} is not there to tell where that is")
        return np.eye(4)
    with open_file(sensor) as file:
        text = read_bytes(sensor, file, _MOST_BYTES).decode("utf-8", errors="replace")
    found = _TRANSFORM.search(text)
    try:
        numbers = [] if found is None else [float(word) for word in found[1].replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        raise FormatError(sensor, "T_BS: expected data of 16 numbers")
    return np.array(numbers).reshape(4, 4)
