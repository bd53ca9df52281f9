"""``mosaicmem generate``: memory from a real sequence or a saved store, video along a camera path."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    MANIFEST,
    AsJson,
    Config,
    Debug,
    Force,
    OptionalSeed,
    OptionalThreads,
    Set,
    check_apart,
    check_output_folder,
    console,
    output_folder,
    print_json,
    progress_bar,
    reports_errors,
    save_store,
    warn_of_overlap,
)
from mosaicmem.cli._generate_inputs import Inputs, make_depth_estimator, read_inputs
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._trajectories import Intrinsics, Size, TimeUnit

if TYPE_CHECKING:
    from rich.progress import Progress

    from mosaicmem._arrays import F32
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.evaluation import AblationScore, FrameScore
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.pipeline import AutoregressivePipeline, Checkpoint, GenerationResult, PipelineConfig, Window

_HALF_LIFE = 2.0  # seconds; see --half-life


@reports_errors
def generate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    scene: Annotated[
        Path | None, typer.Option(help="Folder of a posed RGB-D sequence (7-Scenes, TUM RGB-D, Replica or ScanNet).")
    ] = None,
    memory: Annotated[Path | None, typer.Option(help="Folder of a saved store to begin with.")] = None,
    memory_frames: Annotated[
        str | None,
        typer.Option(
            help="Frames of the sequence to remember, A:B or A:B:STEP. Default: all that --frames leaves, or none "
            "with --memory."
        ),
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="Follow the sequence's own cameras of these frames, A:B:STEP.")
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="Follow a camera path instead, of any format that convert reads.")
    ] = None,
    save_memory: Annotated[
        Path | None, typer.Option(help="Folder for the store as it is afterwards; that of --memory goes on in place.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps each window: the same command goes on from there, however it ended."),
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also generate with one part of memory left out at a time.")
    ] = False,
    depth_model: Annotated[
        Path | None, typer.Option(help="ONNX model that gives generated frames a depth, aligned to memory's.")
    ] = None,
    depth_output: Annotated[
        str, typer.Option(help="What it gives: metric, depth (up to scale and shift) or inverse (1 / depth, the same).")
    ] = "inverse",
    depth_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Its input size. Default: that of the image, in multiples of 14.")
    ] = None,
    depth_files: Annotated[
        Path | None, typer.Option(help="Folder of depth images instead, one a frame of the path, in order of names.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the unseen parts should be.")] = None,
    half_life: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which an observation counts half (handheld sequences drift in pose and exposure); "
            "0: never. Default: that of --config, or 2 without one.",
            min=0,
        ),
    ] = None,
    intrinsics: Intrinsics = None,
    size: Size = None,
    time_unit: TimeUnit = None,
    config: Config = None,
    changes: Set = None,
    seed: OptionalSeed = None,
    threads: OptionalThreads = None,
    fps: Annotated[float, typer.Option(help="Of the video.", min=0.1, max=240)] = 10.0,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember frames of a real sequence, or open a saved memory, and generate video along a camera path.

    With --frames, each generated frame is compared with the true one, with memory and without. Video that memory has
    not seen is made up by a synthetic model from the prompt; a real one takes its place in Python.

    Example: mosaicmem generate --scene rgbd_scene --memory-frames 0:60 --frames 60:100:4 --output out
    """
    from mosaicmem.cli._report import (
        ablation_list,
        print_ablation,
        print_scores,
        run_summary,
        score_list,
        score_summary,
        write_run,
    )
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.pipeline import AutoregressivePipeline, Checkpoint

    started = time.perf_counter()
    given = {"prompt": prompt, "seed": seed, "num_threads": threads, "half_life": half_life}
    settings = read_settings(config, changes, given, {"half_life": _HALF_LIFE})
    check_output_folder(output, force, "generate")
    is_same = _is_same(save_memory, memory)
    check_apart(
        {"--output": output, "--checkpoint": checkpoint, "--save-memory": None if is_same else save_memory},
        {"--scene": scene, "--memory": memory, "--depth-files": depth_files},
    )
    if save_memory is not None and not is_same:
        check_output_folder(save_memory, force, "generate", name="--save-memory", mark=MANIFEST)
    inputs = read_inputs(scene, memory, memory_frames, frames, trajectory, intrinsics, size, time_unit)
    if ablate and not inputs.targets:
        raise ValueError("--ablate: expected --frames, whose true images its figures are measured against")
    warn_of_overlap(inputs.targets, inputs.remembered)
    estimator = make_depth_estimator(inputs.path, settings, depth_model, depth_output, depth_size, depth_files)
    store = None if memory is None else _open(memory, settings)
    told = {
        **{"scene": scene, "memory": memory, "memory_frames": inputs.remembered},
        **{"depth_model": depth_model, "depth_files": depth_files},
        **{"depth_output": depth_output, "depth_size": depth_size},
    }
    kept = None if checkpoint is None else Checkpoint(checkpoint, {k: _plain(v) for k, v in told.items()})

    with output_folder(output, force, "generate") as folder:
        pipeline = AutoregressivePipeline(settings, depth_estimator=estimator, store=store)
        fusion = StreamingFusion(0.02, num_threads=settings.num_threads)
        with progress_bar() as progress:
            _remember(pipeline, fusion, inputs, lambda frames: progress.track(frames, description="Remembering"))
            truth = inputs.truth()
            variants = _ablate(pipeline, inputs.path, truth, progress) if ablate else []
            result, scores = _generate(pipeline, inputs.path, truth, kept, progress)
        summary = run_summary(pipeline, result, time.perf_counter() - started)
        summary["memory_frames"] = inputs.remembered
        if inputs.targets:
            summary["targets"] = {"frames": score_list(scores, inputs.targets), **score_summary(scores)}
        if ablate:
            summary["ablation"] = ablation_list(variants)
        write_run(folder, settings, inputs.path, result, fusion, summary, fps)
        if save_memory is not None:
            # A run with a checkpoint goes on from the store there, which knows nothing of the folder of --memory.
            _save(pipeline.store, save_memory, in_place=is_same and kept is None, force=force or is_same)

    if as_json:
        print_json(summary)
        return
    if inputs.targets:
        print_scores("Generated views against the true frames (PSNR)", scores, inputs.targets)
    if ablate:
        print_ablation(variants)
    console.print(f"{len(result.frames)} frames in {output}", highlight=False, soft_wrap=True)
    if save_memory is not None:
        console.print(f"{len(pipeline.store)} patches in {save_memory}", highlight=False, soft_wrap=True)


