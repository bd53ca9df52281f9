"""Folders of depth or masks that go with footage: which file belongs to which frame."""

from __future__ import annotations

from pathlib import Path

from mosaicmem._depth_maps import DEPTH_SUFFIXES
from mosaicmem._reading import check_folder, in_name_order
from mosaicmem.errors import FormatError
from mosaicmem.importing.footage import Footage

_IMAGES = (".png", ".jpg", ".jpeg")


class MapFiles:
    """The files of a folder, by the stem of a photo's name, the number in their name, or their place in the order.

    Parameters
    ----------
    name : {"depth", "masks"}
    folder : path
    footage : Footage

    Raises
    ------
    FormatError
        There are no such files, or their names and their number match nothing.
    """

    def __init__(self, name: str, folder: Path, footage: Footage) -> None:
        self._name, self._folder = name, check_folder(folder)
        suffixes = DEPTH_SUFFIXES if name == "depth" else _IMAGES
        paths = [path for path in self._folder.iterdir() if path.suffix.lower() in suffixes and path.name[0] != "."]
        if not paths:
            raise FormatError(self._folder, f"expected {name} ({', '.join(suffixes)}), found none")
        ordered = in_name_order(paths, lambda path: path.stem, self._folder)
        self._by_stem = {path.stem: path for path in ordered}
        self._by_number = dict(enumerate(ordered)) if len(ordered) == len(footage) else {}
        self._numbered = {int(path.stem): path for path in ordered if path.stem.isdecimal()}

    def of(self, number: int, name: str) -> Path | None:
        """The file of a frame, by its number in the footage and the name of its file; None if it has none."""
        stem = Path(name).stem
        for candidate in (stem, stem.removesuffix(".color"), f"{stem}.{self._name}"):
            if candidate in self._by_stem:
                return self._by_stem[candidate]
        found = self._by_number.get(number, self._numbered.get(number))
        if found is None and not self._by_number and not self._numbered:
            raise FormatError(
                self._folder,
                f"expected {self._name} with the names of the photos, with numbers of frames, or one for each frame; "
                f"found {len(self._by_stem)} such as {next(iter(self._by_stem.values())).name}",
            )
        return found
