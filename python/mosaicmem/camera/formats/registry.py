"""The registry of formats, and format detection."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mosaicmem._arrays import check_choice, check_instance
from mosaicmem._files import read_json
from mosaicmem._reading import read_lines
from mosaicmem.camera.formats import (
    bundler,
    camera_path,
    colmap,
    euroc,
    gaussian_splatting,
    kitti,
    llff,
    lyra,
    matrices,
    matrixgame,
    motionctrl,
    nerfstudio,
    neus,
    numpy_poses,
    open3d,
    openmvg,
    opensfm,
    own,
    realestate10k,
    recammaster,
    rust,
    tartanair,
    tum,
    viewcrafter,
    worldplay,
)
from mosaicmem.camera.formats.colmap_model import find_model
from mosaicmem.camera.formats.foreign import (
    begins_with,
    has_entry,
    is_json,
    is_poses_bounds,
    is_zip,
    what_file_is,
    what_folder_is,
    what_text_is,
)
from mosaicmem.camera.formats.options import ReadOptions
from mosaicmem.camera.intrinsics import CameraIntrinsics
from mosaicmem.camera.trajectory import CameraTrajectory
from mosaicmem.camera.trajectory_file import SCHEMA
from mosaicmem.errors import FormatError


class _Format(NamedTuple):
    read: Callable[[Path, ReadOptions], CameraTrajectory]
    write: Callable[[Path, CameraTrajectory], None] | None


FORMATS: dict[str, _Format] = {
    "mosaicmem": _Format(own.read, own.write),
    "tum": _Format(tum.read, tum.write),
    "kitti": _Format(kitti.read, kitti.write),
    "colmap": _Format(colmap.read, colmap.write),
    "colmap-binary": _Format(colmap.read, colmap.write_binary),
    "re10k": _Format(realestate10k.read, realestate10k.write),
    "nerfstudio": _Format(nerfstudio.read, nerfstudio.write),
    "matrixgame": _Format(matrixgame.read, matrixgame.write),
    "worldplay": _Format(worldplay.read, worldplay.write),
    "3dgs": _Format(gaussian_splatting.read, None),
    "bundler": _Format(bundler.read, None),
    "camera-path": _Format(camera_path.read, None),
    "euroc": _Format(euroc.read, None),
    "llff": _Format(llff.read, None),
    "lyra": _Format(lyra.read, None),
    "matrices": _Format(matrices.read, None),
    "motionctrl": _Format(motionctrl.read, None),
    "neus": _Format(neus.read, None),
    "numpy": _Format(numpy_poses.read, None),
    "open3d": _Format(open3d.read, None),
    "openmvg": _Format(openmvg.read, None),
    "opensfm": _Format(opensfm.read, None),
    "recammaster": _Format(recammaster.read, None),
    "rust": _Format(rust.read, None),
    "tartanair": _Format(tartanair.read, None),
    "viewcrafter": _Format(viewcrafter.read, None),
}
"""Reader and writer by name; some are only read."""


def register_format(
    name: str,
    read: Callable[[Path, ReadOptions], CameraTrajectory],
    write: Callable[[Path, CameraTrajectory], None] | None = None,
) -> None:
    """Register a format for `load_trajectory`, `save_trajectory` and the command line.

    Parameters
    ----------
    name : str
    read : function
        Takes a path and the caller's `ReadOptions`; raises FormatError for a file that it cannot read.
    write : function, optional
        Takes a path and a trajectory; without it the format is only read.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if name in FORMATS:
        raise ValueError(f"name: expected one that is free, got {name!r}, which is registered already")
    FORMATS[name] = _Format(read, write)


def format_names(*, written: bool = False) -> tuple[str, ...]:
    """The names of all formats, or of those that can be written."""
    return tuple(name for name, format in FORMATS.items() if format.write is not None or not written)


_BY_COLUMNS = {8: "tum", 12: "kitti", 19: "re10k", **dict.fromkeys(matrices.COLUMNS, "matrices")}


