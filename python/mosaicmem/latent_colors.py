"""False colours for latents, from their principal components."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, as_array

_FIT = 20_000  # maximum number of cells to fit principal components to


class LatentColors:
    """False colours: three principal components of latents as red, green and blue.

    This shows the structure of any model's latents: within one fit, the same latent always has the same colour.

    Parameters
    ----------
    latents : (N, C) array
        Latents to fit the components to, C >= 1.
    """

    def __init__(self, latents: ArrayLike) -> None:
        x = as_array("latents", latents, np.float64, ("N", "C"), finite=True, values=True)
        if len(x) > _FIT:
            x = x[np.linspace(0, len(x) - 1, _FIT).astype(np.int64)]
        self._mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        centred = x - self._mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors[:, ::-1][:, :3]
        # A component's sign is arbitrary: make its largest weight positive.
        largest = np.abs(axes).argmax(axis=0)
        self._axes: F64 = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
        shown = centred @ self._axes
        low, high = np.percentile(shown, (2, 98), axis=0) if len(x) else (np.zeros(3), np.ones(3))
        self._low, self._range = low, np.maximum(high - low, 1e-9)

    def __call__(self, latents: ArrayLike) -> F32:
        """Colours (..., 3) float32 in [0, 1] of latents (..., C)."""
        x = np.asarray(latents, dtype=np.float64)
        shown = (x - self._mean) @ self._axes
        colors = np.clip((shown - self._low) / self._range, 0, 1)
        missing = 3 - colors.shape[-1]
        if missing:  # fewer than three channels
            colors = np.concatenate([colors, np.repeat(colors[..., -1:], missing, axis=-1)], axis=-1)
        return colors.astype(np.float32)
