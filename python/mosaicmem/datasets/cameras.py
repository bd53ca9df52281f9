"""The camera of a sequence: given, read from a file, or assumed, with a warning if it is uncertain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mosaicmem._arrays import check_instance
from mosaicmem._opening import errors_in
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.datasets.intrinsics_files import find_intrinsics, intrinsics_files
from mosaicmem.errors import FormatError, suspect


def given_intrinsics(intrinsics: CameraIntrinsics, image: Path, size: tuple[int, int]) -> CameraIntrinsics:
    """The caller's intrinsics, checked to be for images of ``size`` (width, height), the size of ``image``."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    got = (intrinsics.width, intrinsics.height)
    if got != size:
        raise ValueError(
            f"intrinsics (--intrinsics, --size): expected those of images of {size[0]}x{size[1]} pixels, which "
            f"{image} has, got those of {got[0]}x{got[1]}; resized images? use CameraIntrinsics.scaled"
        )
    return intrinsics


def intrinsics_in(
    folder: Path, size: tuple[int, int], units_per_metre: float, convert: Callable[..., CameraIntrinsics]
) -> CameraIntrinsics | None:
    """Intrinsics from a file that `find_intrinsics` finds, made by ``convert`` from K, width and height."""
    found = find_intrinsics(folder, size, units_per_metre)
    if found is None:
        return None
    path, matrix = found
    with errors_in(path):
        return convert(matrix, *size)


def assumed_intrinsics(
    folder: Path, image: Path, size: tuple[int, int], default: CameraIntrinsics, *, whose: str, unless: str | None
) -> CameraIntrinsics:
    """The camera that a layout implies, scaled to the size of the first image.

    ``whose`` describes that camera, and ``unless`` how to specify another one; None if the folder identifies the
    camera, so that no warning is due.
    """
    full = (default.width, default.height)
    if size[0] * full[1] != size[1] * full[0]:
        shape = "4:3" if 3 * full[0] == 4 * full[1] else f"the shape of {full[0]}x{full[1]}"
        raise FormatError(
            image,
            f"expected an image of {shape}, as {whose} is for, got {size[0]}x{size[1]} pixels; give intrinsics "
            "(--intrinsics, --size)",
        )
    if unless is not None:
        resized = "" if size == full else f", resized from {full[0]}x{full[1]} to {size[0]}x{size[1]} pixels"
        above = [path.name for path in intrinsics_files(folder.resolve().parent)]
        hint = f"; {above[0]} in the folder above is not looked at" if above else ""
        suspect(
            f"{folder}: no file with intrinsics; assumed is {whose}{resized}. If the camera is another, {unless}, or "
            f"give intrinsics (--intrinsics, --size){hint}"
        )
    return default.scaled(*size)
