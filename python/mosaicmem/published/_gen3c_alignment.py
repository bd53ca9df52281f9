"""GEN3C's fit of a new depth map to what its cache shows of the same view. Needs torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mosaicmem.published._points import moved, pixel_rays

_QUANTILES = (0.1, 0.9)  # disparities outside are outliers
_STEPS, _RATE = 100, 1e-3
_SMOOTHNESS = 0.1
_FEWEST = 2  # pairs that determine a line


def aligned_depth(depth: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """Depth whose inverse is the line through the inverse of ``depth`` that fits the target's best.

    Parameters
    ----------
    depth, target : (H, W) tensors
    seen : (H, W) bool tensor
        Where there is a target.
    """
    disparity, wanted = 1 / depth, 1 / target
    known = disparity[disparity > 0], wanted[seen & (target > 0)]
    if min(len(each) for each in known) == 0:
        raise ValueError(
            "new_depth, new_w2c: expected a camera that sees a part of the cache, so that its depth can be aligned, "
            "got none in common; pass depth_alignment=False"
        )
    quantiles = disparity.new_tensor(_QUANTILES)
    if not torch.quantile(known[0], quantiles).isfinite().all():  # where much of the depth is 0
        known = known[0][known[0].isfinite()], known[1]
    (low, high), (wanted_low, wanted_high) = (torch.quantile(each, quantiles) for each in known)
    inner = (disparity > low) & (disparity < high) & (wanted > wanted_low) & (wanted < wanted_high)
    if int(inner.sum()) < _FEWEST:
        raise ValueError(
            f"new_depth: expected at least {_FEWEST} pixels whose depth and the cache's are between the 10 % and 90 % "
            f"quantiles, got {int(inner.sum())}; pass depth_alignment=False"
        )
    pairs = torch.stack([disparity[inner], torch.ones_like(disparity[inner])], dim=1)
    scale, offset = torch.linalg.lstsq(pairs, wanted[inner][:, None]).solution[:, 0]
    return 1 / (disparity * scale + offset)


def bent_depth(depth: Tensor, target: Tensor, seen: Tensor, w2c: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (H, W) times a smooth map that brings its points nearer to those of the target.

    The map is found by 100 steps of Adam on the mean distance between points, in the sum of coordinates, where the
    target is seen, and on how far the map is from its own mean over 3 x 3 pixels. A point moves along its ray, so the
    gradients have a closed form.
    """
    direction = (
        moved(_rotation(w2c), pixel_rays(intrinsics[None], *depth.shape))[0].abs().sum(-1).unflatten(0, depth.shape)
    )
    pull = torch.where(seen, direction / 3 * depth, 0) / seen.sum()
    factor = torch.nn.Parameter(torch.ones_like(depth))
    adam = torch.optim.Adam([factor], lr=_RATE)
    for _ in range(_STEPS):
        uneven = torch.sign(_mean_3x3(factor) - factor)
        smooth = (_mean_3x3(uneven) - uneven) / depth.numel()
        factor.grad = pull * torch.sign(depth * factor - target) + _SMOOTHNESS * smooth
        adam.step()
    return depth * factor.detach()


def _rotation(w2c: Tensor) -> Tensor:
    """The rotation of a camera alone; as in GEN3C, w2c's stands for its inverse."""
    rotation = torch.zeros_like(w2c)[None]
    rotation[0, :3, :3] = w2c[:3, :3]
    return rotation


def _mean_3x3(image: Tensor) -> Tensor:
    return F.avg_pool2d(image[None], kernel_size=3, stride=1, padding=1)[0]
