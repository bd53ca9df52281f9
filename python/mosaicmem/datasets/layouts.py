"""Which layout a folder of RGB-D frames has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from mosaicmem._file_kinds import describe_file
from mosaicmem._reading import check_folder
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.datasets.replica import Replica
from mosaicmem.datasets.scannet import ScanNet
from mosaicmem.datasets.sequence import RgbdSequence
from mosaicmem.datasets.seven_scenes import SevenScenes
from mosaicmem.datasets.tum import TumRgbd
from mosaicmem.errors import FormatError

_MOST_FOLDERS = 500  # looked into for a sequence
_MOST_LEVELS = 3
_LAYOUTS: list[tuple[str, tuple[str, ...], Callable[..., RgbdSequence]]] = []


def register_layout(name: str, files: tuple[str, ...], layout: Callable[..., RgbdSequence]) -> None:
    """Make a layout known to `open_sequence` and to all commands that take ``--scene``.

    Parameters
    ----------
    name : str
        As people call it.
    files : tuple of str
        Glob patterns, each of which must find something in a folder of this layout, and not all in one of another.
    layout : function
        Of the folder, and ``intrinsics`` by name: a class such as `Replica`.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if name in layout_names():
        raise ValueError(f"name: expected one that is free, got {name!r}, which is registered already")
    _LAYOUTS.append((name, files, layout))


def layout_names() -> tuple[str, ...]:
    """The names of all layouts, in the order in which they are looked for."""
    return tuple(name for name, _, _ in _LAYOUTS)


register_layout("7-Scenes", ("frame-*.color.*",), SevenScenes)
register_layout("TUM RGB-D", ("rgb.txt", "depth.txt", "groundtruth.txt"), TumRgbd)
register_layout("Replica", ("traj.txt", "results"), Replica)
register_layout("ScanNet", ("color", "depth", "pose", "intrinsic"), ScanNet)


def open_sequence(folder: str | Path, *, intrinsics: CameraIntrinsics | None = None) -> RgbdSequence:
    """The posed RGB-D sequence in a folder, read in the layout that the names of its files tell.

    Parameters
    ----------
    folder : path
        Of one of `layout_names`; the first of them that fits.
    intrinsics : CameraIntrinsics, optional
        In place of those that the folder has, or that its layout implies; for images of the same size.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        It is a file, the folder has none of the layouts, or a file in it is not what its layout says. The message names
        a folder near it that is a sequence, or what is missing.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        The layout leaves something open that is assumed, intrinsics most of all.
    """
    if isinstance(folder, (str, os.PathLike)) and os.path.isfile(folder):
        _refuse_file(Path(folder))
    folder = check_folder(folder)
    layout = _layout_of(folder)
    if layout is not None:
        return layout[1](folder, intrinsics=intrinsics)
    known = "; ".join(f"{name} ({', '.join(patterns)})" for name, patterns, _ in _LAYOUTS)
    raise FormatError(
        folder, f"expected the files of one of these layouts: {known}; found none of them complete: {_found(folder)}"
    )


def _layout_of(folder: Path) -> tuple[str, Callable[..., RgbdSequence]] | None:
    for name, patterns, layout in _LAYOUTS:
        if not _lacks(folder, patterns):
            return name, layout
    return None


def _lacks(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    return [pattern for pattern in patterns if not any(folder.glob(pattern))]


def _refuse_file(file: Path) -> None:
    """Say which folder is meant, if the file is one of a sequence; `check_folder` says the rest."""
    for folder in list(Path(os.path.abspath(file)).parents)[:2]:
        found = _layout_of(folder)
        if found is not None:
            raise FormatError(
                file, f"expected a folder, got {describe_file(file)} of a {found[0]} sequence; give {folder}"
            )


def _found(folder: Path) -> str:
    """What is in a folder that is no sequence, and what would be one."""
    names = sorted(path.name for path in islice(folder.iterdir(), 10_000))
    if not names:
        return "the folder is empty"
    inside = list(islice(_sequences_below(folder), 3))
    if inside:
        return f"give the folder of one sequence, such as {' or '.join(str(path) for path in inside)}"
    for parent in list(Path(os.path.abspath(folder)).parents)[:2]:
        found = _layout_of(parent)
        if found is not None:
            return f"this is a part of a {found[0]} sequence; give {parent}"
    for name, patterns, _ in _LAYOUTS:
        lacks = _lacks(folder, patterns)
        if len(lacks) < len(patterns):
            return f"for {name} it lacks {', '.join(lacks)}"
    kinds = {describe_file(folder / name) for name in names[:20] if (folder / name).is_file()} - {"a file"}
    return f"it holds {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" + (
        f" ({', '.join(sorted(kinds))})" if kinds else ""
    )


def _sequences_below(folder: Path) -> Iterator[Path]:
    """Folders within that would open, the nearest first."""
    level, looked = [folder], 0
    for _ in range(_MOST_LEVELS):
        below: list[Path] = []
        for parent in level:
            try:
                below += sorted(path for path in parent.iterdir() if path.is_dir())
            except OSError:  # not ours to read: nothing in it can be named
                continue
        for path in below:
            looked += 1
            if looked > _MOST_FOLDERS:
                return
            if _layout_of(path) is not None:
                yield path
        level = below
