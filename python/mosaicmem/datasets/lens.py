"""Lenses: cameras with distortion, and the resampling of their images to a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, U8, Bool, check_choice, check_integer, check_number
from mosaicmem._extras import opencv, pycolmap
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.errors import suspect

MODELS = {  # COLMAP's camera models, and the number of their parameters
    **{"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8},
    **{"FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12},
    **{"RAD_TAN_THIN_PRISM_FISHEYE": 16},
}
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_BORDER = 64  # points along each side of an image that decide how far it reaches
_MOST_ZOOM = 8.0
_ROUNDS = 24  # of the bisection for the zoom
_PURPOSE = "resampling images to the camera of a sequence"
_CACHED = 8  # maps of pixels, each of 8 bytes a pixel


@dataclass(frozen=True)
class Lens:
    """The camera of an image as it is stored: a model of COLMAP with its parameters.

    Parameters
    ----------
    model : str
        A name in `MODELS`. Focal lengths come first, then the principal point, then distortion.
    params : tuple of float
        In this library's pixel frame, which is COLMAP's.
    width, height : int
        Pixels.
    """

    model: str
    params: tuple[float, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        check_choice("model", self.model, tuple(MODELS))
        values = tuple(check_number(f"params[{i}]", value) for i, value in enumerate(self.params))
        if len(values) != MODELS[self.model]:
            raise ValueError(f"params: expected {MODELS[self.model]} for {self.model}, got {len(values)}")
        object.__setattr__(self, "params", values)
        for name in ("width", "height"):
            check_integer(name, getattr(self, name), minimum=1)
        CameraIntrinsics._derived(*self._pinhole_params, self.width, self.height)

    @classmethod
    def of(cls, camera: CameraIntrinsics) -> Lens:
        """The lens of a pinhole camera."""
        return cls("PINHOLE", camera.params, camera.width, camera.height)

    @property
    def is_pinhole(self) -> bool:
        """Whether it neither bends nor is a fisheye."""
        bends = any(self.params[3 if self.model in _ONE_FOCAL else 4 :])
        return not bends and not (self.model == "FOV" or "FISHEYE" in self.model)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), pixels."""
        return self.width, self.height

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of the pinhole camera that the images become: the same size and principal point, and the same focal lengths
        unless corners of the image would stay blank; then as much larger as is needed."""
        fx, fy, cx, cy = self._pinhole_params
        zoom = 1.0 if self.is_pinhole else self._zoom()
        return CameraIntrinsics._derived(fx * zoom, fy * zoom, cx, cy, self.width, self.height)

    def scaled(self, width: int, height: int) -> Lens:
        """The same lens with its image resized to ``width`` x ``height`` pixels."""
        if (width, height) == self.size:
            return self
        sx, sy = width / self.width, height / self.height
        if self.model in _ONE_FOCAL:
            f, cx, cy, *rest = self.params
            return Lens(self.model, (f * (sx * sy) ** 0.5, cx * sx, cy * sy, *rest), width, height)
        fx, fy, cx, cy, *rest = self.params
        return Lens(self.model, (fx * sx, fy * sy, cx * sx, cy * sy, *rest), width, height)

    def pixels_of(self, rays: F64) -> F64:
        """Where points (N, 3) of the camera frame, in front of it, land: (N, 2) pixels; NaN where the lens has none."""
        if self.is_pinhole:
            fx, fy, cx, cy = self._pinhole_params
            return rays[:, :2] / rays[:, 2:] * [fx, fy] + [cx, cy]
        camera = pycolmap(f"a lens of {self.model}").Camera(
            model=self.model, width=self.width, height=self.height, params=list(self.params)
        )
        return np.asarray(camera.img_from_cam(rays), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {"model": self.model, "params": list(self.params), "width": self.width, "height": self.height}

    @property
    def _pinhole_params(self) -> tuple[float, float, float, float]:
        if self.model in _ONE_FOCAL:
            f, cx, cy = self.params[:3]
            return f, f, cx, cy
        fx, fy, cx, cy = self.params[:4]
        return fx, fy, cx, cy

    def _zoom(self) -> float:
        """The least factor of the focal lengths, from 1, at which no pixel of the pinhole camera is blank."""
        side = np.linspace(0, 1, _BORDER)
        ends = np.ones(_BORDER)
        u = self.width * np.concatenate([side, side, 0 * ends, ends])
        v = self.height * np.concatenate([0 * ends, ends, side, side])
        fx, fy, cx, cy = self._pinhole_params

        def fits(zoom: float) -> bool:
            rays = np.stack([(u - cx) / (fx * zoom), (v - cy) / (fy * zoom), np.ones_like(u)], axis=1)
            x, y = self.pixels_of(rays).T
            return bool(((x >= -1e-6) & (x <= self.width + 1e-6) & (y >= -1e-6) & (y <= self.height + 1e-6)).all())

        if fits(1.0):
            return 1.0
        low, high = 1.0, _MOST_ZOOM
        if not fits(high):
            suspect(f"lens: {self.model} {self.params} shows no whole image at any zoom; its corners stay blank")
            return 1.0
        for _ in range(_ROUNDS):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high


class Rectifier:
    """Resamples images and depth of a lens to a pinhole camera at the same place and of the same axes.

    Parameters
    ----------
    lens : Lens
    camera : CameraIntrinsics
    """

    def __init__(self, lens: Lens, camera: CameraIntrinsics) -> None:
        opencv(_PURPOSE)
        self._factor = max(1, round(min(lens.width / camera.width, lens.height / camera.height)))
        if self._factor > 1:
            lens = lens.scaled(max(1, lens.width // self._factor), max(1, lens.height // self._factor))
        self._lens, (self._x, self._y, self.sees) = lens, _map(lens, camera)

    sees: Bool
    """(H, W): the pixels of the camera that the lens sees."""

    def image(self, pixels: U8) -> U8:
        """An image (H, W, 3) of the lens as the camera sees it, bilinear; black where the lens sees nothing."""
        cv2 = opencv(_PURPOSE)
        if self._factor > 1:
            pixels = cv2.resize(pixels, self._lens.size, interpolation=cv2.INTER_AREA)
        found: U8 = cv2.remap(pixels, self._x, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found[~self.sees] = 0
        return found

    def depth(self, depth: F32) -> F32:
        """A depth map, or any other of values that must not mix, from the nearest pixels; 0 where it sees nothing."""
        cv2 = opencv(_PURPOSE)
        if depth.shape != (self._lens.height, self._lens.width):
            depth = nearest(depth, self._lens.size)
        found: F32 = cv2.remap(depth, self._x, self._y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        found[~self.sees] = 0
        return found


def nearest(values: Any, size: tuple[int, int]) -> Any:
    """An array (H, W) at another ``size`` (width, height), from the nearest pixels."""
    rows = ((np.arange(size[1]) + 0.5) * values.shape[0] / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * values.shape[1] / size[0]).astype(np.intp)
    return np.ascontiguousarray(values[rows[:, None], columns])


@lru_cache(maxsize=_CACHED)
def _map(lens: Lens, camera: CameraIntrinsics) -> tuple[F32, F32, Bool]:
    """For each pixel of the camera: its column and row in the lens's image, centres at integers, and if it is there."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], axis=-1)
    x, y = lens.pixels_of(rays.reshape(-1, 3)).reshape(*u.shape, 2).transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        sees = (x >= 0) & (x <= lens.width) & (y >= 0) & (y <= lens.height)
    x, y = (np.where(sees, each - 0.5, 0).astype(np.float32) for each in (x, y))
    for array in (x, y, sees):
        array.setflags(write=False)
    return x, y, sees
