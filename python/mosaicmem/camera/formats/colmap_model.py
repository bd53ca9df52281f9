"""The files of COLMAP's sparse models: where they are, and what stands in them, text or binary."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._opening import open_file
from mosaicmem._reading import in_name_order
from mosaicmem.errors import FormatError

FILES = tuple(f"{name}{kind}" for name in ("cameras", "images", "points3D") for kind in (".bin", ".txt"))

_MAX_BYTES = 2**30
_MAX_NAME = 4096
_UNIT = 0.02  # by which the norm of what is a quaternion may be off


class _Model(NamedTuple):
    name: str
    parameters: int
    focals: int  # how many of them are focal lengths; 0 if it is no pinhole even where the rest is zero


_MODELS = {  # by COLMAP's number
    0: _Model("SIMPLE_PINHOLE", 3, 1),
    1: _Model("PINHOLE", 4, 2),
    2: _Model("SIMPLE_RADIAL", 4, 1),
    3: _Model("RADIAL", 5, 1),
    4: _Model("OPENCV", 8, 2),
    5: _Model("OPENCV_FISHEYE", 8, 0),
    6: _Model("FULL_OPENCV", 12, 2),
    7: _Model("FOV", 5, 0),
    8: _Model("SIMPLE_RADIAL_FISHEYE", 4, 0),
    9: _Model("RADIAL_FISHEYE", 5, 0),
    10: _Model("THIN_PRISM_FISHEYE", 12, 0),
    11: _Model("RAD_TAN_THIN_PRISM_FISHEYE", 16, 0),
    12: _Model("SIMPLE_DIVISION", 4, 1),
    13: _Model("DIVISION", 5, 2),
    14: _Model("SIMPLE_FISHEYE", 3, 0),
    15: _Model("FISHEYE", 4, 0),
    16: _Model("EUCM", 6, 0),
    17: _Model("EQUIRECTANGULAR", 2, 0),
}
_PINHOLES = {model.name: model for model in _MODELS.values() if model.focals}


@dataclass(frozen=True, eq=False)
class Image:
    """Where an image was taken, as the file has it: camera_from_world."""

    key: int
    name: str
    quaternion: F64
    translation: F64
    camera: int
    line: int | None


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera as the file has it."""

    model: str
    params: F64
    size: tuple[int, int]
    line: int | None

    def judged(self, path: Path) -> tuple[F64, tuple[int, int]]:
        """(fx, fy, cx, cy) and size; an error if it is no pinhole."""
        if self.model not in _PINHOLES:
            raise FormatError(
                path,
                f"expected a camera of model {', '.join(_PINHOLES)}, got {self.model:.40}; use "
                "colmap image_undistorter",
                self.line,
            )
        count, focals = _PINHOLES[self.model][1:]
        if len(self.params) != count:
            raise FormatError(path, f"{self.model}: expected {count} parameters, got {len(self.params)}", self.line)
        rest = self.params[focals + 2 :]
        if rest.any():
            raise FormatError(
                path,
                f"expected no distortion, got {self.model} with {rest.tolist()}; use colmap image_undistorter",
                self.line,
            )
        p = self.params
        return np.array([p[0], p[focals - 1], p[focals], p[focals + 1]]), self.size


# Folders


def find_model(path: Path) -> Path | None:
    """The folder of the one model in a folder, where COLMAP and its users put them, or of a file of a model.

    Raises
    ------
    FormatError
        There are several.
    """
    if path.name in FILES and path.is_file():
        return path.parent
    if not path.is_dir():
        return None
    if _holds_model(path):
        return path
    places = [path, path / "sparse", path / "colmap" / "sparse"]
    found = [place for place in places[1:] if _holds_model(place)]
    for place in places:
        if place.is_dir():
            found += [part for part in place.iterdir() if part.name.isdecimal() and _holds_model(part)]
    if len(found) > 1:
        names = ", ".join(sorted(str(part.relative_to(path)) for part in found)[:8])
        raise FormatError(path, f"expected one model, got {len(found)}: {names}; give one of these folders")
    return found[0] if found else None


def _holds_model(folder: Path) -> bool:
    return any((folder / f"images{kind}").is_file() for kind in (".bin", ".txt"))


def read_cameras(folder: Path) -> tuple[Path, dict[int, Camera]]:
    """The file of a model's cameras, of the kind that its images have, and the cameras by number."""
    path = folder / f"cameras{_kind(folder)}"
    cameras = _read_binary_cameras(path) if path.suffix == ".bin" else _read_text_cameras(path)
    if not cameras:
        raise FormatError(path, "expected at least one camera, got none")
    return path, cameras


