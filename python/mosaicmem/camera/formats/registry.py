"""Formats by name, and which one a file is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mosaicmem._arrays import check_choice, check_instance
from mosaicmem._files import read_json_object
from mosaicmem._reading import read_lines
from mosaicmem.camera.formats import colmap, kitti, matrixgame, nerfstudio, own, realestate10k, tum, worldplay
from mosaicmem.camera.formats.options import ReadOptions
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.trajectory import SCHEMA, CameraTrajectory
from mosaicmem.errors import FormatError


class _Format(NamedTuple):
    read: Callable[[Path, ReadOptions], CameraTrajectory]
    write: Callable[[Path, CameraTrajectory], None]


FORMATS: Mapping[str, _Format] = {
    "mosaicmem": _Format(own.read, own.write),
    "tum": _Format(tum.read, tum.write),
    "kitti": _Format(kitti.read, kitti.write),
    "colmap": _Format(colmap.read, colmap.write),
    "colmap-binary": _Format(colmap.read, colmap.write_binary),
    "re10k": _Format(realestate10k.read, realestate10k.write),
    "nerfstudio": _Format(nerfstudio.read, nerfstudio.write),
    "matrixgame": _Format(matrixgame.read, matrixgame.write),
    "worldplay": _Format(worldplay.read, worldplay.write),
}
"""Reader and writer by name."""

_BY_COLUMNS = {8: "tum", 12: "kitti", 19: "re10k"}


def load_trajectory(
    path: str | Path,
    format: str | None = None,
    *,
    intrinsics: CameraIntrinsics | None = None,
    size: tuple[int, int] | None = None,
    fps: float = 30.0,
) -> CameraTrajectory:
    """Read a camera path.

    Parameters
    ----------
    path : path
        A file, or a folder for COLMAP.
    format : str, optional
        A name in `FORMATS`; found out if not given.
    intrinsics : CameraIntrinsics, optional
        Needed by ``tum`` and ``kitti``, which have none; taken in place of those of a file elsewhere.
    size : (int, int), optional
        (width, height) of the images: needed by ``re10k`` and ``matrixgame``.
    fps : float
        Frames a second, for formats without times.

    Raises
    ------
    FormatError
        The file is not of the format, or something is missing that it does not hold; the message names file and line.
    """
    path = Path(path)
    name = detect_format(path) if format is None else check_choice("format", format, tuple(FORMATS))
    return FORMATS[name].read(path, ReadOptions(intrinsics, size, fps))


def save_trajectory(path: str | Path, trajectory: CameraTrajectory, format: str) -> None:
    """Write a camera path in a format of `FORMATS`, whole or not at all.

    Parameters
    ----------
    path : path
        A file that is replaced, or a folder for ``colmap`` and ``colmap-binary``.
    trajectory : CameraTrajectory
    format : str
    """
    check_instance("trajectory", trajectory, CameraTrajectory)
    FORMATS[check_choice("format", format, tuple(FORMATS))].write(Path(path), trajectory)


def detect_format(path: str | Path) -> str:
    """The format of a file, from what is in it.

    Raises
    ------
    FormatError
        It is none that is known.
    """
    path = Path(path)
    if path.is_dir():
        return "colmap"
    if path.suffix == ".npz":
        return "matrixgame"
    if path.suffix == ".json":
        document = read_json_object(path)
        if document.get("schema") == SCHEMA:
            return "mosaicmem"
        if "frames" in document:
            return "nerfstudio"
        if "0" in document:
            return "worldplay"
        raise FormatError(path, 'expected "schema", "frames" or "0" among the keys: no trajectory that is known')
    lines = read_lines(path)
    for _, line in lines[:2]:
        name = _BY_COLUMNS.get(len(line.split()))
        if name is not None:
            return name
    raise FormatError(path, "expected lines of 8 (tum), 12 (kitti) or 19 (re10k) numbers: no trajectory that is known")
