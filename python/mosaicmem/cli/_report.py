"""What a run leaves behind: pictures, video, cloud, figures; and what it prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mosaicmem import __version__
from mosaicmem._arrays import F32
from mosaicmem._files import write_json
from mosaicmem.camera import CameraTrajectory
from mosaicmem.cli._common import SUMMARY, console, progress_bar
from mosaicmem.evaluation import AblationScore, FrameScore, mean_score
from mosaicmem.geometry import StreamingFusion
from mosaicmem.media import save_mp4, save_png
from mosaicmem.pipeline import AutoregressivePipeline, GenerationResult, PipelineConfig

FIGURES = ("coverage", "psnr_mosaic", "psnr_with_memory", "psnr_without_memory")


def write_run(
    folder: Path,
    config: PipelineConfig,
    trajectory: CameraTrajectory,
    result: GenerationResult,
    fusion: StreamingFusion,
    summary: dict[str, Any],
    fps: float,
) -> None:
    """Write frames, video, cloud, trajectory, configuration and summary into a folder."""
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
        "windows": [asdict(window) for window in result.windows],
        "store": asdict(pipeline.store.statistics()),
    }


def score_summary(scores: Sequence[FrameScore]) -> dict[str, float | None]:
    """Means over frames; None where nothing counts."""
    return {name: _number(mean_score(scores, name)) for name in FIGURES}


def score_list(scores: Sequence[FrameScore], labels: Sequence[int]) -> list[dict[str, Any]]:
    """The figures of each frame as plain JSON."""
    return [
        {"frame": label, "output_frame": score.frame, **{name: _number(getattr(score, name)) for name in FIGURES}}
        for label, score in zip(labels, scores, strict=True)
    ]


def print_scores(title: str, scores: Sequence[FrameScore], labels: Sequence[int]) -> None:
    """A table with one line a frame, and the means."""
    table = Table(title=title)
    table.add_column("frame", justify="right")
    for heading in ("coverage", "mosaic, covered", "with memory", "without memory"):
        table.add_column(heading, justify="right")
    for label, score in zip(labels, scores, strict=True):
        table.add_row(str(label), *_cells([getattr(score, name) for name in FIGURES]))
    table.add_section()
    table.add_row("mean", *_cells([mean_score(scores, name) for name in FIGURES]))
    console.print(table)


def print_ablation(scores: Sequence[AblationScore]) -> None:
    """A line for each variant, and what it is away from everything together."""
    table = Table(title="What each part of memory is worth (PSNR against the true frames)")
    table.add_column("variant")
    for heading in ("PSNR", "difference", "coverage"):
        table.add_column(heading, justify="right")
    for score in scores:
        difference = score.psnr - scores[0].psnr
        table.add_row(score.name, f"{score.psnr:.2f} dB", f"{difference:+.2f} dB", f"{100 * score.coverage:.1f} %")
    console.print(table)


def ablation_list(scores: Sequence[AblationScore]) -> list[dict[str, Any]]:
    """The figures of each variant as plain JSON."""
    return [{**asdict(score), "psnr": _number(score.psnr), "coverage": _number(score.coverage)} for score in scores]


def comparison_picture(rows: Sequence[Sequence[F32]], gap: int = 4) -> F32:
    """Images of one size in rows and columns on white, with a gap between them."""
    height, width, _ = rows[0][0].shape
    columns = max(len(row) for row in rows)
    sheet = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet


def _cells(values: Sequence[float]) -> list[str]:
    coverage, *ratios = values
    return [f"{100 * coverage:.1f} %", *("-" if math.isnan(value) else f"{value:.2f} dB" for value in ratios)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
