"""The layout of the Replica sequences that iMAP rendered and NICE-SLAM distributes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import check_folder, numbered_files, read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.cameras import assumed_intrinsics, given_intrinsics, intrinsics_in
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError, suspect

_FPS = 30.0
_MAX_JSON_BYTES = 1 << 16
_FIELDS = ("w", "h", "fx", "fy", "cx", "cy", "scale")
_DEFAULT = CameraIntrinsics(600.0, 600.0, 600.0, 340.0, 1200, 680)
_WHOSE = "the camera of Replica (focal length 600 and the centre of 1200x680 pixels; 6553.5 a metre of depth)"
_UNITS_PER_METRE = 6553.5


class Replica(FolderSequence):
    """A rendered sequence of Replica in the layout of iMAP and NICE-SLAM; images are read on access.

    ``results/frameNNNNNN.jpg`` (or .png), ``results/depthNNNNNN.png`` (16-bit, ``scale`` units per metre, 0
    invalid), ``traj.txt`` (one line of 16 numbers per frame, from 0: 4x4 world_from_camera, row-major, metres) and
    ``cam_params.json`` in the folder or its parent: ``{"camera": {"w", "h", "fx", "fy", "cx", "cy", "scale"}}``, with
    pixel centres at integers. Without it, and with a warning, depth is assumed to have 6553.5 units per metre, and
    intrinsics come from a file that `find_intrinsics` reads, or else are those of 1200x680 pixels, focal length 600 and
    a centred principal point. Time is the frame number at 30 frames per second.

    Parameters
    ----------
    folder : path
    intrinsics : CameraIntrinsics, optional
        Used instead of those of the folder; for images of the same size.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames, or frames without a pose, or a file in it is missing or invalid; the message names the
        file.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        The camera or the depth units are assumed, or there are more poses than frames.
    """

    def __init__(self, folder: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> None:
        folder = check_folder(folder)
        colors = numbered_files(folder / "results", "frame([0-9]+)", "frameNNNNNN.jpg or .png")
        frames = [
            FrameFiles(number, color, color.with_name(f"{color.stem.replace('frame', 'depth')}.png"))
            for number, color in colors.items()
        ]
        self._poses_path = folder / "traj.txt"
        self._poses, self._lines = read_numbers(self._poses_path, 16)
        if frames[-1].number >= len(self._poses):
            raise FormatError(
                self._poses_path,
                f"expected a pose for each frame up to {frames[-1].color.name}, got {len(self._poses)} poses",
            )
        left = len(self._poses) - 1 - frames[-1].number
        if left:
            suspect(
                f"{self._poses_path}: {left} of {len(self._poses)} poses are of no frame, the last being "
                f"{frames[-1].color.name}; frame N has pose N: if images were thinned out and numbered anew, thin out "
                "the poses as well"
            )
        camera, units_per_metre = _camera(folder, frames[0].color, intrinsics)
        super().__init__(folder, frames, camera, units_per_metre=units_per_metre)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        number = self.number(index)
        with errors_in(self._poses_path, self._lines[number]):
            return CameraPose.from_world_from_camera(self._poses[number].reshape(4, 4), number / _FPS)


def _camera(folder: Path, first: Path, given: CameraIntrinsics | None) -> tuple[CameraIntrinsics, float]:
    """The intrinsics, and the depth units per metre."""
    size = image_size(first)
    own = folder / "cam_params.json"
    shared = Path(os.path.abspath(folder)).parent / own.name  # Path(".") has no parent
    path = next((path for path in (own, shared) if path.exists()), None)
    if path is not None:
        camera, units_per_metre = _read_camera(path)
        if given is None and (camera.width, camera.height) != size:
            expected = f"{camera.width}x{camera.height}"
            raise FormatError(first, f"expected {expected} pixels, as {path} says, got {size[0]}x{size[1]}")
        return camera if given is None else given_intrinsics(given, first, size), units_per_metre
    found = intrinsics_in(folder, size, _UNITS_PER_METRE, CameraIntrinsics.from_opencv) if given is None else given
    if found is None:
        unless = f"write {own.name} there"
        return assumed_intrinsics(folder, first, size, _DEFAULT, whose=_WHOSE, unless=unless), _UNITS_PER_METRE
    suspect(f"{folder}: no {own.name} says how deep a value of depth is; assumed are {_UNITS_PER_METRE:g} a metre")
    return given_intrinsics(found, first, size), _UNITS_PER_METRE


def _read_camera(path: Path) -> tuple[CameraIntrinsics, float]:
    camera: Any = read_json_object(path, _MAX_JSON_BYTES).get("camera")
    if not isinstance(camera, dict) or not camera.keys() >= set(_FIELDS):
        raise FormatError(path, f'expected "camera" with {", ".join(_FIELDS)}, got {str(camera)[:80]}')
    with errors_in(path):
        fx, fy, cx, cy = (check_number(name, camera[name]) for name in ("fx", "fy", "cx", "cy"))
        intrinsics = CameraIntrinsics.from_opencv([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], camera["w"], camera["h"])
        return intrinsics, check_number("scale", camera["scale"], minimum=1.0, maximum=1e9)
