"""Colour and depth images of a sequence; a FormatError names an image that is unreadable or ambiguous."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mosaicmem._arrays import F32, U8
from mosaicmem._file_kinds import describe_file
from mosaicmem._image_files import check_parts
from mosaicmem._opening import check_growth, foreign_parser, open_file
from mosaicmem.errors import FormatError

_MAX_PIXELS = 1 << 26
_ORIENTATION = 0x0112  # EXIF tag
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_BYTES_OF_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # per pixel; 4 for others
_PROGRESSIVE_BYTES = 6  # per pixel, kept by libjpeg until the last scan
_STRIP = 1 << 20  # pixels converted at a time


@contextmanager
def _open_image(path: Path, size: tuple[int, int] | None, beside: Path | None) -> Iterator[tuple[Image.Image, int]]:
    """An image that is not decoded yet, and the memory that its parts other than pixels take."""
    with open_file(path, beside) as file:
        needed = check_parts(path, file)
        try:
            with foreign_parser(path, "not a readable image"):
                image = Image.open(file, formats=("JPEG", "PNG"))
        except FormatError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise FormatError(path, f"not a readable image: {_misnamed(path)}") from error.__cause__
            raise
        with image:
            if image.width * image.height > _MAX_PIXELS:
                raise FormatError(path, f"expected at most {_MAX_PIXELS} pixels, got {image.width}x{image.height}")
            if size is not None and image.size != size:
                expected, got = (f"{width}x{height}" for width, height in (size, image.size))
                raise FormatError(path, f"expected {expected} pixels, got {got}")
            yield image, needed


def _decode(path: Path, image: Image.Image, needed: int, each: int) -> None:
    """Decode an image unless EXIF turns or mirrors it; the caller needs another ``each`` bytes per pixel."""
    each += _BYTES_OF_MODE.get(image.mode, 4)
    each += _PROGRESSIVE_BYTES if "progressive" in image.info else 0
    size = path.stat().st_size
    check_growth(path, size, needed + image.width * image.height * each, f"{image.width}x{image.height} pixels")
    with foreign_parser(path, "not a readable image"):
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation not in (0, 1):
        raise FormatError(
            path,
            f"expected an image that is stored upright, got EXIF orientation {orientation}, which viewers turn or "
            "mirror; if its intrinsics, depth and pose are those of the stored pixels, remove the tag (exiftool "
            "-Orientation= FILE), else store it turned (mogrify -auto-orient FILE)",
        )


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Pairs (rows, strip) that cover an image, small enough that temporaries take little memory."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _misnamed(path: Path) -> str:
    kind = describe_file(path)
    if kind in ("a file", "a PNG image", "a JPEG image"):
        return "expected PNG or JPEG, got bytes of neither"
    return f"expected PNG or JPEG, got {kind}; convert it"


def image_size(path: Path, beside: Path | None = None) -> tuple[int, int]:
    """(width, height), pixels."""
    with _open_image(path, None, beside) as (image, _):
        return image.size


def read_color(path: Path, size: tuple[int, int], resized: tuple[int, int] | None = None) -> U8:
    """An image of ``size`` (width, height) as (H, W, 3) uint8, resized to ``resized`` by averaging areas if given.

    Grey, palette and RGB images of 1 to 16 bits per channel are read. Rejected are transparent pixels, whose colour
    depends on the background; CMYK, whose colour depends on the printer; images that EXIF turns or mirrors, as depth
    and pose may be those of the image before or after that; and images with more pixels than a file of their size may
    have, which never happens up to 3840x2160 (2560x1600 for progressive JPEG).
    """
    with _open_image(path, size, None) as (image, needed):
        if resized is not None and resized != size:
            needed += 4 * resized[0] * (size[1] + 2 * resized[1])
        _decode(path, image, needed, 3 if resized in (None, size) else 7)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        transparent = 0
        for rows, part in _strips(image):
            rgb, clear = _as_rgb(path, part)
            transparent += clear
            pixels[rows] = np.asarray(rgb)
        if transparent:
            raise FormatError(
                path,
                f"expected opaque pixels, got {transparent} of {image.width * image.height} that are transparent; put "
                "a background behind them, or leave out the alpha channel",
            )
    if resized in (None, size):
        return pixels
    return np.array(Image.fromarray(pixels).resize(resized, Image.Resampling.BOX))


def read_upright(path: Path) -> tuple[U8, bool]:
    """A photo as (H, W, 3) uint8, turned and mirrored as EXIF says, and whether that was necessary.

    Photos have many pixels for the size of their files, so only the number of pixels is limited, to 64 million.
    """
    with _open_image(path, None, None) as (image, _):
        with foreign_parser(path, "not a readable image"):
            turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            upright = ImageOps.exif_transpose(image) if turned else image
            upright.load()
        rgb, transparent = _as_rgb(path, upright)
        if transparent:
            raise FormatError(path, f"expected opaque pixels, got {transparent} that are transparent")
        return np.array(rgb), turned


def _as_rgb(path: Path, image: Image.Image) -> tuple[Image.Image, int]:
    """The RGB image, and how many pixels are transparent."""
    if image.mode in _GREY_16:  # convert would clip: all values brighter than 1/257 would become white
        values = np.asarray(image).astype(np.int64)
        grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        return grey.convert("RGB"), int(np.count_nonzero(values == image.info.get("transparency", -1)))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        with foreign_parser(path, "not a readable image"):
            rgba = image.convert("RGBA")
        return rgba.convert("RGB"), int((np.asarray(rgba.getchannel("A")) < 255).sum())
    if image.mode in ("1", "L", "P", "RGB"):
        with foreign_parser(path, "not a readable image"):
            return image.convert("RGB"), 0
    raise FormatError(path, f"expected a grey or RGB image, got {image.mode}; convert it to RGB, by its colour profile")


def read_depth(
    path: Path,
    size: tuple[int, int],
    units_per_metre: float,
    invalid: int = 0,
    beside: Path | None = None,
) -> F32:
    """A 16-bit image of ``size`` (width, height) as (H, W) float32 metres; 0 stays 0, and ``invalid`` becomes 0."""
    with _open_image(path, size, beside) as (image, needed):
        _decode(path, image, needed, 4)
        if image.mode not in _GREY_16:
            pixel = np.asarray(image.crop((0, 0, 1, 1)))
            shape = (image.height, image.width, *pixel.shape[2:])
            hint = (
                "keep one channel, if all hold the same depth in 16 bits; a picture in false colours holds none"
                if len(shape) == 3
                else "a picture of depth, for people to look at? its values are no distances"
            )
            raise FormatError(path, f"expected a 16-bit grey image, got {pixel.dtype} of shape {shape}; {hint}")
        depth: F32 = np.empty((image.height, image.width), np.float32)
        for rows, part in _strips(image):
            units = np.asarray(part)
            depth[rows] = units.astype(np.float32) / np.float32(units_per_metre)
            depth[rows][units == invalid] = 0
        return depth


def read_grey(path: Path, beside: Path | None = None) -> U8:
    """An image as (H, W) uint8 of any size: a mask, or confidence. Colour and alpha are refused, palettes are not.

    A palette stands for labels: every one but the first is 255.
    """
    with _open_image(path, None, beside) as (image, needed):
        _decode(path, image, needed, 2)
        if image.mode == "P":
            return np.where(np.asarray(image) > 0, 255, 0).astype(np.uint8)
        if image.mode in _GREY_16:
            raise FormatError(path, "expected a mask of 1 or 8 bits, got 16: labels? write 255 where one is meant")
        if image.mode not in ("1", "L"):
            bands = np.asarray(image.convert("RGB")) if image.mode in ("RGB", "RGBA") else None
            if bands is None or (np.ptp(bands, axis=2) > 0).any():
                raise FormatError(path, f"expected a grey image, got {image.mode} in colours; labels in false colours?")
            return np.ascontiguousarray(bands[..., 0])
        return np.asarray(image.convert("L"))


def read_rgba(path: Path, beside: Path | None = None) -> U8:
    """The four bytes of each pixel, (H, W, 4), of an image whose values are no colours."""
    with _open_image(path, None, beside) as (image, needed):
        _decode(path, image, needed, 8)
        if image.mode != "RGBA":
            raise FormatError(path, f"expected four bytes a pixel (RGBA), got {image.mode}")
        return np.asarray(image)
