"""Colour and depth images of a sequence: each is read as what it means, or refused with a FormatError that names it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mosaicmem._arrays import F32, U8
from mosaicmem._file_kinds import describe_file
from mosaicmem._opening import open_file
from mosaicmem.errors import FormatError

_MAX_PIXELS = 1 << 26
_ORIENTATION = 0x0112  # the tag of EXIF
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_IMAGE_ERRORS = (  # what Pillow's decoders raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    UserWarning,  # of damaged tags, where warnings are errors
)


@contextmanager
def _open_image(path: Path, size: tuple[int, int] | None, beside: Path | None) -> Iterator[Image.Image]:
    with open_file(path, beside) as file:
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise FormatError(path, f"expected at most {_MAX_PIXELS} pixels, got {image.width}x{image.height}")
                if size is not None and image.size != size:
                    expected, got = (f"{width}x{height}" for width, height in (size, image.size))
                    raise FormatError(path, f"expected {expected} pixels, got {got}")
                yield image
        except FormatError:
            raise
        except UnidentifiedImageError:
            raise FormatError(path, f"not a readable image: {_misnamed(path)}") from None
        except _IMAGE_ERRORS as error:
            raise FormatError(path, f"not a readable image: {error}") from None


def _misnamed(path: Path) -> str:
    kind = describe_file(path)
    if kind in ("a file", "a PNG image", "a JPEG image"):
        return "expected PNG or JPEG, got bytes of neither"
    return f"expected PNG or JPEG, got {kind}; convert it"


def image_size(path: Path, beside: Path | None = None) -> tuple[int, int]:
    """(width, height), pixels."""
    with _open_image(path, None, beside) as image:
        return image.size


def read_color(path: Path, size: tuple[int, int], resized: tuple[int, int] | None = None) -> U8:
    """An image of ``size`` (width, height) as (H, W, 3) uint8, ``resized`` by averaging areas if that is given.

    Grey, palette and RGB images are read, of 1 to 16 bits a channel. Refused are transparent pixels, whose colour is
    whatever lies behind them; CMYK, whose colour depends on a printer; and images that a viewer would turn, as depth
    and pose may be those of the image before or after it was turned.
    """
    with _open_image(path, size, None) as image:
        _refuse_turned(path, image)
        rgb = _as_rgb(path, image)
        if resized not in (None, size):
            rgb = rgb.resize(resized, Image.Resampling.BOX)
        return np.array(rgb)


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode in _GREY_16:  # convert would clip it: all that is brighter than 1/257 becomes white
        values = np.asarray(image).astype(np.int64)
        _refuse_transparent(path, values == image.info.get("transparency", -1))
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        _refuse_transparent(path, np.asarray(rgba.getchannel("A")) < 255)
        return rgba.convert("RGB")
    if image.mode in ("1", "L", "P", "RGB"):
        return image.convert("RGB")
    raise FormatError(path, f"expected a grey or RGB image, got {image.mode}; convert it to RGB, by its colour profile")


def _refuse_transparent(path: Path, transparent: np.ndarray) -> None:
    count = int(transparent.sum())
    if count:
        raise FormatError(
            path,
            f"expected opaque pixels, got {count} of {transparent.size} that are transparent; put a background behind "
            "them, or leave out the alpha channel",
        )


def _refuse_turned(path: Path, image: Image.Image) -> None:
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation not in (0, 1):
        raise FormatError(
            path,
            f"expected an image that is stored upright, got EXIF orientation {orientation}, which viewers turn or "
            "mirror; if its intrinsics, depth and pose are those of the stored pixels, remove the tag (exiftool "
            "-Orientation= FILE), else store it turned (mogrify -auto-orient FILE)",
        )


def read_depth(
    path: Path,
    size: tuple[int, int],
    units_per_metre: float,
    invalid: int = 0,
    beside: Path | None = None,
) -> F32:
    """A 16-bit image of ``size`` (width, height) as (H, W) float32 metres; 0 stays 0, and so becomes ``invalid``."""
    with _open_image(path, size, beside) as image:
        _refuse_turned(path, image)
        mode, units = image.mode, np.array(image)
    if mode not in _GREY_16:
        hint = (
            "keep one channel, if all hold the same depth in 16 bits; a picture in false colours holds none"
            if units.ndim == 3
            else "a picture of depth, for people to look at? its values are no distances"
        )
        raise FormatError(path, f"expected a 16-bit grey image, got {units.dtype} of shape {units.shape}; {hint}")
    depth: F32 = units.astype(np.float32) / np.float32(units_per_metre)
    depth[units == invalid] = 0
    return depth
