"""Folders without a description, whose parts have the usual names: images, a trajectory, depth, masks, confidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosaicmem.camera.formats import detect_format
from mosaicmem.datasets.described import WITHOUT_INTRINSICS, read_described
from mosaicmem.datasets.intrinsics_files import find_intrinsics
from mosaicmem.datasets.posed import PosedFrames
from mosaicmem.errors import FormatError, suspect

_IMAGES = ("images", "image", "rgb", "color", "colors", "frames", "imgs")
_DEPTHS = ("depth", "depths", "depth_maps", "depthmaps")
_MASKS = ("moving", "dynamic_masks", "dynamic_mask")
_CONFIDENCES = ("confidence", "confidences", "conf")
_TRAJECTORIES = (
    *("cameras.json", "trajectory.json", "transforms.json", "camera_path.json", "reconstruction.json", "sfm_data.json"),
    *("trajectory.txt", "traj.txt", "poses.txt", "pose.txt", "groundtruth.txt", "camera_poses.txt", "gt.txt"),
    *("trajectory.log", "traj.log", "camera.npz", "cameras.npz", "poses_bounds.npy", "bundle.out"),
    *(
        "cam0_to_world.txt",
        "pred_traj.txt",
        "trajectory.tum",
        "poses.tum",
        "KeyFrameTrajectory.txt",
        "CameraTrajectory.txt",
    ),
)
PATTERNS = ("|".join(_IMAGES), "|".join(_TRAJECTORIES), "|".join(_DEPTHS))
"""Of the folders that `read` reads."""


def read(folder: Path) -> PosedFrames:
    """The frames of a folder; what was taken for what is said in a `SuspiciousInput`.

    Raises
    ------
    FormatError
        There are several trajectories, or the camera is not known.
    """
    trajectories = [name for name in _TRAJECTORIES if (folder / name).is_file()]
    if len(trajectories) != 1:
        raise FormatError(
            folder,
            f"expected one camera path, got {', '.join(trajectories)}; say which in dataset.json: "
            '{"images": "...", "trajectory": "...", "depth": "..."}',
        )
    fields: dict[str, Any] = {
        name: next(choice for choice in choices if (folder / choice).is_dir())
        for name, choices in (("images", _IMAGES), ("depth", _DEPTHS), ("masks", _MASKS), ("confidence", _CONFIDENCES))
        if any((folder / choice).is_dir() for choice in choices)
    }
    fields["trajectory"] = trajectories[0]
    path = folder / trajectories[0]
    if detect_format(path) in WITHOUT_INTRINSICS:
        fields["intrinsics"] = _intrinsics(folder)
    parts = ", ".join(f"{name} in {value}" for name, value in fields.items() if isinstance(value, str))
    suspect(
        f"{folder}: no dataset.json says what is where; taken are {parts}; integer depth in millimetres, poses in the "
        "order of the images' names"
    )
    return read_described(folder, folder / "dataset.json", fields)


def _intrinsics(folder: Path) -> list[float]:
    from mosaicmem._images import image_size

    images = next(folder / name for name in _IMAGES if (folder / name).is_dir())
    first = next((path for path in sorted(images.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")), None)
    if first is None:
        raise FormatError(images, "expected JPEG or PNG images, found none")
    found = find_intrinsics(folder, image_size(first), 1000.0)
    if found is None:
        raise FormatError(folder, "the camera path has no intrinsics: write fx fy cx cy to intrinsics.txt there")
    matrix = found[1]
    return [float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])]
