"""``mosaicmem generate``: memory from a real sequence, video along a path through the same place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    Debug,
    Force,
    console,
    output_folder,
    parse_range,
    progress_bar,
    reports_errors,
    warn_of_overlap,
)

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.evaluation import FrameScore
    from mosaicmem.pipeline import AutoregressivePipeline, GenerationResult, PipelineConfig


@reports_errors
def generate(
    scene: Annotated[
        Path, typer.Option(help="Folder of a posed RGB-D sequence (7-Scenes, TUM RGB-D, Replica or ScanNet).")
    ],
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
    half_life: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which an observation counts half (handheld sequences drift in pose and exposure); "
            "0: never. Default: that of --config, or 2 without one.",
            min=0,
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="0: all cores. No result depends on it.", min=0)] = None,
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
    from mosaicmem.datasets import open_sequence
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.pipeline import AutoregressivePipeline

    started = time.perf_counter()
    if (frames is None) == (trajectory is None):
        raise ValueError("--frames, --trajectory: expected exactly one of the two")
    if half_life is None and config is None:
        half_life = 2.0
    settings = _settings(config, {"prompt": prompt, "seed": seed, "num_threads": threads, "half_life": half_life})
    sequence = open_sequence(scene)
    targets = [] if frames is None else list(parse_range("--frames", frames, len(sequence)))
    remembered = (
        [i for i in range(len(sequence)) if i not in set(targets)]
        if memory_frames is None
        else list(parse_range("--memory-frames", memory_frames, len(sequence)))
    )
    path = sequence.trajectory(targets) if trajectory is None else CameraTrajectory.load(trajectory)
    _check_sizes(settings, sequence, path)
    warn_of_overlap(targets, remembered)

    with output_folder(output, force) as folder:
        pipeline = AutoregressivePipeline(settings)
        fusion = StreamingFusion(0.02, num_threads=settings.num_threads)
        with progress_bar() as progress:
            for i in progress.track(remembered, description="Remembering"):
                seen = sequence[i]
                pipeline.observe(seen.image, seen.depth, sequence.intrinsics, seen.pose)
                fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image)
            if not len(pipeline.store):
                raise ValueError(f"--scene: no depth in the {len(remembered)} frames to remember: memory stays empty")
            progress.add_task("Generating", total=None)
            result, scores = _generate(pipeline, path, sequence, targets)
        summary = run_summary(pipeline, result, time.perf_counter() - started)
        summary["memory_frames"] = remembered
        if targets:
            summary["targets"] = {
                "frames": score_list(scores, targets),
                **score_summary(scores),
            }
        write_run(folder, settings, path, result, fusion, summary, fps)

    if targets:
        print_scores("Generated views against the true frames (PSNR)", scores, targets)
    console.print(f"{len(result.frames)} frames in {output}", highlight=False)


def _settings(path: Path | None, changes: dict[str, Any]) -> PipelineConfig:
    """The configuration file, or the defaults, with what the command line says."""
    from mosaicmem.pipeline import PipelineConfig

    base = PipelineConfig() if path is None else PipelineConfig.load(path)
    given = {name: value for name, value in changes.items() if value is not None}
    return PipelineConfig(**{**base.model_dump(), **given})


def _check_sizes(settings: PipelineConfig, sequence: RgbdSequence, path: CameraTrajectory) -> None:
    """Refuse images that the VAE cannot cut into cells before any work is done."""
    for name, camera in (("--scene", sequence.intrinsics), ("--trajectory", path.intrinsics)):
        if camera.width % settings.vae_stride or camera.height % settings.vae_stride:
            raise ValueError(
                f"{name}: expected an image size in multiples of vae_stride = {settings.vae_stride}, "
                f"got {camera.width}x{camera.height}"
            )


def _generate(
    pipeline: AutoregressivePipeline, path: CameraTrajectory, sequence: RgbdSequence, targets: list[int]
) -> tuple[GenerationResult, list[FrameScore]]:
    """The video, and its scores where true frames are known."""
    from mosaicmem._arrays import as_pixels
    from mosaicmem.evaluation import compare_memory

    if not targets:
        return pipeline.generate(path), []
    size = (path.intrinsics.height, path.intrinsics.width, 3)
    truth = {n: as_pixels("image", sequence[i].image, size) for n, i in enumerate(targets)}
    comparison = compare_memory(pipeline, path, truth)
    return comparison.with_memory, comparison.scores
