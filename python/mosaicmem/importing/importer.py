"""From a video, photos or a data set to a data set in this library's own layout: frames, poses, depth, one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.camera import CameraPose, CameraTrajectory
from mosaicmem.camera.formats import load_trajectory
from mosaicmem.datasets.lens import Lens
from mosaicmem.errors import FormatError
from mosaicmem.importing.depth import DepthSource, Scale, scale_of
from mosaicmem.importing.extraction import Track, extract, lens_of
from mosaicmem.importing.footage import Footage, open_footage
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.structure import Structure, estimate, triangulate
from mosaicmem.importing.workspace import Workspace
from mosaicmem.importing.writing import PUBLISHED, Writer


@dataclass(frozen=True)
class ImportReport:
    """What an import has made.

    Attributes
    ----------
    output : str
    kind : {"video", "photos", "data set"}
    frames : int
        In the data set.
    extracted : int
        Frames that were kept of the footage.
    poses : str
        Where they come from.
    reprojection_error : float, optional
        Mean, pixels, of estimated poses.
    components : list of dict
        Of structure from motion: the frames of each scene, the number of points, the reprojection error.
    lens : dict
        Of the most frames, before they were resampled to a pinhole.
    intrinsics : dict
        Of the pinhole camera.
    depth : str
        Where it comes from.
    coverage : float
        Fraction of the pixels that have depth.
    unit : {"metres", "scene units"}
    scale : str
        What says so.
    moving : float
        Fraction of the pixels that are left out since they move.
    """

    output: str
    kind: str
    frames: int
    extracted: int
    poses: str
    reprojection_error: float | None
    components: list[dict[str, Any]]
    lens: dict[str, Any]
    intrinsics: dict[str, Any]
    depth: str
    coverage: float
    unit: str
    scale: str
    moving: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


def import_footage(
    source: str | Path,
    output: str | Path,
    options: ImportOptions | None = None,
    *,
    start_over: bool = False,
    replace: bool = False,
    track: Track | None = None,
) -> ImportReport:
    """Make a data set that `open_sequence` reads of a video, a folder of photos, or a data set.

    Frames are chosen by motion and made upright; poses are those that are given, or estimated by structure from motion;
    depth comes from the data set, from files, from a network that is aligned to the points of the structure, or,
    coarsely, from these points alone. All frames are resampled to one pinhole camera.

    Work is done in ``.NAME.importing`` beside the output. If it is interrupted, the same call resumes it; the output
    appears when it is complete.

    Parameters
    ----------
    source : path
        A video of any format that FFmpeg reads, a folder of JPEG or PNG photos, a folder of a layout that
        `open_sequence` knows, with or without depth, or an .npz file of predictions.
    output : path
        A folder that does not exist yet, or is empty.
    options : ImportOptions, optional
    start_over : bool
        Discard what an earlier call has left.
    replace : bool
        Replace an output that is there, if it is a data set of this library; when the new one is complete.
    track : callable, optional
        Wraps an iterable, a description and a length: a progress bar.

    Returns
    -------
    ImportReport

    Raises
    ------
    FileNotFoundError, FileExistsError
        The source does not exist; the output does, or unfinished work of another request.
    FormatError
        A file cannot be read, or the footage has no motion, no texture or no frames that overlap; the message says
        which.
    ModuleNotFoundError
        The extra ``[import]`` is not installed.

    Warns
    -----
    SuspiciousInput
        Frames are left out, scenes could not be joined, the video is cut, masks seem inverted, and so on.
    """
    chosen = options or ImportOptions()
    target = Path(output)
    is_taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_taken and not (replace and (target / "dataset.json").is_file()):
        raise FileExistsError(f"output: {target} is there already")
    footage = open_footage(source)
    work = Workspace(target, _requests(Path(source), chosen), FILES, start_over=start_over)
    try:
        return _import(Path(source), footage, work, chosen, track or _untracked)
    finally:
        work.close()


FILES = {
    "frames": ("frames.json", "frames", "moving", "given"),
    "structure": ("features.db", "pairs.txt", "colmap-masks", "sparse", "structure.json", "structure.npz"),
    "result": ("scale.json", "units.json", "color", "depth", "confidence", "moving-mask", "cameras.json"),
}
"""What each stage leaves in a workspace."""

_FRAMES = ("every", "least_motion", "max_frames", "max_side", "masks", "moving")  # options of the first stage
_STRUCTURE = ("poses", "trajectory", "intrinsics", "camera_model", "mapper", "depth")  # and of the second


def _requests(source: Path, options: ImportOptions) -> dict[str, dict[str, Any]]:
    """For each stage the options that its result depends on."""
    plain = options.plain()
    file = source.stat()
    first = {"source": str(source.resolve()), "size": file.st_size, "modified": file.st_mtime_ns}
    return {
        "frames": first | {name: plain[name] for name in _FRAMES},
        "structure": {name: plain[name] for name in _STRUCTURE},
        "result": plain,
    }


def _untracked(items: Iterable[Any], description: str, length: int) -> Iterator[Any]:
    yield from items


def _import(source: Path, footage: Footage, work: Workspace, options: ImportOptions, track: Track) -> ImportReport:
    found = extract(source, footage, work, options, track)
    entries: list[dict[str, Any]] = found["entries"]
    files = None if options.depth is None else MapFiles("depth", options.depth, footage)
    depth = DepthSource(work.folder / "given", entries, files, options)
    structure, how = _structure(work, found, depth, options, footage, track)
    writer = Writer(work, entries, structure, depth)
    is_estimated = how == "estimated"
    numbers = [entry["number"] for entry in entries]
    scale = _scale(work, structure, depth, is_estimated, found["unit"], numbers, writer, options)
    coverage = writer.write(scale, track)
    moving = writer.find_moving(scale, options.moving_by_depth, track)
    report = ImportReport(
        output=str(work.output),
        kind=found["kind"],
        frames=len(structure.frames),
        extracted=len(entries),
        poses=f"{how} ({options.mapper})" if is_estimated else how,
        reprojection_error=structure.error if np.isfinite(structure.error) else None,
        components=[component.to_dict() for component in structure.components],
        lens=writer.lens.to_dict(),
        intrinsics=writer.camera.to_dict(),
        depth=depth.kind,
        coverage=coverage,
        unit=scale.unit,
        scale=scale.reason,
        moving=moving,
    )
    writer.describe(scale, {"source": str(source.resolve()), "options": options.plain(), **report.to_dict()})
    work.publish(PUBLISHED)
    return report


def _structure(
    work: Workspace,
    found: dict[str, Any],
    depth: DepthSource,
    options: ImportOptions,
    footage: Footage,
    track: Track,
) -> tuple[Structure, str]:
    """Cameras and points, and where the poses come from; kept for a resumed run."""
    kept = _load(work)
    if kept is not None:
        return kept
    entries, in_order = found["entries"], found["in_order"]
    poses = _given_poses(entries, options, len(footage))
    if poses is None:
        structure, how = estimate(work, entries, in_order, options, track), "estimated"
    else:
        how = "of the data set" if options.trajectory is None else f"of {options.trajectory.name}"
        matrices = np.stack([pose.world_from_camera for pose, _ in poses])
        lenses = [lens for _, lens in poses]
        if depth.is_given:
            nothing = [np.zeros((0, 3)) for _ in entries]
            structure = Structure(list(range(len(entries))), matrices, lenses, nothing, [], float("nan"))
        else:
            structure = triangulate(work, entries, matrices, lenses, in_order, options, track)
    _save(work, structure, how)
    return structure, how


def _given_poses(
    entries: list[dict[str, Any]], options: ImportOptions, count: int
) -> list[tuple[CameraPose, Lens]] | None:
    """The given pose and lens of each extracted frame; None if poses are to be estimated."""
    size = tuple(entries[0]["size"])
    if options.trajectory is not None:
        camera = None if options.intrinsics is None else options.intrinsics.scaled(*size)
        path = load_trajectory(options.trajectory, intrinsics=camera, size=None if camera else _size_for(options, size))
        if len(path) == len(entries):
            chosen = list(range(len(entries)))
        elif entries[-1]["number"] < len(path):
            chosen = [entry["number"] for entry in entries]
        else:
            raise FormatError(
                options.trajectory,
                f"expected a pose for each of the {count} frames of the footage, or of the {len(entries)} that are "
                f"kept, got {len(path)}",
            )
        own = [lens_of(entry) if "lens" in entry and options.intrinsics is None else None for entry in entries]
        return [
            (path[i], lens or Lens.of(path.cameras[i].scaled(*entry["size"])))
            for i, lens, entry in zip(chosen, own, entries, strict=True)
        ]
    if options.poses == "estimate" or not all("world_from_camera" in entry for entry in entries):
        return None
    return [(CameraPose(np.array(entry["world_from_camera"]), entry["time"]), lens_of(entry)) for entry in entries]


def _size_for(options: ImportOptions, size: tuple[Any, ...]) -> tuple[int, int] | None:
    """The image size, for trajectories of formats that do not have it."""
    from mosaicmem.camera.formats import detect_format

    assert options.trajectory is not None
    sizeless = ("matrixgame", "re10k", "neus", "numpy", "3dgs", "llff")
    return (int(size[0]), int(size[1])) if detect_format(options.trajectory) in sizeless else None


def _scale(
    work: Workspace,
    structure: Structure,
    depth: DepthSource,
    is_estimated: bool,
    unit: str,
    numbers: list[int],
    writer: Writer,
    options: ImportOptions,
) -> Scale:
    done = work.done("scale")
    if done is None:
        given = "metres" if options.trajectory is not None else unit
        scale = scale_of(structure, depth, is_estimated, given, numbers, writer.rectified, writer.given_depth, options)
        done = work.finish("scale", scale._asdict())
    return Scale(done["factor"], done["unit"], done["reason"])


def _save(work: Workspace, structure: Structure, how: str) -> None:
    lengths = [len(each) for each in structure.points]
    every = np.concatenate(structure.points) if structure.points else np.zeros((0, 3))
    np.savez(work.folder / "structure.npz", poses=structure.world_from_camera, points=every, lengths=lengths)
    work.finish(
        "structure",
        {
            "how": how,
            "frames": structure.frames,
            "lenses": [lens.to_dict() for lens in structure.lenses],
            "components": [component.to_dict() for component in structure.components],
            "error": structure.error if np.isfinite(structure.error) else None,
        },
    )


def _load(work: Workspace) -> tuple[Structure, str] | None:
    from mosaicmem.importing.structure import Component

    done = work.done("structure")
    if done is None:
        return None
    with np.load(work.folder / "structure.npz", allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["lengths"])
        points = np.split(arrays["points"], ends[:-1]) if len(ends) else []
        poses = arrays["poses"]
    lenses = [Lens(each["model"], tuple(each["params"]), each["width"], each["height"]) for each in done["lenses"]]
    components = [Component(c["frames"], c["points"], c["reprojection_error"]) for c in done["components"]]
    error = float("nan") if done["error"] is None else done["error"]
    return Structure(done["frames"], poses, lenses, points, components, error), done["how"]


def trajectory_of(structure: Structure, camera: Any, times: list[float], scale: float) -> CameraTrajectory:
    """The path of a structure in another unit."""
    poses = []
    for matrix, time in zip(structure.world_from_camera, times, strict=True):
        scaled = matrix.copy()
        scaled[:3, 3] *= scale
        poses.append(CameraPose(scaled, time))
    return CameraTrajectory(poses, camera)
