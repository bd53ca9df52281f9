"""Depth maps of any size in the files that tools write: PNG and TIFF images, NPY, NPZ, EXR, PFM, COLMAP's .bin."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mosaicmem._arrays import F32
from mosaicmem._extras import openexr
from mosaicmem._images import image_size, read_depth, read_rgba
from mosaicmem._numpy_files import read_data, read_header, read_npz
from mosaicmem._opening import check_growth, file_size, foreign_parser, open_file
from mosaicmem.errors import FormatError

DEPTH_SUFFIXES = (".png", ".npy", ".npz", ".exr", ".tif", ".tiff", ".pfm", ".bin")

_MOST_PIXELS = 1 << 26
_LEAST_SCALE = 1e-6
_MOST_HEADER = 100  # bytes of a text header
_DEPTH_NAMES = ("depth", "depths", "depth_map", "arr_0", "data", "pred", "prediction", "z")
_EXR_NAMES = ("Z", "depth.Z", "Depth.Z", "depth", "Y", "V", "R")


def read_depth_map(
    path: Path,
    units_per_metre: float,
    invalid: int = 0,
    beside: Path | None = None,
    *,
    float_units_per_metre: float = 1.0,
) -> F32:
    """A depth map (H, W) float32, metres; 0 where it is not measured.

    Parameters
    ----------
    path : Path
        Of one of `DEPTH_SUFFIXES`.
    units_per_metre, float_units_per_metre : float
        Of integer and of floating-point files.
    invalid : int
        The value of integer files, besides 0, that means unmeasured.
    beside : Path, optional
        The file that requires this one; named if this one is missing.

    Raises
    ------
    FormatError
        The file is missing, damaged or holds no depth map.
    ModuleNotFoundError
        OpenEXR files need the package OpenEXR.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return read_depth(path, image_size(path, beside), units_per_metre, invalid)
    reader = _READERS.get(suffix)
    if reader is None:
        raise FormatError(path, f"expected depth as one of {', '.join(DEPTH_SUFFIXES)}")
    with open_file(path, beside) as file:
        values = reader(path, file)
    return _metres(path, values, units_per_metre if values.dtype.kind in "ui" else float_units_per_metre, invalid)


def read_packed_depth(path: Path, beside: Path | None = None) -> F32:
    """A depth map whose float32 metres are the bytes blue, green, red and alpha of a PNG image's pixels."""
    pixels = read_rgba(path, beside)
    values = np.ascontiguousarray(pixels[..., [2, 1, 0, 3]]).view("<f4")[..., 0]
    return _metres(path, values, 1.0, 0)


