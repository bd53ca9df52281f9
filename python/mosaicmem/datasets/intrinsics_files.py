"""Finds intrinsics in the folder of a sequence under file names that its layout does not define."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import read_json_object
from mosaicmem._opening import open_file
from mosaicmem._reading import read_lines
from mosaicmem.errors import FormatError

_MAX_BYTES = 1 << 20
_NAME = re.compile(
    r"(.*_)?(intrinsics?|calib\w*|cam(era)?_?(params?|parameters|info|matrix))(_.*)?|(cam_?)?k|cam(era)?s?|transforms.*"
)
_MAYBE = re.compile(r"_?info|sensor|metadata|config")  # may describe anything; counts if it mentions intrinsics
_FOLDER = re.compile(r"(cam(era)?_?)?(intrinsics?|calib\w*)")
_MOST_FILES = 1000
_LARGEST = 1e12  # magnitude of a number; the comparison also refuses NaN
_SUFFIXES = ("", ".txt", ".json", ".yaml", ".yml", ".csv", ".xml", ".ini", ".cfg", ".toml", ".npy", ".npz", ".bin")
_FOCAL_KEYS = (("fx", "fy"), ("fl_x", "fl_y"))
_MATRIX_KEYS = ("K", "camera_matrix", "intrinsic_matrix", "intrinsics", "intrinsic")
_WIDTH_KEYS, _HEIGHT_KEYS = ("w", "width", "image_width"), ("h", "height", "image_height")
_SCALE_KEYS = ("scale", "depth_scale", "png_depth_scale")
_HARMLESS = ("name", "far", "near", "aabb_scale", "ply_file_path", "applied_transform", "applied_scale")
_ANGLES = ("camera_angle_x", "camera_angle_y")  # redundant next to focal lengths
_MODEL_KEYS, _PINHOLES = ("camera_model", "model"), ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")
_LENS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "distortion", "dist_coeffs", "distortion_coefficients", "D")
_UNKNOWN_FORM = "expected a matrix of 3x3, or fx fy cx cy on one line"


def intrinsics_files(folder: Path) -> list[Path]:
    """The files of a folder whose names suggest intrinsics, and those in subfolders whose names do."""
    found = []
    for path in folder.iterdir():
        stem = re.sub(r"[-. ]", "_", path.stem.lower())
        if path.is_dir() and _FOLDER.fullmatch(stem):
            inside = sorted(path.iterdir())[:_MOST_FILES]
            found += [file for file in inside if file.is_file() and "extrinsic" not in file.name.lower()]
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        if _NAME.fullmatch(stem) or (_MAYBE.fullmatch(stem) and _speaks_of_intrinsics(path)):
            found.append(path)
    return sorted(found)


def _speaks_of_intrinsics(path: Path) -> bool:
    with open_file(path) as file:
        return b"ntrinsic" in file.read(_MAX_BYTES)


def find_intrinsics(folder: Path, size: tuple[int, int], units_per_metre: float) -> tuple[Path, F64] | None:
    """The intrinsics file in a folder and its K (3, 3); None if there is no such file.

    The file holds a 3x3, 3x4 or 4x4 matrix, ``fx fy cx cy`` (optionally width and height too), or JSON of the same.

    Raises
    ------
    FormatError
        A file has intrinsics in an unknown form, with distortion, for another ``size`` (width, height) or other depth
        units, or two files differ; the message says that the intrinsics can be given instead.
    """
    found = [(path, _read(path, size, units_per_metre)) for path in intrinsics_files(folder)]
    for path, matrix in found[1:]:
        if not np.allclose(matrix, found[0][1], rtol=1e-6):
            raise _refused(path, f"expected the intrinsics of {found[0][0].name}, got others")
    return found[0] if found else None


def _refused(path: Path, message: str) -> FormatError:
    """The error for a file whose intrinsics cannot be used; says what to do instead."""
    advice = "give the intrinsics of this sequence: intrinsics=CameraIntrinsics(...), or --intrinsics and --size"
    return FormatError(path, f"{message}; {advice}")


def _read(path: Path, size: tuple[int, int], units_per_metre: float) -> F64:
    suffix = path.suffix.lower()
    if suffix not in ("", ".txt", ".csv", ".json"):
        raise _refused(path, f"{_UNKNOWN_FORM}, in a .txt or .json file")
    document: dict[str, Any] | None = None
    rows: list[list[float]] = []
    try:
        if suffix == ".json":
            document = read_json_object(path, _MAX_BYTES)
        else:
            lines = (line for _, line in read_lines(path, _MAX_BYTES))
            rows = [[float(word) for word in re.split(r"[,;\s]+", line) if word] for line in lines]
    except ValueError as error:  # also FormatError, for files that are no such text
        raise _refused(path, f"{_UNKNOWN_FORM}; {str(error).removeprefix(f'{path}: ')}") from None
    if document is not None:
        return _from_fields(path, document, size, units_per_metre)
    matrix = _from_rows(rows, size)
    if matrix is None:
        raise _refused(path, f"{_UNKNOWN_FORM}, got lines of {', '.join(str(len(row)) for row in rows[:8])} numbers")
    return matrix


def _from_rows(rows: Sequence[Sequence[float]], size: tuple[int, int]) -> F64 | None:
    """K from rows of numbers; None if they have no known form."""
    widths = [len(row) for row in rows]
    if widths == [4] or (widths == [6] and tuple(rows[0][4:]) == size) or widths == [1] * 4:
        fx, fy, cx, cy = [value for row in rows for value in row][:4]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if widths == [9]:
        return np.reshape(rows[0], (3, 3)).astype(np.float64)
    if widths in ([3] * 3, [4] * 3, [4] * 4):
        matrix = np.array(rows, dtype=np.float64)
        rest_is_identity = np.array_equal(matrix[:, 3:], np.eye(4)[: len(rows), 3 : matrix.shape[1]])
        if rest_is_identity and not matrix[3:, :3].any():
            return matrix[:3, :3]
    return None


def _from_fields(path: Path, document: Mapping[str, Any], size: tuple[int, int], units_per_metre: float) -> F64:
    fields = dict(document)
    for key in ("camera", "intrinsics"):
        if isinstance(fields.get(key), Mapping):
            fields.update(fields.pop(key))
    _refuse_other_cameras(path, fields, fields.pop("frames", None))
    matrix, used = _matrix_of(fields)
    if matrix is None:
        raise _refused(path, "expected fx, fy, cx and cy, or a matrix K of 3x3")
    for names, expected in ((_WIDTH_KEYS, size[0]), (_HEIGHT_KEYS, size[1]), (_SCALE_KEYS, units_per_metre)):
        for name in names:
            if fields.get(name, expected) != expected:
                raise _refused(path, f"{name}: expected {expected:g}, as this sequence has, got {fields[name]!r}")
    known = {*used, *_WIDTH_KEYS, *_HEIGHT_KEYS, *_SCALE_KEYS, *_HARMLESS, *_ANGLES, *_MODEL_KEYS, *_LENS}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise _refused(path, f"{', '.join(unknown[:4])}: not understood")
    return matrix


def _refuse_other_cameras(path: Path, fields: Mapping[str, Any], frames: Any) -> None:
    """Refuse lenses that are no pinhole, and frames with a camera of their own."""
    for key in _LENS:
        value = fields.get(key) or 0
        flat = value if isinstance(value, list) else [value]
        if any(part != 0 for part in flat):
            raise _refused(path, f"expected no distortion, got {key} of {str(value)[:80]}; undistort the images")
    for key in _MODEL_KEYS:
        if key in fields and str(fields[key]).upper() not in _PINHOLES:
            raise _refused(path, f"{key}: expected a pinhole, got {str(fields[key])[:80]}")
    own = {*_LENS, *_MODEL_KEYS, *(key for names in _FOCAL_KEYS for key in names)}
    if isinstance(frames, list) and any(isinstance(frame, Mapping) and own & frame.keys() for frame in frames):
        raise _refused(path, "expected one camera, got frames with cameras of their own")


def _matrix_of(fields: Mapping[str, Any]) -> tuple[F64 | None, set[str]]:
    """K from the fields of a JSON object, and the names of the fields that hold it."""
    for names in _FOCAL_KEYS:
        keys = (*names, "cx", "cy")
        if all(_is_number(fields.get(key)) for key in keys):
            fx, fy, cx, cy = (float(fields[key]) for key in keys)
            return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), set(keys)
    for key in _MATRIX_KEYS:
        rows = fields.get(key)
        if isinstance(rows, list) and len(rows) == 9 and all(map(_is_number, rows)):
            matrix = np.array(rows, dtype=np.float64).reshape(3, 3)
            return (matrix.T if matrix[2, :2].any() and not matrix[:2, 2].any() else matrix), {key}  # Open3D: by column
        if isinstance(rows, list) and len(rows) == 3 and all(_is_row(row) for row in rows):
            return np.array(rows, dtype=np.float64), {key}
    return None, set()


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(map(_is_number, row))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST
