"""The cells of a memory as a point cloud that a browser can draw: coloured in several ways, and never too large."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, U8
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.memory.scene_colors import SceneColors
from mosaicmem.viewer.palettes import GENERATED, OBSERVED, hues, ramp

COLORINGS = ("scene", "provenance", "age", "confidence", "keyframe")
MOST_POINTS = 400_000  # drawn at once
_NONE = np.zeros((0, 3), np.float32)


@dataclass(frozen=True, eq=False)
class KeyframePoints:
    """The cells of one observation, in random order: the first n of them are a fair sample.

    Attributes
    ----------
    points : (N, 3) float32
        World, metres.
    colors, confidence : (N, 3) and (N,) uint8
    centre, radius
        Of a sphere around the points.
    """

    observation: int
    frame_id: int
    timestamp: float
    generated: bool
    points: F32
    colors: U8
    confidence: U8
    centre: F64
    radius: float

    @classmethod
    def of(cls, keyframe: ObservedKeyframe, colors: SceneColors) -> KeyframePoints:
        """From a keyframe of a store."""
        there = keyframe.depth > 0
        points = keyframe.points
        order = np.random.default_rng(keyframe.observation).permutation(len(points))
        shades = np.rint(255 * colors(keyframe)[there]).astype(np.uint8)
        sure = np.full(len(points), 255, np.uint8)
        if keyframe.confidence is not None:
            sure = np.rint(255 * keyframe.confidence[there]).astype(np.uint8)
        centre = points.mean(axis=0)
        radius = float(np.linalg.norm(points - centre, axis=1).max())
        return cls(
            keyframe.observation,
            keyframe.frame_id,
            keyframe.timestamp,
            keyframe.provenance == "generated",
            points[order].astype(np.float32),
            shades[order],
            sure[order],
            centre,
            radius,
        )


class MemoryCloud:
    """The points of a store, brought up to date as it changes: only keyframes that are new or edited are read.

    Attributes
    ----------
    parts : list of KeyframePoints
    """

    def __init__(self) -> None:
        self.parts: list[KeyframePoints] = []
        self._known: dict[Any, KeyframePoints] = {}
        self._colors: SceneColors | None = None
        self._fitted = 0  # keyframes that false colours were fitted to

    def __len__(self) -> int:
        """The number of points."""
        return sum(len(part.points) for part in self.parts)

    def update(self, store: MosaicMemoryStore) -> Iterator[float]:
        """Read the store's present state. Yields the fraction that is done, so that the caller may draw in between."""
        keyframes = list(observed_keyframes(store))
        if self._colors is None or (len(keyframes) > 2 * self._fitted and any(k.image is None for k in keyframes)):
            self._colors, self._fitted, self._known = SceneColors(keyframes), len(keyframes), {}
        known, parts = {}, []
        spread = np.argsort(hues(np.arange(len(keyframes)))[:, 0], kind="stable")  # all places early, all detail later
        for done, i in enumerate(spread.tolist()):
            keyframe = keyframes[i]
            key = identity(keyframe)
            known[key] = self._known.get(key) or KeyframePoints.of(keyframe, self._colors)
            parts.append(known[key])
            if done % 64 == 63:
                self.parts = [*parts]
                yield (done + 1) / len(keyframes)
        self.parts, self._known = parts, known
        yield 1.0

    def drawn(
        self, coloring: str, *, observed: bool = True, generated: bool = True, most: int = MOST_POINTS
    ) -> tuple[F32, U8]:
        """Points (N, 3) and colours (N, 3) uint8 to draw, at most ``most``: the same fraction of each keyframe.

        Parameters
        ----------
        coloring : str
            One of `COLORINGS`.
        observed, generated : bool
            Which keyframes are drawn.
        """
        return self._sampled(self._wanted(observed, generated), coloring, most)

    def _wanted(self, observed: bool, generated: bool) -> list[KeyframePoints]:
        return [part for part in self.parts if (generated if part.generated else observed)]

    def seen_from(
        self,
        position: F64,
        direction: F64,
        coloring: str,
        *,
        observed: bool = True,
        generated: bool = True,
        most: int = MOST_POINTS,
    ) -> tuple[F32, U8]:
        """`drawn` for the keyframes with points within 45 degrees of a direction, the nearest ones first."""
        kept = []
        for part in self._wanted(observed, generated):
            offset = part.centre - position
            distance = float(np.linalg.norm(offset))
            if distance < part.radius or offset @ direction > 0.7 * distance - part.radius:
                kept.append((distance - part.radius, part))
        kept.sort(key=lambda each: each[0])
        chosen: list[KeyframePoints] = []
        count = 0
        for _, part in kept:
            if count > 2 * most:
                break
            chosen.append(part)
            count += len(part.points)
        return self._sampled(chosen, coloring, most)

    def nearest_to_ray(
        self, origin: F64, direction: F64, most_angle: float, *, observed: bool = True, generated: bool = True
    ) -> tuple[KeyframePoints, F64] | None:
        """The nearest point within an angle (radians) of a ray, and its keyframe; None if there is none."""
        best: tuple[float, KeyframePoints, F64] | None = None
        for part in self._wanted(observed, generated):
            offset = part.centre - origin
            along = float(offset @ direction)
            aside = float(np.linalg.norm(offset - along * direction))
            if along < -part.radius or aside > part.radius + max(along, 0) * most_angle:
                continue
            offsets = part.points.astype(np.float64) - origin
            depth = offsets @ direction
            distance = np.linalg.norm(offsets - depth[:, None] * direction, axis=1)
            hit = (depth > 0) & (distance < most_angle * depth)
            if hit.any():
                i = int(np.where(hit, depth, np.inf).argmin())
                nearest = float(depth[i])
                if best is None or nearest < best[0]:
                    best = nearest, part, part.points[i].astype(np.float64)
        return None if best is None else best[1:]

    def _sampled(self, parts: list[KeyframePoints], coloring: str, most: int) -> tuple[F32, U8]:
        total = sum(len(part.points) for part in parts)
        fraction = min(1.0, most / max(1, total))
        counts = [int(np.ceil(fraction * len(part.points))) for part in parts]
        points = np.concatenate(
            [np.zeros((0, 3), np.float32), *(p.points[:n] for p, n in zip(parts, counts, strict=True))]
        )
        colors = [self._colors_of(part, n, coloring) for part, n in zip(parts, counts, strict=True)]
        return points, np.concatenate([np.zeros((0, 3), np.uint8), *colors])

    def _colors_of(self, part: KeyframePoints, count: int, coloring: str) -> U8:
        if coloring == "scene":
            return part.colors[:count]
        if coloring == "confidence":
            return ramp(part.confidence[:count] / 255)
        if coloring == "provenance":
            color: Any = GENERATED if part.generated else OBSERVED
        elif coloring == "keyframe":
            color = hues(np.array(part.observation))
        else:
            times = [each.timestamp for each in self.parts]
            first, last = min(times), max(times)
            color = ramp(np.array((part.timestamp - first) / ((last - first) or 1.0)))
        return np.broadcast_to(np.asarray(color, np.uint8), (count, 3))


def identity(keyframe: ObservedKeyframe) -> Any:
    """What tells whether a keyframe's points have changed."""
    digest = hashlib.blake2b(np.ascontiguousarray(keyframe.depth).tobytes(), digest_size=16)
    if keyframe.image is not None:
        digest.update(np.ascontiguousarray(keyframe.image).tobytes())
    place = keyframe.world_from_camera.tobytes()
    return keyframe.observation, keyframe.frame_id, keyframe.timestamp, keyframe.provenance, place, digest.digest()
