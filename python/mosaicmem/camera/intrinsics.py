"""The pinhole camera: projects points to pixels, and unprojects pixels to points."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, as_array, check_integer, check_number
from mosaicmem.errors import SuspiciousInput, suspect

# Offsets of a principal point from the image centre, as fractions of the image:
_OFF_CENTRE = 0.15  # if equal along both axes: above this, another image size is likely
_CENTRED = 0.05  # below this the principal point fits the image
_NOT_CENTRED = 0.08  # above this it does not; a 6:5 image with swapped sides is off by this much
_LONGEST_PART = 20.0  # focal length as a fraction of the image: a field of view under 3 degrees
_TINY = 8  # pixels; in an image this small, a principal point says little


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics of an image of ``width`` x ``height`` pixels.

    The frame is COLMAP's: pixel (row i, column j) covers [j, j+1) x [i, i+1) and has its centre at (j + 0.5, i + 0.5).
    For a K whose integer coordinates are pixel centres (OpenCV's calibration), use `from_opencv`.

    Parameters
    ----------
    fx, fy : float
        Focal lengths, pixels, positive.
    cx, cy : float
        Principal point, pixels.
    width, height : int
        Image size, pixels.

    Raises
    ------
    TypeError, ValueError
        A value is not a finite number or is out of its range.

    Warns
    -----
    SuspiciousInput
        The principal point looks like that of another image size, or of an image with width and height swapped, is a
        fraction of the image instead of pixels, or lies in the corner or outside of the image.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("fx", "fy"):
            focal = check_number(name, getattr(self, name))
            if focal < 0:
                raise ValueError(
                    f"{name}: expected more than 0, got {focal:g}; a negative focal length mirrors an axis: keep it "
                    "positive, and give the poses OpenCV's axes (from_opengl)"
                )
            object.__setattr__(self, name, check_number(name, focal, above=0.0))
        for name in ("cx", "cy"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))
        for name in ("width", "height"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum=1))
        if suspicion := self._suspicion():
            suspect(suspicion)

    def _suspicion(self) -> str | None:
        """A likely common mistake, if any; only one is named, as one mistake often looks like several."""
        w, h, x, y = self.width, self.height, self.cx / self.width, self.cy / self.height
        if min(w, h) <= _TINY:
            return self._of_another_resolution() if min(x, y) > 0 else None
        if max(self.cx, self.cy) <= 1 and min(self.cx, self.cy) > 0 and min(self.fx, self.fy) < _LONGEST_PART:
            return (
                f"cx, cy: ({self.cx:g}, {self.cy:g}) are parts of an image, not pixels; multiply fx and cx by the "
                f"width, {w}, and fy and cy by the height, {h}"
            )
        if max(abs(self.cx), abs(self.cy)) <= 1:
            return (
                f"cx, cy: ({self.cx:g}, {self.cy:g}) is the corner of the image; left out, or counted from the middle "
                f"of the image? the middle is ({w / 2:g}, {h / 2:g}) pixels"
            )
        fits_swapped = max(abs(self.cx / h - 0.5), abs(self.cy / w - 0.5)) < _CENTRED
        if fits_swapped and min(abs(x - 0.5), abs(y - 0.5)) > _NOT_CENTRED:
            return (
                f"width, height: {w}x{h} does not fit the principal point ({self.cx:g}, {self.cy:g}), and {h}x{w} "
                "does; width and height swapped?"
            )
        other = self._of_another_resolution()
        if other is None and not (0 <= x <= 1 and 0 <= y <= 1):
            return (
                f"cx, cy: ({self.cx:g}, {self.cy:g}) lies outside the image of {w}x{h}; intrinsics of another image "
                "size, or of one that this was cut from?"
            )
        return other

    def _of_another_resolution(self) -> str | None:
        """A principal point off centre by the same fraction along both axes suggests another image size."""
        x, y = self.cx / self.width, self.cy / self.height
        if not (abs(x - y) < 0.1 * abs(x) and abs(x - 0.5) > _OFF_CENTRE):
            return None
        size = f"{round(2 * self.cx)}x{round(2 * self.cy)}"
        return (
            f"cx, cy: ({self.cx:g}, {self.cy:g}) is far off the middle of {self.width}x{self.height}; intrinsics "
            f"of an image of about {size}? make them with that size, then .scaled({self.width}, {self.height})"
        )

    @classmethod
    def from_fov(
        cls, width: int, height: int, *, fov_x: float | None = None, fov_y: float | None = None
    ) -> CameraIntrinsics:
        """Square pixels and a centred principal point, from one field of view in radians."""
        if (fov_x is None) == (fov_y is None):
            raise ValueError("fov_x, fov_y: expected exactly one of the two")
        name, fov, size = ("fov_x", fov_x, width) if fov_x is not None else ("fov_y", fov_y, height)
        fov = check_number(name, fov, above=0.0)
        if fov >= math.pi:
            raise ValueError(f"{name}: expected radians below pi, got {fov}; degrees? use math.radians")
        focal = 0.5 * size / math.tan(0.5 * fov)
        return cls(focal, focal, 0.5 * width, 0.5 * height, width, height)

    @classmethod
    def from_matrix(cls, matrix: ArrayLike, width: int, height: int) -> CameraIntrinsics:
        """From K (3, 3) in this library's pixel frame (pixel centres at half-integers)."""
        return cls(*params_of_matrix("matrix", matrix), width, height)

    @classmethod
    def from_opencv(cls, matrix: ArrayLike, width: int, height: int) -> CameraIntrinsics:
        """From K (3, 3) whose integer coordinates are pixel centres: the principal point moves by +0.5."""
        fx, fy, cx, cy = params_of_matrix("matrix", matrix)
        return cls(fx, fy, cx + 0.5, cy + 0.5, width, height)

    @property
    def matrix(self) -> F64:
        """K (3, 3) float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @property
    def params(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy), pixels."""
        return (self.fx, self.fy, self.cx, self.cy)

    @property
    def fov(self) -> tuple[float, float]:
        """(horizontal, vertical) field of view, radians, of a centred principal point."""
        return 2 * math.atan(0.5 * self.width / self.fx), 2 * math.atan(0.5 * self.height / self.fy)

    def scaled(self, width: int, height: int) -> CameraIntrinsics:
        """The same camera with its image resized to ``width`` x ``height`` pixels."""
        sx, sy = width / self.width, height / self.height
        return self._derived(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)

    @classmethod
    def _derived(cls, *values: float) -> CameraIntrinsics:
        """Intrinsics derived from checked ones, so without `SuspiciousInput`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SuspiciousInput)
            return cls(*values)  # type: ignore[arg-type]

    def padded(self, multiple: int) -> CameraIntrinsics:
        """The same camera with its image padded at the right and the bottom to multiples of ``multiple`` pixels."""
        multiple = check_integer("multiple", multiple, minimum=1)
        width, height = (-(-size // multiple) * multiple for size in (self.width, self.height))
        return self._derived(*self.params, width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> CameraIntrinsics:
        """The same camera of a part of its image, ``width`` x ``height`` pixels from column ``left``, row ``top``."""
        left = check_integer("left", left, minimum=0, maximum=self.width - 1)
        top = check_integer("top", top, minimum=0, maximum=self.height - 1)
        width = check_integer("width", width, minimum=1, maximum=self.width - left)
        height = check_integer("height", height, minimum=1, maximum=self.height - top)
        return self._derived(self.fx, self.fy, self.cx - left, self.cy - top, width, height)

    def latent_grid(self, stride: int) -> CameraIntrinsics:
        """The same camera over a latent grid of ``stride`` pixels per cell.

        Its pixels are latent cells: the centre of cell (r, c) is (c + 0.5, r + 0.5). Subtract 0.5 for coordinates with
        cell centres at integers.
        """
        stride = check_integer("stride", stride, minimum=1)
        if self.width % stride or self.height % stride:
            raise ValueError(f"stride: expected a divisor of the image size {self.width}x{self.height}, got {stride}")
        return self.scaled(self.width // stride, self.height // stride)

    def project(self, points: ArrayLike) -> tuple[F64, F64]:
        """Pixels and depths of points in the camera frame.

        Parameters
        ----------
        points : (N, 3) array
            Camera frame, metres.

        Returns
        -------
        pixels : (N, 2) float64
            (u, v); NaN where depth is not positive. May lie outside the image.
        depth : (N,) float64
            z, metres.
        """
        p = as_array("points", points, np.float64, ("N", 3))
        depth = p[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = p[:, :2] / depth[:, None] * [self.fx, self.fy] + [self.cx, self.cy]
        pixels[~(depth > 0)] = np.nan
        return pixels, depth.copy()

    def unproject(self, pixels: ArrayLike, depth: ArrayLike) -> F64:
        """Points (N, 3) float64, camera frame, metres, of pixels (N, 2) at depths (N,): depth * K^-1 [u, v, 1]."""
        uv = as_array("pixels", pixels, np.float64, ("N", 2))
        z = as_array("depth", depth, np.float64, (len(uv),))
        rays = np.concatenate([(uv - [self.cx, self.cy]) / [self.fx, self.fy], np.ones((len(uv), 1))], axis=1)
        return np.asarray(rays * z[:, None])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers by field name."""
        return {name: getattr(self, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}


def params_of_matrix(name: str, matrix: ArrayLike) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) of K (3, 3): the one check that every K passes, from arrays and from files.

    Raises
    ------
    TypeError, ValueError
        K is not a finite [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; the message begins with ``name`` and states the likely
        mistake. `CameraIntrinsics` checks that focal lengths are positive.
    """
    k = as_array(name, matrix, np.float64, (3, 3), finite=True)
    expected = np.array([[k[0, 0], 0, k[0, 2]], [0, k[1, 1], k[1, 2]], [0, 0, 1]])
    if not np.allclose(k, expected, rtol=0, atol=1e-9 * max(1.0, np.abs(k).max())):
        raise ValueError(
            f"{name}: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] without skew, got {k.tolist()}{_why_no_k(k)}"
        )
    return float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])


def _why_no_k(k: F64) -> str:
    """The likely mistake in a matrix that is not a valid K."""
    if np.allclose(k[:2, 2], 0) and not np.allclose(k[2, :2], 0):
        return "; transposed?"
    if np.allclose(k[2], [0, 0, k[2, 2]]) and k[2, 2] not in (0.0, 1.0) and k[0, 1] == 0 == k[1, 0]:
        return f"; scaled by {k[2, 2]:g}? divide it out"
    if np.allclose(k[2], [0, 0, 1]) and k[1, 0] == 0:
        return "; skew moves pixels sideways, which this camera has not: rectify the images"
    return ""
