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
from mosaicmem.datasets.lens import Lens, nearest
from mosaicmem.errors import suspect
from mosaicmem.geometry import DepthCompletion
from mosaicmem.importing.extraction import lens_of
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.options import ImportOptions
from mosaicmem.importing.structure import Structure, depth_of_points

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
    """

    factor: float
    unit: str
    reason: str


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

    @property
    def is_given(self) -> bool:
        """Whether depth is known without the structure."""
        return self.kind in ("files", "data set")

    def given(self, i: int) -> F32 | None:
        """The depth (H, W) that came with frame ``i``, at the frame's size; None if there is none."""
        entry = self._entries[i]
        width, height = entry["size"]
        if self.kind == "files" and self._files is not None:
            path = self._files.of(entry["number"], entry["name"])
            if path is None:
                return None
            depth = read_depth_map(path, self._options.depth_units_per_metre, 65535)
            return np.asarray(nearest(depth, (width, height)), np.float32)
        if self.kind == "data set" and "depth" in entry.get("given", ()):
            return self._maps(entry)["depth"]
        return None

    def lens(self, i: int) -> Lens | None:
        """The lens of the depth that came with frame ``i``; None if it is that of the image."""
        entry = self._entries[i]
        return lens_of(entry) if self.kind == "data set" and "lens" in entry else None

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


def scale_of(
    structure: Structure,
    source: DepthSource,
    is_estimated: bool,
    unit: str,
    numbers: list[int],
    image_of: Callable[[int], tuple[U8, CameraIntrinsics]],
    given: Callable[[int], F32 | None],
    options: ImportOptions,
) -> Scale:
    """The unit of the scene: of the given poses, of a known length, of metric depth, or none.

    Parameters
    ----------
    structure : Structure
    source : DepthSource
    is_estimated : bool
        Whether poses come from structure from motion, which knows no scale.
    unit : str
        Of the poses otherwise.
    numbers : list of int
        Of the extracted frames.
    image_of : callable
        The image of a frame of the structure as its pinhole camera sees it, and that camera.
    given : callable
        The depth that came with a frame of the structure, as that camera sees it; None if there is none.
    options : ImportOptions
    """
    known = options.known_length()
    if known is not None:
        value, pair = known
        if pair is None:
            return Scale(value, "metres", f"--scale {value:g}")
        return Scale(
            value / _distance(structure, numbers, pair), "metres", f"{value:g} m between frames {pair[0]} and {pair[1]}"
        )
    if not is_estimated:
        return Scale(1.0, unit, "the given poses")
    ratios = _ratios(structure, source, image_of, given, options)
    if len(ratios) >= _LEAST_POINTS:
        factor = float(np.median(ratios))
        spread = float(np.median(np.abs(ratios / factor - 1)))
        if spread > _SPREAD:
            suspect(
                f"depth: it does not fit the structure: half of the {len(ratios)} points are off by more than "
                f"{100 * spread:.0f} %; in another unit, or of other frames?"
            )
        return Scale(factor, "metres", f"depth at {len(ratios)} points, {100 * spread:.1f} % off in the median")
    depths = np.concatenate(
        [
            depth_of_points(points, matrix, lens.intrinsics)[2]
            for points, matrix, lens in zip(
                structure.points, structure.world_from_camera, structure.lenses, strict=True
            )
        ]
    )
    return Scale(_SCENE_DEPTH / float(np.median(depths)), "scene units", f"a median depth of {_SCENE_DEPTH:g}")


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


def _ratios(
    structure: Structure,
    source: DepthSource,
    image_of: Callable[[int], tuple[U8, CameraIntrinsics]],
    given: Callable[[int], F32 | None],
    options: ImportOptions,
) -> F64:
    """Metric depth over the structure's, at points of some frames."""
    if not source.is_given and not (source.kind == "network" and options.depth_is_metric):
        return np.zeros(0)
    found = []
    for k in np.unique(np.linspace(0, len(structure.frames) - 1, _SAMPLED).astype(int)).tolist():
        image, camera = image_of(k)
        row, column, depth = depth_of_points(structure.points[k], structure.world_from_camera[k], camera)
        if source.is_given:
            metric = given(k)
        else:
            nothing = np.zeros(image.shape[:2], np.float32)
            metric = source.estimate(image, camera, CameraPose(structure.world_from_camera[k]), nothing)
        if metric is not None:
            measured = metric[row, column].astype(np.float64)
            found.append((measured / depth)[measured > 0])
    return np.concatenate(found) if found else np.zeros(0)
