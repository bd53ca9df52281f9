"""A sequence whose depth camera and colour camera are two, as one of the colour camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mosaicmem._arrays import F32, check_choice, check_instance, check_number
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.sequence import RgbdImage, RgbdSequence
from mosaicmem.errors import suspect
from mosaicmem.geometry.registration import LEAST_PAIRS, RegistrationCheck, registered_depth

ESTIMATE = "estimate"
_MOST_LOOKED_AT = 150  # frames


class RegisteredSequence(RgbdSequence):
    """Frames of a colour camera, with the depth that a depth camera at the same place saw.

    Parameters
    ----------
    source : RgbdSequence
        Its ``intrinsics`` are those of depth; its poses are taken for those of both cameras.
    color_camera : CameraIntrinsics
        Of images of the same size.
    """

    def __init__(self, source: RgbdSequence, color_camera: CameraIntrinsics) -> None:
        if not isinstance(source, RgbdSequence):
            raise TypeError(f"source: expected RgbdSequence, got {type(source).__name__}")
        own = check_instance("color_camera", color_camera, CameraIntrinsics)
        depth = source.intrinsics
        if (own.width, own.height) != (depth.width, depth.height):
            raise ValueError(
                f"color_camera: expected one of {depth.width}x{depth.height} pixels, as images are, got "
                f"{own.width}x{own.height}"
            )
        self._source, self._camera = source, own
        self.unit = source.unit

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of the colour camera, and of depth as it sees it."""
        return self._camera

    def pose(self, index: int) -> CameraPose:
        """Where and when a frame was taken; metres, seconds."""
        return self._source.pose(index)

    def number(self, index: int) -> int:
        """A frame's number in its data set."""
        own = getattr(self._source, "number", None)
        return index if own is None else int(own(index))

    def color_file(self, index: int) -> Path | None:
        """A file with exactly the pixels of a frame's image, if there is one."""
        return self._source.color_file(index)

    def __len__(self) -> int:
        return len(self._source)

    def _frame(self, index: int) -> RgbdImage:
        frame = self._source[index]
        depth = self._moved(frame.depth)
        if frame.moving is not None:
            depth[frame.moving] = 0
        confidence = None if frame.confidence is None else self._moved(frame.confidence)
        return replace(frame, depth=depth, confidence=confidence)

    def _moved(self, values: F32) -> F32:
        return registered_depth(values, self._source.intrinsics, self._camera)


def with_color_camera(source: RgbdSequence, color_focal: float | tuple[float, float] | str) -> RgbdSequence:
    """The sequence with a colour camera of another focal length: in pixels, (fx, fy), or "estimate".

    An estimate that is not clearly another one leaves the sequence as it is.
    """
    camera = source.intrinsics
    if isinstance(color_focal, str):
        check_choice("color_focal", color_focal, (ESTIMATE,))
        found = _estimated(source)
        return source if found is None else RegisteredSequence(source, found)
    given = color_focal if isinstance(color_focal, tuple) else (color_focal, color_focal)
    if len(given) != 2:
        raise ValueError(f"color_focal: expected one focal length or (fx, fy), got {len(given)} numbers")
    fx, fy = (check_number("color_focal", each, above=0.0) for each in given)
    return RegisteredSequence(source, replace(camera, fx=fx, fy=fy))


def _estimated(source: RgbdSequence) -> CameraIntrinsics | None:
    check = RegistrationCheck(warns=False)
    for index in np.unique(np.linspace(0, len(source) - 1, _MOST_LOOKED_AT).round().astype(int)).tolist():
        frame = source[index]
        check.add(frame.image, frame.depth, source.intrinsics, frame.pose)
        if check.is_done:
            break
    found = check.result()
    if found.pairs < LEAST_PAIRS:
        suspect(
            f"color_focal: expected {LEAST_PAIRS} pairs of frames that see the same from different places, to estimate "
            f"it from, got {found.pairs}; intrinsics are taken as they are"
        )
    return found.color_camera(source.intrinsics) if found.is_off else None
