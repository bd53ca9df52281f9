"""Folders described by a file: images, depth, masks and confidence in folders, and cameras in any trajectory format.

``dataset.json`` (or ``dataset.yaml``) in the folder says what is where; `mosaicmem.importing` writes one. All paths are
relative to its folder and stay inside it.

==============  ==========================================================================  ============
field           meaning                                                                     default
==============  ==========================================================================  ============
``images``      folder of JPEG or PNG files, or a glob pattern                              needed
``trajectory``  file of the cameras, of any format of `mosaicmem.camera.formats`; poses go  needed
                with images in the natural order of their names
``format``      of the trajectory                                                           found out
``intrinsics``  [fx, fy, cx, cy] in pixels of the images, {"fx", "fy", "cx", "cy"}, or      of the file
                {"model", "params"}: a camera model of COLMAP with its parameters
``depth``       folder or pattern, or {"files", "units_per_metre", "invalid", "scale"};     none
                integer files have units per metre, floating-point files metres
``masks``       folder or pattern, or {"files", "white"}: "moving" or "static"              none
``confidence``  folder or pattern, or {"files", "most"}: the value that means certain       none
``fps``         frames per second, for trajectories without times                           30
``time_unit``   of the trajectory's times                                                   its format's
``unit``        "metres" or "scene units": of positions and depth                           metres
==============  ==========================================================================  ============

A rig of cameras that are fixed to each other has ``rig``, a list with an object for each, in place of ``images``: its
``images``, ``intrinsics``, ``depth``, ``masks`` and ``confidence``, and ``body_from_camera``, a 4x4 matrix. The
trajectory is then that of the body, and ``depth``, ``masks`` and ``confidence`` beside ``rig`` have options alone.
Frames come in the order of time, those of one time in that of the list.

``schema``, ``schema_version``, ``frames`` and ``provenance`` are what `mosaicmem.importing` adds: in ``frames``, the
number and the source of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import check_choice, check_integer, check_number
from mosaicmem._depth_maps import DEPTH_SUFFIXES
from mosaicmem._files import read_json_object
from mosaicmem._images import image_size
from mosaicmem._opening import errors_in, open_file, read_bytes
from mosaicmem._reading import in_name_order, path_inside
from mosaicmem.camera import CameraPose, CameraTrajectory
from mosaicmem.camera.formats import detect_format, format_names, load_trajectory
from mosaicmem.datasets.lens import Lens
from mosaicmem.datasets.posed import DepthCoding, PosedFrame, PosedFrames, lenses_of
from mosaicmem.errors import FormatError

SCHEMA, SCHEMA_VERSION = "mosaicmem.dataset", 1
FILES = ("dataset.json", "dataset.yaml", "dataset.yml")
UNITS = ("metres", "scene units")

_FIELDS = (
    *("images", "trajectory", "format", "intrinsics", "depth", "masks", "confidence", "fps", "time_unit", "unit"),
    *("rig", "schema", "schema_version", "frames", "provenance"),
)
_PARTS = ("depth", "masks", "confidence")
_DEPTH, _MASKS, _CONFIDENCE = _KNOWN = (("units_per_metre", "invalid", "scale"), ("white",), ("most",))
_CAMERA = ("images", "body_from_camera", "intrinsics", *_PARTS)  # fields of a camera of a rig
_IMAGES = (".jpg", ".jpeg", ".png")
_FOCAL = ("fx", "fy", "cx", "cy")
WITHOUT_INTRINSICS = ("tum", "kitti", "matrices", "euroc", "motionctrl", "recammaster", "rust", "viewcrafter")
_WITHOUT_SIZE = ("matrixgame", "re10k", "neus", "numpy", "bundler")  # formats that need the image size from us
_MAX_BYTES = 64 << 20


def read(folder: Path) -> PosedFrames:
    """The frames of a folder with a description.

    Raises
    ------
    FormatError
        The description has unknown or invalid fields, or names files that are not there, or in other numbers than the
        images.
    """
    path = next(folder / name for name in FILES if (folder / name).is_file())
    return read_described(folder, path, _description(path))


def read_described(folder: Path, path: Path, fields: dict[str, Any]) -> PosedFrames:
    """`read`, of a description that was found in ``path`` or made up."""
    unknown = sorted(fields.keys() - set(_FIELDS))
    if unknown:
        raise FormatError(path, f"{unknown[0]:.40}: no such field of a data set; there are {', '.join(_FIELDS)}")
    for name in ("rig" if "rig" in fields else "images", "trajectory"):
        if name not in fields:
            raise FormatError(path, f"{name} is missing: expected it in the description of a data set")
    with errors_in(path):
        unit = check_choice("unit", fields.get("unit", UNITS[0]), UNITS)
        if fields.get("schema", SCHEMA) != SCHEMA or fields.get("schema_version", 1) != SCHEMA_VERSION:
            got = (fields.get("schema"), fields.get("schema_version"))
            raise ValueError(f"schema: expected {SCHEMA} of version {SCHEMA_VERSION}, got {got}; of a newer mosaicmem?")
    depth, mask, confidence = (
        _part(path, fields, name, known)[1]
        for name, known in (("depth", _DEPTH), ("masks", _MASKS), ("confidence", _CONFIDENCE))
    )
    with errors_in(path):
        coding = DepthCoding(
            check_number("depth: units_per_metre", depth.get("units_per_metre", 1000.0), minimum=1e-6, maximum=1e9),
            check_integer("depth: invalid", depth.get("invalid", 65535), minimum=0),
            check_number("depth: scale", depth.get("scale", 1.0), minimum=1e-6, maximum=1e6),
        )
        white = check_choice("masks: white", mask.get("white", "moving"), ("moving", "static"))
        most = check_number("confidence: most", confidence.get("most", 255.0), minimum=1e-6, maximum=1e9)
    frames = _rig(path, fields) if "rig" in fields else _frames(path, fields)
    numbers = _numbers(path, fields.get("frames"), len(frames))
    frames = [replace(frame, number=number) for frame, number in zip(frames, numbers, strict=True)]
    return PosedFrames(folder, frames, coding, white == "moving", most, unit)


def _frames(path: Path, fields: dict[str, Any]) -> list[PosedFrame]:
    """The frames of one camera."""
    images = _files(path, "images", fields["images"], _IMAGES)
    parts = [_part(path, fields, name, known)[0] for name, known in zip(_PARTS, _KNOWN, strict=True)]
    lens, poses = _cameras(path, fields, images)
    maps = [_paired(path, name, images, files) for name, files in zip(_PARTS, parts, strict=True)]
    return [PosedFrame(i, image, lens[i], poses[i], *(each[i] for each in maps)) for i, image in enumerate(images)]


def _rig(path: Path, fields: dict[str, Any]) -> list[PosedFrame]:
    """The frames of all cameras of a rig, in the order of time."""
    cameras = fields["rig"]
    if not isinstance(cameras, list) or not cameras or not all(isinstance(each, dict) for each in cameras):
        raise FormatError(path, "rig: expected a list with an object for each camera")
    shared = {name: fields[name] for name in ("trajectory", "format", "fps", "time_unit") if name in fields}
    taken = []
    for c, camera in enumerate(cameras):
        unknown = sorted(camera.keys() - set(_CAMERA))
        if unknown or not {"images", "body_from_camera"} <= camera.keys():
            got = f"got {unknown[0]:.40}" if unknown else "one is missing"
            raise FormatError(path, f"rig[{c}]: expected images, body_from_camera, and {', '.join(_CAMERA[2:])}; {got}")
        named = {name: camera[name] for name in _PARTS if name in camera}
        if not all(isinstance(files, str) for files in named.values()):
            raise FormatError(
                path, f"rig[{c}]: expected folders or patterns as {', '.join(named)}; options go beside rig"
            )
        with errors_in(path):
            given = np.asarray(camera["body_from_camera"], np.float64)
            body_from_camera = CameraPose.from_world_from_camera(given).world_from_camera
        for frame in _frames(
            path, shared | {name: value for name, value in camera.items() if name != "body_from_camera"}
        ):
            pose = CameraPose(frame.pose.world_from_camera @ body_from_camera, frame.pose.timestamp)
            taken.append((frame.number, c, replace(frame, pose=pose)))
    return [frame for _, _, frame in sorted(taken, key=lambda each: each[:2])]


def _description(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json_object(path, _MAX_BYTES)
    from mosaicmem._extras import yaml

    module = yaml(str(path))
    with open_file(path) as file:
        content = read_bytes(path, file, _MAX_BYTES)
    try:
        document = module.safe_load(content)
    except (module.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FormatError(path, f"not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise FormatError(path, f"expected names and values, got {type(document).__name__}")
    return document


def _part(path: Path, fields: dict[str, Any], name: str, known: Sequence[str]) -> tuple[list[Path], dict[str, Any]]:
    """The files of a field, none if it is not there, and its options."""
    value = fields.get(name)
    if value is None:
        return [], {}
    options = value if isinstance(value, dict) else {"files": value}
    unknown = sorted(options.keys() - {"files", *known})
    if "rig" in fields and not unknown and "files" not in options:
        return [], options  # its cameras have the files
    if unknown or "files" not in options or "rig" in fields:
        found = f"got {unknown[0]}" if unknown else "files is missing"
        raise FormatError(path, f"{name}: expected files, {', '.join(known)}; {found}")
    suffixes = _IMAGES if name == "masks" else DEPTH_SUFFIXES
    return _files(path, name, options["files"], suffixes), options


def _files(path: Path, name: str, value: Any, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder, or those that a pattern matches, in natural order of their names."""
    if not isinstance(value, str) or not value:
        raise FormatError(path, f"{name}: expected a folder or a pattern of files, got {value!r:.80}")
    folder = path.parent
    place = path_inside(folder, value)
    if place is None:
        raise FormatError(path, f"{name}: expected a path inside the folder, got {value:.80}; describe a folder above")
    found = list(place.iterdir()) if place.is_dir() else list(folder.glob(value))
    files = [each for each in found if each.suffix.lower() in suffixes and not each.name.startswith(".")]
    if not files:
        kinds = ", ".join(suffixes)
        raise FormatError(path, f"{name}: expected files ({kinds}) in {value:.80}, found none among {len(found)} files")
    return in_name_order(files, lambda file: file.stem, place)


