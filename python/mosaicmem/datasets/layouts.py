"""The registry of layouts of RGB-D folders, and layout detection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from mosaicmem._file_kinds import describe_file
from mosaicmem._reading import check_folder
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.datasets import described, found
from mosaicmem.datasets.posed import PosedFrames, PosedSequence
from mosaicmem.datasets.predicted import PredictedSequence, is_predicted
from mosaicmem.datasets.registered import with_color_camera
from mosaicmem.datasets.replica import Replica
from mosaicmem.datasets.scannet import ScanNet
from mosaicmem.datasets.sequence import RgbdSequence
from mosaicmem.datasets.seven_scenes import SevenScenes
from mosaicmem.datasets.tools import (
    arkitscenes,
    colmap,
    cut3r,
    icl_nuim,
    nerfstudio,
    polycam,
    record3d,
    scannetpp,
    tartanair,
)
from mosaicmem.datasets.tum import TumRgbd
from mosaicmem.errors import FormatError

_MOST_FOLDERS = 500  # searched for a sequence
_MOST_LEVELS = 3
_LAYOUTS: list[tuple[str, tuple[str, ...], Callable[..., RgbdSequence]]] = []


def register_layout(name: str, files: tuple[str, ...], layout: Callable[..., RgbdSequence]) -> None:
    """Register a layout for `open_sequence` and all commands that take ``--scene``.

    Parameters
    ----------
    name : str
        The layout's common name.
    files : tuple of str
        Glob patterns that must all match in a folder of this layout, and must not all match in one of another layout;
        a pattern may have alternatives, with ``|`` between.
    layout : function
        Takes the folder and the keyword ``intrinsics``: a class such as `Replica`.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if name in layout_names():
        raise ValueError(f"name: expected one that is free, got {name!r}, which is registered already")
    _LAYOUTS.append((name, files, layout))


def layout_names() -> tuple[str, ...]:
    """The names of all layouts, in the order in which they are tried."""
    return tuple(name for name, _, _ in _LAYOUTS)


_POSED: dict[str, Callable[[Path], PosedFrames]] = {}


def _register_posed(name: str, files: tuple[str, ...], read: Callable[[Path], PosedFrames]) -> None:
    """Register a layout of posed frames, which `posed_frames` reads too if they have no depth."""

    def layout(folder: Path, *, intrinsics: CameraIntrinsics | None = None) -> RgbdSequence:
        return PosedSequence(read(folder), intrinsics=intrinsics)

    _POSED[name] = read
    register_layout(name, files, layout)


_register_posed("dataset.json", ("|".join(described.FILES),), described.read)
register_layout("7-Scenes", ("frame-*.color.*",), SevenScenes)
register_layout("TUM RGB-D", ("rgb.txt", "depth.txt", "groundtruth.txt"), TumRgbd)
register_layout("Replica", ("traj.txt", "results"), Replica)
register_layout("ScanNet", ("color", "depth", "pose", "intrinsic"), ScanNet)
_register_posed("ARKitScenes", arkitscenes.MARKS, arkitscenes.read)
_register_posed("ScanNet++", ("rgb", scannetpp.FILE), scannetpp.read)
_register_posed("Record3D", ("rgb", "depth", record3d.FILE), record3d.read)
_register_posed(
    "Polycam", ("keyframes/images|images", "keyframes/cameras|cameras", "keyframes/depth|depth"), polycam.read
)
_register_posed("TartanAir", ("image_left|image_lcam_front", "pose_left.txt|pose_lcam_front.txt"), tartanair.read)
_register_posed("ICL-NUIM", ("associations.txt", "*.gt.freiburg", "rgb"), icl_nuim.read)
_register_posed("CUT3R", ("color", "camera/*.npz"), cut3r.read)
_register_posed("nerfstudio", (nerfstudio.FILE,), nerfstudio.read)
_register_posed("COLMAP", ("sparse|cameras.bin|cameras.txt|colmap/sparse", "images|rgb|color|input"), colmap.read)
_register_posed("a camera path beside images and depth", found.PATTERNS, found.read)


def posed_frames(folder: str | Path) -> PosedFrames | None:
    """The posed frames of a folder, some of which may have no depth; None if it has no layout of such frames."""
    layout = _layout_of(check_folder(folder))
    read = None if layout is None else _POSED.get(layout[0])
    return None if read is None else read(Path(folder))


