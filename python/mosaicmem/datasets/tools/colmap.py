"""COLMAP's workspaces: a sparse model, its images, and depth of each image.

Depth is in ``stereo/depth_maps/NAME.geometric.bin`` (of COLMAP's dense workspace, else ``.photometric.bin``) or in a
folder ``depth`` or ``depths`` under the image's name with another suffix. Positions and depth are in the model's unit,
which is metres only if somebody scaled it. Lenses with distortion are read. Black pixels of ``masks`` are left out.
"""

from __future__ import annotations

from pathlib import Path

from mosaicmem._depth_maps import DEPTH_SUFFIXES
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import path_inside
from mosaicmem.camera.formats.colmap import poses_of_model
from mosaicmem.camera.formats.colmap_model import find_model, read_cameras, read_images
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames
from mosaicmem.errors import FormatError, suspect

_IMAGES = ("images", "rgb", "color", "input")
_DEPTHS = ("depth", "depths", "depth_maps")
_KINDS = (".geometric.bin", ".photometric.bin")


def read(folder: Path) -> PosedFrames:
    """Checks that images have the size of their cameras."""
    model = find_model(folder)
    if model is None:
        raise FormatError(folder, "expected a model of COLMAP, in sparse or sparse/0")
    cameras_file, cameras = read_cameras(model)
    images_file, images = read_images(model, cameras)
    with errors_in(cameras_file):
        lenses = {
            key: Lens(camera.model, tuple(camera.params.tolist()), *camera.size) for key, camera in cameras.items()
        }
    place = next((folder / name for name in _IMAGES if (folder / name).is_dir()), folder)
    poses = poses_of_model(images_file, images, [i / 30.0 for i in range(len(images))])
    frames, missing = [], 0
    for i, (image, pose) in enumerate(zip(images, poses, strict=True)):
        color = path_inside(place, image.name)
        if color is None:
            raise FormatError(images_file, f"expected the name of an image in the folder, got {image.name!r:.80}")
        if not color.is_file():
            missing += 1
            continue
        lens = lenses[image.camera]
        if image_size(color) != lens.size:
            lens = lens.scaled(*_checked_size(color, lens))
        mask = next(
            (
                p
                for p in (folder / "masks" / f"{image.name}.png", (folder / "masks" / image.name).with_suffix(".png"))
                if p.is_file()
            ),
            None,
        )
        frames.append(PosedFrame(i, color, lens, pose, _depth(folder, image.name), mask))
    if not frames:
        raise FormatError(place, f"expected the images of {images_file}, found none of {len(images)}")
    if missing:
        suspect(f"{images_file}: {missing} of {len(images)} images are not in {place}, and are left out")
    return PosedFrames(folder, frames, DepthCoding(invalid=65535), moving_is_white=False, unit="scene units")


def _checked_size(color: Path, lens: Lens) -> tuple[int, int]:
    size = image_size(color)
    if abs(size[0] * lens.height / (size[1] * lens.width) - 1) > 0.01:
        raise FormatError(
            color, f"expected the shape of its camera, {lens.width}x{lens.height}, got {size[0]}x{size[1]}"
        )
    return size


def _depth(folder: Path, name: str) -> Path | None:
    dense = [folder / "stereo" / "depth_maps" / f"{name}{kind}" for kind in _KINDS]
    plain = [(folder / place / name).with_suffix(suffix) for place in _DEPTHS for suffix in DEPTH_SUFFIXES]
    return next((path for path in (*dense, *plain) if path.is_file()), None)
