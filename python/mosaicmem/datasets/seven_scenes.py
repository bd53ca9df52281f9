"""The layout of the 7-Scenes data set."""

from __future__ import annotations

import os
from pathlib import Path

from mosaicmem._images import image_size
from mosaicmem._opening import errors_in
from mosaicmem._reading import check_folder, numbered_files, read_matrix
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.cameras import assumed_intrinsics, given_intrinsics, intrinsics_in
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles

_DEFAULT = CameraIntrinsics(585.0, 585.0, 320.0, 240.0, 640, 480)
_WHOSE = "the camera of 7-Scenes (focal length 585 and the centre of 640x480 pixels)"
_UNITS_PER_METRE = 1000.0
_FPS = 30.0


class SevenScenes(FolderSequence):
    """A sequence in the layout of the 7-Scenes data set; frames are read on access.

    ``frame-NNNNNN.color.jpg`` (or .png), ``frame-NNNNNN.depth.png`` (16-bit millimetres; 0 and 65535 invalid),
    ``frame-NNNNNN.pose.txt`` (4x4 world_from_camera, metres) and ``camera-intrinsics.txt`` (3x3; in the folder or, as
    in 3DMatch, its parent), or a file of another name that `find_intrinsics` reads. Without any, a focal length of 585
    and the centre of 640x480 pixels are assumed, with a warning. The principal point is taken in this library's pixel
    frame. Time is the frame number at 30 frames per second.

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
        The folder has no frames, or a file in it is missing or invalid; the message names the file.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        No file has intrinsics, so they are assumed.
    """

    def __init__(self, folder: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> None:
        folder = check_folder(folder)
        colors = numbered_files(folder, r"frame-([0-9]+)\.color", "frame-NNNNNN.color.jpg or .png")
        frames = [FrameFiles(number, color, _sibling(color, "depth.png")) for number, color in colors.items()]
        camera = _camera(folder, frames[0].color, intrinsics)
        super().__init__(folder, frames, camera, units_per_metre=_UNITS_PER_METRE, invalid_depth=65535)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        frame = self._frames[index]
        path = _sibling(frame.color, "pose.txt")
        with errors_in(path):
            matrix = read_matrix(path, (4, 4), beside=frame.color)
            return CameraPose.from_world_from_camera(matrix, frame.number / _FPS)


def _camera(folder: Path, first: Path, given: CameraIntrinsics | None) -> CameraIntrinsics:
    size = image_size(first)
    if given is not None:
        return given_intrinsics(given, first, size)
    own = folder / "camera-intrinsics.txt"
    above = Path(os.path.abspath(folder)).parent / own.name  # Path(".") has no parent
    found = None if own.exists() else intrinsics_in(folder, size, _UNITS_PER_METRE, CameraIntrinsics.from_matrix)
    if found is not None:
        return found
    path = own if own.exists() else above
    if path.exists():
        with errors_in(path):
            return CameraIntrinsics.from_matrix(read_matrix(path, (3, 3)), *size)
    return assumed_intrinsics(folder, first, size, _DEFAULT, whose=_WHOSE, unless=f"write K (3x3) to {own.name} there")


def _sibling(color: Path, ending: str) -> Path:
    return color.with_name(f"{color.name.split('.')[0]}.{ending}")
