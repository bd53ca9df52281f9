"""Second stage: where the camera was, by structure from motion (pycolmap) or as given, and points that it saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem._extras import pycolmap
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.datasets.lens import Lens
from mosaicmem.errors import FormatError, suspect
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.pairs import pairs_of
from mosaicmem.importing.workspace import Workspace

_EXTRACT_BATCH = 8
_MATCH_BATCH = 128
_FEATURES = 4096
_FEW_FEATURES = 64  # in an image, in the median; with fewer, there is too little texture
_FEW_MATCHES = 15
_LEAST_REGISTERED, _LEAST_POINTS = 3, 30
_POOR = 0.6  # fraction of the frames that are registered; with fewer, a warning is due
_FOCAL = 1.2  # of a lens of which nothing is known, as a multiple of the longer side
_OTHER_SHAPE = 0.01  # relative difference of aspect ratios
_SEED = 0


@dataclass(frozen=True)
class Component:
    """A part of the frames that structure from motion put into one scene.

    Attributes
    ----------
    frames : list of int
        Positions among the extracted frames, ascending.
    points : int
    error : float
        Mean reprojection error, pixels.
    """

    frames: list[int]
    points: int
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"frames": self.frames, "points": self.points, "reprojection_error": self.error}


@dataclass(frozen=True)
class Structure:
    """The cameras of frames, and the points that each of them saw.

    Attributes
    ----------
    frames : list of int
        Positions among the extracted frames, ascending.
    world_from_camera : (N, 4, 4) float64
    lenses : list of Lens
    points : list of (n, 3) float64
        For each frame the points of the world that it saw; empty if there are none.
    components : list of Component
        The largest first, which is the one used; empty for given poses.
    error : float
        Mean reprojection error, pixels; NaN for given poses without points.
    times : list of float, optional
        Of given poses, seconds, where the footage has no times of its own.
    """

    frames: list[int]
    world_from_camera: F64
    lenses: list[Lens]
    points: list[F64]
    components: list[Component]
    error: float
    times: list[float] | None = None


def estimate(
    work: Workspace, entries: list[dict[str, Any]], in_order: bool, options: ImportOptions, track: Any
) -> Structure:
    """Structure from motion over the extracted frames.

    Raises
    ------
    FormatError
        There is too little texture, no two frames match, or no scene can be built; the message says which.
    """
    module = _quiet()
    files = [entry["file"] for entry in entries]
    if len(files) < _LEAST_REGISTERED:
        raise FormatError(
            work.source, f"expected at least {_LEAST_REGISTERED} frames to estimate poses of, got {len(files)}"
        )
    database = work.folder / "features.db"
    _extract(module, work, database, entries, options, track)
    counts, matches = _match(module, database, files, in_order, options, track)
    _check_matches(work.source, counts, matches)
    found = _map(module, work, database, options, len(files), track)
    if not found:
        raise FormatError(
            work.source,
            "structure from motion found no scene: frames match, but not as views of one scene from different places. "
            "Does the camera only turn, without moving, or does everything move?",
        )
    index = {name: i for i, name in enumerate(files)}
    ordered = sorted(found, key=lambda each: (-each.num_reg_images(), -each.num_points3D()))
    components = [_component(each, index) for each in ordered]
    _say(work.source, components, entries)
    return _structure(ordered[0], index, components)


def triangulate(
    work: Workspace,
    entries: list[dict[str, Any]],
    poses: F64,
    lenses: list[Lens],
    in_order: bool,
    options: ImportOptions,
    track: Any,
) -> Structure:
    """The points that frames with given cameras saw; their poses stay as they are."""
    module = _quiet()
    files = [entry["file"] for entry in entries]
    database = work.folder / "features.db"
    _extract(module, work, database, entries, options, track, lenses)
    counts, matches = _match(module, database, files, in_order, options, track)
    _check_matches(work.source, counts, matches)
    model = _posed_model(module, database, files, poses)
    settings = module.IncrementalPipelineOptions()
    settings.num_threads, settings.random_seed = options.num_threads or -1, _SEED
    model = module.triangulate_points(model, database, work.folder / "frames", work.fresh("sparse"), options=settings)
    index = {name: i for i, name in enumerate(files)}
    found = _structure(model, index, [])
    points = dict(zip(found.frames, found.points, strict=True))
    nothing = np.zeros((0, 3))
    every = [points.get(i, nothing) for i in range(len(files))]
    return Structure(list(range(len(files))), poses, lenses, every, [], float(model.compute_mean_reprojection_error()))


def _quiet() -> Any:
    module = pycolmap("structure from motion")
    module.logging.minloglevel = int(module.logging.FATAL.value)
    module.logging.stderrthreshold = int(module.logging.FATAL.value)
    return module


def _extract(
    module: Any,
    work: Workspace,
    database: Path,
    entries: list[dict[str, Any]],
    options: ImportOptions,
    track: Any,
    lenses: list[Lens] | None = None,
) -> None:
    """Features of all frames that have none in the database yet.

    Frames of one lens share a camera: of one of ``lenses``, or of one size and one camera of EXIF.
    """
    reader = module.ImageReaderOptions()
    reader.camera_model = options.camera_model
    extraction = module.FeatureExtractionOptions()
    extraction.use_gpu, extraction.num_threads = False, options.num_threads or -1
    extraction.max_image_size, extraction.sift.max_num_features = options.max_side, _FEATURES
    if any("moving" in entry for entry in entries):
        reader.mask_path = _masks(work, entries)
    groups: dict[Any, list[str]] = {}
    focals: dict[Any, float | None] = {}
    for i, entry in enumerate(entries):
        key = (*entry["size"], entry.get("camera")) if lenses is None else lenses[i]
        groups.setdefault(key, []).append(entry["file"])
        focals.setdefault(key, entry.get("focal"))
    with module.Database.open(database) as db:
        there = {image.name: image.camera_id for image in db.read_all_images()}
    for key, names in groups.items():
        known = next((there[name] for name in names if name in there), None)
        reader.existing_camera_id = _new_camera(module, database, options, key, focals[key]) if known is None else known
        for batch in track(_batches(names, _EXTRACT_BATCH), "Finding features", -(-len(names) // _EXTRACT_BATCH)):
            module.extract_features(
                database,
                work.folder / "frames",
                image_names=batch,
                reader_options=reader,
                extraction_options=extraction,
                device=module.Device.cpu,
            )


def _new_camera(module: Any, database: Path, options: ImportOptions, key: Any, focal: float | None) -> int:
    """A camera in the database: of a lens, of the given intrinsics, or of a focal length to be refined."""
    if isinstance(key, Lens):
        camera = _camera(module, key)
    elif options.intrinsics is not None:
        camera = _camera(module, Lens.of(resized_intrinsics(options.intrinsics, key[:2])))
    else:
        width, height = key[:2]
        guess = focal or _FOCAL * max(width, height)
        camera = module.Camera.create_from_model_name(1, options.camera_model, guess, width, height)
        camera.has_prior_focal_length = focal is not None
    with module.Database.open(database) as db:
        return int(db.write_camera(camera))


def resized_intrinsics(intrinsics: CameraIntrinsics, size: tuple[int, int]) -> CameraIntrinsics:
    """The caller's intrinsics for frames of another ``size`` (width, height) of the same shape.

    Raises
    ------
    ValueError
        Frames have another shape.
    """
    width, height = size
    if abs(width * intrinsics.height / (height * intrinsics.width) - 1) > _OTHER_SHAPE:
        hint = "; frames are turned upright: give those of the upright frame" if width < height else ""
        raise ValueError(
            f"intrinsics: expected those of frames of the shape of {width}x{height}, got those of {intrinsics.width}x"
            f"{intrinsics.height}{hint}"
        )
    return intrinsics.scaled(width, height)


def _camera(module: Any, lens: Lens) -> Any:
    camera = module.Camera(model=lens.model, width=lens.width, height=lens.height, params=list(lens.params))
    camera.has_prior_focal_length = True
    return camera


def _masks(work: Workspace, entries: list[dict[str, Any]]) -> Path:
    """COLMAP's masks, where black is left out: the frames' masks inverted, under the names of the frames."""
    from PIL import Image, ImageOps

    folder = work.kept("colmap-masks")
    for entry in entries:
        path = folder / f"{entry['file']}.png"
        if path.exists():
            continue
        if "moving" not in entry:  # COLMAP leaves out images without a mask
            Image.new("L", tuple(entry["size"]), 255).save(path)
            continue
        with Image.open(work.folder / "moving" / f"{Path(entry['file']).stem}.png") as mask:
            ImageOps.invert(mask.convert("L")).save(path)
    return folder


def _match(
    module: Any, database: Path, files: list[str], in_order: bool, options: ImportOptions, track: Any
) -> tuple[list[int], int]:
    """Match pairs of frames; the number of features of each frame, and how many pairs have matches."""
    matching = module.FeatureMatchingOptions()
    matching.use_gpu, matching.num_threads = False, options.num_threads or -1
    verification = module.TwoViewGeometryOptions()
    verification.ransac.random_seed = _SEED
    pairing = module.ImportedPairingOptions()
    listed = database.with_name("pairs.txt")
    pairing.match_list_path = listed
    pairs = pairs_of(database.parent / "frames", files, in_order)
    for batch in track(_batches(pairs, _MATCH_BATCH), "Matching frames", -(-len(pairs) // _MATCH_BATCH)):
        listed.write_text("".join(f"{files[a]} {files[b]}\n" for a, b in batch))
        module.match_image_pairs(
            database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=module.Device.cpu,
        )
    with module.Database.open(database) as db:
        counts = [db.num_keypoints_for_image(image.image_id) for image in db.read_all_images()]
        _, inliers = db.read_two_view_geometry_num_inliers()
    return [int(count) for count in counts], int(sum(count >= _FEW_MATCHES for count in inliers))


def _check_matches(source: Path, counts: list[int], matches: int) -> None:
    median = float(np.median(counts)) if counts else 0.0
    if median < _FEW_FEATURES:
        raise FormatError(
            source,
            f"too little texture: {median:.0f} features a frame in the median, of which structure from motion needs "
            f"{_FEW_FEATURES} and more; blank walls, motion blur, or darkness?",
        )
    if matches == 0:
        raise FormatError(
            source,
            "no two frames show the same: expected views that overlap; are these photos of different places, or is the "
            "footage cut too thin (--every, --least-motion)?",
        )


def _map(module: Any, work: Workspace, database: Path, options: ImportOptions, count: int, track: Any) -> list[Any]:
    folder, images = work.fresh("sparse"), work.folder / "frames"
    if options.mapper == "global":
        settings = module.GlobalPipelineOptions()
        settings.num_threads, settings.random_seed = options.num_threads or -1, _SEED
        settings.mapper.bundle_adjustment.ceres.use_gpu = settings.mapper.global_positioning.use_gpu = False
        fixed = options.intrinsics is not None
        settings.mapper.bundle_adjustment.refine_focal_length = not fixed
        found: dict[int, Any] = {}
        for _ in track(iter([None]), "Estimating poses of all frames at once", 1):
            found = module.global_mapping(database, images, folder, options=settings)
        return _sound(found)
    settings = module.IncrementalPipelineOptions()
    settings.num_threads, settings.random_seed = options.num_threads or -1, _SEED
    settings.min_model_size = _LEAST_REGISTERED
    if options.intrinsics is not None:
        settings.ba_refine_focal_length = settings.ba_refine_extra_params = False
    steps = track(iter(range(count)), "Estimating poses", count)
    advance = iter(steps)
    found = module.incremental_mapping(
        database, images, folder, options=settings, next_image_callback=lambda: next(advance, None)
    )
    for _ in advance:  # the bar ends whether or not all frames were registered
        pass
    return _sound(found)


def _sound(models: dict[int, Any]) -> list[Any]:
    """The models that are more than a few frames without points, which a camera that only turns leaves."""
    return [
        each
        for each in models.values()
        if each.num_reg_images() >= _LEAST_REGISTERED and each.num_points3D() >= _LEAST_POINTS
    ]


def _component(model: Any, index: dict[str, int]) -> Component:
    frames = sorted(index[model.images[i].name] for i in model.reg_image_ids())
    return Component(frames, int(model.num_points3D()), float(model.compute_mean_reprojection_error()))


def _say(source: Path, components: list[Component], entries: list[dict[str, Any]]) -> None:
    """Warn of frames that are not in the scene, and of other scenes."""
    first, count = components[0], len(entries)
    others = [each for each in components[1:] if not set(each.frames) <= set(first.frames)]
    if others:
        parts = "; ".join(
            f"{len(each.frames)} from {entries[each.frames[0]]['name']} to {entries[each.frames[-1]]['name']}"
            for each in others[:4]
        )
        suspect(
            f"{source}: the frames fall into {len(others) + 1} scenes that could not be joined; used is the one of "
            f"{len(first.frames)} frames. The others: {parts}. Import them by themselves, or film what is between"
        )
    elif len(first.frames) < _POOR * count:
        missing = next(i for i in range(count) if i not in set(first.frames))
        suspect(
            f"{source}: only {len(first.frames)} of {count} frames could be placed in the scene; the first that could "
            f"not is {entries[missing]['name']}"
        )


def _structure(model: Any, index: dict[str, int], components: list[Component]) -> Structure:
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda image: index[image.name])
    poses, lenses, points = [], [], []
    positions = {key: np.asarray(point.xyz, np.float64) for key, point in model.points3D.items()}
    for image in images:
        matrix = np.eye(4)
        matrix[:3] = image.cam_from_world().inverse().matrix()
        poses.append(matrix)
        camera = model.cameras[image.camera_id]
        lenses.append(Lens(camera.model_name, tuple(float(v) for v in camera.params), camera.width, camera.height))
        seen = [positions[p.point3D_id] for p in image.points2D if p.has_point3D()]
        points.append(np.array(seen, np.float64).reshape(-1, 3))
    frames = [index[image.name] for image in images]
    error = float(model.compute_mean_reprojection_error())
    return Structure(frames, np.array(poses), lenses, points, components, error)


def _posed_model(module: Any, database: Path, files: list[str], poses: F64) -> Any:
    """A model of the images and cameras of the database at given poses, without points."""
    model = module.Reconstruction()
    with module.Database.open(database) as db:
        for camera in db.read_all_cameras():
            model.add_camera_with_trivial_rig(camera)
        images = {image.name: image for image in db.read_all_images()}
    for name, pose in zip(files, poses, strict=True):
        model.add_image_with_trivial_frame(images[name], module.Rigid3d(np.linalg.inv(pose)[:3]))
    return model


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
