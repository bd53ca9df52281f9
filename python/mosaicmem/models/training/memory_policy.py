"""What a training sample remembers, and how it is disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mosaicmem._arrays import F32, Bool, check_choice, check_integer, check_number
from mosaicmem.camera import CameraTrajectory

_RECTANGLES = 4  # holes per keyframe


@dataclass(frozen=True)
class MemoryPolicy:
    """What memory holds when a window is trained on. Every draw is by the generator of the sample.

    Attributes
    ----------
    remembered : {"past", "around"}
        Frames that memory may hold: those before the window, as in generation; or those after it too, which gives more
        revisits per sequence.
    gap : int
        Frames next to the window that memory never holds: the model is to return to a place, not only to continue.
    translation, angle, interval : float, float, int
        Spacing of keyframes as in `PipelineConfig`: metres, radians, and frames at most.
    max_keyframes : int
        Memory holds at most this many.
    composition : {"random", "latest"}
        ``random``: a random number of random keyframes, from one to ``max_keyframes``: the model meets rich and poor
        memories. ``latest``: those nearest to the window in time.
    dropout : float
        Probability of an empty memory, so that the model learns to live without one, and guidance can use the
        difference.
    noise : float
        Standard deviation of Gaussian noise on memory's latents, at most: each sample draws its own, from 0 on. Memory
        of generated frames is imperfect too. VAE latents have about unit variance.
    holes : float
        Fraction of each keyframe's cells that is forgotten, at most, in rectangles: the model learns to fill in.
    """

    remembered: Literal["past", "around"] = "past"
    gap: int = 0
    translation: float = 0.3
    angle: float = 0.3
    interval: int = 8
    max_keyframes: int = 16
    composition: Literal["random", "latest"] = "random"
    dropout: float = 0.1
    noise: float = 0.1
    holes: float = 0.2

    def __post_init__(self) -> None:
        check_choice("remembered", self.remembered, ("past", "around"))
        check_choice("composition", self.composition, ("random", "latest"))
        check_integer("gap", self.gap, minimum=0)
        check_integer("max_keyframes", self.max_keyframes, minimum=1)
        check_integer("interval", self.interval, minimum=1)
        for name in ("translation", "angle", "noise"):
            check_number(name, getattr(self, name), minimum=0.0)
        for name in ("dropout", "holes"):
            check_number(name, getattr(self, name), minimum=0.0, maximum=1.0)

    def keyframes(self, path: CameraTrajectory) -> list[int]:
        """The frames of a path that are spaced as keyframes are."""
        return path.select_keyframes(self.translation, self.angle, self.interval)

    def candidates(self, keyframes: list[int], window: range) -> list[int]:
        """Those of a path's `keyframes` that memory may hold for a window, in order of time."""
        before = [i for i in keyframes if i < window.start - self.gap]
        after = [i for i in keyframes if i >= window.stop + self.gap]
        return before if self.remembered == "past" else before + after

    def draw(self, candidates: list[int], window: range, rng: np.random.Generator) -> list[int]:
        """The frames that memory holds for one sample, in order of time; none with the probability of ``dropout``."""
        if rng.random() < self.dropout or not candidates:
            return []
        most = min(self.max_keyframes, len(candidates))
        if self.composition == "random":
            return sorted(rng.choice(candidates, rng.integers(1, most + 1), replace=False).tolist())
        distance = [min(abs(i - window.start), abs(i - window.stop + 1)) for i in candidates]
        return sorted(candidates[i] for i in np.argsort(distance, kind="stable")[:most])

    def noisy(self, latents: F32, level: float, rng: np.random.Generator) -> F32:
        """Latents of a keyframe with noise of a standard deviation of ``level`` times ``noise``."""
        if self.noise == 0:
            return latents
        noise = rng.standard_normal(latents.shape, dtype=np.float32)
        return np.asarray(latents + np.float32(self.noise * level) * noise, np.float32)

    def remaining(self, shape: tuple[int, int], rng: np.random.Generator) -> Bool | None:
        """The cells (h, w) of a keyframe that memory keeps; None for all."""
        if self.holes == 0:
            return None
        kept = np.ones(shape, bool)
        share = self.holes * rng.random() / _RECTANGLES
        for _ in range(_RECTANGLES):
            aspect = np.exp(rng.uniform(-0.7, 0.7))
            sides = (share * aspect) ** 0.5, (share / aspect) ** 0.5
            size = [min(round(n * side), n) for n, side in zip(shape, sides, strict=True)]
            corner = [int(rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
            kept[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = False
        return kept
