"""The layout that ScanNet's SensReader exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._arrays import F64, U8
from mosaicmem._images import image_size, read_color
from mosaicmem._opening import errors_in
from mosaicmem._reading import check_folder, numbered_files, read_matrix
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.cameras import given_intrinsics
from mosaicmem.datasets.sequence import FolderSequence, FrameFiles
from mosaicmem.errors import FormatError, suspect

_FPS = 30.0
_MOST_APART = 0.02  # fraction of the width by which colour may be off depth


class ScanNet(FolderSequence):
    """A scan of ScanNet as SensReader exports it; images are read on access.

    ``color/N.jpg``, ``depth/N.png`` (16-bit millimetres, 0 invalid), ``pose/N.txt`` (4x4 world_from_camera, metres) and
    ``intrinsic/intrinsic_depth.txt`` (4x4, with pixel centres at integers). Frames whose pose is not finite,
    which is how ScanNet marks lost tracking, are left out. Colour is resized to the size of depth by area averaging and
    assumed to be registered to it, with a warning where ``intrinsic/intrinsic_color.txt`` or the shape of the images
    says otherwise. Time is the frame number at 30 frames per second.

    Parameters
    ----------
    folder : path
    intrinsics : CameraIntrinsics, optional
        Depth intrinsics, used instead of those of the folder; for depth images of the same size.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has no frames with a finite pose, or a file in it is missing or invalid; the message names the file.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        Colour does not seem registered to depth.
    """

    def __init__(self, folder: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> None:
        folder = check_folder(folder)
        frames, self._poses = [], []
        for number, color in numbered_files(folder / "color", "([0-9]+)", "N.jpg or .png").items():
            matrix = read_matrix(_pose_path(folder, color), (4, 4), beside=color)
            if np.isfinite(matrix).all():
                frames.append(FrameFiles(number, color, folder / "depth" / f"{color.stem}.png"))
                self._poses.append(matrix)
        if not frames:
            raise FormatError(folder / "pose", "expected frames with finite poses, found none")
        first = frames[0]
        self._color_size = image_size(first.color)
        size = image_size(first.depth, beside=first.color)
        if intrinsics is None:
            path = folder / "intrinsic" / "intrinsic_depth.txt"
            if not path.exists():
                shape = f"{size[0]}x{size[1]}"
                raise FormatError(path, f"missing; give the intrinsics of depth, of {shape} (--intrinsics, --size)")
            camera = _read_intrinsics(path, size)
        else:
            camera = given_intrinsics(intrinsics, first.depth, size)
        _suspect_unregistered(folder / "intrinsic" / "intrinsic_color.txt", first.color, self._color_size, camera)
        super().__init__(folder, frames, camera, units_per_metre=1000)

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        frame = self._frames[index]
        with errors_in(_pose_path(self.folder, frame.color)):
            return CameraPose.from_world_from_camera(self._poses[index], frame.number / _FPS)

    def color_file(self, index: int) -> Path | None:
        """A file with exactly the pixels of a frame's image; None if colour is resized to depth."""
        same = self._color_size == (self.intrinsics.width, self.intrinsics.height)
        return self._frames[index].color if same else None

    def _read_color(self, path: Path, size: tuple[int, int]) -> U8:
        return read_color(path, self._color_size, resized=size)


def _read_intrinsics(path: Path, size: tuple[int, int]) -> CameraIntrinsics:
    matrix: F64 = read_matrix(path, (4, 4))
    if not np.array_equal(matrix[3], [0, 0, 0, 1]) or matrix[:3, 3].any():
        raise FormatError(path, f"expected zeros and 1 in the last row and column, got {matrix.tolist()}")
    with errors_in(path):
        return CameraIntrinsics.from_opencv(matrix[:3, :3], *size)


def _suspect_unregistered(path: Path, image: Path, size: tuple[int, int], depth: CameraIntrinsics) -> None:
    """Colour is resized to depth as if both had one camera; warn if its intrinsics or shape contradict that."""
    target = f"{depth.width}x{depth.height}"
    if path.exists():
        color = _read_intrinsics(path, size).scaled(depth.width, depth.height)
        apart = max(abs(a - b) for a, b in zip(color.params, depth.params, strict=True))
        if apart > _MOST_APART * depth.width:
            suspect(
                f"{path}: resized to the {target} pixels of depth, these intrinsics are {apart:.0f} pixels off those "
                "of depth, so colour does not lie on it; register one to the other first"
            )
    elif abs(size[0] * depth.height / (size[1] * depth.width) - 1) > _MOST_APART:
        suspect(
            f"{image}: {size[0]}x{size[1]} pixels of colour are resized to the {target} of depth, which has another "
            "shape; if the two are not views of the same size, crop or register colour first"
        )


def _pose_path(folder: Path, color: Path) -> Path:
    return folder / "pose" / f"{color.stem}.txt"
