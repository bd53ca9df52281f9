"""What a run writes (frames, video, point cloud, figures), and what it prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem import __version__
from mosaicmem._files import write_json
from mosaicmem.camera import CameraTrajectory
from mosaicmem.cli._common import SUMMARY
from mosaicmem.cli._tables import print_figures
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.evaluation import AblationScore, FrameScore, mean_score
from mosaicmem.geometry import StreamingFusion
from mosaicmem.media import save_mp4, save_png
from mosaicmem.memory.summary import COVERAGE
from mosaicmem.pipeline import AutoregressivePipeline, GenerationResult, PipelineConfig, WindowStatistics

FIGURES = (*COVERAGE, "psnr_mosaic", "psnr_with_memory", "psnr_without_memory")
_PARTS = ["covered", "of it\nobserved", "of it\ngenerated"]  # headings of COVERAGE, all fractions of the view
_FEW = 10  # windows shown at the beginning and at the end of a long run


def write_run(
    folder: Path,
    config: PipelineConfig,
    trajectory: CameraTrajectory,
    result: GenerationResult,
    fusion: StreamingFusion,
    summary: dict[str, Any],
    fps: float,
) -> None:
    """Write frames, video, point cloud, trajectory, configuration and summary into a folder."""
    (folder / "frames").mkdir()
    with progress_bar() as progress:
        for i, image in enumerate(progress.track(result.frames, description="Writing frames")):
            save_png(folder / "frames" / f"frame-{i:06d}.png", image)
    save_mp4(folder / "video.mp4", result.frames, fps)
    if len(fusion):
        fusion.point_cloud().save_ply(folder / "scene.ply")
    trajectory.save(folder / "trajectory.json")
    config.save(folder / "config.json")
    write_json(folder / SUMMARY, {"mosaicmem": __version__, **summary})


def run_summary(pipeline: AutoregressivePipeline, result: GenerationResult, seconds: float) -> dict[str, Any]:
    """Figures of a run as plain JSON."""
    return {
        "frames": len(result.frames),
        "seconds": seconds,
        **mean_coverage(result.windows),
        "windows": [asdict(window) for window in result.windows],
        "store": asdict(pipeline.store.statistics()),
    }


def score_summary(scores: Sequence[FrameScore]) -> dict[str, float | None]:
    """Means over frames; None if no frame counts."""
    return {name: _number(mean_score(scores, name)) for name in FIGURES}


def mean_coverage(windows: Sequence[WindowStatistics]) -> dict[str, float]:
    """The fractions of the views that memory covered, over all frames, by the names in `COVERAGE`."""
    frames = [window.last_frame - window.first_frame + 1 for window in windows]
    return {name: float(np.average([getattr(window, name) for window in windows], weights=frames)) for name in COVERAGE}


def score_list(
    scores: Sequence[FrameScore], frames: Sequence[int], numbers: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The figures of each frame as plain JSON.

    ``frame`` is its position in the sequence, ``number`` its file number, ``output_frame`` its position in the
    generated video.
    """
    return [
        {
            **{"frame": frame, "number": number, "output_frame": score.frame},
            **{name: _number(getattr(score, name)) for name in FIGURES},
        }
        for frame, number, score in zip(frames, numbers or frames, scores, strict=True)
    ]


def print_scores(
    title: str, scores: Sequence[FrameScore], frames: Sequence[int], numbers: Sequence[int] | None = None
) -> None:
    """Print a table with one line per frame, and the means; ``numbers`` are file numbers, if they differ."""
    headings = ["frame", "file", *_PARTS, "mosaic,\ncovered", "with\nmemory", "without\nmemory"]
    rows = [
        [str(frame), str(number), *_cells([getattr(score, name) for name in FIGURES])]
        for frame, number, score in zip(frames, numbers or frames, scores, strict=True)
    ]
    last = ["mean", "", *_cells([mean_score(scores, name) for name in FIGURES])]
    if numbers is None:
        for row in [headings, *rows, last]:
            del row[1]
    print_figures(title, headings, rows, last=last)


def print_coverage(windows: Sequence[WindowStatistics]) -> None:
    """Print how much of each window's views memory covered; of many windows, only the first and the last few."""
    shown = list(windows) if len(windows) <= 2 * _FEW else [*windows[:_FEW], *windows[-_FEW:]]
    rows = [
        [
            str(window.window),
            f"{window.first_frame} to {window.last_frame}",
            *_percentages([getattr(window, name) for name in COVERAGE]),
            f"{window.patches:,}",
            str(window.keyframes),
        ]
        for window in shown
    ]
    if len(shown) < len(windows):
        rows.insert(_FEW, ["...", *[""] * 6])
    headings = ["window", "frames of\nthe path", *_PARTS, "patches\nretrieved", "keyframes\nremembered"]
    means = _percentages(list(mean_coverage(windows).values()))
    last = ["all", "", *means, "", str(sum(window.keyframes for window in windows))]
    print_figures("What memory covered of the views", headings, rows, last=last)


def print_ablation(scores: Sequence[AblationScore]) -> None:
    """Print a line per variant, with its PSNR difference from the first."""
    rows = [
        [
            score.name,
            f"{score.psnr:.2f} dB",
            f"{score.psnr - scores[0].psnr:+.2f} dB",
            *_percentages([getattr(score, name) for name in COVERAGE]),
        ]
        for score in scores
    ]
    title = "What each part of memory is worth (PSNR against the true frames)"
    print_figures(title, ["variant", "PSNR", "difference", *_PARTS], rows, left=1)


def ablation_list(scores: Sequence[AblationScore]) -> list[dict[str, Any]]:
    """The figures of each variant as plain JSON."""
    return [
        {"name": score.name, **{name: _number(getattr(score, name)) for name in ("psnr", *COVERAGE)}}
        for score in scores
    ]


def _cells(values: Sequence[float]) -> list[str]:
    parts, ratios = values[: len(COVERAGE)], values[len(COVERAGE) :]
    return [*_percentages(parts), *("-" if math.isnan(value) else f"{value:.2f} dB" for value in ratios)]


def _percentages(parts: Sequence[float]) -> list[str]:
    return [f"{100 * part:.1f} %" for part in parts]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
