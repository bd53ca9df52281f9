"""Ablation: the same path, generated with parts of memory left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem.camera import CameraTrajectory
from mosaicmem.evaluation.generation import check_truth
from mosaicmem.memory.summary import COVERAGE
from mosaicmem.metrics import psnr
from mosaicmem.pipeline import AutoregressivePipeline

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "everything": {},
    "no PRoPE": {"use_prope": False},
    "no Warped RoPE": {"use_warped_rope": False},
    "no Warped Latent": {"use_warped_latent": False},
    "no Warped Latent, no PRoPE": {"use_warped_latent": False, "use_prope": False},
    "no Warped Latent, no Warped RoPE": {"use_warped_latent": False, "use_warped_rope": False},
    "gate 0 (no attention)": {"memory_gate": 0.0},
    "gate 1": {"memory_gate": 1.0},
    "no memory": {"use_memory": False},
}
"""Changes to the configuration, by display name."""


@dataclass(frozen=True)
class AblationScore:
    """The score of one variant.

    Attributes
    ----------
    name : str
    psnr : float
        Mean over the frames with ground truth, dB.
    coverage, coverage_observed, coverage_generated : float
        Means over windows; the first is the sum of the other two.
    """

    name: str
    psnr: float
    coverage: float
    coverage_observed: float
    coverage_generated: float


def ablate(
    pipeline: AutoregressivePipeline,
    trajectory: CameraTrajectory,
    truth: Mapping[int, F32],
    variants: Mapping[str, Mapping[str, Any]] = ABLATIONS,
    *,
    on_variant: Callable[[str], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> list[AblationScore]:
    """Generate a path with each variant, from a copy of the pipeline's memory, and compare it with the ground truth.

    Parameters
    ----------
    pipeline : AutoregressivePipeline
        Its memory stays unchanged.
    trajectory : CameraTrajectory
    truth : mapping of int to (H, W, 3) float32 in [0, 1]
        Ground truth by frame of the trajectory.
    variants : mapping of str to mapping
        Fields of `PipelineConfig` to change, by variant name.
    on_variant : callable, optional
        Called with each name before its run.
    on_step : callable, optional
        Called after each denoising step of each run, as `AutoregressivePipeline.generate` does.
    """
    check_truth(trajectory, truth)
    scores = []
    for name, changes in variants.items():
        if on_variant is not None:
            on_variant(name)
        result = pipeline.varied(**changes).generate(trajectory, on_step=on_step)
        ratios = [psnr(result.frames[frame], image) for frame, image in sorted(truth.items())]
        coverage = [_mean([getattr(window, field) for window in result.windows]) for field in COVERAGE]
        scores.append(AblationScore(name, _mean(ratios), *coverage))
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
