"""``sfm_data.json`` of openMVG: views, intrinsics, and poses as a rotation, camera_from_world, and a centre.

Axes are OpenCV's. Views without a pose are left out, with a warning; the others come in the order of their file names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, as_array, check_integer, check_number
from mosaicmem._files import read_json_object
from mosaicmem._reading import in_name_order
from mosaicmem.camera.fields import is_nothing
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError, suspect

KEYS = frozenset({"views", "intrinsics", "extrinsics"})


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks for undistorted pinhole cameras of one size, numbers and rotations."""
    document = read_json_object(path)
    try:
        views = [_data(entry) for entry in _entries(document, "views").values()]
        lenses, places = _entries(document, "intrinsics"), _entries(document, "extrinsics")
        names = [str(view["filename"]) for view in views]
        known = [i for i, view in enumerate(views) if view["id_pose"] in places]
    except KeyError as error:
        raise FormatError(path, f"views: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise FormatError(path, str(error)) from None
    if not known:
        raise FormatError(path, f"expected views with a pose, got none of {len(views)}")
    if len(known) < len(views):
        suspect(f"{path}: {len(views) - len(known)} of {len(views)} views have no pose and are left out")
    order = in_name_order(known, lambda i: names[i], path)
    matrices, cameras = np.tile(np.eye(4), (len(order), 1, 1)), FrameCameras(path, options.intrinsics_mode)
    for row, i in enumerate(order):
        try:
            place = places[views[i]["id_pose"]]
            rotation = as_array("rotation", place["rotation"], np.float64, (3, 3), finite=True)
            centre = as_array("center", place["center"], np.float64, (3,), finite=True)
            with np.errstate(over="ignore", invalid="ignore"):  # values may be huge
                matrices[row, :3, :3], matrices[row, :3, 3] = rotation, -rotation @ centre
            if options.intrinsics is None:
                params, size = _camera(lenses[views[i]["id_intrinsic"]])
                options.check_size(size)
                cameras.add(names[i], params, size)
        except KeyError as error:
            raise FormatError(path, f"{names[i]}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{names[i]}: {error}") from None
    times = options.times(path, len(order))
    poses = poses_of(path, matrices, times, lambda row: names[order[row]], "camera_from_world")
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())


def _entries(document: dict[str, Any], name: str) -> dict[int, Any]:
    """A list of keys and values as a mapping."""
    entries = document[name]
    if not isinstance(entries, list) or len(entries) > MAX_FRAMES:
        raise TypeError(f"{name}: expected a list of at most {MAX_FRAMES} entries")
    found = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), dict):
            raise TypeError(f"{name}: expected objects with key and value")
        found[check_integer(f"{name}: key", entry["key"])] = entry["value"]
    return found


def _data(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a polymorphic object."""
    data = value.get("ptr_wrapper", {})
    data = data.get("data") if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise TypeError("views, intrinsics: expected ptr_wrapper with data in each value")
    return data


def _camera(value: dict[str, Any]) -> tuple[F64, tuple[int, int]]:
    data = _data(value)
    bent = {name: field for name, field in data.items() if name.startswith("disto") and not is_nothing(field)}
    if bent:
        name = next(iter(bent))
        raise ValueError(f"expected no distortion, got {name} = {bent[name]!s:.60}; undistort the images first")
    width, height = (check_integer(name, data[name], minimum=1) for name in ("width", "height"))
    focal = check_number("focal_length", data["focal_length"])
    centre = as_array("principal_point", data["principal_point"], np.float64, (2,), finite=True)
    return np.array([focal, focal, *centre]), (width, height)
