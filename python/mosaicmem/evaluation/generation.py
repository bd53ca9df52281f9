"""How closely a generated video matches the scene that memory has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F32, Bool, check_integer, check_shape
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion import VAE
from mosaicmem.memory.summary import coverage_figures
from mosaicmem.metrics import psnr
from mosaicmem.pipeline import AutoregressivePipeline, Checkpoint, GenerationResult, Window


@dataclass(frozen=True)
class FrameScore:
    """One generated frame compared with the ground truth.

    Attributes
    ----------
    frame : int
        Index in the generated video.
    coverage : float
        Fraction of the latent cells that memory covered; the sum of the next two.
    coverage_observed, coverage_generated : float
        Fractions that showed mostly observed content, and content that this run or an earlier one generated.
    psnr_mosaic : float
        Of the decoded mosaic on its covered cells, dB; NaN if nothing is covered.
    psnr_with_memory, psnr_without_memory : float
        Of the generated frame, dB.
    """

    frame: int
    coverage: float
    coverage_observed: float
    coverage_generated: float
    psnr_mosaic: float
    psnr_with_memory: float
    psnr_without_memory: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same path generated with memory and without.

    Attributes
    ----------
    with_memory, without_memory : GenerationResult
    scores : list of FrameScore
        Of the frames with ground truth.
    """

    with_memory: GenerationResult
    without_memory: GenerationResult
    scores: list[FrameScore]


class MosaicRecorder:
    """An ``on_window`` callback that keeps the decoded mosaic and the coverage of each frame."""

    def __init__(self, vae: VAE) -> None:
        self._vae = vae
        self.mosaics: dict[int, F32] = {}
        self.coverage: dict[int, Bool] = {}
        self.observed: dict[int, Bool] = {}

    def __copy__(self) -> MosaicRecorder:
        other = MosaicRecorder(self._vae)
        other.mosaics, other.coverage = dict(self.mosaics), dict(self.coverage)
        return other

    def __call__(self, window: Window) -> None:
        """Record the frames of a window; a frame that two windows share is recorded from the first."""
        context = window.context.on_host()
        canvas = np.ascontiguousarray(context.canvas.transpose(3, 0, 1, 2))
        decoded = np.array(self._vae.decode(canvas, len(window.frames)), np.float32)  # a model may reuse its buffer
        for i, frame in enumerate(window.frames):
            self.mosaics.setdefault(frame, decoded[i])
            latent = self._vae.temporal.latent_of(i)
            observed = context.coverage if context.observed is None else context.observed
            self.coverage.setdefault(frame, context.coverage[latent])
            self.observed.setdefault(frame, observed[latent])

    def score(
        self, frame: int, truth: F32, with_memory: GenerationResult, without_memory: GenerationResult
    ) -> FrameScore:
        """Compare one frame with the ground truth (H, W, 3) float32 in [0, 1]."""
        cells = self.coverage[frame]
        stride = self._vae.stride
        height, width, _ = truth.shape  # decoded mosaics cover whole cells
        pixels = np.repeat(np.repeat(cells, stride, axis=0), stride, axis=1)[:height, :width]
        return FrameScore(
            frame,
            psnr_mosaic=psnr(self.mosaics[frame][:height, :width], truth, pixels),
            psnr_with_memory=psnr(with_memory.frames[frame], truth),
            psnr_without_memory=psnr(without_memory.frames[frame], truth),
            **coverage_figures(cells, self.observed[frame]),
        )


def check_truth(trajectory: CameraTrajectory, truth: Mapping[int, F32]) -> None:
    """Check that images belong to frames of a path and have its image size.

    Raises
    ------
    ValueError
        A frame does not exist, or an image has another size.
    """
    shape = (*trajectory.size[::-1], 3)
    for frame, image in truth.items():
        check_integer("truth: frame", frame, minimum=0, maximum=len(trajectory) - 1)
        check_shape(f"truth[{frame}]", np.shape(image), shape)


def compare_memory(
    pipeline: AutoregressivePipeline,
    trajectory: CameraTrajectory,
    truth: dict[int, F32],
    *,
    checkpoint: Checkpoint | None = None,
    on_window: Callable[[Window], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> Comparison:
    """Generate a path with the pipeline's memory and without any, and compare both with the ground truth.

    Parameters
    ----------
    pipeline : AutoregressivePipeline
        Its store holds what has been observed.
    trajectory : CameraTrajectory
    truth : dict of int to (H, W, 3) float32 in [0, 1]
        Ground truth by frame of the trajectory.
    checkpoint : Checkpoint, optional
        For the run with memory.
    on_window : callable, optional
        Called with each window of either run.
    on_step : callable, optional
        Called after each denoising step of either run, as `AutoregressivePipeline.generate` does.
    """
    check_truth(trajectory, truth)
    recorder = MosaicRecorder(pipeline.vae)

    def record(window: Window) -> None:
        recorder(window)
        if on_window is not None:
            on_window(window)

    with_memory = pipeline.generate(trajectory, on_window=record, on_step=on_step, checkpoint=checkpoint)
    without_memory = pipeline.varied(use_memory=False).generate(trajectory, on_window=on_window, on_step=on_step)
    scores = [recorder.score(frame, image, with_memory, without_memory) for frame, image in sorted(truth.items())]
    return Comparison(with_memory, without_memory, scores)


def mean_score(scores: Sequence[FrameScore], name: str) -> float:
    """The mean of one figure over frames, ignoring NaN; NaN if none is left."""
    values = [value for value in (getattr(score, name) for score in scores) if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan
