"""Third stage: depth of each frame, and the unit of the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mosaicmem._arrays import F32, F64, U8
from mosaicmem._depth_maps import read_depth_map
from mosaicmem._numpy_files import read_npz
from mosaicmem._opening import open_file
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.datasets.lens import nearest
from mosaicmem.datasets.posed import check_shape
from mosaicmem.errors import suspect
from mosaicmem.geometry import DepthCompletion
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.points import depth_of_points
from mosaicmem.importing.structure import Structure

_SCENE_DEPTH = 2.0  # scene units: the median depth of points where nothing says metres
_SAMPLED = 32  # frames that decide on the scale
_LEAST_POINTS = 200  # with depth in both, for a scale
_SPREAD = 0.3  # relative spread of the ratios above which a scale is doubtful


class Scale(NamedTuple):
    """The unit of the scene.

    Attributes
    ----------
    factor : float
        By which the structure is multiplied.
    unit : {"metres", "scene units"}
    reason : str
        What says so, for the report.
    depth_factor : float
        By which depth that came with the footage is multiplied.
    """

    factor: float
    unit: str
    reason: str
    depth_factor: float = 1.0


class DepthSource:
    """Where the depth of frames comes from: their data set, files, a network, or the points that cameras saw.

    Parameters
    ----------
    folder : Path
        Of the maps that came with the footage.
    entries : list of dict
        The extracted frames.
    files : MapFiles, optional
    options : ImportOptions
    """

    def __init__(
        self, folder: Path, entries: list[dict[str, Any]], files: MapFiles | None, options: ImportOptions
    ) -> None:
        self._folder, self._entries, self._files, self._options = folder, entries, files, options
        self._estimator = options.depth_estimator or DepthCompletion()
        has_maps = any("depth" in entry.get("given", ()) for entry in entries)
        self.kind = (
            "files"
            if files is not None
            else "network"
            if options.depth_estimator is not None
            else "data set"
            if has_maps
            else "points"
        )

    def unit(self, footage: str) -> str | None:
        """The unit of depth, of a data set that of its ``footage``; None if depth has that of the structure."""
        if self.kind == "data set":
            return footage
        is_metric = self.kind == "files" or (self.kind == "network" and self._options.depth_is_metric)
        return "metres" if is_metric else None

    @property
    def is_given(self) -> bool:
        """Whether depth is known without the structure."""
        return self.kind in ("files", "data set")

    def given(self, i: int) -> F32 | None:
        """The depth (H, W) that came with frame ``i``, at the frame's size; None if there is none."""
        entry = self._entries[i]
        width, height = entry["size"]
        if self.kind == "files" and self._files is not None:
            path = self._files.of(entry["position"])
            if path is None:
                return None
            depth = read_depth_map(path, self._options.depth_units_per_metre, 65535)
            check_shape(path, depth.shape[::-1], entry["name"], (width, height))
            return np.asarray(nearest(depth, (width, height)), np.float32)
        if self.kind == "data set" and "depth" in entry.get("given", ()):
            return self._maps(entry)["depth"]
        return None

    def confidence(self, i: int) -> F32 | None:
        """The confidence (H, W) that came with frame ``i``."""
        entry = self._entries[i]
        return self._maps(entry)["confidence"] if "confidence" in entry.get("given", ()) else None

    def _maps(self, entry: dict[str, Any]) -> dict[str, F32]:
        path = self._folder / f"{Path(entry['file']).stem}.npz"
        with open_file(path) as file:
            found, _ = read_npz(path, file, lambda name: True, 1 << 30, converted=False)
        return {name: np.asarray(values, np.float32) for name, values in found.items()}

    def estimate(self, image: U8, camera: CameraIntrinsics, pose: CameraPose, known: F32) -> F32:
        """Depth (H, W) of an image of the pinhole camera, from the network or the points."""
        pixels = np.asarray(image / np.float32(255), np.float32)
        return self._estimator.estimate(pixels, camera, pose, known)


class Views(NamedTuple):
    """What the pinhole cameras of a structure see, by the position of a frame in it.

    Attributes
    ----------
    image : callable
        The image, and the camera.
    depth : callable
        The depth that came with the footage; None if there is none.
    """

    image: Callable[[int], tuple[U8, CameraIntrinsics]]
    depth: Callable[[int], F32 | None]