def _cameras(path: Path, fields: dict[str, Any], images: list[Path]) -> tuple[list[Lens], CameraTrajectory]:
    """The lens of each image, and the poses."""
    given = fields.get("intrinsics")
    size = image_size(images[0])
    lens = None if given is None else _lens(path, given, size)
    fps, unit = fields.get("fps", 30.0), fields.get("time_unit")
    file = path.parent / _text(path, "trajectory", fields["trajectory"])
    with errors_in(path):
        check_choice("format", fields.get("format", "tum"), format_names())
        kind = fields.get("format") or detect_format(file)
    if lens is None and kind in WITHOUT_INTRINSICS:
        raise FormatError(
            path,
            f'intrinsics is missing: {file.name} has none; add "intrinsics": [fx, fy, cx, cy], pixels of the images',
        )
    with errors_in(path):
        poses = load_trajectory(
            file,
            kind,
            intrinsics=None if lens is None else lens.intrinsics,
            size=size if lens is None and kind in _WITHOUT_SIZE else None,
            fps=check_number("fps", fps, above=0.0),
            time_unit=unit,
        )
    if len(poses) != len(images):
        raise FormatError(
            path,
            f"expected a pose in {file.name} for each of {len(images)} images, got {len(poses)}; poses go with "
            "images in the order of their names",
        )
    if lens is not None:
        return lenses_of(images, [lens] * len(images)), poses
    lenses = {camera: Lens.of(camera) for camera in poses.cameras}
    return lenses_of(images, [lenses[camera] for camera in poses.cameras]), poses


