"""PSNR, SSIM and LPIPS of images under a mask."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, Bool

_LEAST_LPIPS = 256  # pixels along the shorter side; its network was trained on images, not on latent grids


def require_metrics() -> None:
    """Raise an error that says what to install if scikit-image is missing."""
    if importlib.util.find_spec("skimage") is None:
        raise ModuleNotFoundError("metrics need scikit-image: pip install scikit-image (mosaicmem's extra [evaluate])")


def psnr_where(image: F32, truth: F32, counts: Bool) -> float:
    """Peak signal-to-noise ratio, dB, of images (h, w, 3) in [0, 1] over the cells in ``counts``; NaN if none."""
    from skimage.metrics import peak_signal_noise_ratio

    if not counts.any():
        return math.nan
    with np.errstate(divide="ignore"):  # equal images: infinite PSNR
        return float(peak_signal_noise_ratio(truth[counts], image[counts], data_range=1.0))


def ssim_where(image: F32, truth: F32, counts: Bool) -> float:
    """Mean structural similarity (7x7 windows) over the cells in ``counts``; all others take the true values.

    NaN if no cell counts, or if the images are smaller than a window.
    """
    from skimage.metrics import structural_similarity

    if not counts.any() or min(counts.shape) < 7:
        return math.nan
    shown = np.where(counts[..., None], image, truth)
    _, each = structural_similarity(truth, shown, data_range=1.0, channel_axis=-1, full=True)
    return float(each.mean(axis=-1)[counts].mean())


def lpips_where(image: F32, truth: F32, counts: Bool) -> float:
    """LPIPS (AlexNet) of the enlarged images; cells outside ``counts`` take the true values.

    NaN if LPIPS is not installed, or its weights, which it downloads once, are unavailable.
    """
    network = _lpips_network() if counts.any() else None
    if network is None:
        return math.nan
    import torch

    scale = -(-_LEAST_LPIPS // min(counts.shape))
    shown = np.where(counts[..., None], image, truth)
    pair = [
        torch.from_numpy(np.ascontiguousarray(np.kron(p, np.ones((scale, scale, 1), np.float32)).transpose(2, 0, 1)))
        for p in (shown, truth)
    ]
    with torch.no_grad():
        return float(network(*(2 * p[None].float() - 1 for p in pair)))


@cache
def _lpips_network() -> Callable[..., Any] | None:
    if importlib.util.find_spec("lpips") is None:
        return None
    import lpips

    try:
        network: Callable[..., Any] = lpips.LPIPS(net="alex", verbose=False)
    except OSError as error:  # includes urllib's errors
        warnings.warn(f"LPIPS is left out: its weights are not to be had ({error})", stacklevel=2)
        return None
    return network
