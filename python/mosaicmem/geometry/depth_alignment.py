"""Aligns depth without an absolute scale to known depth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mosaicmem._arrays import F32, F64, I64, ArrayLike, as_array, check_integer

_MOST_SAMPLES = 4096  # pixels sampled for the fit
_PAIRS = 256  # pairs of pixels that each propose a line
_JUDGES = 512  # pixels that rank the proposed lines
_TUKEY = 4.685  # standard deviations beyond which a pixel does not count; 95 % as efficient as least squares
_HUBER = 1.345  # standard deviations beyond which a pixel counts less; 95 % as efficient
_ROUNDS = 20
_CAP = 0.35  # cap on a pixel's disagreement: all gross errors count the same
_INLIER = 0.25  # upper limit of an inlier's relative disagreement
_SUPPORT = 0.45  # minimum fraction of pixels that are inliers of a line
_EXPLAINS = 0.95  # a fit has at most this fraction of a constant's disagreement
_WIN, _CLEAR_WIN = 0.95, 0.8  # a line beats least squares with at most this fraction of its disagreement
_CHANCE = 8.0
_CORRELATED = 0.3  # minimum correlation for least squares to count as a fit
_FLAT = 0.05  # a mere scale with less disagreement fits data too flat to determine a slope


class Alignment(NamedTuple):
    """known = scale * predicted + shift.

    Attributes
    ----------
    scale, shift : float
    inliers : float
        Fraction of pixels that support the fit, in [0, 1].
    """

    scale: float
    shift: float
    inliers: float


def fit_scale(
    predicted: ArrayLike, known: ArrayLike, *, with_shift: bool = True, least_pixels: int = 64
) -> Alignment | None:
    """Robustly fit the scale, and shift, that map predicted values to known ones.

    Several lines compete: plain least squares, and iteratively reweighted least squares (Huber's and Tukey's weights)
    started from it, from the best lines through pairs of pixels, and from a scale alone. The line with the least mean
    relative disagreement wins, with a cap per pixel that bounds the influence of gross errors; least squares loses only
    to a clearly better line. A line must also agree with its inliers clearly better than a constant does: the level
    line through a large wall is not a fit, however many pixels lie on it. Up to almost half of the pixels may be wrong.
    The result is deterministic.

    Parameters
    ----------
    predicted : array
        Any shape; pixels that are not finite are ignored.
    known : array of the same shape
        Depth, or inverse depth: the relative disagreement |a - b| / max(a, b) is the same for both. Pixels that are 0
        or not finite are ignored.
    with_shift : bool
        False fits a scale alone.
    least_pixels : int
        With fewer usable pixels, the result is None.

    Returns
    -------
    Alignment or None
        None if nothing can be fitted: too few pixels are known, predicted values do not vary, are unrelated to the
        known ones, or decrease as those increase.
    """
    p = np.asarray(as_array("predicted", predicted, np.float64, np.shape(predicted))).ravel()
    z = np.asarray(as_array("known", known, np.float64, np.shape(predicted))).ravel()
    check_integer("least_pixels", least_pixels, minimum=2)
    usable = np.flatnonzero(np.isfinite(p) & np.isfinite(z) & (z != 0))
    if len(usable) < least_pixels:
        return None
    all_x, all_y = p[usable], z[usable]
    unit_x, unit_y = float(np.abs(all_x).max()), float(np.abs(all_y).max())
    if unit_x == 0 or (with_shift and np.ptp(all_x) < 1e-7 * unit_x):
        return None
    all_x, all_y = all_x / unit_x, all_y / unit_y
    some = _spread(len(usable), _MOST_SAMPLES)
    x, y = all_x[some], all_y[some]
    lines = _candidates(x, y, with_shift)
    best = _best(x, y, lines, with_shift)
    if best is None:
        return None
    line = lines[best]
    inliers = float((_disagreement(x, y, line[None])[0] < _inlier_limit(x, y, line)).mean())
    if best == 0:
        line = _weighted(all_x, all_y, np.ones((1, len(all_x))), with_shift)[0]
    return Alignment(float(line[0] * unit_y / unit_x), float(line[1] * unit_y), inliers)


def _spread(count: int, most: int) -> I64:
    """At most ``most`` indices, evenly spaced over ``count``."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _candidates(x: F64, y: F64, with_shift: bool) -> F64:
    """Candidate lines (scale, shift), (K, 2), least squares first."""
    ones = np.ones((1, len(x)))
    plain = _weighted(x, y, ones, with_shift)
    ratio = float(np.median(y[x > 0] / x[x > 0])) if (x > 0).any() else 1.0
    scale_alone = np.array([[ratio, 0.0]])
    starts = np.concatenate([plain, scale_alone, _proposals(x, y, with_shift)])
    found = [
        plain,
        _reweighted(x, y, plain, with_shift, huber=True),
        _reweighted(x, y, starts, with_shift, huber=False),
        scale_alone,
    ]
    if with_shift:
        found.append(_reweighted(x, y, scale_alone, False, huber=False))
    lines: F64 = np.concatenate(found)
    return np.asarray(lines[np.isfinite(lines).all(axis=1)])


