"""Forgetting: coverage and PSNR of a place by the time since it was last seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mosaicmem._arrays import F32, as_array
from mosaicmem.attention import reproject_depth_grid
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.evaluation.composition import Evaluation
from mosaicmem.evaluation.frames import GridFrame
from mosaicmem.evaluation.image_metrics import psnr_where

SAME_DEPTH = 0.05
"""A frame saw a surface if the frame's depth there is within this fraction of the surface's."""


@dataclass(frozen=True)
class ForgettingBin:
    """The cells of all targets whose surface was last seen ``since`` to ``until`` seconds before.

    Attributes
    ----------
    since, until : float
        Seconds.
    cells : int
    coverage : float
        Fraction of the cells that memory fills.
    psnr : float
        Over the filled cells, dB; NaN if there are none.
    """

    since: float
    until: float
    cells: int
    coverage: float
    psnr: float


def seconds_since_seen(
    memory: Sequence[GridFrame], targets: Sequence[GridFrame], camera: CameraIntrinsics, stride: int
) -> F32:
    """For each target cell, how long ago its surface was last in view, (T, h, w) float32.

    Seconds; inf if no frame up to the target's time saw the surface, or the cell has no depth. Frames should be without
    `Noise`.
    """
    if not targets:
        raise ValueError("targets: expected at least one frame, got none")
    ages = np.full((len(targets), *targets[0].depth.shape), np.inf, dtype=np.float32)
    rows, columns = targets[0].depth.shape
    for age, target in zip(ages, targets, strict=True):
        for frame in memory:
            if frame.pose.timestamp > target.pose.timestamp:
                continue
            projected, valid = reproject_depth_grid(target.depth, stride, camera, target.pose, camera, frame.pose)
            cell = np.floor(projected[..., :2] / stride).astype(np.int64)
            valid = valid & (cell >= 0).all(axis=-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
            column, row = np.where(valid[..., None], cell, 0).transpose(2, 0, 1)
            seen = frame.depth[row, column]
            valid &= np.abs(seen - projected[..., 2]) <= SAME_DEPTH * projected[..., 2]
            age[valid] = np.minimum(age[valid], target.pose.timestamp - frame.pose.timestamp)
    return ages


def forgetting_curve(
    evaluation: Evaluation, targets: Sequence[GridFrame], ages: F32, edges: Sequence[float]
) -> list[ForgettingBin]:
    """Coverage and PSNR by the time since a cell was last seen.

    Parameters
    ----------
    evaluation : Evaluation
    targets : sequence of GridFrame
    ages : (T, h, w) float32
        See `seconds_since_seen`.
    edges : sequence of float
        Bin edges, seconds, ascending.
    """
    since_seen = as_array("ages", ages, np.float32, evaluation.coverage.shape)
    truth = np.stack([frame.colors for frame in targets])
    bins = []
    for since, until in pairwise(edges):
        within = (since_seen >= since) & (since_seen < until)
        filled = within & evaluation.coverage
        cells = int(within.sum())
        coverage = float(filled.sum() / cells) if cells else float("nan")
        bins.append(ForgettingBin(since, until, cells, coverage, psnr_where(evaluation.colors, truth, filled)))
    return bins
