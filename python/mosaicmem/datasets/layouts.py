"""Which layout a folder of RGB-D frames has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mosaicmem._reading import check_folder
from mosaicmem.datasets.replica import Replica
from mosaicmem.datasets.scannet import ScanNet
from mosaicmem.datasets.sequence import RgbdSequence
from mosaicmem.datasets.seven_scenes import SevenScenes
from mosaicmem.datasets.tum import TumRgbd
from mosaicmem.errors import FormatError

_LAYOUTS: tuple[tuple[str, tuple[str, ...], Callable[[Path], RgbdSequence]], ...] = (
    ("7-Scenes", ("frame-*.color.*",), SevenScenes),
    ("TUM RGB-D", ("rgb.txt", "depth.txt", "groundtruth.txt"), TumRgbd),
    ("Replica", ("traj.txt", "results"), Replica),
    ("ScanNet", ("color", "depth", "pose", "intrinsic"), ScanNet),
)


def open_sequence(folder: str | Path) -> RgbdSequence:
    """The posed RGB-D sequence in a folder, read in the layout that the names of its files tell.

    Parameters
    ----------
    folder : path
        Of `SevenScenes`, `TumRgbd`, `Replica` or `ScanNet`; the first of them that fits.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        The folder has none of the layouts, or a file in it is not what its layout says.
    """
    folder = check_folder(folder)
    for _, patterns, layout in _LAYOUTS:
        if all(any(folder.glob(pattern)) for pattern in patterns):
            return layout(folder)
    known = "; ".join(f"{name} ({', '.join(patterns)})" for name, patterns, _ in _LAYOUTS)
    raise FormatError(folder, f"expected the files of one of these layouts: {known}; found none of them complete")
