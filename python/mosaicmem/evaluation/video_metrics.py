"""Measures of whole videos: how much moves, and how near two sets of videos are to each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, ArrayLike, as_array, as_pixels
from mosaicmem.evaluation.image_metrics import require_metrics

_MOVING = 0.05  # of the pixels: those that move most
_AT_ONCE = 16  # images or videos in the network
_INCEPTION = 299  # pixels along each side, the network's input


def dynamic_degree(video: ArrayLike) -> float:
    """How much moves from frame to frame: the mean flow of the 5 % of the pixels that move most, as VBench has it.

    As a fraction of the image's diagonal per frame, so that sizes compare. The camera's motion counts too; of a still
    camera, it is the motion of the scene. The flow is scikit-image's iterative Lucas-Kanade, not VBench's network, so
    the figures are not those of VBench.

    Parameters
    ----------
    video : (F, H, W, 3) array, uint8 or float in [0, 1]
        Of two frames at least.
    """
    require_metrics()
    from skimage.registration import optical_flow_ilk

    frames = as_pixels("video", video, ("F", "H", "W", 3))
    if len(frames) < 2:
        raise ValueError(f"video: expected two frames at least, got {len(frames)}")
    grey = frames @ np.array([0.2125, 0.7154, 0.0721], np.float32)
    diagonal = float(np.hypot(*grey.shape[1:]))
    most = max(1, round(_MOVING * grey[0].size))
    degrees = []
    for before, after in pairwise(grey):
        speed = np.hypot(*optical_flow_ilk(before, after)).ravel()
        degrees.append(np.partition(speed, -most)[-most:].mean())
    return float(np.mean(degrees)) / diagonal


def frechet_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """The Frechet distance of two sets of features: |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)).

    Parameters
    ----------
    features, reference : (N, D) and (M, D) arrays
        Of two samples at least; fewer samples than D give a biased distance.
    """
    ours = as_array("features", features, np.float64, ("N", "D"), finite=True)
    theirs = as_array("reference", reference, np.float64, ("M", ours.shape[1]), finite=True)
    for name, given in (("features", ours), ("reference", theirs)):
        if len(given) < 2:
            raise ValueError(f"{name}: expected two samples at least, got {len(given)}")
    apart = ours.mean(axis=0) - theirs.mean(axis=0)
    one, other = _covariance(ours), _covariance(theirs)
    # The eigenvalues of S S' are those of the symmetric S^(1/2) S' S^(1/2), which stay real.
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    return float(apart @ apart + np.trace(one) + np.trace(other) - 2 * shared)


def fid(images: ArrayLike, reference: ArrayLike, *, network: Callable[[Any], Any] | None = None) -> float:
    """Frechet Inception distance of two sets of images.

    Parameters
    ----------
    images, reference : (N, H, W, 3) arrays, uint8 or float in [0, 1]
    network : callable, optional
        Takes (N, 3, 299, 299) float32 in [-1, 1], a few images at a time, and returns (N, D) features. If not given:
        torchvision's Inception v3 trained on ImageNet, whose weights are not those that most papers use; compare only
        with figures of the same network.

    Raises
    ------
    ModuleNotFoundError, FileNotFoundError
        The network is not at hand; the message says what to install.
    """
    embed = network or _inception()

    def features(name: str, given: ArrayLike) -> F64:
        pixels = as_pixels(name, given, ("N", "H", "W", 3))
        return _features(name, pixels.transpose(0, 3, 1, 2), lambda part: embed(_enlarged(part)))

    return frechet_distance(features("images", images), features("reference", reference))


def fvd(videos: ArrayLike, reference: ArrayLike, *, network: Callable[[Any], Any] | str | Path) -> float:
    """Frechet video distance of two sets of videos.

    Parameters
    ----------
    videos, reference : (N, F, H, W, 3) arrays, uint8 or float in [0, 1]
    network : callable or path
        Takes (N, 3, F, H, W) float32 in [-1, 1], a few videos at a time, and returns (N, D) features; or the
        TorchScript file of such a network. I3D trained on Kinetics-400 is the field's usual choice, on 224x224 pixels:
        wrap a network that resizes, or takes options, in a function. None comes with mosaicmem.
    """
    if isinstance(network, (str, Path)):
        network = _torchscript(Path(network))
    sets = []
    for name, given in (("videos", videos), ("reference", reference)):
        frames = as_pixels(name, given, ("N", "F", "H", "W", 3))
        sets.append(_features(name, frames.transpose(0, 4, 1, 2, 3), network))
    return frechet_distance(*sets)


def _covariance(samples: F64) -> F64:
    return np.atleast_2d(np.cov(samples, rowvar=False))


def _enlarged(images: Any) -> Any:
    from torch.nn.functional import interpolate

    return interpolate(images, size=(_INCEPTION, _INCEPTION), mode="bilinear", antialias=True).clamp(-1, 1)


def _features(name: str, given: F32, network: Callable[[Any], Any]) -> F64:
    """Features of images or videos (N, 3, ...) in [0, 1], a few at a time."""
    import torch

    found = []
    with torch.no_grad():
        for i in range(0, len(given), _AT_ONCE):
            part = np.ascontiguousarray(given[i : i + _AT_ONCE]) * np.float32(2) - np.float32(1)
            found.append(as_array(f"features of {name}", network(torch.from_numpy(part)), np.float64, (len(part), "D")))
    return as_array(f"features of {name}", np.concatenate(found), np.float64, (len(given), "D"), finite=True)


def _torchscript(path: Path) -> Callable[[Any], Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"network: expected the TorchScript file of a video network such as I3D (Kinetics-400), got no file {path}"
        )
    import torch

    loaded: Callable[[Any], Any] = torch.jit.load(str(path)).eval()
    return loaded


def _inception() -> Callable[[Any], Any]:
    if importlib.util.find_spec("torchvision") is None:
        raise ModuleNotFoundError("FID needs torchvision's Inception v3: pip install torchvision, or pass network=")
    import torch
    from torchvision.models import Inception_V3_Weights, inception_v3

    try:
        made = inception_v3(weights=Inception_V3_Weights.IMAGENET1K_V1, transform_input=False)
    except OSError as error:  # includes urllib's errors
        raise FileNotFoundError(
            f"FID needs the weights of torchvision's Inception v3, which cannot be downloaded ({error}); put them into "
            f"{torch.hub.get_dir()}/checkpoints, or pass network="
        ) from error
    made.fc = torch.nn.Identity()
    network: Callable[[Any], Any] = made.eval()
    return network
