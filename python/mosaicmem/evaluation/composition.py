"""Leave and return: compares what memory composes for returning cameras with what they see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F32, ArrayLike, Bool, as_array, check_integer
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.evaluation.frames import GridFrame
from mosaicmem.evaluation.image_metrics import lpips_where, psnr_where, require_metrics, ssim_where
from mosaicmem.evaluation.strategies import Canvases

WINDOW = 21
"""Targets composed in one call."""

BEHIND = 1.05
"""A cell shows a hidden surface if its depth exceeds the farthest visible depth there by this factor."""


@dataclass(frozen=True)
class TargetScore:
    """One target compared with the ground truth.

    Attributes
    ----------
    number : int
        The frame's number in its sequence.
    coverage : float
        Fraction of the cells that are filled.
    psnr_all, ssim_all : float
        Over all cells; those that are not filled have the colour `fill`. Compositions of different coverage can be
        compared by these, and not by the next ones: who shows less leaves out what is hard.
    psnr, ssim, lpips : float
        Over the filled cells; NaN if there are none, and for LPIPS if it is not installed.
    edges : float
        The mean difference between neighbouring filled cells, divided by that of the truth: below 1 is blurred, above 1
        has edges that are not there.
    occlusion_error : float
        Fraction of the filled cells of known depth that show a surface more than 5 % behind everything visible there;
        NaN if the composition has no depth.
    """

    number: int
    coverage: float
    psnr_all: float
    ssim_all: float
    psnr: float
    ssim: float
    lpips: float
    edges: float
    occlusion_error: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The canvases that a memory composed for its targets, with their scores.

    Attributes
    ----------
    scores : list of TargetScore
    colors : (T, h, w, 3) float32
    coverage : (T, h, w) bool
    psnr_all : float
        Over all cells of all targets, dB.
    psnr : float
        Over all filled cells of all targets, dB.
    keyframes : float
        Mean number of keyframes used per target.
    choose_milliseconds, compose_milliseconds : float
        Median per window of 21 targets, or of all targets if there are fewer.
    """

    scores: list[TargetScore]
    colors: F32
    coverage: Bool
    psnr_all: float
    psnr: float
    keyframes: float
    choose_milliseconds: float
    compose_milliseconds: float

    def mean(self, name: str) -> float:
        """Mean of one figure over targets, ignoring NaN; NaN if none is left."""
        values = [value for value in (getattr(score, name) for score in self.scores) if not math.isnan(value)]
        return float(np.mean(values)) if values else math.nan


def evaluate_composition(
    compose: Callable[[CameraTrajectory], Canvases],
    targets: Sequence[GridFrame],
    camera: CameraIntrinsics,
    *,
    repeats: int = 1,
    fill: ArrayLike = (0.5, 0.5, 0.5),
) -> Evaluation:
    """Compose all targets, one window at a time, and compare them with what was seen.

    Parameters
    ----------
    compose : callable
        A `Composer`, or any callable that returns `Canvases` as it does.
    targets : sequence of GridFrame
        In time order.
    camera : CameraIntrinsics
        Of all targets.
    repeats : int
        Timing runs per window; the median is reported.
    fill : (3,) array
        The colour that cells which are not filled count as: mid-grey, or the mean colour of what memory holds.
    """
    require_metrics()
    if not targets:
        raise ValueError("targets: expected at least one, got none")
    check_integer("repeats", repeats, minimum=1)
    color = as_array("fill", fill, np.float32, (3,), finite=True)
    windows = []
    choose, composing = [], []
    for first in range(0, len(targets), WINDOW):
        window = CameraTrajectory([frame.pose for frame in targets[first : first + WINDOW]], camera)
        runs = [compose(window) for _ in range(repeats)]
        choose.append(float(np.median([run.choose_seconds for run in runs])))
        composing.append(float(np.median([run.compose_seconds for run in runs])))
        windows.append(runs[0])
    sizes = [len(window.colors) for window in windows]
    whole = max(sizes.count(WINDOW), 1)  # the last window may be shorter: its times are ignored
    colors = np.concatenate([window.colors for window in windows])
    coverage = np.concatenate([window.coverage for window in windows])
    depths = [
        depth
        for window in windows
        for depth in (window.depth if window.depth is not None else [None] * len(window.colors))
    ]
    scores = [
        _score(frame, shown, covered, depth, color)
        for frame, shown, covered, depth in zip(targets, colors, coverage, depths, strict=True)
    ]
    truth = np.stack([frame.colors for frame in targets])
    return Evaluation(
        scores,
        colors,
        coverage,
        psnr_where(np.where(coverage[..., None], colors, color), truth, np.ones_like(coverage)),
        psnr_where(colors, truth, coverage),
        float(np.average([window.keyframes for window in windows], weights=sizes)),
        1e3 * float(np.median(choose[:whole])),
        1e3 * float(np.median(composing[:whole])),
    )


def common_cells(results: Sequence[Evaluation], targets: Sequence[GridFrame]) -> list[float]:
    """The PSNR of each evaluation over the cells that all of them fill, dB; NaN if there are none.

    ``results`` are of the same ``targets``.
    """
    truth = np.stack([frame.colors for frame in targets])
    everywhere = np.logical_and.reduce([result.coverage for result in results])
    return [psnr_where(result.colors, truth, everywhere) for result in results]


def _edges(colors: F32, truth: F32, covered: Bool) -> float:
    """The mean difference between neighbours that are both filled, divided by the truth's; NaN if it has none."""
    sums = np.zeros(2)
    for axis in (0, 1):
        first, second = (np.take(covered, range(i, covered.shape[axis] - 1 + i), axis=axis) for i in (0, 1))
        both = first & second
        sums += [float(np.abs(np.diff(image, axis=axis))[both].sum()) for image in (colors, truth)]
    return float(sums[0] / sums[1]) if sums[1] > 0 else math.nan


def _score(frame: GridFrame, colors: F32, covered: Bool, depth: F32 | None, fill: F32) -> TargetScore:
    known = covered & (frame.farthest > 0)
    hidden = math.nan
    if depth is not None and known.any():
        hidden = float((depth[known] > BEHIND * frame.farthest[known]).mean())
    everywhere, whole = np.ones_like(covered), np.where(covered[..., None], colors, fill)
    return TargetScore(
        frame.number,
        float(covered.mean()),
        psnr_where(whole, frame.colors, everywhere),
        ssim_where(whole, frame.colors, everywhere),
        psnr_where(colors, frame.colors, covered),
        ssim_where(colors, frame.colors, covered),
        lpips_where(colors, frame.colors, covered),
        _edges(colors, frame.colors, covered),
        hidden,
    )
