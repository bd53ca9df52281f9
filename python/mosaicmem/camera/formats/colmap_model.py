"""Finds and parses the files of COLMAP's sparse models, text or binary."""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from mosaicmem._opening import check_growth, file_size, open_file, read_bytes
from mosaicmem._reading import in_name_order
from mosaicmem.camera.formats.colmap_records import MODELS, Camera, Image, Images
from mosaicmem.camera.formats.options import check_frames
from mosaicmem.camera.pose import quaternion_norm
from mosaicmem.errors import FormatError

FILES = tuple(f"{name}{kind}" for name in ("cameras", "images", "points3D") for kind in (".bin", ".txt"))

_MAX_BYTES = 2**30
_MAX_NAME = 4096
_MOST_KEY = 2**62
_MOST_WORDS = 100  # per camera line
_SHORT_LINE = 2000  # bytes; every word of a shorter line is parsed
_LEAST_IMAGE, _LEAST_CAMERA = 73, 24  # bytes per record in a binary file
_IMAGE_BYTES, _CAMERA_BYTES = 220, 640  # bytes per record in memory while a model is read
_UNIT = 0.02  # tolerance of the norm by which a quaternion is recognised


# Folders


def find_model(path: Path) -> Path | None:
    """The folder of the model at ``path``: the folder itself, that of a model's file, or one in a usual place below.

    Raises
    ------
    FormatError
        There are several models.
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
    """The path of a model's cameras file, text or binary like its images, and the cameras by id."""
    path = folder / f"cameras{_kind(folder)}"
    cameras = _read_binary_cameras(path) if path.suffix == ".bin" else _read_text_cameras(path)
    if not cameras:
        raise FormatError(path, "expected at least one camera, got none")
    return path, cameras


def read_images(folder: Path, cameras: Collection[int]) -> tuple[Path, Images]:
    """The path of a model's images file, and the images in natural order of their names (2 before 10).

    Each image must refer to one of ``cameras``.
    """
    path = folder / f"images{_kind(folder)}"
    images = _read_binary_images(path) if path.suffix == ".bin" else _read_text_images(path, cameras)
    # Sort keys are longer than the names.
    needed = 8 * sum(sys.getsizeof(name) for name in images.names)
    check_growth(path, path.stat().st_size, needed, f"{len(images)} names of images")
    images.order = in_name_order(range(len(images)), lambda i: images.names[i], path)
    keys = np.array(images.keys)[images.order]
    by_key = np.argsort(keys, kind="stable")
    again = by_key[1:][keys[by_key[1:]] == keys[by_key[:-1]]]
    first_again = int(again.min()) if len(again) else len(images)
    for i, image in enumerate(images):
        if image.camera not in cameras:
            raise FormatError(path, f"{image.name}: no camera {image.camera} in cameras{path.suffix}", image.line)
        if i == first_again:
            raise FormatError(path, f"{image.name}: expected each IMAGE_ID once, got {image.key} again", image.line)
    return path, images


def _kind(folder: Path) -> str:
    return ".bin" if (folder / "images.bin").is_file() else ".txt"


# Text


