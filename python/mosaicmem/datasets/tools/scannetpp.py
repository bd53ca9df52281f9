"""The iPhone stream of ScanNet++: ``rgb``, ``depth`` and ``pose_intrinsic_imu.json``, as the toolkit extracts them.

For each ``frame_NNNNNN``: ``aligned_pose``, world_from_camera in metres with OpenCV axes (``pose``, of ARKit, where
there is none), ``intrinsic``, K in pixels of the colour image with pixel centres at integers, and ``timestamp``. Depth
is in millimetres, of a lower resolution. The DSLR stream is a folder of nerfstudio without depth, for ``import``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import numbered_files
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames, if_there
from mosaicmem.errors import FormatError, suspect

FILE = "pose_intrinsic_imu.json"


def read(folder: Path) -> PosedFrames:
    """Images without an entry are left out, with a warning."""
    path = folder / FILE
    document = read_json_object(path)
    images = numbered_files(folder / "rgb", "frame_([0-9]+)", "frame_NNNNNN.jpg")
    frames, left, unaligned, start = [], 0, 0, None
    for number, color in images.items():
        entry: Any = document.get(color.stem)
        if not isinstance(entry, dict):
            left += 1
            continue
        unaligned += "aligned_pose" not in entry
        with errors_in(path):
            if "intrinsic" not in entry or not {"aligned_pose", "pose"} & entry.keys():
                raise ValueError(f"{color.stem}: expected aligned_pose or pose, and intrinsic")
            time = check_number("timestamp", entry.get("timestamp", number / 60))
            start = time if start is None else start
            pose = CameraPose.from_world_from_camera(entry.get("aligned_pose", entry.get("pose")), time - start)
            lens = Lens.of(CameraIntrinsics.from_opencv(entry["intrinsic"], *image_size(color)))
        depth = folder / "depth" / f"{color.stem}.png"
        frames.append(PosedFrame(number, color, lens, pose, if_there(depth)))
    if not frames:
        raise FormatError(path, f"expected poses of the images in {folder / 'rgb'}, found none")
    if left:
        suspect(f"{path}: {left} of {len(images)} images have no entry, and are left out")
    if 0 < unaligned < len(frames):
        raise FormatError(path, f"expected aligned_pose in every entry or in none, got {unaligned} without it")
    return PosedFrames(folder, frames, DepthCoding(1000.0))
