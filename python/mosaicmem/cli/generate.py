"""``mosaicmem generate``: memory from a real sequence or a saved store, video along a camera path."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    MANIFEST,
    AsJson,
    Config,
    Debug,
    Force,
    Seed,
    Set,
    Threads,
    check_apart,
    check_output_file,
    check_output_folder,
    finite,
    keeps_checkpoint,
    output_folder,
    print_json,
    same_place,
    save_store,
)
from mosaicmem.cli._errors import UsageError, check_useful, reports_errors
from mosaicmem.cli._frames import warn_of_overlap
from mosaicmem.cli._generate_inputs import (
    DepthChoice,
    FirstFrame,
    Inputs,
    check_depth,
    make_depth_estimator,
    read_inputs,
)
from mosaicmem.cli._scenes import A_SEQUENCE, ColorFocal, SceneIntrinsics, SceneSize
from mosaicmem.cli._settings import follow_registration, read_settings
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import WindowBar, progress_bar
from mosaicmem.cli._trajectories import TimeUnit
from mosaicmem.cli._watching import Watched, Watchers

if TYPE_CHECKING:
    from rich.progress import Progress

    from mosaicmem._arrays import F32
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.evaluation import AblationScore, FrameScore
    from mosaicmem.geometry import DepthEstimator, StreamingFusion
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.pipeline import AutoregressivePipeline, Checkpoint, GenerationResult, PipelineConfig


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Scene = Annotated[Path | None, typer.Option(help=f"{A_SEQUENCE}.")]
Memory = Annotated[Path | None, typer.Option(help="Folder of a saved store to begin with.")]
MemoryFrames = Annotated[
    str | None,
    typer.Option(
        help="Frames of the sequence to remember, A:B or A:B:STEP, by position from 0. Default: all that --frames "
        "leaves, or none with --memory."
    ),
]
Frames = Annotated[
    str | None,
    typer.Option(help="Follow the sequence's own cameras of these frames, A:B or A:B:STEP, by position from 0."),
]
Trajectory = Annotated[
    Path | None, typer.Option(help="Follow a camera path instead, of any format that convert reads.")
]
SaveMemory = Annotated[
    Path | None, typer.Option(help="Folder for the store as it is afterwards; that of --memory is updated in place.")
]
CheckpointFolder = Annotated[
    Path | None,
    typer.Option(help="Folder that keeps each window: the same command resumes there, however it ended."),
]
Ablate = Annotated[bool, typer.Option("--ablate", help="Also generate with one part of memory left out at a time.")]
DepthModel = Annotated[
    Path | None, typer.Option(help="ONNX model that gives generated frames a depth, aligned to memory's.")
]
DepthOutput = Annotated[
    str | None,
    typer.Option(
        help="What it gives: metric, depth (up to scale and shift) or inverse (1 / depth, the same). Default: inverse."
    ),
]
DepthSize = Annotated[
    str | None, typer.Option(metavar="WxH", help="Its input size. Default: that of the image, in multiples of 14.")
]
FirstImage = Annotated[
    Path | None,
    typer.Option(help="What the first camera of --trajectory sees: the run begins with it, as image-to-video does."),
]
DepthFile = Annotated[
    Path | None,
    typer.Option(help="Depth of --image, a 16-bit PNG in millimetres or .npy in metres. Default: of --depth-model."),
]
DepthFolder = Annotated[
    Path | None, typer.Option(help="Folder of depth images instead, one a frame of the path, in order of names.")
]
Prompt = Annotated[str | None, typer.Option(help="What the unseen parts should be.")]
HalfLife = Annotated[
    float | None,
    typer.Option(
        help="Seconds after which an observation counts half (handheld sequences drift in pose and exposure); "
        "0: never. Default: that of --config, or 2.",
        min=0,
        callback=finite,
    ),
]
View = Annotated[bool, typer.Option("--view", help="Show the run in the browser while it goes on; see view.")]
ViewPort = Annotated[int, typer.Option(help="Of --view; 0: any that is free.", min=0, max=65535)]
Rerun = Annotated[Path | None, typer.Option(help="File (.rrd) to record the run in, for the viewer of rerun.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps of a window. Default: that of --config.", min=1)]
WindowSize = Annotated[int | None, typer.Option(help="Frames of a window. Default: that of --config.", min=1)]
Overlap = Annotated[
    int | None, typer.Option(help="Frames that a window shares with the one before. Default: that of --config.", min=0)
]
VideoFps = Annotated[float, typer.Option(help="Of the video.", min=0.1, max=240, callback=finite)]


@reports_errors
def generate(
    output: Output,
    scene: Scene = None,
    memory: Memory = None,
    memory_frames: MemoryFrames = None,
    frames: Frames = None,
    trajectory: Trajectory = None,
    image: FirstImage = None,
    depth_file: DepthFile = None,
    save_memory: SaveMemory = None,
    checkpoint: CheckpointFolder = None,
    ablate: Ablate = False,
    depth_model: DepthModel = None,
    depth_output: DepthOutput = None,
    depth_size: DepthSize = None,
    depth_files: DepthFolder = None,
    prompt: Prompt = None,
    half_life: HalfLife = None,
    steps: Steps = None,
    window_size: WindowSize = None,
    window_overlap: Overlap = None,
    intrinsics: SceneIntrinsics = None,
    size: SceneSize = None,
    color_focal: ColorFocal = None,
    time_unit: TimeUnit = None,
    config: Config = None,
    changes: Set = None,
    seed: Seed = None,
    threads: Threads = None,
    fps: VideoFps = 10.0,
    view: View = False,
    view_port: ViewPort = 8060,
    rerun: Rerun = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember frames of a real sequence, open a saved memory, or begin with one image; generate along a camera path.

    With --frames, each generated frame is compared with the true one, with memory and without. With --trajectory alone
    memory begins empty; with --image, with what the first camera sees. Video that memory has not seen is made up by a
    synthetic model from the prompt; a real one takes its place in Python.

    Example: mosaicmem generate --scene rgbd_scene --memory-frames 0:60 --frames 60:100:4 --output out
    """
    from mosaicmem.cli._report import write_run

    started = time.perf_counter()
    given: dict[str, Any] = {"prompt": prompt, "seed": seed, "num_threads": threads, "half_life": half_life}
    given |= {"num_inference_steps": steps, "window_size": window_size, "window_overlap": window_overlap}
    settings = read_settings(config, changes, given, command="generate")
    check_depth(depth := DepthChoice(depth_model, depth_output, depth_size, depth_files))
    begin = FirstFrame(image, depth_file)
    if ablate and frames is None:
        raise UsageError("--ablate: expected --frames, whose true images its figures are measured against")
    read = {"--scene": scene, "--memory": memory, "--trajectory": trajectory, "--config": config, **begin.paths()}
    in_place = _check_places(output, checkpoint, save_memory, rerun, read | depth.paths(), force)
    watched = Watched(view_port if view else None, rerun)
    begin.check(trajectory)
    if trajectory is None:
        check_useful({"--time-unit": time_unit}, "expected --trajectory, whose times it describes")
    inputs = read_inputs(scene, memory, memory_frames, frames, trajectory, intrinsics, size, color_focal, time_unit)
    warn_of_overlap(inputs.targets, inputs.remembered)
    if inputs.sequence is not None:
        settings = follow_registration(settings, inputs.sequence, inputs.remembered)
    estimator = make_depth_estimator(inputs.path, settings, depth)
    first = begin.read(inputs.path, estimator)
    store = None if memory is None else _open(memory, settings)
    kept = None if checkpoint is None else _keep(checkpoint, scene, memory, inputs, depth, begin)
    if not as_json:
        say(inputs.describe(image))
    with watched:
        with output_folder(output, force, "generate") as folder:
            made = _make(settings, estimator, store, inputs, first, kept, ablate, watched)
            summary = made.summarize(inputs, time.perf_counter() - started)
            fusion = made.fusion if made.pipeline.fusion is None else made.pipeline.fusion
            write_run(folder, settings, inputs.path, made.result, fusion, summary, fps)
            if save_memory is not None:
                # A run with a checkpoint continues with the store there, which knows nothing of the folder of --memory.
                _save(made.pipeline.store, save_memory, in_place=in_place and kept is None, force=force or in_place)
        if as_json:
            print_json(summary)
        else:
            _print(inputs, made, output, save_memory)
        watched.linger()


