"""The layout of the 7-Scenes data set."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from mosaicmem._reading import check_folder, errors_in, image_size, numbered_files, read_matrix
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles

_FPS = 30.0


class SevenScenes(FolderSequence):
    """A sequence in the layout of the 7-Scenes data set; frames are read when asked for.

    ``frame-NNNNNN.color.jpg`` (or .png), ``frame-NNNNNN.depth.png`` (16-bit millimetres; 0 and 65535 invalid),
    ``frame-NNNNNN.pose.txt`` (4x4 world_from_camera, metres) and, if it is there, ``camera-intrinsics.txt`` (3x3; else
    focal length 585 and the centre of 640x480). The principal point is taken in this library's pixel frame. Time is the
    frame number at 30 frames a second.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames, or a file in it is not what it should be; the message names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = check_folder(folder)
        colors = numbered_files(folder, r"frame-([0-9]+)\.color\.(?:jpg|jpeg|png)", "frame-NNNNNN.color.jpg or .png")
        frames = (FrameFiles(number, color, _sibling(color, "depth.png")) for number, color in colors.items())
        super().__init__(folder, frames, units_per_metre=1000, invalid_depth=65535)

    @cached_property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames; the image size is that of the first."""
        size = image_size(self._frames[0].color)
        path = self.folder / "camera-intrinsics.txt"
        if path.exists():
            with errors_in(path):
                return CameraIntrinsics.from_matrix(read_matrix(path, (3, 3)), *size)
        return CameraIntrinsics(585.0, 585.0, 320.0, 240.0, 640, 480).scaled(*size)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        frame = self._frames[index]
        path = _sibling(frame.color, "pose.txt")
        with errors_in(path):
            matrix = read_matrix(path, (4, 4), beside=frame.color)
            return CameraPose.from_world_from_camera(matrix, frame.number / _FPS)


def _sibling(color: Path, ending: str) -> Path:
    return color.with_name(f"{color.name.split('.')[0]}.{ending}")
