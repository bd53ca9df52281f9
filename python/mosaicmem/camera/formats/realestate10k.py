"""RealEstate10K: the address of a video, then ``time fx fy cx cy 0 0`` and a 3x4 camera_from_world a line.

Times are microseconds. Intrinsics are parts of the image: fx and cx of its width, fy and cy of its height.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import atomic_write
from mosaicmem._reading import errors_in, read_lines
from mosaicmem.camera.formats.options import ReadOptions, one_camera, trajectory
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

_COLUMNS = 19
_SQUARE = 0.05  # by which the sides of a pixel may differ
_MOST_FOCAL = 20.0  # parts of the image: a field of view under 3 degrees


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the number of columns, that intrinsics are parts of the image, that nothing is distorted, rotations."""
    lines = read_lines(path)
    if lines and not _is_numbers(lines[0][1]):
        lines = lines[1:]  # the address
    size = options.size or (None if options.intrinsics is None else _size_of(options))
    if size is None:
        raise FormatError(path, "intrinsics are parts of the image: give the image size (size, --size)")
    rows = [_row(path, number, line) for number, line in lines]
    if not rows:
        raise FormatError(path, "expected at least one frame, got none")
    times = options.seconds(path, np.array([row[0] for row in rows]), "us")
    if options.intrinsics is None:
        _suspect_swapped_size(path, rows[0], size)
    poses, cameras = [], []
    for (number, _), row, time in zip(lines, rows, times, strict=True):
        cameras.append((f"line {number}", row[1:5] * [size[0], size[1], size[0], size[1]], size))
        with errors_in(path, number):
            matrix = np.concatenate([row[7:].reshape(3, 4), [[0, 0, 0, 1]]])
            poses.append(CameraPose.from_camera_from_world(matrix, time))
    return trajectory(path, poses, options.intrinsics or one_camera(path, cameras))


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Times are kept to a microsecond, the image size is not kept."""
    k = path_of_camera.intrinsics
    parts = (k.fx / k.width, k.fy / k.height, k.cx / k.width, k.cy / k.height, 0.0, 0.0)
    lines = ["mosaicmem"]
    for pose in path_of_camera:
        numbers = (*parts, *pose.camera_from_world[:3].ravel())
        lines.append(" ".join([str(round(pose.timestamp * 1e6)), *(repr(float(x)) for x in numbers)]))
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def _row(path: Path, number: int, line: str) -> F64:
    """The numbers (19,) of a line."""
    try:
        row = np.array([float(word) for word in line.split()])
    except ValueError:
        raise FormatError(path, f"expected numbers, got {line[:80]!r}", number) from None
    if len(row) != _COLUMNS:
        raise FormatError(path, f"expected {_COLUMNS} numbers, got {len(row)}", number)
    if not 0 < row[1] < _MOST_FOCAL or not 0 < row[2] < _MOST_FOCAL:
        raise FormatError(
            path, f"expected focal lengths as parts of the image, got {row[1]:g}, {row[2]:g}; pixels?", number
        )
    if row[5:7].any():
        raise FormatError(path, f"expected no distortion, got {row[5]:g}, {row[6]:g}", number)
    return row


def _suspect_swapped_size(path: Path, row: F64, size: tuple[int, int]) -> None:
    """Pixels are square nearly always; with a size whose sides are swapped they are not."""
    (width, height), fx, fy = size, row[1], row[2]
    if abs(fx * height / (fy * width) - 1) < _SQUARE < abs(fx * width / (fy * height) - 1):
        suspect(
            f"{path}: in an image of {width}x{height} (size, --size) its pixels are not square, and in one of "
            f"{height}x{width} they are; width and height swapped?"
        )


def _size_of(options: ReadOptions) -> tuple[int, int]:
    assert options.intrinsics is not None
    return options.intrinsics.width, options.intrinsics.height


def _is_numbers(line: str) -> bool:
    try:
        [float(word) for word in line.split()]
    except ValueError:
        return False
    return True
