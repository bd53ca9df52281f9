"""``mosaicmem generate``: memory from a real sequence, video along a path through the same place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    Debug,
    Force,
    Threads,
    console,
    output_folder,
    parse_range,
    progress_bar,
    reports_errors,
)

if TYPE_CHECKING:
    from mosaicmem.pipeline import PipelineConfig

# A handheld sequence drifts in pose and exposure: newer observations are worth more.
_SCENE_DEFAULTS: dict[str, Any] = {"half_life": 2.0, "min_visibility": 0.0}


@reports_errors
def generate(
    scene: Annotated[Path, typer.Option(help="Folder of a posed RGB-D sequence (7-Scenes layout).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    memory_frames: Annotated[
        str | None,
        typer.Option(help="Frames of the sequence to remember, A:B or A:B:STEP. Default: all that --frames leaves."),
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="Follow the sequence's own cameras of these frames, A:B:STEP.")
    ] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Follow the cameras of a trajectory.json instead.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file of settings; see show-config.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the unseen parts should be.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all noise.", min=0)] = None,
    threads: Threads = 0,
    fps: Annotated[float, typer.Option(help="Of the video.", min=0.1, max=240)] = 10.0,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember frames of a real sequence, then generate video along a camera path.

    With --frames, each generated frame is compared with the true one, with memory and without.

    Example: mosaicmem generate --scene rgbd_scene --memory-frames 0:60 --frames 60:100:4 --output out
    """
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.cli._report import print_scores, run_summary, score_list, score_summary, write_run
    from mosaicmem.datasets import SevenScenes
    from mosaicmem.evaluation import compare_memory
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.pipeline import AutoregressivePipeline
    from mosaicmem.pipeline.autoregressive import as_pixels

    started = time.perf_counter()
    if (frames is None) == (trajectory is None):
        raise ValueError("--frames, --trajectory: expected exactly one of the two")
    settings = _settings(config, {"prompt": prompt, "seed": seed, "num_threads": threads or None})
    sequence = SevenScenes(scene)
    targets = [] if frames is None else list(parse_range("--frames", frames, len(sequence)))
    remembered = (
        [i for i in range(len(sequence)) if i not in set(targets)]
        if memory_frames is None
        else list(parse_range("--memory-frames", memory_frames, len(sequence)))
    )
    path = sequence.trajectory(targets) if trajectory is None else CameraTrajectory.load(trajectory)

    with output_folder(output, force) as folder:
        pipeline = AutoregressivePipeline(settings)
        fusion = StreamingFusion(0.02, num_threads=threads)
        with progress_bar() as progress:
            for i in progress.track(remembered, description="Remembering"):
                seen = sequence[i]
                pipeline.observe(seen.image, seen.depth, sequence.intrinsics, seen.pose)
                fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image)
            task = progress.add_task("Generating with memory and without", total=None)
            truth = {n: as_pixels("image", sequence[i].image, sequence.intrinsics) for n, i in enumerate(targets)}
            comparison = compare_memory(pipeline, path, truth)
            progress.remove_task(task)
        result = comparison.with_memory
        summary = run_summary(pipeline, result, time.perf_counter() - started)
        summary["memory_frames"] = remembered
        if targets:
            summary["targets"] = {
                "frames": score_list(comparison.scores, targets),
                **score_summary(comparison.scores),
            }
        write_run(folder, settings, path, result, fusion, summary, fps)

    if targets:
        print_scores("Generated views against the true frames (PSNR)", comparison.scores, targets)
    console.print(f"{len(result.frames)} frames in {output}", highlight=False)


def _settings(path: Path | None, changes: dict[str, Any]) -> PipelineConfig:
    """The configuration file, or the defaults for a scene, with what the command line says."""
    from mosaicmem.pipeline import PipelineConfig

    base = PipelineConfig(**_SCENE_DEFAULTS) if path is None else PipelineConfig.load(path)
    given = {name: value for name, value in changes.items() if value is not None}
    return PipelineConfig(**{**base.model_dump(), **given})
