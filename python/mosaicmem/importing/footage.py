"""Footage: the frames of a video, of a folder of photos, or of a data set, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mosaicmem._arrays import F32, U8, Bool
from mosaicmem._file_kinds import describe_file
from mosaicmem._images import read_color
from mosaicmem.camera import CameraPose
from mosaicmem.datasets import RgbdSequence
from mosaicmem.datasets.layouts import posed_frames
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import PosedFrames
from mosaicmem.errors import FormatError
from mosaicmem.importing.photos import Photos, are_photos_alone
from mosaicmem.importing.video import Video


@dataclass(frozen=True, eq=False)
class Taken:
    """One frame of footage.

    Attributes
    ----------
    position : int
        In the footage, from 0.
    number : int
        The position, or the number that the frame has in its data set.
    name : str
        Of its file, or of its time.
    time : float
        Seconds since the first.
    image : (H, W, 3) uint8
        Upright RGB.
    file : Path, optional
        A file of the same pixels, which can be copied.
    lens : Lens, optional
        Where it is known.
    pose : CameraPose, optional
    depth : (H, W) float32, optional
        In the unit of positions; 0 where unknown.
    moving : (H, W) bool, optional
    confidence : (H, W) float32, optional
    focal : float, optional
        The focal length in pixels that EXIF tells, of square pixels.
    camera : str, optional
        What tells photos of one lens from those of another: make, model and focal length.
    """

    position: int
    number: int
    name: str
    time: float
    image: U8
    file: Path | None = None
    lens: Lens | None = None
    pose: CameraPose | None = None
    depth: F32 | None = None
    moving: Bool | None = None
    confidence: F32 | None = None
    focal: float | None = None
    camera: str | None = None


class Footage(Protocol):
    """Frames in order of time.

    Attributes
    ----------
    kind : {"video", "photos", "data set"}
    unit : {"metres", "scene units"}
        Of poses and depth, if it has them.
    in_order : bool
        Whether each frame follows the one before it, as in a video.
    names : list of str, optional
        The names of the files of all frames, if they have some.
    """

    kind: str
    unit: str
    in_order: bool
    names: list[str] | None

    def __len__(self) -> int:
        """How many frames there are."""
        ...

    def frames(self, wanted: range | None = None) -> Iterator[Taken]:
        """The frames, or those at some positions."""
        ...


class SequenceFootage:
    """The frames of a posed RGB-D sequence, or of posed images that may have no depth.

    Parameters
    ----------
    source : RgbdSequence or PosedFrames
    """

    kind = "data set"
    in_order = True

    def __init__(self, source: RgbdSequence | PosedFrames) -> None:
        self._source = source
        self.unit = source.unit
        files = (
            [source.color_file(i) for i in range(len(source))]
            if isinstance(source, RgbdSequence)
            else [frame.color for frame in source.frames]
        )
        self.names = [file.name for file in files if file is not None] if all(files) else None
        self.has_depth = isinstance(source, RgbdSequence)

    def __len__(self) -> int:
        return len(self._source) if isinstance(self._source, RgbdSequence) else len(self._source.frames)

    def frames(self, wanted: range | None = None) -> Iterator[Taken]:
        """The frames, or those at some positions."""
        for i in range(len(self)) if wanted is None else wanted:
            yield (
                self._seen(self._source, i) if isinstance(self._source, RgbdSequence) else self._posed(self._source, i)
            )

    def _seen(self, source: RgbdSequence, i: int) -> Taken:
        seen = source[i]
        lens = Lens.of(source.intrinsics)
        file = source.color_file(i)
        name = f"frame {seen.number}" if file is None else file.name
        known = (file, lens, seen.pose, seen.depth, seen.moving, seen.confidence)
        return Taken(i, seen.number, name, seen.pose.timestamp, seen.image, *known)

    def _posed(self, source: PosedFrames, i: int) -> Taken:
        frame = source.frames[i]
        image = read_color(frame.color, frame.lens.size)
        known = (image, frame.color, frame.lens, frame.pose)
        return Taken(i, frame.number, frame.color.name, frame.pose.timestamp, *known, moving=source.moving(frame))


def open_footage(source: str | Path, color_focal: float | tuple[float, float] | str | None = None) -> Footage:
    """What a path holds: a video file, a data set, or a folder of photos.

    Raises
    ------
    FileNotFoundError
        It does not exist.
    FormatError
        It is none of these; the message says what it is.
    ValueError
        ``color_focal`` is given, as `open_sequence` takes it, and there is no data set with depth of its own.
    """
    footage = _open_footage(Path(source), color_focal)
    if color_focal is not None and not (isinstance(footage, SequenceFootage) and footage.has_depth):
        raise ValueError(
            f"color_focal: expected a data set with depth, whose camera is another than that of colour, got {source}"
        )
    return footage


def _open_footage(path: Path, color_focal: float | tuple[float, float] | str | None) -> Footage:
    from mosaicmem.datasets import is_sequence, open_sequence

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return SequenceFootage(open_sequence(path, color_focal=color_focal))
        kind = describe_file(path)
        if kind in ("a PNG image", "a JPEG image"):
            raise FormatError(path, "expected a video or a folder, got one image; give the folder of all photos")
        return Video(path)
    if not are_photos_alone(path) and is_sequence(path):
        posed = posed_frames(path)
        if posed is not None and not any(frame.depth for frame in posed.frames):
            return SequenceFootage(posed)
        return SequenceFootage(open_sequence(path, color_focal=color_focal))
    return Photos(path)


def resized(image: U8, max_side: int) -> U8:
    """An image whose longer side is at most ``max_side`` pixels, by averaging areas."""
    height, width = image.shape[:2]
    factor = max_side / max(height, width)
    if factor >= 1:
        return image
    from PIL import Image

    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