def _check_places(
    output: Path,
    checkpoint: Path | None,
    save_memory: Path | None,
    rerun: Path | None,
    read: dict[str, Path | None],
    force: bool,
) -> bool:
    """Refuse folders that cannot be written. Returns whether memory is saved where it was read from."""
    in_place = same_place(save_memory, read["--memory"])
    written = {"--output": output, "--checkpoint": checkpoint, "--save-memory": None if in_place else save_memory}
    written["--rerun"] = rerun
    check_apart(written, read)
    check_output_folder(output, force, "generate")
    if rerun is not None:
        check_output_file(rerun, force, (".rrd",), name="--rerun")
    if save_memory is not None and not in_place:
        check_output_folder(save_memory, force, "generate", name="--save-memory", mark=MANIFEST)
    return in_place


@dataclass
class _Made:
    """What came out of a run."""

    pipeline: AutoregressivePipeline
    fusion: StreamingFusion
    result: GenerationResult
    scores: list[FrameScore]
    variants: list[AblationScore] | None

    def summarize(self, inputs: Inputs, seconds: float) -> dict[str, Any]:
        """The run as plain JSON; ``seconds`` is what it took."""
        from mosaicmem.cli._report import ablation_list, run_summary, score_list, score_summary

        summary = run_summary(self.pipeline, self.result, seconds)
        summary["memory_frames"] = inputs.remembered
        summary["memory_numbers"] = inputs.numbers(inputs.remembered) or inputs.remembered
        if inputs.targets:
            scored = score_list(self.scores, inputs.targets, inputs.numbers(inputs.targets))
            summary["targets"] = {"frames": scored, **score_summary(self.scores)}
        if self.variants is not None:
            summary["ablation"] = ablation_list(self.variants)
        return summary


