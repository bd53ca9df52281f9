"""Options for choosing whole keyframes for a window and composing them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mosaicmem import _core
from mosaicmem._arrays import check_choice, check_integer, check_number

COMPOSITIONS = ("blend", "backward")


@dataclass(frozen=True)
class KeyframeOptions:
    """Options of strategy ``visible_coverage`` and of the compositions ``blend`` and ``backward``.

    The worth of a keyframe cell in a target view is

        confidence * recency * weight * exp(-viewing / viewing_angle - field / field_angle) * resolution

    - viewing: the angle at the surface between the two cameras
    - field: the distance between the surface's positions in the two images, in tangents; errors of calibration,
      distortion, vignetting and depth registration grow with it
    - recency: 0.5^(age / half_life), 1 with half_life = 0; age is 0 for keyframes from the target's future
    - weight: ``generated_weight`` for generated keyframes, 1 for observed ones
    - resolution: the ratio of the source and target cell sizes on the surface, the smaller over the larger

    Parameters
    ----------
    max_keyframes : int
        At most this many per target latent frame; fewer if the next one would add nearly nothing, as more views of a
        surface only blur it.
    max_window_keyframes : int
        At most this many for all targets of a window together, which share them.
    composition : {"blend", "backward"}
        ``blend`` averages all cells that land within ``depth_tolerance`` of the front surface, weighted by worth times
        bilinear weight. ``backward`` looks up the front surface of each target cell in the sources, by bilinear
        interpolation over the source cells at the depth expected there; it is sharper where depth is exact.
    depth_tolerance : float
        Relative thickness of a surface.
    viewing_angle, field_angle : float
        Radians, at least 1e-6.
    half_life : float
        Seconds.
    near, far : float
        In the unit of the scene; the defaults, 0.05 and infinity, assume metres. In a scene of another unit or size,
        set ``near`` to a few hundredths of its typical depth. Retrieval warns if it finds nothing because of them.
    generated_weight : float
        In [0, 1]. 0 excludes generated keyframes.

    Raises
    ------
    TypeError, ValueError
        A value has the wrong type or is out of range; the message names it.
    """

    max_keyframes: int = 16
    max_window_keyframes: int = 32
    composition: str = "blend"
    depth_tolerance: float = 0.15
    viewing_angle: float = 0.3
    field_angle: float = 0.055
    half_life: float = 0.0
    near: float = 0.05
    far: float = math.inf
    generated_weight: float = 1.0

    def __post_init__(self) -> None:
        most = check_integer("max_keyframes", self.max_keyframes, minimum=1, maximum=2**31 - 1)
        check_integer("max_window_keyframes", self.max_window_keyframes, minimum=1, maximum=2**31 - 1)
        if self.max_window_keyframes < most:
            raise ValueError(
                f"max_window_keyframes: expected at least max_keyframes = {most}, got {self.max_window_keyframes}"
            )
        check_choice("composition", self.composition, COMPOSITIONS)
        check_number("depth_tolerance", self.depth_tolerance, minimum=0.0, maximum=1.0)
        check_number("viewing_angle", self.viewing_angle, minimum=1e-6)
        check_number("field_angle", self.field_angle, minimum=1e-6)
        check_number("half_life", self.half_life, minimum=0.0)
        near = check_number("near", self.near, above=0.0, maximum=1e12)
        if self.far != math.inf:
            check_number("far", self.far)
        if not self.far > near:
            raise ValueError(f"far: expected more than near = {near}, got {self.far}")
        check_number("generated_weight", self.generated_weight, minimum=0.0, maximum=1.0)

    @property
    def most_picks(self) -> int:
        """The most keyframes that a target can get, for allocation."""
        return min(self.max_keyframes, self.max_window_keyframes, _core.most_picks)

    def selection(self, *, only_images: bool = False) -> _core.KeyframeParams:
        """The core's parameters for selection, of keyframes that keep an image if ``only_images``."""
        limits = self.max_keyframes, self.max_window_keyframes
        return _core.KeyframeParams(*limits, self.depth_tolerance, self._scales(), only_images)

    def blend(self) -> _core.BlendOptions:
        """The core's parameters for composition."""
        direction = _core.Direction.backward if self.composition == "backward" else _core.Direction.forward
        return _core.BlendOptions(direction, self.depth_tolerance, self._scales())

    def _scales(self) -> _core.ViewWeightScales:
        return _core.ViewWeightScales(self.viewing_angle, self.field_angle, self.half_life, self.generated_weight)
