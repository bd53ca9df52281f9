"""Whether colour and depth of frames come from cameras of the same focal length, and depth seen by the colour camera.

Many RGB-D recordings give one camera for two: the colour camera has a lens of its own. Each pixel's depth then belongs
to another pixel's colour, the more so the further it is from the centre, and what memory shows from a new place is
blurred. Frames that see the same surface from different places tell: its colour should be the same in both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, Bool, as_depth, as_pixels, check_instance
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import suspect
from mosaicmem.geometry.frame_pairs import Frame, has_moved

_MOST_PAIRS = 24
LEAST_PAIRS = 6
_LEAST_POINTS = 200  # of a pair, that both frames see
_TOLERANCE = 0.03  # relative disagreement of depth beyond which the two see different surfaces
_EDGE = 4  # pixels around a point whose depth must be that of the same surface
_SMALL = 320  # columns that images are reduced to
_FACTORS: F64 = np.exp(np.linspace(math.log(0.8), math.log(1.25), 19))
_REFINED = (0.012, 0.004, 0.0015)  # steps of the search, as fractions of the focal length
_CLEAR = 0.88  # the disagreement of colours left by another focal length, as a fraction of that as given
_FIELD_ANGLE, _WIDEST = 0.055, 0.2  # radians: for recordings, and where registration is exact
_USUAL = 0.36  # the disagreement of a good recording
_OFF = 0.015  # focal lengths that differ less are the same


@dataclass(frozen=True)
class Registration:
    """The focal length of the colour camera that makes frames agree best.

    Attributes
    ----------
    fx, fy : float
        Pixels of the colour image.
    given, best : float
        Mean difference of the colours of points that two frames see, in units of their contrast: with one camera for
        depth and colour, and with ``fx``, ``fy`` for colour.
    pairs : int
        Pairs of frames that were compared; with fewer than 6 the input is taken as given.
    is_off : bool
        Whether the colour camera clearly is another one.
    """

    fx: float
    fy: float
    given: float
    best: float
    pairs: int
    is_off: bool

    @property
    def field_angle(self) -> float:
        """The `KeyframeOptions.field_angle` that this quality of registration asks for, radians.

        Where colours agree exactly, a view that saw a surface elsewhere in its image is as good as one that saw it in
        the same place; where they do not, the error grows with the distance between the two places.
        """
        if self.pairs < LEAST_PAIRS:
            return _FIELD_ANGLE
        return min(_WIDEST, max(_FIELD_ANGLE, _FIELD_ANGLE * (_USUAL / max(self.given, 1e-6)) ** 2))

    def color_camera(self, intrinsics: CameraIntrinsics) -> CameraIntrinsics:
        """The camera of the colour images; ``intrinsics`` is that of depth."""
        return replace(intrinsics, fx=self.fx, fy=self.fy)


@dataclass(frozen=True, eq=False)
class _View:
    """A frame, with its image in grey, reduced."""

    frame: Frame
    grey: F64
    scale: float  # pixels of `grey` per pixel of the image


@dataclass(frozen=True, eq=False)
class _Pair:
    """Points that two frames see: their rays in each camera (N, 2), z = 1."""

    greys: tuple[F64, F64]
    rays: tuple[F64, F64]
    scale: float
    contrast: float


class RegistrationCheck:
    """Compares colours of the surfaces that frames have in common, and warns once if colour and depth do not fit.

    Frames between which the camera hardly moves are skipped, and only the first pairs are compared.

    Parameters
    ----------
    warns : bool
        False: only `result` says what was found.

    Examples
    --------
    >>> check = RegistrationCheck()
    >>> for frame in sequence:  # doctest: +SKIP
    ...     check.add(frame.image, frame.depth, sequence.intrinsics, frame.pose)
    >>> check.result()  # doctest: +SKIP
    """

    def __init__(self, *, warns: bool = True) -> None:
        self._warns = warns
        self._views: list[_View] = []
        self._camera: CameraIntrinsics | None = None
        self._pairs: list[_Pair] = []
        self._found: Registration | None = None

    def add(self, image: ArrayLike, depth: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose) -> bool:
        """Check one more frame; returns whether this call warned.

        Parameters
        ----------
        image : (H, W, 3) array, uint8 or float in [0, 1]
        depth : (H, W) array
            Metres; invalid where not finite or <= 0.
        intrinsics : CameraIntrinsics
            That both are said to have; the same for all frames.
        pose : CameraPose

        Warns
        -----
        SuspiciousInput
            The colours agree clearly better with another focal length, which the message gives beside that given.
        """
        check_instance("intrinsics", intrinsics, CameraIntrinsics)
        check_instance("pose", pose, CameraPose)
        if self._found is not None or (self._camera is not None and intrinsics != self._camera):
            return False
        self._camera = intrinsics
        shape = (intrinsics.height, intrinsics.width)
        frame = Frame.of(as_depth("depth", depth, shape, own=True), intrinsics, pose)
        if self._views and not has_moved(self._views[-1].frame, frame):
            return False
        view = _View(frame, *_grey(as_pixels("image", image, (*shape, 3))))
        for before in self._views[-3:]:
            pair = _pair(before, view)
            if pair is not None:
                self._pairs.append(pair)
        self._views = [*self._views[-2:], view]
        if len(self._pairs) < _MOST_PAIRS:
            return False
        return self._judge()

    def __copy__(self) -> RegistrationCheck:
        """An independent check that continues from this state."""
        return copy.deepcopy(self)

    @property
    def is_done(self) -> bool:
        """Whether enough frames have been compared."""
        return self._found is not None

    def result(self) -> Registration:
        """What the frames so far say; warns as `add` does if it has not."""
        if self._found is None:
            self._judge()
        assert self._found is not None
        return self._found

    def _judge(self) -> bool:
        camera, pairs = self._camera, self._pairs
        if camera is None:
            raise ValueError("frames: expected at least one, got none")
        if len(pairs) < LEAST_PAIRS:
            self._found = Registration(camera.fx, camera.fy, math.nan, math.nan, len(pairs), False)
            return False
        fx, fy = _best(pairs, camera)
        given, best = _disagreement(pairs, camera, camera.fx, camera.fy), _disagreement(pairs, camera, fx, fy)
        moved = max(abs(fx / camera.fx - 1), abs(fy / camera.fy - 1))
        is_off = best < _CLEAR * given and moved > _OFF
        self._found = Registration(fx, fy, given, best, len(pairs), is_off)
        if is_off and self._warns:
            suspect(
                f"intrinsics: depth is said to fit fx = {camera.fx:.4g}, fy = {camera.fy:.4g}, but colours of the same "
                f"surfaces in {len(pairs)} pairs of frames agree better with fx = {fx:.4g}, fy = {fy:.4g} "
                f"({100 * (1 - best / given):.0f} % less difference): two cameras, not registered to each other? "
                "registered_depth and Registration.color_camera make one of them, as does open_sequence(color_focal=)"
            )
        return is_off


def estimate_registration(
    frames: Iterable[tuple[ArrayLike, ArrayLike, CameraPose]], intrinsics: CameraIntrinsics
) -> Registration:
    """The colour camera's focal length, from frames (image, depth, pose) in the order of a path.

    ``intrinsics`` is the camera of depth, whose poses these are. Centre and axes are taken to be the same.
    """
    check = RegistrationCheck(warns=False)
    for image, depth, pose in frames:
        check.add(image, depth, intrinsics, pose)
        if check.is_done:
            break
    return check.result()


def registered_depth(depth: ArrayLike, depth_camera: CameraIntrinsics, color_camera: CameraIntrinsics) -> F32:
    """Depth (H, W) as the colour camera sees it: that of the nearest pixel of the depth camera, 0 outside its image.

    Both cameras have one centre and the same axes; ``depth`` has the size of ``depth_camera``.
    """
    z = as_depth("depth", depth, (depth_camera.height, depth_camera.width))
    columns, has_column = _seen(color_camera.width, color_camera.fx, color_camera.cx, depth_camera.fx, depth_camera.cx)
    rows, has_row = _seen(color_camera.height, color_camera.fy, color_camera.cy, depth_camera.fy, depth_camera.cy)
    has_column &= columns < depth_camera.width
    has_row &= rows < depth_camera.height
    moved = z[np.where(has_row, rows, 0)][:, np.where(has_column, columns, 0)]
    return np.where(has_row[:, None] & has_column, moved, np.float32(0))


def _seen(count: int, f: float, c: float, of: float, oc: float) -> tuple[np.ndarray, Bool]:
    """Which pixel of one camera sees what each of ``count`` pixels of the other sees, along one axis."""
    place = np.floor((np.arange(count) + 0.5 - c) / f * of + oc).astype(np.int64)
    return place, place >= 0


def _grey(pixels: F32) -> tuple[F64, float]:
    """A reduced grey image, blurred so that the search finds its way, without the slow changes that exposure makes."""
    step = max(1, round(pixels.shape[1] / _SMALL))
    rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
    tiles = pixels[: rows * step, : columns * step].mean(axis=2).reshape(rows, step, columns, step)
    grey = _blurred(tiles.mean(axis=(1, 3), dtype=np.float64), 1)
    return grey - _blurred(grey, 12), 1 / step


def _blurred(grey: F64, radius: int) -> F64:
    """Twice averaged over squares of 2 radius + 1 pixels."""
    size = 2 * radius + 1
    for _ in range(2):
        for axis in (0, 1):
            width = [(0, 0), (0, 0)]
            width[axis] = (radius + 1, radius)
            total = np.cumsum(np.pad(grey, width, "edge"), axis=axis)
            first, last = (total[:-size], total[size:]) if axis == 0 else (total[:, :-size], total[:, size:])
            grey = (last - first) / size
    return grey


def _pair(a: _View, b: _View) -> _Pair | None:
    """The points of ``a`` that ``b`` sees too, away from the edges of surfaces."""
    b_from_a = np.linalg.inv(b.frame.world_from_camera) @ a.frame.world_from_camera
    points = (a.frame.rays * a.frame.z[:, None]) @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    z = points[:, 2]
    rays = points[:, :2] / np.where(z > 0, z, 1)[:, None]
    seen = (z > 0) & _is_smooth(b.frame, rays, z) & _is_smooth(a.frame, a.frame.rays[:, :2], a.frame.z)
    if seen.sum() < _LEAST_POINTS:
        return None
    greys = (a.grey, b.grey)
    contrast = float(np.mean([np.abs(grey).mean() for grey in greys]))
    return _Pair(greys, (a.frame.rays[seen, :2], rays[seen]), a.scale, max(contrast, 1e-6))


def _is_smooth(frame: Frame, rays: F64, z: F64) -> Bool:
    """Where a frame's depth around the points is theirs."""
    k = frame.intrinsics
    u, v = rays[:, 0] * k.fx + k.cx, rays[:, 1] * k.fy + k.cy
    good = np.ones(len(z), np.bool_)
    for du, dv in ((0, 0), (_EDGE, 0), (-_EDGE, 0), (0, _EDGE), (0, -_EDGE)):
        inside = (u + du >= 0) & (u + du < k.width) & (v + dv >= 0) & (v + dv < k.height)
        column, row = (np.where(inside, at, 0).astype(np.int64) for at in (u + du, v + dv))
        there = frame.depth[row, column]
        good &= inside & (np.abs(there - z) <= _TOLERANCE * z)
    return good


