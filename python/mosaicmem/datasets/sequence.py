"""Base classes of all layouts of posed RGB-D frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from mosaicmem._arrays import F32, U8, Bool
from mosaicmem._images import read_color, read_depth
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory


@dataclass(frozen=True, eq=False)
class RgbdImage:
    """One observed frame.

    Attributes
    ----------
    image : (H, W, 3) uint8
        RGB.
    depth : (H, W) float32
        Metres; 0 where not measured, and where something moves.
    pose : CameraPose
    number : int
        The frame's number in its sequence.
    moving : (H, W) bool, optional
        The pixels that show something moving, if that is known.
    confidence : (H, W) float32, optional
        Of depth, in [0, 1], if the data set has it.
    """

    image: U8
    depth: F32
    pose: CameraPose
    number: int
    moving: Bool | None = None
    confidence: F32 | None = None


@dataclass(frozen=True)
class FrameFiles:
    """A frame's number in its sequence, and the paths of its images."""

    number: int
    color: Path
    depth: Path


class RgbdSequence(Sequence[RgbdImage], ABC):
    """Frames of colour and registered depth from one camera with known poses; images are produced on access.

    Indices count the frames of the sequence, and may be negative or slices.

    Attributes
    ----------
    unit : {"metres", "scene units"}
        Of depth and positions.
    """

    unit = "metres"

    @property
    @abstractmethod
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames, colour and depth."""

    @abstractmethod
    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""

    @abstractmethod
    def _frame(self, index: int) -> RgbdImage:
        """The frame at an index."""

    def color_file(self, index: int) -> Path | None:
        """A file with exactly the pixels of a frame's image, if there is one."""
        return None

    def trajectory(self, frames: Sequence[int]) -> CameraTrajectory:
        """The poses of some frames, given by their indices in the sequence."""
        return CameraTrajectory([self.pose(i) for i in frames], self.intrinsics)

    @overload
    def __getitem__(self, index: int) -> RgbdImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[RgbdImage]: ...
    def __getitem__(self, index: int | slice) -> RgbdImage | list[RgbdImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._frame(index)


class FolderSequence(RgbdSequence):
    """A sequence stored in files; a frame's `number` is the one that its data set gives it.

    Parameters
    ----------
    folder : path
    frames : iterable of FrameFiles
        In order of time.
    intrinsics : CameraIntrinsics
        Shared by all frames.
    units_per_metre : float
        Scale of the values in depth images.
    invalid_depth : int
        The value, besides 0, that marks unmeasured depth.

    Attributes
    ----------
    folder : Path
    """

    def __init__(
        self,
        folder: Path,
        frames: Iterable[FrameFiles],
        intrinsics: CameraIntrinsics,
        *,
        units_per_metre: float,
        invalid_depth: int = 0,
    ) -> None:
        self.folder = folder
        self._frames = list(frames)
        self._intrinsics = intrinsics
        self._units_per_metre = units_per_metre
        self._invalid_depth = invalid_depth

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames, colour and depth."""
        return self._intrinsics

    def number(self, index: int) -> int:
        """A frame's number in its data set, which also counts frames that this sequence leaves out."""
        return self._frames[index].number

    def __len__(self) -> int:
        return len(self._frames)

    def _frame(self, index: int) -> RgbdImage:
        frame = self._frames[index]
        size = (self.intrinsics.width, self.intrinsics.height)
        image = self._read_color(frame.color, size)
        depth = read_depth(frame.depth, size, self._units_per_metre, self._invalid_depth, beside=frame.color)
        return RgbdImage(image, depth, self.pose(index), frame.number)

    def color_file(self, index: int) -> Path | None:
        """A file with exactly the pixels of a frame's image."""
        return self._frames[index].color

    def _read_color(self, path: Path, size: tuple[int, int]) -> U8:
        return read_color(path, size)
