"""The colours of a memory's cells: those of the scene where keyframes have thumbnails, false colours elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mosaicmem._arrays import F32, ArrayLike
from mosaicmem.latent_colors import LatentColors
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.memory.store import MosaicMemoryStore

_FIT = 64  # keyframes that false colours are fitted to


class SceneColors:
    """Colours of keyframes, from their thumbnails; principal components of latents for those without.

    Parameters
    ----------
    keyframes : iterable of ObservedKeyframe
        That false colours are fitted to, if any of them has no thumbnail.

    Attributes
    ----------
    of_scene, of_latents : bool
        Whether there are keyframes with colours of the scene, and with false colours.
    """

    def __init__(self, keyframes: Iterable[ObservedKeyframe]) -> None:
        all_of_them = list(keyframes)
        without = [k for k in all_of_them if k.image is None]
        self.of_scene, self.of_latents = len(without) < len(all_of_them), bool(without)
        some = without[:: max(1, len(without) // _FIT)]
        shown = [k.latents[k.depth > 0] for k in some]
        self._components = LatentColors(np.concatenate(shown)) if some else None

    @classmethod
    def of_store(cls, store: MosaicMemoryStore) -> SceneColors:
        """Fitted to all keyframes of a store."""
        return cls(observed_keyframes(store))

    @property
    def description(self) -> str:
        """What the colours are, for captions."""
        if not self.of_latents:
            return "of the scene"
        components = "main components of the latents (similar colours, similar content)"
        return f"of the scene, or {components}" if self.of_scene else components

    def __call__(self, keyframe: ObservedKeyframe) -> F32:
        """Colours (h, w, 3) in [0, 1] of a keyframe's cells."""
        if keyframe.image is None:
            return self.components(keyframe.latents)
        rows, columns = keyframe.depth.shape
        pixels = keyframe.image.reshape(rows, -1, columns, keyframe.image.shape[1] // columns, 3)
        return np.asarray(pixels.mean(axis=(1, 3), dtype=np.float32) / np.float32(255))

    def components(self, latents: ArrayLike) -> F32:
        """False colours (..., 3) of latents (..., C); mid-grey if none were fitted."""
        if self._components is None:
            return np.full((*np.shape(latents)[:-1], 3), 0.5, np.float32)
        return self._components(latents)
