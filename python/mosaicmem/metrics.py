"""Metrics of image similarity."""

from __future__ import annotations

import math

import numpy as np

from mosaicmem._arrays import ArrayLike, as_array, as_pixels, to_numpy


def psnr(image: ArrayLike, reference: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio, dB, of images or videos, uint8 or float in [0, 1].

    Parameters
    ----------
    image, reference : arrays of the same shape
    mask : bool array, optional
        The pixels to compare; the shape of the images without the last axis.

    Returns
    -------
    float
        10 log10(1 / mean squared error); inf for equal inputs, NaN if there are no pixels to compare.
    """
    expected = as_pixels("reference", reference, to_numpy("reference", reference).shape)
    actual = as_pixels("image", image, expected.shape)
    error = (actual.astype(np.float64) - expected) ** 2
    if mask is not None:
        error = error[as_array("mask", mask, np.bool_, expected.shape[:-1])]
    if error.size == 0:
        return math.nan
    mean = float(error.mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)
