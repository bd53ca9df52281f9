"""``reconstruction.json`` of OpenSfM (and OpenDroneMap): cameras, and shots with camera_from_world.

``rotation`` is an axis times its angle, in radians; axes are OpenCV's. Focal lengths, and the principal point from the
middle, are in units of the longer side of the image. Shots come in the order of their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, as_array, check_integer, check_number
from mosaicmem._files import read_json
from mosaicmem._reading import in_name_order
from mosaicmem.camera.fields import refuse_bent
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for one reconstruction, undistorted perspective cameras of one size, and numbers."""
    document = read_json(path)
    if not isinstance(document, list) or not all(
        isinstance(each, dict) and isinstance(each.get("shots"), dict) for each in document
    ):
        raise FormatError(path, "expected a list of reconstructions with shots, as OpenSfM writes it")
    if len(document) != 1:
        counts = ", ".join(str(len(each["shots"])) for each in document[:8])
        raise FormatError(
            path,
            f"expected one reconstruction, got {len(document)} with {counts} shots, which share no frame of "
            "coordinates; keep one of them in the file",
        )
    shots, known = document[0]["shots"], document[0].get("cameras")
    if not isinstance(shots, dict) or not isinstance(known, dict) or not 0 < len(shots) <= MAX_FRAMES:
        raise FormatError(path, f"expected cameras and 1 to {MAX_FRAMES} shots, as objects by name")
    names = in_name_order(shots, str, path)
    matrices, cameras = np.tile(np.eye(4), (len(names), 1, 1)), FrameCameras(path, options.intrinsics_mode)
    for i, name in enumerate(names):
        try:
            shot = shots[name]
            matrices[i, :3, :3] = _rotation(as_array("rotation", shot["rotation"], np.float64, (3,), finite=True))
            matrices[i, :3, 3] = as_array("translation", shot["translation"], np.float64, (3,), finite=True)
            if options.intrinsics is None:
                params, size = _camera(known[shot["camera"]])
                options.check_size(size)
                cameras.add(name, params, size)
        except KeyError as error:
            raise FormatError(path, f"{name}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{name}: {error}") from None
    times = options.times(path, len(names))
    poses = poses_of(path, matrices, times, lambda i: names[i], "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())


def _camera(fields: dict[str, Any]) -> tuple[F64, tuple[int, int]]:
    """(fx, fy, cx, cy) and (width, height)."""
    if not isinstance(fields, dict):
        raise TypeError(f"camera: expected an object, got {type(fields).__name__}")
    known = {name: value for name, value in fields.items() if name != "projection_type"}
    kind = fields.get("projection_type", "perspective")
    if kind not in ("perspective", "brown"):
        raise ValueError(f"projection_type: expected perspective or brown, got {kind!r}; undistort the images first")
    refuse_bent(known)
    width, height = (check_integer(name, fields[name], minimum=1) for name in ("width", "height"))
    side = max(width, height)
    if kind == "brown":
        fx, fy, cx, cy = (check_number(name, fields[name]) for name in ("focal_x", "focal_y", "c_x", "c_y"))
    else:
        fx = fy = check_number("focal", fields["focal"])
        cx = cy = 0.0
    return np.array([fx * side, fy * side, width / 2 + cx * side, height / 2 + cy * side]), (width, height)


def _rotation(vector: F64) -> F64:
    """The matrix of an axis times its angle (Rodrigues)."""
    with np.errstate(over="ignore"):  # values may be huge
        angle = float(np.linalg.norm(vector))
    if not 0 < angle < np.inf:
        return np.eye(3) if angle == 0 else np.full((3, 3), np.nan)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