def scale_of(
    structure: Structure,
    source: DepthSource,
    units: tuple[str | None, str],
    numbers: list[int],
    views: Views,
    options: ImportOptions,
) -> Scale:
    """The unit of the scene: that of a known length, of given poses, of depth, or none.

    Parameters
    ----------
    structure : Structure
    source : DepthSource
    units : (str or None, str)
        Of given poses, None for estimated ones; and of the depth of a data set.
    numbers : list of int
        Of the extracted frames.
    views : Views
    options : ImportOptions
    """
    positions, footage = units
    depth = source.unit(footage)
    agree = positions is not None and positions == depth
    ratios = np.zeros(0) if agree else _ratios(structure, source, views, options)
    ratio = _middle(ratios) if len(ratios) >= _LEAST_POINTS else None
    known = options.known_length()
    if known is not None:
        value, pair = known
        if pair is not None:
            factor = value / _distance(structure, numbers, pair)
        else:
            factor = value * (_scene_unit(structure) if positions is None else 1.0)
        reason = f"--scale {value:g}" if pair is None else f"{value:g} m between frames {pair[0]} and {pair[1]}"
        own = 1.0  # of depth in metres
        if (
            depth is not None
            and agree
            and source.kind == "data set"
            and (options.trajectory is None or depth != "metres")
        ):
            own = factor  # depth in the unit of positions
        elif depth == "scene units" and ratio is not None:
            own = factor / ratio
        return Scale(factor, "metres", reason, own)
    if ratio is not None and (positions is None or depth == "metres"):
        spread = float(np.median(np.abs(ratios / ratio - 1)))
        return Scale(ratio, depth or "metres", f"depth at {len(ratios)} points, {100 * spread:.1f} % off in the median")
    if positions is not None:
        return Scale(1.0, positions, "the given poses")
    return Scale(_scene_unit(structure), "scene units", f"a median depth of {_SCENE_DEPTH:g}")


def _scene_unit(structure: Structure) -> float:
    """Scene units for each unit of structure from motion, which is arbitrary: the median depth of points has two."""
    depths = np.concatenate(
        [
            depth_of_points(points, matrix, lens.intrinsics)[2]
            for points, matrix, lens in zip(
                structure.points, structure.world_from_camera, structure.lenses, strict=True
            )
        ]
    )
    return _SCENE_DEPTH / float(np.median(depths))


def _middle(ratios: F64) -> float:
    """The median of ratios, with a warning if they are all over the place."""
    middle = float(np.median(ratios))
    spread = float(np.median(np.abs(ratios / middle - 1)))
    if spread > _SPREAD:
        suspect(
            f"depth: it does not fit the structure: half of the {len(ratios)} points are off by more than "
            f"{100 * spread:.0f} %; in another unit, or of other frames?"
        )
    return middle


def _distance(structure: Structure, numbers: list[int], pair: tuple[int, int]) -> float:
    """Between the cameras of two frames, given by their numbers in the footage."""
    at = {numbers[i]: matrix[:3, 3] for i, matrix in zip(structure.frames, structure.world_from_camera, strict=True)}
    for number in pair:
        if number not in at:
            near = min(at, key=lambda other: abs(other - number))
            raise ValueError(f"scale: frame {number} is not among those in the scene; the nearest is {near}")
    distance = float(np.linalg.norm(at[pair[0]] - at[pair[1]]))
    if distance == 0:
        raise ValueError(f"scale: frames {pair[0]} and {pair[1]} were taken at the same place")
    return distance


def _ratios(structure: Structure, source: DepthSource, views: Views, options: ImportOptions) -> F64:
    """Depth in its own unit over the structure's, at points of some frames."""
    if not source.is_given and not (source.kind == "network" and options.depth_is_metric):
        return np.zeros(0)
    found = []
    for k in np.unique(np.linspace(0, len(structure.frames) - 1, _SAMPLED).astype(int)).tolist():
        image, camera = views.image(k)
        row, column, depth = depth_of_points(structure.points[k], structure.world_from_camera[k], camera)
        if source.is_given:
            own = views.depth(k)
        else:
            nothing = np.zeros(image.shape[:2], np.float32)
            own = source.estimate(image, camera, CameraPose(structure.world_from_camera[k]), nothing)
        if own is not None:
            measured = own[row, column].astype(np.float64)
            found.append((measured / depth)[measured > 0])
    return np.concatenate(found) if found else np.zeros(0)