def _disagreement(pairs: list[_Pair], camera: CameraIntrinsics, fx: float, fy: float) -> float:
    """The mean difference of colours, in units of contrast."""
    differences = []
    for pair in pairs:
        a, b = (
            _sampled(grey, (rays * (fx, fy) + (camera.cx, camera.cy)) * pair.scale - 0.5)
            for grey, rays in zip(pair.greys, pair.rays, strict=True)
        )
        both = np.isfinite(a) & np.isfinite(b)
        if both.any():
            differences.append(np.minimum(np.abs(a - b)[both] / pair.contrast, 3).mean())
    return float(np.mean(differences)) if differences else math.inf


def _sampled(grey: F64, places: F64) -> F64:
    """Bilinear samples at (x, y), NaN outside."""
    x, y = places[:, 0], places[:, 1]
    rows, columns = grey.shape
    inside = (x >= 0) & (y >= 0) & (x < columns - 1) & (y < rows - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    left, top = x.astype(np.int64), y.astype(np.int64)
    dx, dy = x - left, y - top
    upper = (1 - dx) * grey[top, left] + dx * grey[top, left + 1]
    lower = (1 - dx) * grey[top + 1, left] + dx * grey[top + 1, left + 1]
    return np.where(inside, (1 - dy) * upper + dy * lower, np.nan)


def _best(pairs: list[_Pair], camera: CameraIntrinsics) -> tuple[float, float]:
    """One factor for both focal lengths from a grid, then each alone in ever smaller steps.

    Few pairs can hardly tell the two apart, so a different shape of pixels must earn its difference.
    """

    def off(x: float, y: float) -> float:
        return _disagreement(pairs, camera, camera.fx * x, camera.fy * y) * (1 + 2 * abs(math.log(x / y)))

    factor = min((float(each) for each in _FACTORS), key=lambda each: off(each, each))
    x = y = factor
    for step in _REFINED:
        for _ in range(12):
            around = [(x + i * step, y + j * step) for i, j in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
            best = min(around, key=lambda each: off(*each))
            if best == (x, y):
                break
            x, y = best
    return camera.fx * x, camera.fy * y
