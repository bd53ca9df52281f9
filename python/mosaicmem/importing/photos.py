"""Folders of photos: upright, in natural order of their names, with the focal length of EXIF where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mosaicmem._file_kinds import OTHER_IMAGES, describe_file
from mosaicmem._images import read_upright
from mosaicmem._opening import foreign_parser
from mosaicmem._reading import in_name_order
from mosaicmem.errors import FormatError, suspect

if TYPE_CHECKING:
    from mosaicmem.importing.footage import Taken

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FPS = 30.0
_NOT_PHOTOS = re.compile(r"(^|[^a-z])(depth|mask)s?([^a-z]|$)")  # in names of images that are no photos
_EXIF, _FOCAL, _FOCAL_35MM, _MAKE, _MODEL = 0x8769, 0x920A, 0xA405, 0x010F, 0x0110  # tags
_FILM = 36.0  # mm: the longer side of the film that focal lengths are compared on


def are_photos_alone(folder: Path) -> bool:
    """Whether a folder holds photos and nothing else, whatever their names look like."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return bool(paths) and all(_is_photo(path) for path in paths)


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and _NOT_PHOTOS.search(path.stem.lower()) is None


class Photos:
    """The JPEG and PNG images of a folder, turned upright by EXIF.

    Parameters
    ----------
    folder : path

    Raises
    ------
    FormatError
        It holds fewer than two such images.

    Warns
    -----
    SuspiciousInput
        Images of other formats are left out.
    """

    kind = "photos"
    unit = "scene units"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = [path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        found = [path for path in paths if _is_photo(path)]
        others = sorted(path.name for path in paths if path.suffix.lower() in OTHER_IMAGES)
        if len(found) < 2:
            got = f"{len(found)} and {len(others)} such as {others[0]}" if others else str(len(found))
            kinds = f"; convert {describe_file(self.folder / others[0])} to JPEG first" if others else ""
            raise FormatError(self.folder, f"expected at least two photos (JPEG or PNG), got {got}{kinds}")
        named = sorted(path.name for path in paths if path.suffix.lower() in _SUFFIXES and path not in found)
        if named:
            suspect(f"{self.folder}: {len(named)} images are named as depth or masks, and left out: {named[0]} first")
        if others:
            suspect(f"{self.folder}: {len(others)} images are neither JPEG nor PNG, and left out: {others[0]} first")
        self.paths = in_name_order(found, lambda path: path.name, self.folder)
        self.names: list[str] | None = [path.name for path in self.paths]
        self.in_order = False

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, wanted: range | None = None) -> Iterator[Taken]:
        """The photos, or those at some positions."""
        from mosaicmem.importing.footage import Taken

        for number in range(len(self)) if wanted is None else wanted:
            path = self.paths[number]
            image, turned = read_upright(path)
            focal, camera = _lens_of(path, max(image.shape))
            file = None if turned else path
            yield Taken(number, number, path.name, number / _FPS, image, file, focal=focal, camera=camera)


def _lens_of(path: Path, side: int) -> tuple[float | None, str | None]:
    """What EXIF tells of a photo whose longer side has ``side`` pixels: the focal length in pixels, and the camera."""
    with foreign_parser(path, "not a readable image"), Image.open(path, formats=("JPEG", "PNG")) as image:
        tags = image.getexif()
        more = tags.get_ifd(_EXIF)
    parts = [str(tags.get(_MAKE, "")), str(tags.get(_MODEL, "")), str(more.get(_FOCAL, ""))]
    try:
        film = float(more.get(_FOCAL_35MM, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        film = 0.0
    focal = film / _FILM * side if 1 < film < 5000 else None
    return focal, " ".join(parts) if any(parts) else None