def _proposals(x: F64, y: F64, with_shift: bool) -> F64:
    """The best lines through two pixels (without shift: the origin and one), (0 or 2, 2): by median residual, and by
    mean capped disagreement.
    """
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, len(x), (2, _PAIRS))
    # With large noise, pairs of widely separated predictions propose better slopes.
    order, half = np.argsort(x, kind="stable"), len(x) // 2
    low = rng.integers(0, half, _PAIRS // 2)
    a[: _PAIRS // 2], b[: _PAIRS // 2] = order[low], order[low + half]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (y[b] - y[a]) / (x[b] - x[a]) if with_shift else y[a] / x[a]
    shifts = y[a] - scales * x[a] if with_shift else np.zeros(_PAIRS)
    sound = np.isfinite(scales) & np.isfinite(shifts) & (scales > 0)
    if not sound.any():
        return np.zeros((0, 2))
    lines = np.stack([scales[sound], shifts[sound]], axis=1)
    some = _spread(len(x), _JUDGES)
    residual = np.abs(y[some] - lines[:, :1] * x[some] - lines[:, 1:])
    capped = np.minimum(_disagreement(x[some], y[some], lines), _CAP).mean(axis=1)
    return lines[[int(np.median(residual, axis=1).argmin()), int(capped.argmin())]]


def _reweighted(x: F64, y: F64, lines: F64, with_shift: bool, *, huber: bool) -> F64:
    """Iteratively reweighted least squares from each of ``lines``, (K, 2)."""
    tiny = 1e-12 * float(np.abs(y).max())
    for _ in range(_ROUNDS):
        residual = np.abs(y - lines[:, :1] * x - lines[:, 1:])
        spread = 1.4826 * np.median(residual, axis=1, keepdims=True) + tiny
        if huber:
            weight = 1 / np.maximum(residual / (_HUBER * spread), 1)
        else:
            weight = np.maximum(0, 1 - (residual / (_TUKEY * spread)) ** 2) ** 2
        previous, lines = lines, _weighted(x, y, weight, with_shift)
        if np.allclose(previous, lines, rtol=1e-9, atol=1e-12, equal_nan=True):
            break
    return lines


def _weighted(x: F64, y: F64, weight: F64, with_shift: bool) -> F64:
    """Weighted least squares for each row of ``weight`` (K, N): (K, 2), NaN where x does not vary."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if not with_shift:
            scale = (weight @ (x * y)) / (weight @ (x * x))
            return np.stack([scale, np.zeros_like(scale)], axis=1)
        total = weight.sum(axis=1)
        mean_x, mean_y = weight @ x / total, weight @ y / total
        off = x - mean_x[:, None]
        scale = (weight * off * (y - mean_y[:, None])).sum(axis=1) / (weight * off * off).sum(axis=1)
        return np.stack([scale, mean_y - scale * mean_x], axis=1)


def _best(x: F64, y: F64, lines: F64, with_shift: bool) -> int | None:
    """Index of the line that disagrees least, of those that increase and explain the data; None if none does."""
    disagreement = _disagreement(x, y, lines)
    scores = np.minimum(disagreement, _CAP).mean(axis=1)
    fits = np.array([line[0] > 0 and (not with_shift or _explains(x, y, line)) for line in lines])
    if with_shift and lines[0, 0] > 0:
        fits[0] |= _correlation(x, y) > max(_CORRELATED, 3 / np.sqrt(len(x)))
    if not fits.any():
        return None
    best = int(np.where(fits, scores, np.inf).argmin())
    # Least squares loses to a much better line, or to a slightly better one that is no worse without the cap.
    gain = scores[best] / max(scores[0], 1e-300)
    uncapped = disagreement[best].mean() <= disagreement[0].mean()
    if fits[0] and gain > (_WIN if uncapped else _CLEAR_WIN):
        best = 0
    return best


def _explains(x: F64, y: F64, line: F64) -> bool:
    """Whether a line fits its inliers better than a constant does, or is a pure scale that fits flat data."""
    disagreement = _disagreement(x, y, line[None])[0]
    inlier = disagreement < _inlier_limit(x, y, line)
    if inlier.mean() < _SUPPORT:
        return False
    level = float(np.median(y[inlier]))
    constant = _disagreement(x[inlier], y[inlier], np.array([[0.0, level]]))[0]
    mine = float(disagreement[inlier].mean())
    chance = _CHANCE / int(inlier.sum())  # gain of a line by chance, where few pixels are unrelated
    if mine <= min(_EXPLAINS, 1 - chance) * float(constant.mean()):
        return True
    return line[1] == 0 and mine < _FLAT and _correlation(x[inlier], y[inlier]) > -_CORRELATED


def _correlation(x: F64, y: F64) -> float:
    """Pearson correlation, 0 if x or y does not vary."""
    off_x, off_y = x - x.mean(), y - y.mean()
    return float(off_x @ off_y / max(np.sqrt(float(off_x @ off_x) * float(off_y @ off_y)), 1e-300))


def _inlier_limit(x: F64, y: F64, line: F64) -> float:
    """Relative disagreement beyond which a pixel does not support a line."""
    typical = float(np.median(_disagreement(x, y, line[None])))
    return min(max(_TUKEY * 1.4826 * typical, 1e-9), _INLIER)


def _disagreement(x: F64, y: F64, lines: F64) -> F64:
    """|known - fitted| / max(|known|, |fitted|) for each line and pixel, (K, N): the same for depth and 1 / depth."""
    fitted = lines[:, :1] * x + lines[:, 1:]
    return np.asarray(np.abs(y - fitted) / np.maximum(np.maximum(np.abs(y), np.abs(fitted)), 1e-300))


def inverse_or_zero(values: F32) -> F32:
    """1 / value where it is finite and positive, else 0."""
    sound = np.isfinite(values) & (values > 0)
    return np.divide(1, values, out=np.zeros_like(values), where=sound)
