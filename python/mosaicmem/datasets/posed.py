"""Posed frames of any cameras, as other tools leave them, and the sequence of one pinhole camera that they become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F32, U8, Bool
from mosaicmem._depth_maps import read_depth_map, read_packed_depth
from mosaicmem._images import image_size, read_color, read_grey
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.cameras import given_intrinsics
from mosaicmem.datasets.lens import Lens, Rectifier, nearest
from mosaicmem.datasets.sequence import RgbdImage, RgbdSequence
from mosaicmem.errors import FormatError, suspect

_OTHER_SHAPE = 0.02  # relative difference of the aspect ratios of colour and depth


@dataclass(frozen=True)
class DepthCoding:
    """How depth files hold metres.

    Attributes
    ----------
    units_per_metre : float
        Of integer files.
    invalid : int
        The value of integer files, besides 0, that means unmeasured.
    float_units_per_metre : float
        Of floating-point files.
    scale : float
        Of every depth, as positions may be in another unit than depth.
    farthest : float
        Metres; depth beyond it is that of the sky, and no depth.
    packed : bool
        PNG files have float32 metres in the four bytes of each pixel.
    """

    units_per_metre: float = 1000.0
    invalid: int = 0
    float_units_per_metre: float = 1.0
    scale: float = 1.0
    farthest: float = np.inf
    packed: bool = False

    def read(self, path: Path, beside: Path) -> F32:
        """The depth map (H, W) in a file, in the unit of positions; 0 where it is unknown."""
        if self.packed and path.suffix == ".png":
            depth = read_packed_depth(path, beside)
        else:
            units = self.units_per_metre, self.float_units_per_metre
            depth = read_depth_map(path, units[0], self.invalid, beside, float_units_per_metre=units[1])
        if self.farthest < np.inf:
            depth[depth > self.farthest] = 0
        if self.scale != 1:
            depth *= np.float32(self.scale)
        return depth


@dataclass(frozen=True)
class PosedFrame:
    """The files of a frame, its camera and its pose.

    Attributes
    ----------
    number : int
        Of the frame in its data set.
    color : Path
    lens : Lens
        Of the colour image as it is stored.
    pose : CameraPose
    depth, mask, confidence : Path, optional
        Maps of the same view, of any resolution.
    """

    number: int
    color: Path
    lens: Lens
    pose: CameraPose
    depth: Path | None = None
    mask: Path | None = None
    confidence: Path | None = None


@dataclass(frozen=True)
class PosedFrames:
    """The frames of a folder, in order of time; some may have no depth.

    Attributes
    ----------
    folder : Path
    frames : list of PosedFrame
    depth : DepthCoding
    moving_is_white : bool
        Whether the bright pixels of masks show what moves, or what does not.
    most_confidence : float
        The value of confidence files that means certain.
    unit : {"metres", "scene units"}
        Of positions and depth.
    """

    folder: Path
    frames: list[PosedFrame]
    depth: DepthCoding = field(default_factory=DepthCoding)
    moving_is_white: bool = True
    most_confidence: float = 255.0
    unit: str = "metres"

    @property
    def lens(self) -> Lens:
        """The most frequent lens; the earliest of those that are as frequent."""
        return Counter(frame.lens for frame in self.frames).most_common(1)[0][0]

    def moving(self, frame: PosedFrame, lens: Lens | None = None) -> Bool | None:
        """The pixels (H, W) of a frame's image that show something moving; None if it has no mask."""
        if frame.mask is None:
            return None
        values = read_grey(frame.mask, beside=frame.color)
        size = (lens or frame.lens).size
        check_shape(frame.mask, values.shape[::-1], frame.color, size)
        bright = is_white(values) if self.moving_is_white else values > 0
        return np.asarray(nearest(bright, size) == self.moving_is_white)


