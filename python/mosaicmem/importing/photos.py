"""Folders of photos: upright, in natural order of their names, with the focal length of EXIF where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mosaicmem._file_kinds import OTHER_IMAGES, describe_file
from mosaicmem._images import read_upright
from mosaicmem._reading import in_name_order
from mosaicmem.errors import FormatError, suspect

if TYPE_CHECKING:
    from mosaicmem.importing.footage import Taken

_SUFFIXES = (".jpg", ".jpeg", ".png")
_FPS = 30.0
_NOT_PHOTOS = ("depth", "mask")  # in names of images that are no photos


def are_photos_alone(folder: Path) -> bool:
    """Whether a folder holds photos and nothing else, whatever their names look like."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return bool(paths) and all(_is_photo(path) for path in paths)


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not any(part in path.stem.lower() for part in _NOT_PHOTOS)


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
        if others:
            suspect(f"{self.folder}: {len(others)} images are neither JPEG nor PNG, and left out: {others[0]} first")
        self.paths = in_name_order(found, lambda path: path.name, self.folder)
        self.in_order = False

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, wanted: range | None = None) -> Iterator[Taken]:
        """The photos, or those at some positions."""
        from mosaicmem.importing.footage import Taken

        for number in range(len(self)) if wanted is None else wanted:
            path = self.paths[number]
            image, turned = read_upright(path)
            yield Taken(number, path.name, number / _FPS, image, None if turned else path)
