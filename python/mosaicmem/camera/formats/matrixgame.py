"""Matrix-Game 3.5's camera.npz: ``extrinsics_c2w`` (N, 4, 4) world_from_camera, metres, and ``intrinsics``.

Intrinsics are (N, 4) or (4,) fx, fy, cx, cy, or (N, 3, 3) or (3, 3) K, in pixels of the anchor image, whose size is not
in the file. ``extrinsics`` is an alias of ``extrinsics_c2w``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import atomic_write
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import errors_in, foreign_parser, open_file
from mosaicmem.camera.fields import Unread, may_bend, refuse_bent
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, cameras_of, check_frames, poses_of, trajectory
from mosaicmem.camera.intrinsics import params_of_matrix
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

_POSES = ("extrinsics_c2w", "extrinsics")
_PREDICTED = {"depth", "depths", "depth_map", "depthmaps"}  # beside other conventions of "extrinsics"
_MAX_BYTES = 256 * 2**20


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes, last rows and rotations, and that there is no distortion."""
    arrays, others = _arrays(path)
    if _PREDICTED & set(others):
        raise FormatError(
            path, "expected a camera path, got what a network predicted, with depth: give it as a scene (--scene)"
        )
    name = next((name for name in _POSES if name in arrays), None)
    if name is None:
        there = ", ".join(name[:40] for name in sorted([*arrays, *others])[:12]) or "none"
        raise FormatError(
            path,
            "expected an array extrinsics_c2w (N, 4, 4) of world_from_camera, and intrinsics, as Matrix-Game's "
            f"camera.npz has them, got the arrays {there}; rename them, if they hold the same",
        )
    matrices = arrays[name]
    if set(_POSES) <= arrays.keys() and not np.array_equal(*(arrays[name] for name in _POSES)):
        raise FormatError(path, f"expected one of {' and '.join(_POSES)}, or both alike, got two that differ")
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or not 0 < len(matrices) <= MAX_FRAMES:
        raise FormatError(path, f"{name}: expected shape (N, 4, 4), got {matrices.shape}")
    check_frames(path, len(matrices), path.stat().st_size, 3 * matrices[0].nbytes)
    _check_intrinsics(path, arrays, options)
    times = options.times(path, len(matrices))

    poses = poses_of(path, matrices, times, lambda i: f"{name}[{i}]")
    unread = Unread((*_POSES, "intrinsics"))
    unread.check("", others)
    if options.intrinsics is None:
        params = _params(path, arrays["intrinsics"], len(poses))
        assert options.size is not None
        size = options.size
        rows = ((f"intrinsics[{i}]", row, size) for i, row in enumerate(params))
        found = trajectory(path, poses, cameras_of(path, options.intrinsics_mode, rows))
    else:
        found = trajectory(path, poses, options.intrinsics)
    unread.say(path)
    return found


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """The image size and times are not kept."""
    params = np.array([camera.params for camera in path_of_camera.cameras])
    with atomic_write(path) as file:
        np.savez(file, extrinsics_c2w=path_of_camera.world_from_camera, intrinsics=params)


def _check_intrinsics(path: Path, arrays: dict[str, Any], options: ReadOptions) -> None:
    """Check the intrinsics as far as possible before any pose is processed."""
    if options.intrinsics is not None:
        return
    if "intrinsics" not in arrays:
        raise FormatError(path, "expected an array intrinsics, or other ones in its place (intrinsics, --intrinsics)")
    if options.size is None:
        raise FormatError(path, "the file has no image size: give that of the anchor image (size, --size)")
    with errors_in(path):
        refuse_bent({name: value for name, value in arrays.items() if may_bend(name)})


def _arrays(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The known arrays, unpacked only if they are small enough and not pickled, and the names of the others."""
    with open_file(path) as file:
        found, others = read_npz(path, file, lambda name: name in (*_POSES, "intrinsics") or may_bend(name), _MAX_BYTES)
    arrays: dict[str, Any] = {}
    for name, array in found.items():
        if array.dtype.kind == "U" and array.ndim == 0 and may_bend(name):  # the name of a camera model
            with foreign_parser(path, f"{name}: not a text"):
                arrays[name] = str(array)
        elif array.dtype.kind not in "bfiu":
            raise FormatError(path, f"{name}: expected numbers, got {array.dtype}")
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # later checks refuse values that are not finite
                arrays[name] = array.astype(np.float64, copy=False)
    return arrays, others


def _params(path: Path, intrinsics: F64, frames: int) -> F64:
    """fx, fy, cx, cy of each frame, (N, 4)."""
    if intrinsics.shape[-2:] == (3, 3) and intrinsics.ndim <= 3:
        with errors_in(path):
            if intrinsics.ndim == 2:
                intrinsics = np.array(params_of_matrix("intrinsics", intrinsics))
            else:
                intrinsics = np.array([params_of_matrix(f"intrinsics[{i}]", k) for i, k in enumerate(intrinsics)])
    if intrinsics.shape == (4,):
        intrinsics = np.tile(intrinsics, (frames, 1))
    if intrinsics.shape != (frames, 4):
        raise FormatError(
            path, f"intrinsics: expected shape ({frames}, 4), (4,), ({frames}, 3, 3) or (3, 3), got {intrinsics.shape}"
        )
    return intrinsics