def _make(
    settings: PipelineConfig,
    estimator: DepthEstimator | None,
    store: MosaicMemoryStore | None,
    inputs: Inputs,
    first: dict[str, Any],
    kept: Checkpoint | None,
    ablate: bool,
    watched: Watched,
) -> _Made:
    """Remember, and generate."""
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.pipeline import AutoregressivePipeline

    pipeline = AutoregressivePipeline(settings, depth_estimator=estimator, store=store)
    fusion = StreamingFusion(0.02, num_threads=settings.num_threads)
    with progress_bar() as progress:
        _remember(pipeline, fusion, inputs, lambda frames: progress.track(frames, description="Remembering"))
        truth = inputs.truth()
        variants = _ablate(pipeline, inputs.path, truth, progress) if ablate else None
        with watched.over(pipeline, inputs.path) as watchers:
            result, scores = _generate(pipeline, inputs.path, truth, first, kept, progress, watchers)
    return _Made(pipeline, fusion, result, scores, variants)


def _print(inputs: Inputs, made: _Made, output: Path, save_memory: Path | None) -> None:
    """Tables of what came out, and where it is."""
    from mosaicmem.cli._report import print_ablation, print_coverage, print_scores

    if inputs.targets:
        title = "Generated views against the true frames (PSNR), with memory and without"
        print_scores(title, made.scores, inputs.targets, inputs.numbers(inputs.targets))
    else:
        print_coverage(made.result.windows)
    if made.variants:
        print_ablation(made.variants)
    say(f"{len(made.result.frames)} frames in {output}")
    if save_memory is not None:
        say(f"{len(made.pipeline.store)} patches in {save_memory}")


def _keep(
    folder: Path,
    scene: Path | None,
    memory: Path | None,
    inputs: Inputs,
    depth: DepthChoice,
    begin: FirstFrame,
) -> Checkpoint:
    from mosaicmem.pipeline import Checkpoint

    keeps_checkpoint(folder)
    told: dict[str, Any] = {"scene": scene, "memory": memory, "memory_frames": inputs.remembered}
    told |= {"depth_model": depth.model, "depth_files": depth.files, "depth_output": depth.output or "inverse"}
    told["depth_size"] = depth.size
    if begin.image is not None:  # absent in runs that began before there was this option
        told |= {"image": begin.image, "depth_file": begin.depth_file}
    return Checkpoint(folder, {name: _plain(value) for name, value in told.items()})


def _open(memory: Path, settings: PipelineConfig) -> MosaicMemoryStore:
    from mosaicmem.memory import MosaicMemoryStore

    store = MosaicMemoryStore.open(memory, num_threads=settings.num_threads)
    if store.channels is not None and store.channels != settings.latent_channels:
        raise UsageError(
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
        pipeline.observe(seen.image, seen.depth, sequence.intrinsics, seen.pose, confidence=seen.confidence)
        fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image)
    if not len(pipeline.store) and inputs.remembered:
        raise ValueError(f"--scene: no depth in the {len(inputs.remembered)} frames to remember: memory stays empty")


def _generate(
    pipeline: AutoregressivePipeline,
    path: CameraTrajectory,
    truth: dict[int, F32],
    first: dict[str, Any],
    kept: Checkpoint | None,
    progress: Progress,
    watchers: Watchers,
) -> tuple[GenerationResult, list[FrameScore]]:
    """The video, and its scores where true frames are known."""
    from mosaicmem.evaluation import compare_memory

    windows = len(pipeline.windows(path))
    bar = WindowBar(progress, "Generating", windows, runs=2 if truth else 1)
    watchers.add(bar)
    told: Any = {"checkpoint": kept, "on_window": watchers.on_window, "on_step": watchers.on_step}
    if not truth:
        return pipeline.generate(path, **told, **first), []
    comparison = compare_memory(pipeline, path, truth, **told)
    return comparison.with_memory, comparison.scores


def _ablate(
    pipeline: AutoregressivePipeline, path: CameraTrajectory, truth: dict[int, F32], progress: Progress
) -> list[AblationScore]:
    from mosaicmem.evaluation import ABLATIONS, ablate

    bar = WindowBar(progress, "Ablating", len(pipeline.windows(path)), runs=len(ABLATIONS))
    return ablate(pipeline, path, truth, on_step=bar.on_step)


def _save(store: MosaicMemoryStore, target: Path, *, in_place: bool, force: bool) -> None:
    """Into the folder that the store came from, or a new one that is there whole or not at all."""
    if in_place:
        store.save(target)
        store.close()
        return
    save_store(store, target, force, "generate")


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value
