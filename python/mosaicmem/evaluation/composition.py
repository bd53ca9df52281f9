"""Leave and return: compares what memory composes for returning cameras with what they see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F32, Bool, check_integer
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
    psnr, ssim, lpips : float
        Over the filled cells; NaN if there are none, and for LPIPS if it is not installed.
    occlusion_error : float
        Fraction of the filled cells of known depth that show a surface more than 5 % behind everything visible there;
        NaN if the composition has no depth.
    """

    number: int
    coverage: float
    psnr: float
    ssim: float
    lpips: float
    occlusion_error: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The canvases that a memory composed for its targets, with their scores.

    Attributes
    ----------
    scores : list of TargetScore
    colors : (T, h, w, 3) float32
    coverage : (T, h, w) bool
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
    """
    require_metrics()
    if not targets:
        raise ValueError("targets: expected at least one, got none")
    check_integer("repeats", repeats, minimum=1)
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
        _score(frame, color, covered, depth)
        for frame, color, covered, depth in zip(targets, colors, coverage, depths, strict=True)
    ]
    truth = np.stack([frame.colors for frame in targets])
    return Evaluation(
        scores,
        colors,
        coverage,
        psnr_where(colors, truth, coverage),
        float(np.average([window.keyframes for window in windows], weights=sizes)),
        1e3 * float(np.median(choose[:whole])),
        1e3 * float(np.median(composing[:whole])),
    )


def _score(frame: GridFrame, colors: F32, covered: Bool, depth: F32 | None) -> TargetScore:
    known = covered & (frame.farthest > 0)
    hidden = math.nan
    if depth is not None and known.any():
        hidden = float((depth[known] > BEHIND * frame.farthest[known]).mean())
    return TargetScore(
        frame.number,
        float(covered.mean()),
        psnr_where(colors, frame.colors, covered),
        ssim_where(colors, frame.colors, covered),
        lpips_where(colors, frame.colors, covered),
        hidden,
    )
