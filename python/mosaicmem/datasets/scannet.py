"""The layout that ScanNet's SensReader exports."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from mosaicmem._arrays import U8
from mosaicmem._reading import check_folder, errors_in, image_size, numbered_files, read_color, read_matrix
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError

_FPS = 30.0


class ScanNet(FolderSequence):
    """A scan of ScanNet as SensReader exports it; images are read when asked for.

    ``color/N.jpg``, ``depth/N.png`` (16-bit millimetres, 0 invalid), ``pose/N.txt`` (4x4 world_from_camera, metres) and
    ``intrinsic/intrinsic_depth.txt`` (4x4, with pixel centres at integers). Frames whose pose is not finite, which is
    how ScanNet marks that tracking was lost, are left out. Colour is resized to the size of depth, by averaging areas,
    and taken to be registered to it. Time is the frame number at 30 frames a second.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames with a pose, or a file in it is not what it should be; the message names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = check_folder(folder)
        frames, self._poses = [], []
        for number, color in numbered_files(folder / "color", r"([0-9]+)\.(?:jpg|jpeg|png)", "N.jpg or .png").items():
            matrix = read_matrix(_pose_path(folder, color), (4, 4), beside=color)
            if np.isfinite(matrix).all():
                frames.append(FrameFiles(number, color, folder / "depth" / f"{color.stem}.png"))
                self._poses.append(matrix)
        if not frames:
            raise FormatError(folder / "pose", "expected frames with finite poses, found none")
        super().__init__(folder, frames, units_per_metre=1000)

    @cached_property
    def intrinsics(self) -> CameraIntrinsics:
        """Those of depth; the image size is that of the first depth image."""
        first = self._frames[0]
        width, height = image_size(first.depth, beside=first.color)
        path = self.folder / "intrinsic" / "intrinsic_depth.txt"
        matrix = read_matrix(path, (4, 4))
        if not np.array_equal(matrix[3], [0, 0, 0, 1]) or matrix[:3, 3].any():
            raise FormatError(path, f"expected zeros and 1 in the last row and column, got {matrix.tolist()}")
        with errors_in(path):
            return CameraIntrinsics.from_opencv(matrix[:3, :3], width, height)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        frame = self._frames[index]
        with errors_in(_pose_path(self.folder, frame.color)):
            return CameraPose.from_world_from_camera(self._poses[index], frame.number / _FPS)

    @cached_property
    def _color_size(self) -> tuple[int, int]:
        return image_size(self._frames[0].color)

    def _read_color(self, path: Path, size: tuple[int, int]) -> U8:
        return read_color(path, self._color_size, resized=size)


def _pose_path(folder: Path, color: Path) -> Path:
    return folder / "pose" / f"{color.stem}.txt"
