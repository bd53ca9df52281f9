"""Depth estimators for generated frames, which have no measured depth, and depth on the latent grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, ArrayLike, ArrayT, Bool, as_depth, check_integer, check_number, check_threads
from mosaicmem._border import Call
from mosaicmem.camera import CameraIntrinsics, CameraPose

if TYPE_CHECKING:
    from mosaicmem.synthetic import SyntheticWorld


def depth_to_grid(depth: ArrayT, stride: int, *, min_valid_fraction: float = 0.25, num_threads: int = 0) -> ArrayT:
    """Depth on a latent grid: the median of the valid pixels under each cell.

    Parameters
    ----------
    depth : (H, W) array
        Metres; invalid where not finite or <= 0.
    stride : int
        Pixels per cell; divides H and W.
    min_valid_fraction : float
        A cell with a smaller fraction of valid pixels is invalid.

    Returns
    -------
    (H / stride, W / stride) float32
        Lower median, 0 where invalid.
    """
    call = Call("depth", depth, num_threads)
    z = call.depth("depth", depth, ("H", "W"))
    stride = check_integer("stride", stride, minimum=1)
    height, width = z.shape
    if height % stride or width % stride:
        raise ValueError(
            f"depth: expected height and width in multiples of stride = {stride}, got shape {(height, width)}"
        )
    fraction = check_number("min_valid_fraction", min_valid_fraction, minimum=0.0, maximum=1.0)
    least = max(1, int(np.ceil(fraction * stride * stride)))
    grid: ArrayT
    grid, to_grid = call.empty((height // stride, width // stride), "float32")
    call.core.median_depth_grid(z, stride, least, to_grid, call.handle)
    return grid


DOUBTFUL = 1e-3
"""The confidence of depth that was continued, below which a keyframe's cells show only where nothing else does."""


def extend_depth(depth: ArrayLike, reach: int, *, num_threads: int = 0) -> F32:
    """Continue depth into places where none was measured: each takes that of the nearest cell that has one.

    A depth camera sees less than the colour camera beside it: the border of the image, and what shines or is far away,
    has a colour and no depth. Give such cells a confidence below 0.01, 0.001 say, and memory shows them only where it
    has nothing else to show.

    Parameters
    ----------
    depth : (h, w) array
        Of the cells of a latent grid (see `depth_to_grid`), or of their subcells; metres, invalid where not finite or
        <= 0. On the host.
    reach : int
        How far to continue, in cells of ``depth``.

    Returns
    -------
    (h, w) float32
        0 where no depth is within reach.
    """
    z = as_depth("depth", depth, ("h", "w"))
    reach = check_integer("reach", reach, minimum=0, maximum=2**20)
    out = np.empty(z.shape, np.float32)
    _core.extend_depth(z, reach, out, check_threads(num_threads))
    return out


def extended_grids(
    depth: F32, subcell_depth: F32 | None, confidence: F32 | None, reach: int, left_out: Bool | None = None
) -> tuple[F32, F32 | None, F32 | None]:
    """Depth of cells and of their subcells, continued by ``reach`` cells, and the confidence that goes with it.

    Only cells without depth change, and not those in ``left_out`` (h, w): what moves there, say.
    """
    if reach == 0:
        return depth, subcell_depth, confidence
    known = np.isfinite(depth) & (depth > 0)
    open_to = ~known if left_out is None else ~known & ~left_out
    sure = np.ones_like(depth) if confidence is None else confidence
    if subcell_depth is not None:
        parts = len(subcell_depth) // len(depth)
        continued = extend_depth(subcell_depth, parts * reach)
        subcell_depth = np.where(np.kron(open_to, np.ones((parts, parts), np.bool_)), continued, subcell_depth)
    extended = np.where(open_to, extend_depth(depth, reach), depth)
    return extended, subcell_depth, np.where(open_to, np.float32(DOUBTFUL), sure)


def pooled_mask(mask: Bool, stride: int) -> Bool:
    """Where any pixel under a cell of ``stride`` pixels is set, (H / stride, W / stride)."""
    rows, columns = mask.shape[0] // stride, mask.shape[1] // stride
    return np.asarray(mask.reshape(rows, stride, columns, stride).any(axis=(1, 3)))


def pooled_confidence(confidence: F32, depth: F32, stride: int) -> F32:
    """The confidence of each latent cell (H / stride, W / stride): the mean over its pixels that have depth."""
    rows, columns = depth.shape[0] // stride, depth.shape[1] // stride
    tiles = (rows, stride, columns, stride)
    known = (np.isfinite(depth) & (depth > 0)).reshape(tiles)
    total = np.where(known, confidence.reshape(tiles), 0).sum(axis=(1, 3), dtype=np.float32)
    return np.asarray(total / np.maximum(known.sum(axis=(1, 3)), 1), np.float32)


