"""``cameras.json`` of 3D Gaussian splatting: a list of cameras with position, rotation and focal lengths.

``rotation`` (3, 3) and ``position`` are world_from_camera with OpenCV axes; fx, fy in pixels of an image of ``width`` x
``height`` whose middle is the principal point. Frames come in the order of ``img_name``: the file begins with those
that were kept for tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import as_array, check_integer, check_number
from mosaicmem._files import read_json
from mosaicmem._reading import in_name_order
from mosaicmem.camera.fields import Unread, refuse_bent
from mosaicmem.camera.formats.options import MAX_FRAMES, FrameCameras, ReadOptions, poses_of, trajectory
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.errors import FormatError

_READ = ("position", "rotation", "fx", "fy", "width", "height")
_HARMLESS = ("id", "img_name")


def read(path: Path, options: ReadOptions) -> CameraTrajectory:
    """Checks shapes and rotations."""
    entries = read_json(path)
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FRAMES:
        raise FormatError(path, f"expected a list of 1 to {MAX_FRAMES} cameras")
    order = list(range(len(entries)))
    if all(isinstance(entry, dict) and isinstance(entry.get("img_name"), str) for entry in entries):
        order = in_name_order(order, lambda i: entries[i]["img_name"], path)
    unread, cameras = Unread((*_READ, *_HARMLESS)), FrameCameras(path, options.intrinsics_mode)
    matrices = np.tile(np.eye(4), (len(entries), 1, 1))
    for row, i in enumerate(order):
        where, entry = f"[{i}]", entries[i]
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"expected an object, got {type(entry).__name__}")
            unread.check(where, entry)
            refuse_bent(entry)
            matrices[row, :3, :3] = as_array("rotation", entry["rotation"], np.float64, (3, 3), finite=True)
            matrices[row, :3, 3] = as_array("position", entry["position"], np.float64, (3,), finite=True)
            if options.intrinsics is None:
                width, height = (check_integer(name, entry[name], minimum=1) for name in ("width", "height"))
                focal = [check_number(name, entry[name]) for name in ("fx", "fy")]
                options.check_size((width, height))
                cameras.add(where, np.array([*focal, width / 2, height / 2]), (width, height))
        except KeyError as error:
            raise FormatError(path, f"{where}: {error.args[0]} is missing") from None
        except (TypeError, ValueError) as error:
            raise FormatError(path, f"{where}: {error}") from None
    poses = poses_of(path, matrices, options.times(path, len(entries)), lambda row: f"[{order[row]}]")
    unread.say(path)
    return trajectory(path, poses, options.intrinsics or cameras.intrinsics())
