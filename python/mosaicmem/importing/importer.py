"""From a video, photos or a data set to a data set in this library's own layout: frames, poses, depth, one folder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.camera.formats import detect_format, load_trajectory
from mosaicmem.datasets.lens import Lens
from mosaicmem.errors import FormatError
from mosaicmem.importing.depth import DepthSource, Scale, Views, scale_of
from mosaicmem.importing.extraction import Track, extract, lens_of
from mosaicmem.importing.footage import Footage, open_footage
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.structure import Component, Structure, estimate, resized_intrinsics, triangulate
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
        Frames that were chosen of the footage.
    footage : int
        Frames of the footage.
    poses : str
        Where they come from.
    reprojection_error : float, optional
        Mean, pixels, of the points that were found.
    points : int
        How many the frames in the scene saw.
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
    footage: int
    poses: str
    reprojection_error: float | None
    points: int
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
        The source does not exist; the output does, or another process is importing to it.
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
    footage = open_footage(source, chosen.color_focal)
    work = Workspace(Path(source), target, _requests(Path(source), chosen), FILES, start_over=start_over)
    try:
        return _import(Path(source), footage, work, chosen, track or _untracked)
    except (ValueError, TypeError, ModuleNotFoundError):
        if not (work.folder / "structure.json").exists():  # the same would go wrong again
            work.discard()
        raise
    finally:
        work.close()


FILES = {
    "frames": ("frames.json", "frames", "moving", "given"),
    "structure": ("features.db", "pairs.txt", "colmap-masks", "sparse", "structure.json", "structure.npz"),
    "result": ("scale.json", "units.json", "color", "depth", "confidence", "moving-mask", "cameras.json"),
}
"""What each stage leaves in a workspace."""

_FRAMES = (
    "every",
    "least_motion",
    "max_frames",
    "max_side",
    "masks",
    "moving",
    "color_focal",
)  # options of the first stage
_STRUCTURE = (
    *("poses", "trajectory", "trajectory_format", "trajectory_camera", "intrinsics", "camera_model", "mapper", "depth"),
)  # and of the second
_METRIC = ("mosaicmem", "tum", "kitti", "euroc", "tartanair", "matrixgame", "recammaster", "rust")  # formats in metres
_SIZELESS = ("matrixgame", "re10k", "neus", "numpy", "bundler")  # formats without image sizes


def _requests(source: Path, options: ImportOptions) -> dict[str, dict[str, Any]]:
    """For each stage what its result depends on: options, and the files that they name."""
    plain = options.plain()
    known = options.known_length()
    first = {
        "kept": None if known is None else known[1],
        "source": str(source.resolve()),
        "files": _fingerprint(source),
        "mask files": _fingerprint(options.masks),
    }
    second = {"trajectory file": _fingerprint(options.trajectory), "network": options.depth_estimator is not None}
    return {
        "frames": first | {name: plain[name] for name in _FRAMES},
        "structure": second | {name: plain[name] for name in _STRUCTURE},
        "result": plain | {"depth files": _fingerprint(options.depth)},
    }


def _fingerprint(path: str | Path | None) -> str | None:
    """A digest of the names, sizes and times of change of a file, or of all files of a folder."""
    if path is None:
        return None
    files = [Path(path)] if Path(path).is_file() else sorted(each for each in Path(path).rglob("*") if each.is_file())
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _untracked(items: Iterable[Any], description: str, length: int) -> Iterator[Any]:
    yield from items


def _import(source: Path, footage: Footage, work: Workspace, options: ImportOptions, track: Track) -> ImportReport:
    files = None if options.depth is None else MapFiles("depth", Path(options.depth), footage)
    found = extract(source, footage, work, options, track)
    entries: list[dict[str, Any]] = found["entries"]
    depth = DepthSource(work.folder / "given", entries, files, options)
    depth.given(0)  # a file that cannot be read is better found now
    if options.moving_by_depth and depth.kind == "points":
        raise ValueError(
            "moving_by_depth: expected depth that is better than interpolated: give depth files or a network, or masks"
        )
    structure, how, unit = _structure(work, found, depth, options, track)
    writer = Writer(work, entries, structure, depth)
    scale = _scale(
        work, structure, depth, (unit, found["unit"]), [entry["number"] for entry in entries], writer, options
    )
    coverage = writer.write(scale, track)
    moving = writer.find_moving(scale, options.moving_by_depth, track)
    report = ImportReport(
        output=str(work.output),
        kind=found["kind"],
        frames=len(structure.frames),
        extracted=len(entries),
        footage=found["count"],
        poses=how if unit else f"{how} ({options.mapper})",
        reprojection_error=structure.error if np.isfinite(structure.error) else None,
        points=len(np.unique(np.concatenate(structure.points), axis=0)),
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
    work: Workspace, found: dict[str, Any], depth: DepthSource, options: ImportOptions, track: Track
) -> tuple[Structure, str, str | None]:
    """Cameras and points, where the poses come from, and the unit of given ones; kept for a resumed run."""
    kept = _load(work)
    if kept is not None:
        return kept
    entries, in_order = found["entries"], found["in_order"]
    unit: str | None = None
    poses = _given_poses(entries, options, found["count"])
    if poses is None:
        structure, how = estimate(work, entries, in_order, options, track), "estimated"
    else:
        unit = found["unit"] if options.trajectory is None else _unit_of(Path(options.trajectory), options)
        how = "of the data set" if options.trajectory is None else f"of {Path(options.trajectory).name}"
        matrices = np.stack([pose.world_from_camera for pose, _ in poses])
        lenses = [lens for _, lens in poses]
        if depth.is_given and depth.unit(unit) == unit:
            nothing = [np.zeros((0, 3)) for _ in entries]
            structure = Structure(list(range(len(entries))), matrices, lenses, nothing, [], float("nan"))
        else:
            structure = triangulate(work, entries, matrices, lenses, in_order, options, track)
        if found["kind"] == "photos":
            structure = dataclasses.replace(structure, times=[pose.timestamp for pose, _ in poses])
    _save(work, structure, how, unit)
    return structure, how, unit


def _unit_of(path: Path, options: ImportOptions) -> str:
    kind = options.trajectory_format or detect_format(path)
    return "metres" if kind in _METRIC else "scene units"


def _given_poses(
    entries: list[dict[str, Any]], options: ImportOptions, count: int
) -> list[tuple[CameraPose, Lens]] | None:
    """The given pose and lens of each extracted frame; None if poses are to be estimated."""
    own = [lens_of(entry) if "lens" in entry and options.intrinsics is None else None for entry in entries]
    sizes = [(int(entry["size"][0]), int(entry["size"][1])) for entry in entries]
    if options.trajectory is None:
        has_poses = all("world_from_camera" in entry for entry in entries)
        if options.poses == "given" and not has_poses:
            raise ValueError("poses: expected footage that has poses, or a trajectory, for given ones; leave it out")
        if options.poses == "estimate" or not has_poses:
            return None
        given = [
            lens or Lens.of(resized_intrinsics(_known(options), size)) for lens, size in zip(own, sizes, strict=True)
        ]
        poses = [CameraPose(np.array(entry["world_from_camera"]), entry["time"]) for entry in entries]
        return list(zip(poses, given, strict=True))
    path = _read_trajectory(Path(options.trajectory), options, own[0], entries[0])
    if len(path) == count:
        chosen = [entry["position"] for entry in entries]
    elif len(path) == len(entries):
        chosen = list(range(len(entries)))
    else:
        raise FormatError(
            options.trajectory,
            f"expected a pose for each of the {count} frames of the footage, or of the {len(entries)} that are kept, "
            f"got {len(path)}",
        )
    cameras = [
        lens or Lens.of(resized_intrinsics(path.cameras[i], size))
        for i, lens, size in zip(chosen, own, sizes, strict=True)
    ]
    return [(path[i], lens) for i, lens in zip(chosen, cameras, strict=True)]


def _known(options: ImportOptions) -> CameraIntrinsics:
    assert options.intrinsics is not None
    return options.intrinsics


def _read_trajectory(path: Path, options: ImportOptions, lens: Lens | None, entry: dict[str, Any]) -> CameraTrajectory:
    """The given camera path; intrinsics that it lacks are those that the caller or the data set has."""
    kind = options.trajectory_format or detect_format(path)
    camera = None
    if options.intrinsics is not None:
        camera = options.intrinsics
    elif lens is not None:
        camera = lens.intrinsics
    return load_trajectory(
        path,
        kind,
        intrinsics=camera,
        size=(entry["full"][0], entry["full"][1]) if camera is None and kind in _SIZELESS else None,
        camera=options.trajectory_camera,
    )


def _scale(
    work: Workspace,
    structure: Structure,
    depth: DepthSource,
    units: tuple[str | None, str],
    numbers: list[int],
    writer: Writer,
    options: ImportOptions,
) -> Scale:
    done = work.done("scale")
    if done is None:
        views = Views(writer.rectified, writer.given_depth)
        done = work.finish("scale", scale_of(structure, depth, units, numbers, views, options)._asdict())
    return Scale(done["factor"], done["unit"], done["reason"], done["depth_factor"])


def _save(work: Workspace, structure: Structure, how: str, unit: str | None) -> None:
    lengths = [len(each) for each in structure.points]
    every = np.concatenate(structure.points) if structure.points else np.zeros((0, 3))
    np.savez(work.folder / "structure.npz", poses=structure.world_from_camera, points=every, lengths=lengths)
    work.finish(
        "structure",
        {
            "how": how,
            "unit": unit,
            "frames": structure.frames,
            "lenses": [lens.to_dict() for lens in structure.lenses],
            "components": [component.to_dict() for component in structure.components],
            "error": structure.error if np.isfinite(structure.error) else None,
            "times": structure.times,
        },
    )


def _load(work: Workspace) -> tuple[Structure, str, str | None] | None:
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
    structure = Structure(done["frames"], poses, lenses, points, components, error, done["times"])
    return structure, done["how"], done["unit"]
