"""The layout of the Replica sequences that iMAP rendered and NICE-SLAM distributes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_number
from mosaicmem._files import read_json_object
from mosaicmem._reading import check_folder, errors_in, numbered_files, read_numbers
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError

_FPS = 30.0
_MAX_JSON_BYTES = 1 << 16
_DEFAULT = {"w": 1200, "h": 680, "fx": 600.0, "fy": 600.0, "cx": 599.5, "cy": 339.5, "scale": 6553.5}


class Replica(FolderSequence):
    """A rendered sequence of Replica in the layout of iMAP and NICE-SLAM; images are read when asked for.

    ``results/frameNNNNNN.jpg`` (or .png), ``results/depthNNNNNN.png`` (16-bit, ``scale`` a metre, 0 invalid),
    ``traj.txt`` (a line of 16 numbers for each frame from 0: 4x4 world_from_camera, row by row, metres) and
    ``cam_params.json`` in the folder or the one that it is in: ``{"camera": {"w", "h", "fx", "fy", "cx", "cy",
    "scale"}}``, with pixel centres at integers; without it 1200x680, focal length 600, the centre, and 6553.5 a metre.
    Time is the frame number at 30 frames a second.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames or fewer poses than frames, or a file in it is not what it should be; the message names
        the file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = check_folder(folder)
        colors = numbered_files(folder / "results", r"frame([0-9]+)\.(?:jpg|jpeg|png)", "frameNNNNNN.jpg or .png")
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
        self._intrinsics, units_per_metre = _read_camera(folder)
        super().__init__(folder, frames, units_per_metre=units_per_metre)

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames."""
        return self._intrinsics

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        number = self.number(index)
        with errors_in(self._poses_path, self._lines[number]):
            return CameraPose.from_world_from_camera(self._poses[number].reshape(4, 4), number / _FPS)


def _read_camera(folder: Path) -> tuple[CameraIntrinsics, float]:
    """The intrinsics, and how many units of depth a metre has."""
    own = folder / "cam_params.json"
    shared = Path(os.path.abspath(folder)).parent / "cam_params.json"  # Path(".") has no parent
    path = next((path for path in (own, shared) if path.exists()), own)
    camera: Any = _DEFAULT
    if path.exists():
        camera = read_json_object(path, _MAX_JSON_BYTES).get("camera")
        if not isinstance(camera, dict) or not _DEFAULT.keys() <= camera.keys():
            raise FormatError(path, f'expected "camera" with {", ".join(_DEFAULT)}, got {str(camera)[:80]}')
    with errors_in(path):
        fx, fy, cx, cy = (check_number(name, camera[name]) for name in ("fx", "fy", "cx", "cy"))
        intrinsics = CameraIntrinsics.from_opencv([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], camera["w"], camera["h"])
        return intrinsics, check_number("scale", camera["scale"], minimum=1.0, maximum=1e9)
