"""Folders of CUT3R's demo: ``color/N.png``, ``depth/N.npy``, ``conf/N.npy`` and ``camera/N.npz``.

``camera`` has ``pose``, world_from_camera with OpenCV axes, and ``intrinsics``, K in pixels. Depth and positions are in
the network's unit. Confidence grows from 1 without a limit; it counts as certain from 10 up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._images import image_size
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import errors_in, open_file
from mosaicmem._reading import numbered_files
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import PosedFrame, PosedFrames, if_there
from mosaicmem.errors import FormatError

_MAX_BYTES = 1 << 20
_FPS = 30.0
_CERTAIN = 10.0


def read(folder: Path) -> PosedFrames:
    """Checks that each image has its camera."""
    frames = []
    for number, color in numbered_files(folder / "color", "([0-9]+)", "NNNNNN.png").items():
        path = folder / "camera" / f"{color.stem}.npz"
        with open_file(path, beside=color) as file:
            arrays, _ = read_npz(path, file, lambda name: name in ("pose", "intrinsics"), _MAX_BYTES)
        if arrays.keys() != {"pose", "intrinsics"}:
            raise FormatError(path, f"expected pose and intrinsics, got {', '.join(arrays) or 'neither'}")
        with errors_in(path):
            pose = CameraPose.from_world_from_camera(arrays["pose"].astype(np.float64), number / _FPS)
            lens = Lens.of(CameraIntrinsics.from_matrix(arrays["intrinsics"].astype(np.float64), *image_size(color)))
        depth, confidence = (folder / name / f"{color.stem}.npy" for name in ("depth", "conf"))
        frames.append(PosedFrame(number, color, lens, pose, if_there(depth), None, if_there(confidence)))
    return PosedFrames(folder, frames, most_confidence=_CERTAIN, unit="scene units")
