"""Canvases of pixels: the images that keyframes keep, warped to target cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, I32, I64, U64, Bool, check_integer
from mosaicmem.memory.results import part_of_cells


@dataclass(frozen=True, eq=False)
class PixelMosaic:
    """Colours for T targets, composed from the images of keyframes. All arrays are on the host.

    Attributes
    ----------
    colors : (T, h, w, 3) float32
        In [0, 1]; zero where uncovered.
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
        Of the front surface, metres; 0 where uncovered.
    source : (T, h, w) int32
        Which of the K keyframes weighs most at a pixel; -1 where uncovered.
    weight : (T, h, w) float32
        Sum of worth (see `KeyframeOptions`) times bilinear weight; 0 where uncovered.
    observed : (T, h, w) bool
        The covered pixels whose ``source`` is an observed keyframe.
    pixel_stride : int
        Pixels of the camera along the edge of a pixel of these canvases.
    observations, frame_ids, timestamps, world_from_camera, intrinsics, generated : (K, ...)
        The K keyframes, as in `KeyframeTable`.
    """

    colors: F32
    coverage: Bool
    depth: F32
    source: I32
    weight: F32
    observed: Bool
    pixel_stride: int
    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    generated: Bool

    @property
    def coverage_ratio(self) -> F64:
        """The fraction of each target's pixels that is covered, (T,) float64."""
        return part_of_cells(self.coverage)

    def pooled(self, stride: int, *, least: float = 0.5) -> dict[str, Any]:
        """The same on a grid of ``stride`` camera pixels per cell.

        Parameters
        ----------
        stride : int
            A multiple of ``pixel_stride``.
        least : float
            A cell is covered if at least this fraction of its pixels is.

        Returns
        -------
        dict
            ``colors`` (T, h, w, 3), the mean of the covered pixels; ``coverage`` and ``observed`` (T, h, w) bool;
            ``depth`` (T, h, w), the nearest of them, metres; zero and False where uncovered.
        """
        stride = check_integer("stride", stride, minimum=1)
        times = stride // self.pixel_stride
        if times * self.pixel_stride != stride:
            raise ValueError(f"stride: expected a multiple of pixel_stride = {self.pixel_stride}, got {stride}")
        count, rows, columns = self.coverage.shape
        tiles = (count, rows // times, times, columns // times, times)

        def tiled(values: Any) -> Any:
            return values[:, : tiles[1] * times, : tiles[3] * times].reshape(*tiles, *values.shape[3:])

        covered = tiled(self.coverage)
        part = covered.mean(axis=(2, 4), dtype=np.float32)
        coverage = (part >= least) & (part > 0)
        total = tiled(self.colors).sum(axis=(2, 4)) / np.float32(times * times)
        depth = np.where(covered, tiled(self.depth), np.float32(np.inf)).min(axis=(2, 4))
        observed = tiled(self.observed).mean(axis=(2, 4), dtype=np.float32) > 0.5 * part
        return {
            "colors": np.where(coverage[..., None], total / np.maximum(part, 1e-9)[..., None], np.float32(0)),
            "coverage": coverage,
            "observed": observed & coverage,
            "depth": np.where(coverage, depth, np.float32(0)),
        }

    def filled(self) -> F32:
        """Colours (T, h, w, 3) in which uncovered pixels continue the covered ones around them, for an encoder.

        An image encoder sees beyond the cell that it encodes: beside black holes, what is covered would be encoded
        wrongly too. What is filled in means nothing; mid-grey where a target is covered nowhere.
        """
        return np.stack([_filled(*each) for each in zip(self.colors, self.coverage, strict=True)])


def _filled(colors: F32, coverage: Bool) -> F32:
    """By averages over ever larger squares, the smallest that has a covered pixel."""
    rows, columns = coverage.shape
    if coverage.all():
        return colors
    if not coverage.any():
        return np.full_like(colors, 0.5)
    pad = ((0, rows % 2), (0, columns % 2))
    weight = np.pad(coverage, pad).astype(np.float32)
    total = np.pad(np.where(coverage[..., None], colors, np.float32(0)), (*pad, (0, 0)))
    tiles = (weight.shape[0] // 2, 2, weight.shape[1] // 2, 2)
    count = weight.reshape(tiles).sum(axis=(1, 3))
    mean = total.reshape(*tiles, 3).sum(axis=(1, 3)) / np.maximum(count, 1)[..., None]
    coarse = _filled(mean, count > 0)
    enlarged = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:rows, :columns]
    return np.asarray(np.where(coverage[..., None], colors, enlarged), np.float32)