def _lens(path: Path, given: Any, size: tuple[int, int]) -> Lens:
    with errors_in(path):
        if isinstance(given, list) and len(given) == 4:
            return Lens("PINHOLE", tuple(given), *size)
        if isinstance(given, dict) and set(_FOCAL) <= given.keys() <= {*_FOCAL, "width", "height"}:
            stored = given.get("width", size[0]), given.get("height", size[1])
            return Lens("PINHOLE", tuple(given[name] for name in _FOCAL), *stored)
        if isinstance(given, dict) and given.keys() == {"model", "params"} and isinstance(given["params"], list):
            return Lens(given["model"], tuple(given["params"]), *size)
    raise FormatError(
        path, f"intrinsics: expected [fx, fy, cx, cy] or {{model, params}} of a camera of COLMAP, got {given!r:.80}"
    )


def _text(path: Path, name: str, value: Any) -> str:
    if not isinstance(value, str) or path_inside(path.parent, value) is None:
        raise FormatError(path, f"{name}: expected text, of a path inside the folder, got {value!r:.80}")
    return value


def _paired(path: Path, name: str, images: list[Path], files: list[Path]) -> list[Path | None]:
    """For each image the file of the same stem, or of the same place in the order if there are as many."""
    if not files:
        return [None] * len(images)
    by_stem = {file.stem: file for file in files}
    if any(image.stem in by_stem for image in images):
        return [by_stem.get(image.stem) for image in images]
    if len(files) != len(images):
        raise FormatError(
            path,
            f"{name}: expected a file for each of {len(images)} images, by name or in their order, got {len(files)} "
            f"such as {files[0].name} beside {images[0].name}",
        )
    return list(files)


def _numbers(path: Path, frames: Any, count: int) -> list[int]:
    if frames is None:
        return list(range(count))
    if not isinstance(frames, list) or len(frames) != count:
        raise FormatError(path, f"frames: expected a list of {count}, one for each image")
    with errors_in(path):
        return [
            check_integer(
                f"frames[{i}]: number", frame.get("number", i) if isinstance(frame, dict) else None, minimum=0
            )
            for i, frame in enumerate(frames)
        ]