class PosedSequence(RgbdSequence):
    """Posed frames as seen by one pinhole camera: frames of another lens, zoom or size are resampled to it on access.

    Colour is resampled bilinearly, depth and masks from the nearest pixel. Pixels that a frame's own camera did not see
    are black, without depth. Depth of another resolution than colour is brought to that of colour.

    Parameters
    ----------
    source : PosedFrames
        Those without a depth file are left out, with a warning.
    intrinsics : CameraIntrinsics, optional
        The pinhole camera of all stored images, used instead of that of the files.

    Raises
    ------
    FormatError
        No frame has depth; or, on access, an image is missing or damaged.
    ModuleNotFoundError
        Resampling needs OpenCV, and lenses that are no pinhole need pycolmap.

    Warns
    -----
    SuspiciousInput
        Frames are left out, or have another shape than the others.
    """

    def __init__(self, source: PosedFrames, *, intrinsics: CameraIntrinsics | None = None) -> None:
        self.folder, self.unit = source.folder, source.unit
        self._source = source
        self._frames = [frame for frame in source.frames if frame.depth is not None]
        if not self._frames:
            raise FormatError(
                source.folder,
                f"expected depth, got {len(source.frames)} posed images without it: mosaicmem import SOURCE --output "
                "FOLDER estimates it",
            )
        without = len(source.frames) - len(self._frames)
        if without:
            suspect(f"{source.folder}: {without} of {len(source.frames)} frames have no depth file, and are left out")
        self._given = None if intrinsics is None else Lens.of(self._checked(intrinsics))
        lens = self.lens
        self._camera = lens.intrinsics
        self._rectifiers: dict[Lens, Rectifier | None] = {}
        self._suspect_shapes(lens)

    def _checked(self, intrinsics: CameraIntrinsics) -> CameraIntrinsics:
        first = self._frames[0].color
        return given_intrinsics(intrinsics, first, image_size(first))

    def _suspect_shapes(self, lens: Lens) -> None:
        others = [frame for frame in self._frames if self._given is None and frame.lens.size != lens.size]
        if others:
            size, own = lens.size, others[0].lens.size
            suspect(
                f"{self.folder}: {len(others)} of {len(self._frames)} frames are not of {size[0]}x{size[1]} pixels, "
                f"{others[0].color.name} of {own[0]}x{own[1]} first; they are resampled, and what they do not show of "
                "the others' field of view stays black, without depth"
            )

    @property
    def lens(self) -> Lens:
        """Of most images as they are stored; `intrinsics` is the pinhole camera that they become."""
        return self._given or PosedFrames(self.folder, self._frames).lens

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of all frames, colour and depth."""
        return self._camera

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres or scene units (`unit`), seconds."""
        return self._frames[index].pose

    def number(self, index: int) -> int:
        """A frame's number in its data set, which also counts frames that this sequence leaves out."""
        return self._frames[index].number

    def color_file(self, index: int) -> Path | None:
        """A file with exactly the pixels of a frame's image; None if the frame is resampled."""
        lens = self._given or self._frames[index].lens
        same = lens.is_pinhole and lens.intrinsics == self._camera
        return self._frames[index].color if same else None

    def __len__(self) -> int:
        return len(self._frames)

    def _frame(self, index: int) -> RgbdImage:
        frame = self._frames[index]
        lens = self._given or frame.lens
        image = read_color(frame.color, lens.size)
        assert frame.depth is not None
        depth = self._source.depth.read(frame.depth, frame.color)
        check_shape(frame.depth, depth.shape[::-1], frame.color, lens.size)
        depth = np.asarray(nearest(depth, lens.size), np.float32)
        moving = self._source.moving(frame, lens)
        confidence = None if frame.confidence is None else self._confidence(frame.confidence, frame.color, lens)
        return self._resampled(frame, lens, image, depth, moving, confidence)

    def _resampled(
        self, frame: PosedFrame, lens: Lens, image: U8, depth: F32, moving: Bool | None, confidence: F32 | None
    ) -> RgbdImage:
        if lens not in self._rectifiers:
            is_same = lens.is_pinhole and lens.intrinsics == self._camera
            self._rectifiers[lens] = None if is_same else Rectifier(lens, self._camera)
        rectifier = self._rectifiers[lens]
        if rectifier is not None:
            image, depth = rectifier.image(image), rectifier.depth(depth)
            if moving is not None:
                moving = rectifier.depth(moving.astype(np.float32)) > 0
            if confidence is not None:
                confidence = rectifier.depth(confidence)
        if moving is not None:
            depth[moving] = 0
        return RgbdImage(image, depth, frame.pose, frame.number, moving, confidence)

    def _confidence(self, path: Path, color: Path, lens: Lens) -> F32:
        values = read_grey(path, beside=color) if path.suffix.lower() == ".png" else read_depth_map(path, 1.0)
        check_shape(path, values.shape[::-1], color, lens.size)
        known = nearest(values, lens.size).astype(np.float32) / np.float32(self._source.most_confidence)
        return np.asarray(np.clip(known, 0, 1), np.float32)


def check_shape(path: Path, size: tuple[int, ...], color: Path | str, expected: tuple[int, ...]) -> None:
    """Refuse a map whose shape is not that of its colour image, of which it cannot be a view of the same size."""
    if abs(size[0] * expected[1] / (size[1] * expected[0]) - 1) > _OTHER_SHAPE:
        turned = "; turned by 90 degrees?" if size[0] * expected[0] == size[1] * expected[1] else ""
        raise FormatError(
            path,
            f"expected the shape of {Path(color).name}, {expected[0]}x{expected[1]}, at any resolution, got "
            f"{size[0]}x{size[1]}{turned}",
        )


def if_there(path: Path) -> Path | None:
    """The path of a file that a frame may have; None if it has not."""
    return path if path.is_file() else None


def is_white(mask: U8) -> Bool:
    """The bright pixels of a mask, whose values are 0 and 255, or 0 and 1."""
    return np.asarray(mask > 0 if mask.max(initial=0) <= 1 else mask >= 128)


def lenses_of(paths: Sequence[Path], lenses: Sequence[Lens]) -> list[Lens]:
    """The lens of each image, resized with images that are smaller or larger but of the same shape.

    Raises
    ------
    FormatError
        An image has another shape than its lens.
    """
    found, said = [], False
    for path, lens in zip(paths, lenses, strict=True):
        size = image_size(path)
        if size != lens.size:
            if abs(size[0] * lens.height / (size[1] * lens.width) - 1) > 1e-3:
                raise FormatError(
                    path, f"expected an image of the shape of {lens.width}x{lens.height}, got {size[0]}x{size[1]}"
                )
            if not said:
                suspect(
                    f"{path}: {size[0]}x{size[1]} pixels, and a camera of {lens.width}x{lens.height}; the camera is "
                    "scaled to the image, as images that were resized need it"
                )
            said = True
        found.append(lens.scaled(*size))
    return found
