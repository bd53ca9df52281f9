"""Colours for quantities: ramps for depth and age, distinct hues for keyframes."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F64, U8

OBSERVED, GENERATED = (60, 60, 70), (31, 119, 180)  # of cameras and points, by provenance

# Anchors of a ramp that is readable in grey and to colour-blind eyes: dark blue, teal, green, yellow.
_RAMP = np.array([[38, 20, 90], [44, 96, 140], [38, 160, 130], [140, 205, 70], [250, 230, 60]], np.float64)
_GOLDEN = 0.618033988749895


def ramp(values: F64) -> U8:
    """Colours (..., 3) of values in [0, 1]; dark for 0, bright for 1."""
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(at.astype(np.int64), len(_RAMP) - 2)
    part = (at - low)[..., None]
    return np.asarray(np.rint((1 - part) * _RAMP[low] + part * _RAMP[low + 1]), np.uint8)


def hues(numbers: np.ndarray) -> U8:
    """A colour (..., 3) for each number; numbers close to each other have very different hues."""
    hue = 6 * ((np.asarray(numbers).astype(np.float64) * _GOLDEN) % 1)
    offsets = np.array([0.0, 4.0, 2.0])
    channels = np.clip(np.abs((hue[..., None] + offsets) % 6 - 3) - 1, 0, 1)
    return np.asarray(np.rint(55 + 190 * channels), np.uint8)
