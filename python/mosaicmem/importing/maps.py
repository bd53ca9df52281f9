"""Folders of depth or masks that go with footage: which file belongs to which frame."""

from __future__ import annotations

from pathlib import Path

from mosaicmem._depth_maps import DEPTH_SUFFIXES
from mosaicmem._reading import check_folder, in_name_order
from mosaicmem.errors import FormatError, suspect
from mosaicmem.importing.footage import Footage

_IMAGES = (".png", ".jpg", ".jpeg")
_KINDS = (".geometric", ".photometric")  # of COLMAP's depth; the first is better
_ENDINGS = (".depth", ".mask", ".color", ".rgb")


class MapFiles:
    """The files of a folder: one for each frame of the same name, or one for each frame in their order.

    Names are compared without their suffixes, and without endings such as ``.color`` and ``.depth``. If no file has the
    name of a frame, there must be as many as frames.

    Parameters
    ----------
    name : {"depth", "masks"}
    folder : path
    footage : Footage

    Raises
    ------
    FormatError
        There are no such files, or neither their names nor their number are those of the frames.

    Warns
    -----
    SuspiciousInput
        Some frames have no file.
    """

    def __init__(self, name: str, folder: Path, footage: Footage) -> None:
        folder = check_folder(folder)
        suffixes = DEPTH_SUFFIXES if name == "depth" else _IMAGES
        paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
        if not paths:
            raise FormatError(folder, f"expected {name} ({', '.join(suffixes)}), found none")
        ordered = in_name_order(paths, lambda path: path.stem, folder)
        by_name = {_stem(path.name): path for path in sorted(paths, key=lambda path: _KINDS[0] in path.name)}
        names = footage.names or []
        found = [by_name.get(_stem(each)) for each in names]
        if any(found):
            self._files = found
            missing = [each for each, file in zip(names, found, strict=True) if file is None]
            if missing:
                suspect(f"{folder}: {len(missing)} of {len(names)} frames have no file of {name}, {missing[0]} first")
        elif len(ordered) == len(footage):
            self._files = list(ordered)
        else:
            beside = f", or the names of frames such as {names[0]}" if names else ""
            raise FormatError(
                folder,
                f"expected a file of {name} for each of the {len(footage)} frames of the footage, in their order"
                f"{beside}; got {len(ordered)} such as {ordered[0].name}",
            )

    def of(self, position: int) -> Path | None:
        """The file of a frame, by its position in the footage; None if it has none."""
        return self._files[position] if position < len(self._files) else None


def _stem(name: str) -> str:
    """A file's name without what names of images and of their maps differ in."""
    stem = Path(name).stem
    for ending in (*_KINDS, *_IMAGES, *_ENDINGS):
        stem = stem.removesuffix(ending)
    return stem
