"""Record3D's export as EXR and JPEG: ``rgb/N.jpg``, ``depth/N.exr`` and ``metadata.json``.

``poses`` are (qx, qy, qz, qw, x, y, z), world_from_camera in metres with ARKit's axes, which are OpenGL's. ``K`` is
written by columns; ``perFrameIntrinsicCoeffs`` (fx, fy, cx, cy) go before it. Depth is in metres, of a lower
resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import as_array, check_number
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import numbered_files
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.camera.pose import OPENGL_FROM_OPENCV
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import PosedFrame, PosedFrames
from mosaicmem.errors import FormatError

FILE = "metadata.json"

_DEPTH = (".exr", ".png", ".npy", ".tiff")


def read(folder: Path) -> PosedFrames:
    """Checks that there is a pose for each image."""
    path = folder / FILE
    document = read_json_object(path)
    poses = document.get("poses")
    images = numbered_files(folder / "rgb", "([0-9]+)", "N.jpg")
    if not isinstance(poses, list) or max(images) >= len(poses):
        got = len(poses) if isinstance(poses, list) else "none"
        raise FormatError(path, f"poses: expected one for each image up to {max(images)}, got {got}")
    coefficients, times = document.get("perFrameIntrinsicCoeffs") or [], document.get("frameTimestamps") or []
    frames = []
    for number, color in images.items():
        with errors_in(path):
            row = as_array(f"poses[{number}]", poses[number], np.float64, (7,), finite=True)
            time = check_number("frameTimestamps", times[number]) if number < len(times) else number / _fps(document)
            opengl = CameraPose.from_quaternion([row[3], *row[:3]], row[4:], time)
            pose = CameraPose(opengl.world_from_camera @ OPENGL_FROM_OPENCV, time)
            lens = _lens(document, coefficients[number] if number < len(coefficients) else None, color)
        depth = next((d for s in _DEPTH if (d := folder / "depth" / f"{color.stem}{s}").is_file()), None)
        frames.append(PosedFrame(number, color, lens, pose, depth))
    return PosedFrames(folder, frames)


def _fps(document: dict[str, Any]) -> float:
    return check_number("fps", document.get("fps", 60.0), above=0.0)


def _lens(document: dict[str, Any], coefficients: Any, color: Path) -> Lens:
    size = image_size(color)
    stored = tuple(int(check_number(name, document.get(name, side))) for name, side in zip("wh", size, strict=True))
    if coefficients is not None:
        fx, fy, cx, cy = as_array("perFrameIntrinsicCoeffs", coefficients, np.float64, (4,), finite=True).tolist()
    else:
        if "K" not in document:
            raise ValueError("K: expected it, or perFrameIntrinsicCoeffs")
        k = as_array("K", document["K"], np.float64, (9,), finite=True)
        fx, fy, cx, cy = k[0], k[4], k[6], k[7]
    lens = Lens.of(CameraIntrinsics(fx, fy, cx, cy, *stored))
    if stored != size:
        if abs(size[0] * stored[1] / (size[1] * stored[0]) - 1) > 0.01:
            raise ValueError(
                f"w, h: expected the shape of {color.name}, {size[0]}x{size[1]}, got {stored[0]}x{stored[1]}"
            )
        lens = lens.scaled(*size)
    return lens