def _metres(path: Path, values: NDArray[Any], units_per_metre: float, invalid: int) -> F32:
    squeezed = [side for side in values.shape if side != 1]
    if len(squeezed) == 2 and values.ndim > 2:
        values = values.reshape(squeezed)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fui":
        raise FormatError(path, f"expected depth (H, W) of numbers, got {values.dtype} of shape {values.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives inf, which is invalid
        depth: F32 = np.asarray(values.astype(np.float32) / np.float32(units_per_metre), np.float32)
        if values.dtype.kind in "ui":
            depth[values == invalid] = 0
        depth[~(np.isfinite(depth) & (depth > 0))] = 0
    return depth


def _check_pixels(path: Path, file: IO[bytes], width: int, height: int, each: int) -> None:
    if not (width > 0 and height > 0 and width * height <= _MOST_PIXELS):
        raise FormatError(path, f"expected 1 to {_MOST_PIXELS} pixels, got {width}x{height}")
    check_growth(path, file_size(file), width * height * each, f"{width}x{height} pixels")


def _read_npy(path: Path, file: IO[bytes]) -> NDArray[Any]:
    header = read_header(path, file, "not a .npy array")
    check_growth(path, file_size(file), 2 * header.nbytes + 8 * header.elements, f"depth of shape {header.shape}")
    return read_data(path, file, header, "not a .npy array")


def _read_npz(path: Path, file: IO[bytes]) -> NDArray[Any]:
    names: list[str] = []

    def is_wanted(name: str) -> bool:
        names.append(name)
        return name in _DEPTH_NAMES

    found, others = read_npz(path, file, is_wanted, _MOST_PIXELS * 8)
    if not found:
        raise FormatError(path, f"expected depth in one of {', '.join(_DEPTH_NAMES)}, got {', '.join(others)[:200]}")
    return found[next(name for name in _DEPTH_NAMES if name in found)]


def _read_pfm(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """Portable float map: rows from bottom to top; a negative scale means little-endian."""
    lines = [file.readline(_MOST_HEADER) for _ in range(3)]
    try:
        width, height = (int(word) for word in lines[1].split())
        scale = float(lines[2])
        if lines[0].strip() != b"Pf" or not _LEAST_SCALE <= abs(scale) <= 1 / _LEAST_SCALE:
            raise ValueError
    except ValueError:
        raise FormatError(path, f"expected a PFM image of one channel (Pf), got {b''.join(lines)[:40]!r}") from None
    _check_pixels(path, file, width, height, 12)
    content = _exactly(path, file, 4 * width * height)
    rows = np.frombuffer(content, "<f4" if scale < 0 else ">f4").reshape(height, width)[::-1]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is invalid
        return np.asarray(rows * np.float32(abs(scale)))


def _read_colmap(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """COLMAP's dense maps: ``width&height&channels&`` and float32 in rows, little-endian."""
    head = file.read(_MOST_HEADER)
    parts = head.split(b"&", 3)
    try:
        width, height, channels = (int(part) for part in parts[:3])
        if len(parts) < 4 or channels != 1:
            raise ValueError
    except ValueError:
        raise FormatError(
            path, f"expected COLMAP's depth map, width&height&1&, got {head[:24]!r}; a normal map? it has 3 channels"
        ) from None
    _check_pixels(path, file, width, height, 12)
    file.seek(len(head) - len(parts[3]))
    return np.frombuffer(_exactly(path, file, 4 * width * height), "<f4").reshape(height, width)


def _exactly(path: Path, file: IO[bytes], size: int) -> bytes:
    content = file.read(size + 1)
    if len(content) != size:
        got = "more" if len(content) > size else str(len(content))
        raise FormatError(path, f"damaged: expected {size} bytes of pixels, got {got}")
    return content


def _read_tiff(path: Path, file: IO[bytes]) -> NDArray[Any]:
    with foreign_parser(path, "not a readable TIFF image"):
        image = Image.open(file, formats=("TIFF",))
    with image:
        _check_pixels(path, file, *image.size, 12)
        if image.mode not in ("F", "I;16", "I;16B", "I;16L", "I"):
            raise FormatError(path, f"expected depth in one channel of 16 or 32 bits, got {image.mode}")
        with foreign_parser(path, "not a readable TIFF image"):
            return np.array(image)


def _read_exr(path: Path, file: IO[bytes]) -> NDArray[Any]:
    exr = openexr(str(path))
    with foreign_parser(path, "not a readable OpenEXR image"):
        low, high = exr.File(str(path), header_only=True).header()["dataWindow"]
        width, height = int(high[0]) - int(low[0]) + 1, int(high[1]) - int(low[1]) + 1
    _check_pixels(path, file, width, height, 24)
    with foreign_parser(path, "not a readable OpenEXR image"), exr.File(str(path), separate_channels=True) as image:
        channels = {name: np.array(channel.pixels) for name, channel in image.channels().items()}
    name = next((name for name in _EXR_NAMES if name in channels), None)
    if name is None:
        raise FormatError(path, f"expected a channel {', '.join(_EXR_NAMES)}, got {', '.join(channels)[:200]}")
    return channels[name]


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".exr": _read_exr,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".pfm": _read_pfm,
    ".bin": _read_colmap,
}
