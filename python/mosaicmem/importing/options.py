"""What an import is asked to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_choice, check_instance, check_integer, check_number
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.datasets.lens import MODELS
from mosaicmem.geometry import DepthEstimator
from mosaicmem.geometry.image_model import ImageModel

MAPPERS = ("incremental", "global")
POSES = ("given", "estimate")
_BORDER = 0.02  # of the image, in which no principal point is
_SCALE = re.compile(r"([0-9]+),([0-9]+)=([0-9.eE+-]+)")


@dataclass(frozen=True)
class ImportOptions:
    """Options of `import_footage`.

    Attributes
    ----------
    poses : {"given", "estimate"}, optional
        Whether a data set's own poses and intrinsics are used. Default: if it has some.
    trajectory : path, optional
        A camera path in any format of `mosaicmem.camera.formats`, one pose for each frame of the footage.
    trajectory_format, trajectory_camera : str, optional
        Its format, if it is not found out, and the name of a camera in a file of several.
    intrinsics : CameraIntrinsics, optional
        Of the frames; estimated if not given.
    camera_model : str
        COLMAP's model for estimated lenses.
    mapper : {"incremental", "global"}
    every : int, optional
        Keep each frame of this distance. Default: all photos and frames of data sets; of videos, those that move.
    least_motion : float
        Of a video's keyframes, as a fraction of the image's width.
    max_frames : int
        With more, frames are thinned out evenly.
    max_side : int
        Longer sides are reduced to it, pixels.
    depth : path, optional
        Folder of depth files, one for each frame of the footage, by name or in order.
    depth_units_per_metre : float
        Of integer depth files.
    depth_estimator : DepthEstimator, optional
        Depth of each frame, aligned to the points that structure from motion found.
    depth_is_metric : bool
        Whether that estimator knows metres, so that the scene gets metres from it.
    color_focal : float, (float, float) or "estimate", optional
        The focal length of a data set's colour camera, pixels, if it is another than that of its depth; see
        `open_sequence`.
    masks : path, optional
        Folder of masks of what moves (white), one for each frame of the footage, by name or in order.
    moving : callable, optional
        Takes an image (H, W, 3) uint8, returns the pixels (H, W) bool that show something that moves.
    moving_by_depth : bool
        Leave out what other frames see through; see `mosaicmem.importing.moving`.
    scale : str or float, optional
        The unit of a scene: metres for each unit of its positions, of an estimated one for each scene unit; or
        "A,B=METRES", the distance between the cameras of two frames, by their numbers in the footage, which are then
        kept.
    num_threads : int
        0: all cores.
    """

    poses: str | None = None
    trajectory: str | Path | None = None
    trajectory_format: str | None = None
    trajectory_camera: str | None = None
    intrinsics: CameraIntrinsics | None = None
    camera_model: str = "SIMPLE_RADIAL"
    mapper: str = "incremental"
    every: int | None = None
    least_motion: float = 0.03
    max_frames: int = 300
    max_side: int = 1280
    depth: str | Path | None = None
    depth_units_per_metre: float = 1000.0
    depth_estimator: DepthEstimator | None = None
    depth_is_metric: bool = False
    color_focal: float | tuple[float, float] | str | None = None
    masks: str | Path | None = None
    moving: Callable[[Any], Any] | None = None
    moving_by_depth: bool = False
    scale: str | float | None = None
    num_threads: int = 0

    def __post_init__(self) -> None:
        for name in ("trajectory", "depth", "masks"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, (str, Path)):
                raise TypeError(f"{name}: expected a path, got {type(path).__name__}")
        if self.poses is not None:
            check_choice("poses", self.poses, POSES)
        if self.poses == "estimate" and self.trajectory is not None:
            raise ValueError("poses, trajectory: expected poses to be estimated, or a camera path, not both")
        check_choice("mapper", self.mapper, MAPPERS)
        check_choice("camera_model", self.camera_model, tuple(MODELS))
        if self.intrinsics is not None:
            check_instance("intrinsics", self.intrinsics, CameraIntrinsics)
            x, y = self.intrinsics.cx / self.intrinsics.width, self.intrinsics.cy / self.intrinsics.height
            if not (_BORDER < x < 1 - _BORDER and _BORDER < y < 1 - _BORDER):
                raise ValueError(
                    f"intrinsics: expected a principal point in the image, got ({self.intrinsics.cx:g}, "
                    f"{self.intrinsics.cy:g}) of {self.intrinsics.width}x{self.intrinsics.height}; of another size?"
                )
        if self.every is not None:
            check_integer("every", self.every, minimum=1)
        check_number("least_motion", self.least_motion, minimum=0.0, maximum=1.0)
        check_integer("max_frames", self.max_frames, minimum=3, maximum=100_000)
        check_integer("max_side", self.max_side, minimum=32, maximum=8192)
        check_number("depth_units_per_metre", self.depth_units_per_metre, above=0.0)
        check_integer("num_threads", self.num_threads, minimum=0)
        if self.depth is not None and self.depth_estimator is not None:
            raise ValueError("depth, depth_estimator: expected at most one of the two")
        if self.masks is not None and self.moving is not None:
            raise ValueError("masks, moving: expected at most one of the two")
        self.known_length()

    def known_length(self) -> tuple[float, tuple[int, int] | None] | None:
        """The scale: (factor, None), or (metres, the numbers of two frames)."""
        if self.scale is None:
            return None
        if isinstance(self.scale, str) and "=" in self.scale:
            match = _SCALE.fullmatch(self.scale.replace(" ", ""))
            if match is None:
                raise ValueError(
                    f"scale: expected FRAME,FRAME=METRES such as 0,120=2.5, or metres for each unit, got {self.scale!r}"
                )
            return check_number("scale", _number(match[3]), above=0.0), (int(match[1]), int(match[2]))
        return check_number("scale", _number(self.scale), above=0.0), None

    def plain(self) -> dict[str, Any]:
        """The options as plain values; networks by their files and settings, functions by their names."""
        return {name: _plain(value) for name, value in vars(self).items() if name != "num_threads"}


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"scale: expected metres for each unit, or FRAME,FRAME=METRES, got {text!r}") from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, CameraIntrinsics):
        return value.to_dict()
    model = getattr(value, "_model", None)
    if not isinstance(model, ImageModel):
        return getattr(value, "__qualname__", type(value).__qualname__)
    file = model.name.stat() if model.name.is_file() else None
    settings = {name: _plain(each) for name, each in vars(value).items() if isinstance(each, (str, int, float, list))}
    size = settings | {"size": model.size_for(480, 640)}
    return [type(value).__qualname__, str(model.name), file and [file.st_size, file.st_mtime_ns], repr(size)]
