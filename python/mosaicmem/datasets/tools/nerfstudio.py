"""nerfstudio's folders: transforms.json with ``file_path``, ``depth_file_path`` and ``mask_path`` for each frame.

Poses are world_from_camera with OpenGL axes; see `mosaicmem.camera.formats.nerfstudio`. Depth, in integers
and in floating point, is in thousandths of the positions' unit unless ``depth_unit_scale_factor`` or
``integer_depth_scale`` says otherwise; that unit is metres only if somebody saw to it. Black pixels of masks are left
out. Distorted and fisheye lenses are read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import path_inside
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.camera.formats import load_trajectory
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames
from mosaicmem.errors import FormatError, suspect

FILE = "transforms.json"

_DEPTH = ("depth_file_path", "depth_path")
_MASK = ("mask_path", "mask_file_path")
_RADIAL, _TANGENTIAL = ("k1", "k2", "k3", "k4"), ("p1", "p2")
_FISHEYES = ("OPENCV_FISHEYE", "FISHEYE", "EQUIDISTANT")
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
_MILLIMETRE = 1e-3
_SUFFIXES = (".png", ".jpg", ".jpeg")


def read(folder: Path) -> PosedFrames:
    """Checks that each frame has an image, and that the lens is one of COLMAP's models."""
    path = folder / FILE
    document = read_json_object(path)
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise FormatError(path, "frames: expected a list of objects, one for each frame")
    stand_in = CameraIntrinsics(1.0, 1.0, 0.5, 0.5, 1, 1)  # lenses are read here
    poses = load_trajectory(path, "nerfstudio", intrinsics=stand_in)
    found, missing = [], 0
    for i, frame in enumerate(frames):
        color = _file(folder, path, i, frame, ("file_path",))
        if color is None or not color.is_file():
            missing += 1
            continue
        with errors_in(path):
            lens = _lens({**document, **frame}, image_size(color), f"frames[{i}]")
        depth, mask = (_file(folder, path, i, frame, names) for names in (_DEPTH, _MASK))
        found.append(PosedFrame(i, color, lens, poses[i], depth, mask))
    if not found:
        raise FormatError(path, f"expected the images of {len(frames)} frames, found none in {folder}")
    if missing:
        suspect(f"{path}: {missing} of {len(frames)} frames have no image file, and are left out")
    return PosedFrames(folder, found, _coding(path, document), moving_is_white=False, unit="scene units")


def _file(folder: Path, path: Path, i: int, frame: dict[str, Any], names: tuple[str, ...]) -> Path | None:
    """The file that the first of these fields names; Blender leaves out the suffix of images."""
    name = next((frame[name] for name in names if frame.get(name)), None)
    if name is None:
        return None
    file = path_inside(folder, name)
    if file is None:
        raise FormatError(path, f"frames[{i}]: expected the name of a file in the folder, got {name!r:.80}")
    return (
        file if file.suffix else next((file.with_suffix(s) for s in _SUFFIXES if file.with_suffix(s).is_file()), file)
    )


def _coding(path: Path, document: dict[str, Any]) -> DepthCoding:
    factor = document.get("depth_unit_scale_factor", document.get("integer_depth_scale", _MILLIMETRE))
    with errors_in(path):
        units = 1 / check_number("depth_unit_scale_factor", factor, minimum=1e-9, maximum=1e6)
    return DepthCoding(units, 65535, units)


def _lens(fields: dict[str, Any], size: tuple[int, int], where: str) -> Lens:
    stored = tuple(
        int(check_number(name, fields.get(name, side), minimum=1)) for name, side in zip("wh", size, strict=True)
    )
    model = str(fields.get("camera_model", "OPENCV")).upper()
    fx, fy = _focal(fields, "x", stored[0]), _focal(fields, "y", stored[1])
    if fx is None and fy is None:
        raise ValueError(f"{where}: expected a focal length fl_x or a field of view camera_angle_x, got neither")
    focal = (fx or fy or 1.0, fy or fx or 1.0)
    centre = (check_number("cx", fields.get("cx", stored[0] / 2)), check_number("cy", fields.get("cy", stored[1] / 2)))
    k1, k2, k3, k4, p1, p2 = (check_number(name, fields.get(name) or 0.0) for name in (*_RADIAL, *_TANGENTIAL))
    if model in _FISHEYES or fields.get("is_fisheye"):
        lens = Lens("OPENCV_FISHEYE", (*focal, *centre, k1, k2, k3, k4), *stored)
    elif model not in _PINHOLES:
        raise ValueError(
            f"{where}: camera_model: expected one of {', '.join((*_PINHOLES, *_FISHEYES))}, got {model[:40]}"
        )
    elif k3 or k4:
        lens = Lens("FULL_OPENCV", (*focal, *centre, k1, k2, p1, p2, k3, k4, 0.0, 0.0), *stored)
    else:
        lens = Lens("OPENCV", (*focal, *centre, k1, k2, p1, p2), *stored)
    if stored != size:
        if abs(size[0] * stored[1] / (size[1] * stored[0]) - 1) > 0.01:
            raise ValueError(f"{where}: expected an image of {stored[0]}x{stored[1]}, got {size[0]}x{size[1]}")
        lens = lens.scaled(*size)
    return lens


def _focal(fields: dict[str, Any], axis: str, side: int) -> float | None:
    if f"fl_{axis}" in fields:
        return check_number(f"fl_{axis}", fields[f"fl_{axis}"], above=0.0)
    if f"camera_angle_{axis}" in fields:
        angle = check_number(f"camera_angle_{axis}", fields[f"camera_angle_{axis}"], above=0.0, maximum=3.14)
        return 0.5 * side / math.tan(0.5 * angle)
    return None