@runtime_checkable
class DepthEstimator(Protocol):
    """Anything that estimates the depth of a frame."""

    def estimate(self, image: F32, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: F32) -> F32:
        """Depth (H, W) float32, metres; <= 0 where unknown.

        Parameters
        ----------
        image : (H, W, 3) float32 in [0, 1]
            As the pipeline passes it. This library's estimators that use the image also accept uint8, and reject
            values outside these ranges.
        intrinsics : CameraIntrinsics
        pose : CameraPose
        known_depth : (H, W) float32
            Depth of this view from memory, metres, 0 where unknown. An estimator may align its output to it, since
            monocular depth has no absolute scale.
        """
        ...


class SyntheticDepthEstimator:
    """The exact depth of a synthetic world, optionally with seeded noise; never fails.

    Parameters
    ----------
    world : SyntheticWorld
    relative_noise : float
        Standard deviation of the Gaussian noise in the factor 1 + noise of each pixel.
    seed : int
    """

    def __init__(self, world: SyntheticWorld, *, relative_noise: float = 0.0, seed: int = 0) -> None:
        self.world = world
        self.relative_noise = check_number("relative_noise", relative_noise, minimum=0.0)
        self.seed = check_integer("seed", seed, minimum=0)

    def estimate(self, image: F32, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: F32) -> F32:
        """Render the depth that the camera sees; ignores the image and the known depth."""
        depth = self.world.depth(intrinsics, pose)
        if self.relative_noise:
            noise = np.random.default_rng(self.seed).standard_normal(depth.shape)
            depth = np.where(depth > 0, depth * (1 + self.relative_noise * noise), 0)
        return np.ascontiguousarray(depth, dtype=np.float32)


class DepthCompletion:
    """Extends the depth known from memory smoothly to the rest of the view; ignores the image.

    Pull-push: known depth is averaged up an image pyramid until it reaches every pixel, then interpolated back down
    into the pixels that are unknown at the finer level. Without any known depth, a plane at ``default_depth``.

    Parameters
    ----------
    default_depth : float
        Metres.
    """

    def __init__(self, default_depth: float = 3.0) -> None:
        self.default_depth = check_number("default_depth", default_depth, above=0.0)

    def estimate(self, image: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, known_depth: ArrayLike) -> F32:
        """``known_depth`` where it is known, its smooth completion elsewhere."""
        given = as_depth("known_depth", known_depth, (intrinsics.height, intrinsics.width))
        known = np.where(np.isfinite(given) & (given > 0), given, 0).astype(np.float32)
        if not (known > 0).any():
            return np.full(known.shape, self.default_depth, dtype=np.float32)
        return _pull_push(known, (known > 0).astype(np.float32))


def _pull_push(values: F32, weights: F32) -> F32:
    """``values`` where ``weights`` are positive, elsewhere filled recursively from the next coarser level."""
    if (weights > 0).all() or max(values.shape) == 1:
        return values
    rows, columns = values.shape
    padded_values = np.pad(values * weights, ((0, rows % 2), (0, columns % 2)))
    padded_weights = np.pad(weights, ((0, rows % 2), (0, columns % 2)))
    blocks = (padded_weights.shape[0] // 2, 2, padded_weights.shape[1] // 2, 2)
    total = padded_weights.reshape(blocks).sum(axis=(1, 3))
    mean = padded_values.reshape(blocks).sum(axis=(1, 3)) / np.maximum(total, 1e-12)
    coarse = _pull_push(mean.astype(np.float32), np.minimum(total, 1))
    fine = _upsample(coarse)[:rows, :columns]
    return np.where(weights > 0, values, fine).astype(np.float32)


def _upsample(coarse: F32) -> F32:
    """Twice the size, bilinear between cell centres."""
    for axis in (0, 1):
        first = np.take(coarse, [0], axis=axis)
        last = np.take(coarse, [-1], axis=axis)
        before = np.concatenate([first, np.delete(coarse, -1, axis=axis)], axis=axis)
        after = np.concatenate([np.delete(coarse, 0, axis=axis), last], axis=axis)
        pairs = np.stack([0.75 * coarse + 0.25 * before, 0.75 * coarse + 0.25 * after], axis=axis + 1)
        shape = list(coarse.shape)
        shape[axis] *= 2
        coarse = pairs.reshape(shape)
    return coarse
