"""Polycam's raw data: ``keyframes`` with images, cameras, depth and confidence, the corrected ones where there are any.

``cameras/TIME.json`` has fx, fy, cx, cy, width, height, and t_00 to t_23: the rows of world_from_camera in metres,
with ARKit's axes, which are OpenGL's. Depth is in millimetres, of a lower resolution; confidence goes to 255. Names are
times in microseconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import numbered_files
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames, if_there
from mosaicmem.errors import FormatError

_MAX_BYTES = 1 << 20
_TICKS = 1e6  # names of Polycam's files are microseconds


def read(folder: Path) -> PosedFrames:
    """Checks that each camera has its image."""
    keyframes = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    corrected = (keyframes / "corrected_images").is_dir() and (keyframes / "corrected_cameras").is_dir()
    kind = "corrected_" if corrected else ""
    images = numbered_files(keyframes / f"{kind}images", "([0-9]+)", "TIME.jpg")
    first, frames = min(images), []
    for number, (time, color) in enumerate(images.items()):
        path = keyframes / f"{kind}cameras" / f"{color.stem}.json"
        if not path.is_file():
            raise FormatError(path, f"missing, though {color.name} is there")
        camera = read_json_object(path, _MAX_BYTES)
        with errors_in(path):
            names = [f"t_{row}{column}" for row in range(3) for column in range(4)]
            lacking = [name for name in (*names, "fx", "fy", "cx", "cy", "width", "height") if name not in camera]
            if lacking:
                raise ValueError(f"{lacking[0]} is missing")
            values = [check_number(name, camera[name]) for name in names]
            matrix = np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
            pose = CameraPose.from_opengl(matrix, (time - first) / _TICKS)
            fx, fy, cx, cy = (check_number(name, camera[name]) for name in ("fx", "fy", "cx", "cy"))
            lens = Lens.of(CameraIntrinsics(fx, fy, cx, cy, int(camera["width"]), int(camera["height"])))
        if lens.size != image_size(color):
            raise FormatError(path, f"expected the size of {color.name}, got {lens.width}x{lens.height}")
        depth, confidence = (keyframes / name / f"{color.stem}.png" for name in ("depth", "confidence"))
        frames.append(PosedFrame(number, color, lens, pose, if_there(depth), None, if_there(confidence)))
    return PosedFrames(keyframes, frames, DepthCoding(1000.0))