def open_sequence(
    folder: str | Path,
    *,
    intrinsics: CameraIntrinsics | None = None,
    color_focal: float | tuple[float, float] | str | None = None,
) -> RgbdSequence:
    """Open the posed RGB-D sequence in a folder, whose layout is detected from its file names, or in an .npz file.

    Parameters
    ----------
    folder : path
        In one of the layouts of `layout_names`; the first that fits is used. An .npz file is a `PredictedSequence`.
    intrinsics : CameraIntrinsics, optional
        Used instead of those that the folder has or its layout implies; for images of the same size.
    color_focal : float, (float, float) or "estimate", optional
        The focal length of the colour camera, pixels, if it is another than that of depth: the sequence is then that of
        the colour camera (`RegisteredSequence`). ``"estimate"`` finds out from the frames, see `RegistrationCheck`.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    FormatError
        ``folder`` is a file, has none of the layouts, or holds a file that its layout does not allow. The message names
        a nearby folder that is a sequence, or what is missing.
    ValueError
        ``intrinsics`` are for images of another size.

    Warns
    -----
    SuspiciousInput
        Values that the layout leaves open are assumed, mostly intrinsics.
    """
    sequence = _open(folder, intrinsics)
    return sequence if color_focal is None else with_color_camera(sequence, color_focal)


def _open(folder: str | Path, intrinsics: CameraIntrinsics | None) -> RgbdSequence:
    if isinstance(folder, (str, os.PathLike)) and os.path.isfile(folder):
        if Path(folder).suffix.lower() == ".npz":
            return PredictedSequence(folder, intrinsics=intrinsics)
        _refuse_file(Path(folder))
    folder = check_folder(folder)
    layout = _layout_of(folder)
    if layout is not None:
        return layout[1](folder, intrinsics=intrinsics)
    known = ", ".join(layout_names())
    raise FormatError(
        folder,
        f"expected the files of one of these layouts: {known}; found none of them complete: {_found(folder)}",
    )


def is_sequence(folder: str | Path) -> bool:
    """Whether `open_sequence` reads a folder, or an .npz file."""
    folder = Path(folder)
    if folder.suffix.lower() == ".npz" and folder.is_file():
        return is_predicted(folder)
    return folder.is_dir() and _layout_of(folder) is not None


def _layout_of(folder: Path) -> tuple[str, Callable[..., RgbdSequence]] | None:
    for name, patterns, layout in _LAYOUTS:
        if not _lacks(folder, patterns):
            return name, layout
    return None


def _lacks(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    return [pattern for pattern in patterns if not any(any(folder.glob(choice)) for choice in pattern.split("|"))]


def _refuse_file(file: Path) -> None:
    """If the file belongs to a sequence, raise an error that names its folder; `check_folder` refuses other files."""
    for folder in list(Path(os.path.abspath(file)).parents)[:2]:
        found = _layout_of(folder)
        if found is not None:
            raise FormatError(
                file, f"expected a folder, got {describe_file(file)} of a {found[0]} sequence; give {folder}"
            )


def _found(folder: Path) -> str:
    """What a folder that is no sequence holds or lacks, or which nearby folder is a sequence."""
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
    name, patterns, _ = min(_LAYOUTS, key=lambda layout: len(_lacks(folder, layout[1])) / len(layout[1]))
    lacks = _lacks(folder, patterns)
    if len(lacks) < len(patterns):
        return f"for {name} it lacks {', '.join(' or '.join(lack.split('|')) for lack in lacks)}"
    kinds = {describe_file(folder / name) for name in names[:20] if (folder / name).is_file()} - {"a file"}
    more = f" and {len(names) - 1} more" if names[1:] else ""
    described = f" ({', '.join(sorted(kinds))})" if kinds else ""
    is_footage = kinds & {"a PNG image", "a JPEG image", "a video"}
    advice = "; mosaicmem import makes a sequence of photos and videos" if is_footage else ""
    return f"it holds {names[0]}{more}{described}{advice}"


def _sequences_below(folder: Path) -> Iterator[Path]:
    """Subfolders that are sequences, the nearest first."""
    level, looked = [folder], 0
    for _ in range(_MOST_LEVELS):
        below: list[Path] = []
        for parent in level:
            try:
                below += sorted(path for path in parent.iterdir() if path.is_dir())
            except OSError:  # not readable
                continue
        for path in below:
            looked += 1
            if looked > _MOST_FOLDERS:
                return
            if _layout_of(path) is not None:
                yield path
        level = below
