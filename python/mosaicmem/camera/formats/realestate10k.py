"""RealEstate10K: the URL of a video, then per line ``time fx fy cx cy 0 0`` and a 3x4 camera_from_world.

Times are microseconds. Intrinsics are normalised: fx and cx by the image width, fy and cy by its height.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import atomic_write
from mosaicmem._reading import read_lines, table_of
from mosaicmem.camera.formats.options import FrameCameras, ReadOptions, check_frames, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

_COLUMNS = 19
_SQUARE = 0.05  # tolerance of the aspect ratio of square pixels
_MOST_FOCAL = 20.0  # fraction of the image: a field of view under 3 degrees


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the number of columns, normalised intrinsics, zero distortion, and valid rotations."""
    size = options.size or (None if options.intrinsics is None else _size_of(options))
    if size is None:
        raise FormatError(path, "intrinsics are parts of the image: give the image size (size, --size)")
    rows, lines = table_of(path, _without_address(read_lines(path)), _COLUMNS)
    if not len(rows):
        raise FormatError(path, "expected at least one frame, got none")
    check_frames(path, len(rows), path.stat().st_size, rows[0].nbytes)
    for row, number in zip(rows, lines, strict=True):
        _check_row(path, row, number)
    times = options.seconds(path, rows[:, 0], "us")
    if options.intrinsics is None:
        _suspect_swapped_size(path, rows[0], size)
    cameras = FrameCameras(path, options.intrinsics_mode)
    with np.errstate(over="ignore"):  # CameraIntrinsics refuses infinity
        pixels = rows[:, 1:5] * [size[0], size[1], size[0], size[1]]
    for number, params in zip(lines, pixels, strict=True):
        cameras.add(f"line {number}", params, size)
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = rows[:, 7:].reshape(-1, 3, 4)

    poses = poses_of(path, matrices, times, lambda i: lines[i], "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Times are rounded to microseconds; the image size is not kept."""
    lines = ["mosaicmem"]
    for pose, k in zip(path_of_camera, path_of_camera.cameras, strict=True):
        parts = (k.fx / k.width, k.fy / k.height, k.cx / k.width, k.cy / k.height, 0.0, 0.0)
        numbers = (*parts, *pose.camera_from_world[:3].ravel())
        lines.append(" ".join([str(round(pose.timestamp * 1e6)), *(repr(float(x)) for x in numbers)]))
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def _without_address(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines of a file without the URL of the video before them."""
    first = next(lines, None)
    if first is not None:
        yield from [first] if _is_numbers(first[1]) else []
        yield from lines


def _check_row(path: Path, row: F64, number: int) -> None:
    """Check a row (19,) for normalised focal lengths and zero distortion."""
    if not 0 < row[1] < _MOST_FOCAL or not 0 < row[2] < _MOST_FOCAL:
        raise FormatError(
            path, f"expected focal lengths as parts of the image, got {row[1]:g}, {row[2]:g}; pixels?", number
        )
    if row[5:7].any():
        raise FormatError(path, f"expected no distortion, got {row[5]:g}, {row[6]:g}", number)


def _suspect_swapped_size(path: Path, row: F64, size: tuple[int, int]) -> None:
    """Pixels are nearly always square; warn if they are so only with width and height swapped."""
    (width, height), (fx, fy) = size, row[1:3].tolist()
    ratio = fx / max(fy, 1e-9)
    if abs(ratio * height / width - 1) < _SQUARE < abs(ratio * width / height - 1):
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