def read_images(folder: Path, cameras: Collection[int]) -> tuple[Path, list[Image]]:
    """The file of a model's images, and the images in the order of the numbers and letters in their names.

    Each names one of ``cameras``.
    """
    path = folder / f"images{_kind(folder)}"
    images = _read_binary_images(path) if path.suffix == ".bin" else _read_text_images(path, cameras)
    images = in_name_order(images, lambda image: image.name, path)
    seen: set[int] = set()
    for image in images:
        if image.camera not in cameras:
            raise FormatError(path, f"{image.name}: no camera {image.camera} in cameras{path.suffix}", image.line)
        if image.key in seen:
            raise FormatError(path, f"{image.name}: expected each IMAGE_ID once, got {image.key} again", image.line)
        seen.add(image.key)
    return path, images


def _kind(folder: Path) -> str:
    return ".bin" if (folder / "images.bin").is_file() else ".txt"


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise FormatError(path, f"expected at most {_MAX_BYTES} bytes, got more")
    return content


# Text


def _text_lines(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, comments and empty ones left out."""
    lines = _content(path).decode("utf-8-sig", errors="replace").splitlines()
    numbered = ((i + 1, line.strip()) for i, line in enumerate(lines))
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _read_text_cameras(path: Path) -> dict[int, Camera]:
    cameras = {}
    for number, line in _text_lines(path):
        words = line.split()
        try:
            size = (int(words[2]), int(words[3]))
            params = np.array([float(word) for word in words[4:]])
            cameras[int(words[0])] = Camera(words[1], params, size, number)
        except (ValueError, IndexError):
            raise FormatError(path, f"expected ID MODEL WIDTH HEIGHT PARAMS, got {line[:80]!r}", number) from None
    return cameras


def _read_text_images(path: Path, cameras: Collection[int]) -> list[Image]:
    """An image a line, and after each, if they were written, a line with its points: x, y, id of each.

    The line of an image without points is empty, or some tools leave it out: so what a line is, it says itself.
    """
    images: list[Image] = []
    after_image = False
    for number, line in _text_lines(path):
        words = line.split(maxsplit=9)
        image = _as_image(words, number)
        if after_image and _are_points(line.split()):
            if image is not None and image.camera in cameras and abs(np.linalg.norm(image.quaternion) - 1) < _UNIT:
                raise FormatError(
                    path, f"expected an image or the points of one, got what may be either: {line[:80]!r}", number
                )
            after_image = False
        elif image is not None:
            images.append(image)
            after_image = True
        else:
            wanted = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            if after_image:
                wanted = f"the points of the image before, x y id of each, or {wanted}"
            raise FormatError(path, f"expected {wanted}, got {line[:80]!r}", number)
    return images


def _as_image(words: Sequence[str], line: int) -> Image | None:
    """The image that a line split in ten holds, if it holds one."""
    try:
        values = np.array([float(word) for word in words[1:8]])
        return Image(int(words[0]), words[9], values[:4], values[4:], int(words[8]), line)
    except (ValueError, IndexError):
        return None


def _are_points(words: Sequence[str]) -> bool:
    """Whether words are x, y and a whole number, again and again; looks at the first and the last ones."""
    try:
        for x, y, key in (words[:3], words[-3:]):
            float(x), float(y), int(key)
        if len(words) < 100:
            [float(word) for word in words]
    except ValueError:
        return False
    return len(words) % 3 == 0


# Binary, little-endian


class _Reader:
    """Takes numbers from bytes; a file that ends too early is a FormatError."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._at = path, _content(path), 0

    def take(self, layout: str) -> tuple[float, ...]:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self._content, self._at - size)

    def skip(self, size: int) -> None:
        if size > len(self._content) - self._at:
            raise FormatError(self._path, "damaged: it ends too early")
        self._at += size

    def name(self) -> str:
        """Text up to a zero byte."""
        end = self._content.find(b"\0", self._at, self._at + _MAX_NAME)
        if end < 0:
            raise FormatError(self._path, "damaged: a name without an end")
        name = self._content[self._at : end].decode(errors="replace")
        self._at = end + 1
        return name


def _read_binary_cameras(path: Path) -> dict[int, Camera]:
    reader = _Reader(path)
    cameras = {}
    for _ in range(int(reader.take("<Q")[0])):
        key, number, width, height = (int(x) for x in reader.take("<iiQQ"))
        model = _MODELS.get(number)
        if model is None:
            raise FormatError(
                path,
                f"expected a camera of model {_MODELS[0].name} to {_MODELS[max(_MODELS)].name} (0 to {max(_MODELS)}), "
                f"got number {number}; damaged, or of a newer COLMAP? write it as text with colmap model_converter",
            )
        cameras[key] = Camera(model.name, np.array(reader.take(f"<{model.parameters}d")), (width, height), None)
    return cameras


def _read_binary_images(path: Path) -> list[Image]:
    reader = _Reader(path)
    images = []
    for _ in range(int(reader.take("<Q")[0])):
        key, *pose, camera = reader.take("<i7di")
        values = np.array(pose)
        name = reader.name()
        reader.skip(24 * int(reader.take("<Q")[0]))  # points: x, y, id
        images.append(Image(int(key), name, values[:4], values[4:], int(camera), None))
    return images
