"""TartanAir's trajectories: images, depth and poses of the left camera, of version 1 or 2.

Version 1 has ``image_left``, ``depth_left`` (float32 .npy, metres) and ``pose_left.txt``; version 2
``image_lcam_front``, ``depth_lcam_front`` (.npy, or float32 in the four bytes of a PNG pixel) and
``pose_lcam_front.txt``. Poses are world_from_camera with north-east-down axes; focal length 320 and the
middle of the image, as both versions have them. Sky is farther than 1 km, and has no depth here.
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._images import image_size
from mosaicmem._reading import numbered_files
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.camera.formats import load_trajectory
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames
from mosaicmem.errors import FormatError

_FOCAL = 320.0
_SIZES = ((640, 480), (640, 640))
_FARTHEST = 1000.0
_NAMES = (
    ("image_left", "depth_left", "pose_left.txt"),
    ("image_lcam_front", "depth_lcam_front", "pose_lcam_front.txt"),
)


def read(folder: Path) -> PosedFrames:
    """Checks that there is a pose for each image."""
    colors, depths, poses_name = next(names for names in _NAMES if (folder / names[0]).is_dir())
    images = numbered_files(folder / colors, "([0-9]+)_l(?:eft|cam_front)", "NNNNNN_left.png")
    first = next(iter(images.values()))
    size = image_size(first)
    if size not in _SIZES:
        raise FormatError(first, f"expected 640x480 or 640x640 pixels, as TartanAir has, got {size[0]}x{size[1]}")
    camera = CameraIntrinsics(_FOCAL, _FOCAL, size[0] / 2, size[1] / 2, *size)
    poses = load_trajectory(folder / poses_name, "tartanair", intrinsics=camera)
    if len(poses) <= max(images):
        raise FormatError(folder / poses_name, f"expected a pose for each image up to {max(images)}, got {len(poses)}")
    frames = []
    for number, color in images.items():
        depth = next((d for s in (".npy", ".png") if (d := folder / depths / f"{color.stem}_depth{s}").is_file()), None)
        frames.append(PosedFrame(number, color, Lens.of(camera), poses[number], depth))
    return PosedFrames(folder, frames, DepthCoding(packed=True, farthest=_FARTHEST))
