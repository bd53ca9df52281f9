"""HY-WorldPlay's pose JSON: {"0": {"extrinsic": world_from_camera 4x4, "K": 3x3 in pixels}, "1": ...}.

One entry per latent frame, in numeric order. The image size is taken to be 2 cx by 2 cy pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, as_array
from mosaicmem._files import read_json_object, write_json
from mosaicmem.camera.fields import Unread, refuse_bent
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.intrinsics import CameraIntrinsics, params_of_matrix
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks the numbering, K, last rows and rotations, and that the image size is whole."""
    document = read_json_object(path)
    if not 0 < len(document) <= MAX_FRAMES:
        raise FormatError(path, f'expected 1 to {MAX_FRAMES} keys "0", "1", ..., got {len(document)}')
    if not all(str(i) in document for i in range(len(document))):
        odd = min(key for key in document if not _is_index(key, len(document)))
        raise FormatError(path, f'expected the keys "0", "1", ... without a gap, and no other, got "{odd:.40}"')
    times = options.times(path, len(document))
    unread = Unread(("extrinsic", "K"))
    matrices, camera = np.empty((len(document), 4, 4)), FrameCameras(path, options.intrinsics_mode)
    for i in range(len(document)):
        try:
            entry = document[str(i)]
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object, got {type(entry).__name__}")
            unread.check(f'"{i}"', entry)
            matrices[i] = as_array("extrinsic", entry["extrinsic"], np.float64, (4, 4), finite=True)
            if options.intrinsics is None:
                refuse_bent(entry)
                camera.add(f'"{i}"', *_camera(entry, options))
        except KeyError as error:
            raise FormatError(path, f'"{i}": {error.args[0]} is missing') from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f'"{i}": {error}') from None

    poses = poses_of(path, matrices, times, lambda i: f'"{i}"')
    found = trajectory(path, poses, options.intrinsics or camera.intrinsics())
    unread.say(path)
    if options.intrinsics is None and options.size is None:
        _suspect_pixel_centres(path, found.cameras[0])
    return found


def write(path: Path, path_of_camera: CameraTrajectory) -> None:
    """Times are not kept.

    Raises
    ------
    ValueError
        The principal point is not at the image centre, where the format assumes it.
    """
    for k in dict.fromkeys(path_of_camera.cameras):
        if not np.allclose([2 * k.cx, 2 * k.cy], [k.width, k.height], rtol=0, atol=1e-6):
            raise ValueError(
                f"trajectory: expected a principal point in the middle of the image ({k.width / 2:g}, "
                f"{k.height / 2:g}), since HY-WorldPlay takes the image as 2 cx by 2 cy pixels, got ({k.cx:g}, "
                f"{k.cy:g})"
            )
    entries: dict[str, Any] = {
        str(i): {"extrinsic": pose.world_from_camera.tolist(), "K": k.matrix.tolist()}
        for i, (pose, k) in enumerate(zip(path_of_camera, path_of_camera.cameras, strict=True))
    }
    write_json(path, entries)


def _is_index(key: str, count: int) -> bool:
    return key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < count and str(int(key)) == key


def _suspect_pixel_centres(path: Path, camera: CameraIntrinsics) -> None:
    """Images rarely have two odd sides, but 2 cx by 2 cy does if integer coordinates are pixel centres."""
    if camera.width % 2 and camera.height % 2:
        suspect(
            f"{path}: an image of 2 cx by 2 cy is {camera.width}x{camera.height} pixels; a K whose integer coordinates "
            "are pixel centres? add 0.5 to cx and cy"
        )


def _camera(entry: dict[str, Any], options: ReadOptions) -> tuple[F64, tuple[int, int]]:
    params = params_of_matrix("K", entry["K"])
    cx, cy = params[2:]
    if not (np.isfinite(2 * cx) and np.isfinite(2 * cy)):
        raise ValueError(f"K: expected a principal point in pixels, got ({cx:g}, {cy:g})")
    size = options.size
    if size is None or np.allclose(size, [2 * cx, 2 * cy], atol=1e-3):
        width, height = 2 * cx, 2 * cy
        if not (width > 1 and height > 1 and np.allclose([width, height], np.round([width, height]), atol=1e-3)):
            raise ValueError(
                f"K: expected an image of 2 cx by 2 cy whole pixels, got {width:g}x{height:g}; normalised?"
            )
        size = (round(width), round(height))
    else:
        options.check_size((round(2 * cx), round(2 * cy)))
    return np.array(params), size
