"""ICL-NUIM's TUM-compatible trajectories: ``associations.txt``, ``rgb``, ``depth`` and a ``*.gt.freiburg`` of poses.

The camera was rendered in a left-handed world: its second focal length is -480, so poses are mirrored along y on both
sides. Focal lengths 481.2 and 480, principal point (319.5, 239.5) with pixel centres at integers; depth has 5000 units
a metre. A line of associations is NUMBER depth/N.png NUMBER rgb/N.png; poses carry the same numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import path_inside, read_lines, read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames
from mosaicmem.errors import FormatError, suspect

_K = [[481.2, 0, 319.5], [0, 480.0, 239.5], [0, 0, 1]]
_SIZE = (640, 480)
_FPS = 30.0
_MOST_NUMBER = 1 << 20
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


def read(folder: Path) -> PosedFrames:
    """Checks that images have 640x480 pixels. Frames without a pose are left out, with a warning."""
    files = sorted(folder.glob("*.gt.freiburg"))
    if len(files) != 1:
        raise FormatError(folder, f"expected one *.gt.freiburg of poses, got {len(files)}")
    rows, lines = read_numbers(files[0], 8)
    by_number = {int(row[0]): i for i, row in enumerate(rows) if abs(row[0]) < _MOST_NUMBER}
    lens = Lens.of(CameraIntrinsics.from_opencv(_K, *_SIZE))
    frames: list[PosedFrame] = []
    left, path = 0, folder / "associations.txt"
    for line, text in read_lines(path):
        words = text.split()
        found = [inside for word in words[1::2] if (inside := path_inside(folder, word)) is not None]
        names = {next(iter(each.relative_to(folder).parts), ""): each for each in found}
        if len(words) != 4 or not words[0].isdecimal() or names.keys() != {"rgb", "depth"}:
            raise FormatError(path, f"expected NUMBER depth/N.png NUMBER rgb/N.png, got {text[:80]!r}", line)
        number = int(words[0])
        at = by_number.get(number)
        if at is None:
            left += 1
            continue
        _, x, y, z, qx, qy, qz, qw = rows[at]
        with errors_in(files[0], lines[at]):
            stored = CameraPose.from_quaternion([qw, qx, qy, qz], [x, y, z], number / _FPS)
            pose = CameraPose(_MIRROR @ stored.world_from_camera @ _MIRROR, number / _FPS)
        color = names["rgb"]
        if not frames and image_size(color) != _SIZE:
            raise FormatError(color, f"expected {_SIZE[0]}x{_SIZE[1]} pixels, as ICL-NUIM has")
        frames.append(PosedFrame(number, color, lens, pose, names["depth"]))
    if not frames:
        raise FormatError(path, f"expected frames with poses in {files[0].name}, found none")
    if left:
        suspect(f"{path}: {left} frames have no pose in {files[0].name}, and are left out")
    return PosedFrames(folder, sorted(frames, key=lambda frame: frame.number), DepthCoding(5000.0))