def _open(memory: Path, settings: PipelineConfig) -> MosaicMemoryStore:
    from mosaicmem.memory import MosaicMemoryStore

    store = MosaicMemoryStore.open(memory, num_threads=settings.num_threads)
    if store.channels is not None and store.channels != settings.latent_channels:
        raise ValueError(
            f"--memory: expected latents of latent_channels = {settings.latent_channels} channels, "
            f"got {store.channels}; --set latent_channels={store.channels}?"
        )
    return store


def _remember(pipeline: AutoregressivePipeline, fusion: StreamingFusion, inputs: Inputs, track: Any) -> None:
    sequence = inputs.sequence
    if sequence is None:
        return
    for i in track(inputs.remembered):
        seen = sequence[i]
        pipeline.observe(seen.image, seen.depth, sequence.intrinsics, seen.pose)
        fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image)
    if not len(pipeline.store) and not inputs.remembered:
        raise ValueError("--frames: expected some frames to be left to remember; or name them with --memory-frames")
    if not len(pipeline.store):
        raise ValueError(f"--scene: no depth in the {len(inputs.remembered)} frames to remember: memory stays empty")


def _generate(
    pipeline: AutoregressivePipeline,
    path: CameraTrajectory,
    truth: dict[int, F32],
    kept: Checkpoint | None,
    progress: Progress,
) -> tuple[GenerationResult, list[FrameScore]]:
    """The video, and its scores where true frames are known."""
    from mosaicmem.evaluation import compare_memory

    c = pipeline.config
    windows = len(path.windows(c.window_size, c.window_overlap))
    task = progress.add_task("Generating", total=2 * windows if truth else windows)

    def advance(window: Window) -> None:
        progress.advance(task)

    if not truth:
        return pipeline.generate(path, checkpoint=kept, on_window=advance), []
    comparison = compare_memory(pipeline, path, truth, checkpoint=kept, on_window=advance)
    return comparison.with_memory, comparison.scores


def _ablate(
    pipeline: AutoregressivePipeline, path: CameraTrajectory, truth: dict[int, F32], progress: Progress
) -> list[AblationScore]:
    from mosaicmem.evaluation import ABLATIONS, ablate

    task = progress.add_task("Ablating", total=len(ABLATIONS))
    return ablate(pipeline, path, truth, on_variant=lambda name: progress.advance(task))


def _save(store: MosaicMemoryStore, target: Path, *, in_place: bool, force: bool) -> None:
    """Into the folder that the store came from, or a new one that is there whole or not at all."""
    if in_place:
        store.save(target)
        store.close()
        return
    save_store(store, target, force, "generate")


def _is_same(target: Path | None, source: Path | None) -> bool:
    return source is not None and target is not None and target.resolve() == source.resolve()


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value
