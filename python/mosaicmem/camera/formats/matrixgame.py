"""Matrix-Game 3.5's camera.npz: ``extrinsics_c2w`` (N, 4, 4) world_from_camera, metres, and ``intrinsics``.

Intrinsics are (N, 4) or (4,) fx, fy, cx, cy, or (N, 3, 3) or (3, 3) K, in pixels of the anchor image, whose size is not
in the file. ``extrinsics`` is another name for the same.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._files import atomic_write
from mosaicmem._reading import open_file
from mosaicmem.camera.formats.options import MAX_FRAMES, ReadOptions, one_camera, trajectory
from mosaicmem.camera.pose import CameraPose
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

_POSES = ("extrinsics_c2w", "extrinsics")
_MAX_BYTES = 256 * 2**20
_NPZ_ERRORS = (  # what zipfile and NumPy raise on files that are damaged, encrypted, or lie about their sizes
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
)


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes, last rows and rotations."""
    arrays = _arrays(path)
    name = next((name for name in _POSES if name in arrays), None)
    if name is None:
        raise FormatError(path, f"expected an array extrinsics_c2w, got {', '.join(sorted(arrays)) or 'none'}")
    matrices = arrays[name]
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4) or not 0 < len(matrices) <= MAX_FRAMES:
        raise FormatError(path, f"{name}: expected shape (N, 4, 4), got {matrices.shape}")
    poses = []
    for i, (matrix, time) in enumerate(zip(matrices, options.times(len(matrices)), strict=True)):
        try:
            poses.append(CameraPose.from_world_from_camera(matrix, time))
        except ValueError as error:
            raise FormatError(path, f"{name}[{i}]: {error}") from None
    if options.intrinsics is not None:
        return trajectory(path, poses, options.intrinsics)
    if "intrinsics" not in arrays:
        raise FormatError(path, "expected an array intrinsics")
    if options.size is None:
        raise FormatError(path, "the file has no image size: give that of the anchor image (--size)")
    params = _params(path, arrays["intrinsics"], len(poses))
    cameras = [(f"intrinsics[{i}]", row, options.size) for i, row in enumerate(params)]
    return trajectory(path, poses, one_camera(path, cameras))


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """The image size and times are not kept."""
    params = np.tile(np.array(path_of_camera.intrinsics.params), (len(path_of_camera), 1))
    with atomic_write(path) as file:
        np.savez(file, extrinsics_c2w=path_of_camera.world_from_camera, intrinsics=params)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an npz file, unpacked only if they are small enough and none is pickled."""
    try:
        with open_file(path) as file:
            with zipfile.ZipFile(file) as archive:
                total = sum(entry.file_size for entry in archive.infolist())
            if total > _MAX_BYTES:
                raise FormatError(path, f"expected at most {_MAX_BYTES} bytes, got {total}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archived:
                wanted = [name for name in (*_POSES, "intrinsics") if name in archived.files]
                found = {name: archived[name] for name in wanted}
    except FormatError:
        raise
    except _NPZ_ERRORS as error:
        raise FormatError(path, f"not a readable npz file: {error}") from None
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise FormatError(path, f"{name}: expected numbers, got {array.dtype}")
    return {name: array.astype(np.float64) for name, array in found.items()}


def _params(path: Path, intrinsics: F64, frames: int) -> F64:
    """fx, fy, cx, cy of each frame, (N, 4)."""
    if intrinsics.shape[-2:] == (3, 3) and intrinsics.ndim <= 3:
        intrinsics = np.stack(
            [intrinsics[..., 0, 0], intrinsics[..., 1, 1], intrinsics[..., 0, 2], intrinsics[..., 1, 2]], axis=-1
        )
    if intrinsics.shape == (4,):
        intrinsics = np.tile(intrinsics, (frames, 1))
    if intrinsics.shape != (frames, 4):
        raise FormatError(
            path, f"intrinsics: expected shape ({frames}, 4), (4,), ({frames}, 3, 3) or (3, 3), got {intrinsics.shape}"
        )
    return intrinsics
