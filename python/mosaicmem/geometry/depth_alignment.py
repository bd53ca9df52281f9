"""Bringing depth without a scale of its own to the scale of what is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, as_array, check_integer

_PAIRS = 512  # pairs of pixels that propose a line
_MOST_SAMPLES = 8192  # pixels that judge one
_TUKEY = 4.685  # standard deviations beyond which a pixel does not count; 95 % as good as plain least squares
_ROUNDS = 20


class Alignment(NamedTuple):
    """known = scale * predicted + shift.

    Attributes
    ----------
    scale, shift : float
    inliers : float
        The part of pixels that count, in [0, 1].
    """

    scale: float
    shift: float
    inliers: float


def fit_scale(
    predicted: ArrayLike, known: ArrayLike, *, with_shift: bool = True, least_pixels: int = 64
) -> Alignment | None:
    """Scale, and shift, that take predicted values to known ones, by robust least squares.

    A start by least median of squares over pairs of pixels, then reweighting by Tukey's biweight: up to almost half of
    the pixels may disagree. The same arrays give the same answer.

    Parameters
    ----------
    predicted : array
        Any shape; pixels that are not finite do not count.
    known : array of the same shape
        Pixels that are not finite, or 0, do not count.
    with_shift : bool
        False: a scale alone.
    least_pixels : int
        Fewer than this give no answer.

    Returns
    -------
    Alignment or None
        None where too few pixels are known, where they do not vary, or where the best scale is not positive.
    """
    p = np.asarray(as_array("predicted", predicted, np.float64, np.shape(predicted))).ravel()
    z = np.asarray(as_array("known", known, np.float64, np.shape(predicted))).ravel()
    check_integer("least_pixels", least_pixels, minimum=2)
    usable = np.flatnonzero(np.isfinite(p) & np.isfinite(z) & (z != 0))
    if len(usable) < least_pixels:
        return None
    if len(usable) > _MOST_SAMPLES:
        usable = usable[np.linspace(0, len(usable) - 1, _MOST_SAMPLES).astype(np.int64)]
    x, y = p[usable], z[usable]
    start = _propose(x, y, with_shift)
    if start is None:
        return None
    scale, shift = start
    weight = np.ones_like(x)
    for _ in range(_ROUNDS):
        residual = y - scale * x - shift
        spread = 1.4826 * float(np.median(np.abs(residual))) + 1e-12 * float(np.abs(y).max())
        weight = np.maximum(0, 1 - (residual / (_TUKEY * spread)) ** 2) ** 2
        previous = (scale, shift)
        scale, shift = _weighted(x, y, weight, with_shift)
        if np.allclose(previous, (scale, shift), rtol=1e-12, atol=0):
            break
    if not (np.isfinite(scale) and np.isfinite(shift) and scale > 0):
        return None
    return Alignment(scale, shift, float((weight > 0).mean()))


def _propose(x: F64, y: F64, with_shift: bool) -> tuple[float, float] | None:
    """The line through a pair of pixels (or through zero and one) with the least median residual."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, len(x), (2, _PAIRS))
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (y[b] - y[a]) / (x[b] - x[a]) if with_shift else y[a] / x[a]
    shifts = y[a] - scales * x[a] if with_shift else np.zeros(_PAIRS)
    sound = np.isfinite(scales) & np.isfinite(shifts) & (scales > 0)
    if not sound.any():
        return None
    scales, shifts = scales[sound], shifts[sound]
    judges = np.linspace(0, len(x) - 1, min(len(x), 1024)).astype(np.int64)
    residual = np.abs(y[judges] - scales[:, None] * x[judges] - shifts[:, None])
    best = int(np.median(residual, axis=1).argmin())
    return float(scales[best]), float(shifts[best])


def _weighted(x: F64, y: F64, weight: F64, with_shift: bool) -> tuple[float, float]:
    """Weighted least squares."""
    if not with_shift:
        return float((weight * x * y).sum() / max((weight * x * x).sum(), 1e-300)), 0.0
    total = max(float(weight.sum()), 1e-300)
    mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
    variance = (weight * (x - mean_x) ** 2).sum()
    scale = float((weight * (x - mean_x) * (y - mean_y)).sum() / variance) if variance > 0 else np.nan
    return scale, float(mean_y - scale * mean_x)


def inverse_or_zero(values: F32) -> F32:
    """1 / value where it is finite and positive, else 0."""
    sound = np.isfinite(values) & (values > 0)
    return np.divide(1, values, out=np.zeros_like(values), where=sound)