def load_trajectory(
    path: str | Path,
    format: str | None = None,
    *,
    intrinsics: CameraIntrinsics | None = None,
    size: tuple[int, int] | None = None,
    fps: float = 30.0,
    time_unit: str | None = None,
    intrinsics_mode: str = "per_frame",
    camera: str | None = None,
) -> CameraTrajectory:
    """Read a camera path.

    Parameters
    ----------
    path : path
        A file, or for COLMAP the folder of a model or one above it that holds a single model.
    format : str, optional
        A name in `FORMATS`; detected if not given.
    intrinsics : CameraIntrinsics, optional
        Required by ``tum`` and ``kitti``, which have none; for other formats they replace those of the file.
    size : (int, int), optional
        (width, height) of the images: required by ``re10k`` and ``matrixgame`` unless ``intrinsics`` are given.
    fps : float
        Frames per second, for formats without times, and for ``time_unit="frames"``.
    time_unit : {"s", "ms", "us", "ns", "frames"}, optional
        The unit of the times in the file; if not given, that of the format: seconds, or microseconds for ``re10k``.
    intrinsics_mode : {"per_frame", "first_frame", "mean"}
        Of a file whose frames have different intrinsics: keep them, or give all frames those of the first, or the mean.
    camera : str, optional
        The name of the one to read, in a file of several (``recammaster``).

    Raises
    ------
    FormatError
        The file is not in the format, describes distortion or skew, has times whose unit is uncertain, or lacks values
        that the caller did not give either; the message names file and line.

    Warns
    -----
    SuspiciousInput
        Unknown fields were skipped, intrinsics or times look like a common mistake, or times can only be in another
        unit and were read in that unit. Each is reported once per file.
    """
    path = Path(path)
    options = ReadOptions(intrinsics, size, fps, time_unit, intrinsics_mode, camera)
    name = detect_format(path) if format is None else check_choice("format", format, tuple(FORMATS))
    if format is not None and not format.startswith(("colmap", "llff", "numpy", "viewcrafter")) and path.is_file():
        _refuse_foreign(path)
    return FORMATS[name].read(path, options)


def save_trajectory(path: str | Path, trajectory: CameraTrajectory, format: str) -> None:
    """Write a camera path in a format of `FORMATS`; each file is written atomically.

    Parameters
    ----------
    path : path
        A file, replaced if it exists, or a folder for ``colmap`` and ``colmap-binary``.
    trajectory : CameraTrajectory
    format : str
    """
    check_instance("trajectory", trajectory, CameraTrajectory)
    write = FORMATS[check_choice("format", format, format_names(written=True))].write
    assert write is not None
    write(Path(path), trajectory)


def detect_format(path: str | Path) -> str:
    """Detect the format of a camera path from its content and file name.

    Raises
    ------
    FormatError
        The format is not known.
    """
    path = Path(path)
    if find_model(path) is not None:
        return "colmap"
    if path.is_dir():
        raise FormatError(path, f"expected the file of a camera path, got a folder: {what_folder_is(path)}")
    if is_poses_bounds(path):
        return "llff"
    _refuse_foreign(path)
    if path.suffix == ".npz" or is_zip(path):
        if has_entry(path, f"{neus.PREFIX}0"):
            return "neus"
        return "lyra" if has_entry(path, lyra.POSES) else "matrixgame"
    if path.suffix == ".json" or is_json(path):
        return _detect_json(path)
    if begins_with(path, bundler.HEADING):
        return "bundler"
    lines = list(islice(read_lines(path), 2))
    if lines and euroc.is_euroc(lines[0][1]):
        return "euroc"
    if [len(line.split()) for _, line in lines] == [3, 4]:
        return "open3d"
    for _, line in lines:
        name = _BY_COLUMNS.get(len(line.split()))
        if name is not None:
            return name
    found = what_text_is(lines[0][1]) if lines else "none"
    raise FormatError(
        path,
        f"expected lines of 8 (tum), 12 (kitti), 16 (matrices) or 19 (re10k) numbers, got {found}; no trajectory that "
        "is known",
    )


def _refuse_foreign(path: Path) -> None:
    what = what_file_is(path)
    if what is not None:
        raise FormatError(path, f"expected a camera path, got {what}")


def _detect_json(path: Path) -> str:
    document = read_json(path)
    if isinstance(document, list):
        return _detect_list(path, document)
    if not isinstance(document, dict):
        raise FormatError(path, f"expected a JSON object, got {type(document).__name__}")
    if document.get("schema") == SCHEMA:
        return "mosaicmem"
    if "camera_path" in document:
        return "camera-path"
    if document.get("class_name") == open3d.CLASS_NAME:
        return "open3d"
    if document.keys() >= openmvg.KEYS:
        return "openmvg"
    if "frames" in document:
        return "nerfstudio"
    if recammaster.FIRST in document:
        return "recammaster"
    if document.keys() == rust.KEYS:
        return "rust"
    if "0" in document:
        return "worldplay"
    keys = ", ".join(key[:40] for key in list(document)[:12]) or "none"
    raise FormatError(
        path,
        f'expected "schema", "frames", "camera_path" or "0" among the keys, got {keys}: no trajectory that is known',
    )


def _detect_list(path: Path, document: list[Any]) -> str:
    if document and isinstance(document[0], list) and len(document[0]) == motionctrl.NUMBERS:
        return "motionctrl"
    first = document[0] if document and isinstance(document[0], dict) else {}
    if "shots" in first:
        return "opensfm"
    if {"rotation", "position"} <= first.keys():
        return "3dgs"
    keys = ", ".join(key[:40] for key in list(first)[:12]) or "none"
    raise FormatError(
        path,
        f'expected "rotation" and "position" (3DGS\'s cameras.json) or "shots" (OpenSfM) in the list, got {keys}: no '
        "trajectory that is known",
    )