def _text_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without comments and empty lines; one at a time, as lines of points are long."""
    with open_file(path) as file:
        _check_size(path, file_size(file))
        for number, line in enumerate(file, start=1):
            line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
            if line and not line.startswith(b"#"):
                yield number, line


def _check_size(path: Path, size: int) -> None:
    if size > _MAX_BYTES:
        raise FormatError(path, f"expected at most {_MAX_BYTES} bytes, got {size}")


def _read_text_cameras(path: Path) -> dict[int, Camera]:
    cameras: dict[int, Camera] = {}
    for number, line in _text_lines(path):
        words = line.split(maxsplit=_MOST_WORDS)
        try:
            size = (int(words[2]), int(words[3]))
            params = np.array([float(word) for word in words[4:]])
            cameras[int(words[0])] = Camera(words[1].decode(errors="replace"), params, size, number)
        except (ValueError, IndexError):
            raise FormatError(path, f"expected ID MODEL WIDTH HEIGHT PARAMS, got {_shown(line)}", number) from None
        if len(cameras) % 1024 == 0:
            _check_cameras(path, len(cameras), path.stat().st_size)
    return cameras


def _check_cameras(path: Path, count: int, size: int) -> None:
    check_growth(path, size, count * _CAMERA_BYTES, f"{count} cameras")


def _read_text_images(path: Path, cameras: Collection[int]) -> Images:
    """One line per image, followed by a line with its points (x, y, id each) if they were written.

    The points line of an image without points is empty, or left out by some tools: so lines are told apart by content.
    """
    images = Images()
    after_image = False
    for number, line in _text_lines(path):
        image = _as_image(line, number)
        if after_image and _are_points(line):
            if image is not None and image.camera in cameras and abs(quaternion_norm(image.quaternion) - 1) < _UNIT:
                raise FormatError(
                    path, f"expected an image or the points of one, got what may be either: {_shown(line)}", number
                )
            after_image = False
        elif image is not None:
            images.append(image)
            after_image = True
            if len(images) % 4096 == 0:
                check_frames(path, len(images), path.stat().st_size, _IMAGE_BYTES)
        else:
            wanted = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            if after_image:
                wanted = f"the points of the image before, x y id of each, or {wanted}"
            raise FormatError(path, f"expected {wanted}, got {_shown(line)}", number)
    return images


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))


def _as_image(line: bytes, number: int) -> Image | None:
    """The image on a line; None if the line is no image."""
    words = line.split(maxsplit=9)
    try:
        values = np.array([float(word) for word in words[1:8]])
        key, camera, name = int(words[0]), int(words[8]), words[9]
    except (ValueError, IndexError):
        return None
    if len(name) > _MAX_NAME or not (abs(key) < _MOST_KEY and abs(camera) < _MOST_KEY):
        return None
    return Image(key, name.decode(errors="replace"), values[:4], values[4:], camera, number)


def _are_points(line: bytes) -> bool:
    """Whether a line repeats x, y and an integer id; of a long line only the first and last triples are parsed."""
    try:
        for x, y, key in (line.split(maxsplit=3)[:3], line.rsplit(maxsplit=3)[-3:]):
            float(x), float(y), int(key)
        if len(line) < _SHORT_LINE:
            [float(word) for word in line.split()]
    except ValueError:
        return False
    return _count_words(line) % 3 == 0


def _count_words(line: bytes) -> int:
    """Counts words without allocating them: the line of an image may hold millions."""
    is_space = np.frombuffer(line, np.uint8) <= ord(" ")
    return 1 + int(np.count_nonzero(is_space[1:] < is_space[:-1]))


# Binary, little-endian


class _Reader:
    """Reads values from the bytes of a file; a truncated file is a FormatError."""

    def __init__(self, path: Path) -> None:
        with open_file(path) as file:
            self._content = read_bytes(path, file, _MAX_BYTES)
        self.path, self.size, self._at = path, len(self._content), 0

    def count(self, name: str, least: int) -> int:
        """The number of records that follow, each of at least ``least`` bytes; checked against the rest of the file."""
        count, left = int(self.take("<Q")[0]), self.size - self._at
        if count * least > left:
            raise FormatError(
                self.path, f"damaged: it ends too early: {count} {name} need {count * least} bytes, {left} are left"
            )
        return count

    def take(self, layout: str) -> tuple[float, ...]:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self._content, self._at - size)

    def skip(self, size: int) -> None:
        if size > self.size - self._at:
            raise FormatError(self.path, "damaged: it ends too early")
        self._at += size

    def name(self) -> str:
        """Text up to a zero byte."""
        end = self._content.find(b"\0", self._at, self._at + _MAX_NAME)
        if end < 0:
            raise FormatError(self.path, "damaged: a name without an end")
        name = self._content[self._at : end].decode(errors="replace")
        self._at = end + 1
        return name


def _read_binary_cameras(path: Path) -> dict[int, Camera]:
    reader = _Reader(path)
    cameras = {}
    count = reader.count("cameras", _LEAST_CAMERA)
    _check_cameras(path, count, reader.size)
    for _ in range(count):
        key, number, width, height = (int(x) for x in reader.take("<iiQQ"))
        model = MODELS.get(number)
        if model is None:
            raise FormatError(
                path,
                f"expected a camera of model {MODELS[0].name} to {MODELS[max(MODELS)].name} (0 to {max(MODELS)}), "
                f"got number {number}; damaged, or of a newer COLMAP? write it as text with colmap model_converter",
            )
        cameras[key] = Camera(model.name, np.array(reader.take(f"<{model.parameters}d")), (width, height), None)
    return cameras


def _read_binary_images(path: Path) -> Images:
    reader = _Reader(path)
    images = Images()
    count = reader.count("images", _LEAST_IMAGE)
    check_frames(path, count, reader.size, _IMAGE_BYTES)
    for _ in range(count):
        key, *pose, camera = reader.take("<i7di")
        values = np.array(pose)
        name = reader.name()
        reader.skip(24 * int(reader.take("<Q")[0]))  # points: x, y, id
        images.append(Image(int(key), name, values[:4], values[4:], int(camera), None))
    return images
