"""``mosaicmem demo``: leave a room, come back, and see whether it is still the same."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    check_output_folder,
    output_folder,
    print_json,
    save_store,
)
from mosaicmem.cli._errors import UsageError, reports_errors
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import WindowBar, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from mosaicmem._arrays import F32
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.evaluation import Comparison
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.pipeline import AutoregressivePipeline
    from mosaicmem.synthetic import SyntheticWorld

_OBSERVED_FRACTION = 0.2  # of the loop is seen before generation starts
_REVISIT_COVERAGE = 0.75  # a view counts as revisited if what was observed covers this much of it
_FPS = 15.0
_LEAST, _MOST = 64, 2048  # pixels


@reports_errors
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("mosaicmem-demo"),
    frames: Annotated[int, typer.Option(help="Frames of the loop.", min=20, max=2000)] = 64,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the images, 64x64 at least.")] = "320x192",
    save_memory: Annotated[
        Path | None, typer.Option(help="Folder for the store as it is afterwards: for inspect, visualize and others.")
    ] = None,
    config: Config = None,
    changes: Set = None,
    seed: Seed = None,
    threads: Threads = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Walk a synthetic flat in a loop, remembering what was seen, and compare the return with and without memory.

    Example: mosaicmem demo --output demo --save-memory memory
    """
    from mosaicmem.camera import CameraIntrinsics
    from mosaicmem.cli._report import print_scores, run_summary, score_list, score_summary, write_run
    from mosaicmem.evaluation import compare_memory
    from mosaicmem.geometry import StreamingFusion, SyntheticDepthEstimator
    from mosaicmem.media import save_png
    from mosaicmem.pipeline import AutoregressivePipeline
    from mosaicmem.synthetic import SyntheticWorld

    started = time.perf_counter()
    width, height = _size(size)
    settings = read_settings(config, changes, {"seed": seed, "num_threads": threads}, command="demo")
    check_apart({"--output": output, "--save-memory": save_memory}, {"--config": config})
    check_output_folder(output, force, "demo")
    if save_memory is not None:
        check_output_folder(save_memory, force, "demo", name="--save-memory", mark=MANIFEST)
    with output_folder(output, force, "demo") as folder:
        world = SyntheticWorld(settings.seed)
        loop = world.leave_and_return(
            CameraIntrinsics.from_fov(width, height, fov_x=math.radians(75)), frames, fps=_FPS
        )
        pipeline = AutoregressivePipeline(settings, depth_estimator=SyntheticDepthEstimator(world))
        fusion = StreamingFusion(0.02, num_threads=settings.num_threads)
        with progress_bar() as progress:
            observed = _observe(world, loop, pipeline, fusion, progress)
            revisited = _revisited(pipeline, loop)
            truth = {i: world.render(loop.intrinsics, loop[i]).image for i in revisited}
            windows = len(pipeline.windows(loop))
            bar = WindowBar(progress, "Generating with memory and without", windows, runs=2)
            comparison = compare_memory(pipeline, loop, truth, on_window=bar.on_window, on_step=bar.on_step)
        summary = {
            **run_summary(pipeline, comparison.with_memory, time.perf_counter() - started),
            "observed_frames": observed,
            "revisit": {"frames": score_list(comparison.scores, revisited), **score_summary(comparison.scores)},
        }
        write_run(folder, settings, loop, comparison.with_memory, fusion, summary, _FPS)
        save_png(folder / "revisit.png", _revisit_picture(comparison, truth, loop))
        if save_memory is not None:
            save_store(pipeline.store, save_memory, force, "demo")

    if as_json:
        print_json(summary)
        return
    print_scores("Revisited views against the true scene (PSNR), with memory and without", comparison.scores, revisited)
    say(_conclusion(comparison))
    say(f"{output}/revisit.png shows the true scene, with memory, without memory.")


def _size(text: str) -> tuple[int, int]:
    """The size of images, within limits that leave something to see and are done in minutes."""
    width, height = parse_size("--size", text)
    if min(width, height) < _LEAST or max(width, height) > _MOST:
        raise UsageError(f"--size: expected {_LEAST} to {_MOST} pixels along each side, got {width}x{height}")
    return width, height


def _observe(
    world: SyntheticWorld,
    loop: CameraTrajectory,
    pipeline: AutoregressivePipeline,
    fusion: StreamingFusion,
    progress: Progress,
) -> list[int]:
    """Remember keyframes of the first leg. Returns their frames."""
    first_leg = loop[: max(2, int(_OBSERVED_FRACTION * len(loop)))]
    observed = first_leg.select_keyframes(0.2, 0.2, 3)
    for i in progress.track(observed, description="Observing"):
        view = world.render(loop.intrinsics, loop[i])
        pipeline.observe(view.image, view.depth, loop.intrinsics, loop[i])
        fusion.add_frame(view.depth, loop.intrinsics, loop[i], view.image_uint8)
    return observed


def _conclusion(comparison: Comparison) -> str:
    from mosaicmem.evaluation import mean_score

    names = ("psnr_with_memory", "psnr_without_memory", "coverage_observed", "coverage_generated")
    with_memory, without_memory, seen, made_up = (mean_score(comparison.scores, name) for name in names)
    return (
        f"Coming back: {with_memory:.2f} dB with memory, {without_memory:.2f} dB without "
        f"({with_memory - without_memory:+.2f} dB). Memory covered {100 * seen:.1f} % of the views with what was "
        f"observed, {100 * made_up:.1f} % with what was generated."
    )


def _revisited(pipeline: AutoregressivePipeline, loop: CameraTrajectory) -> list[int]:
    """Frames of the way back whose view is mostly covered by what has been observed so far."""
    coverage = pipeline.align(loop).coverage.mean(axis=(1, 2))
    return [i for i in range(len(loop) // 2, len(loop)) if coverage[i] >= _REVISIT_COVERAGE]


def _revisit_picture(comparison: Comparison, truth: dict[int, F32], path: CameraTrajectory) -> F32:
    """About four revisited views: the true scene, with memory, without memory, from top to bottom."""
    from mosaicmem.cli._captions import captioned_sheet

    shown = list(truth)[:: max(1, len(truth) // 4)]
    results = (comparison.with_memory.frames, comparison.without_memory.frames)
    return captioned_sheet(
        "Coming back: views of the flat that were seen at the beginning of the loop, and not since",
        [f"frame {i} at {path[i].timestamp:.2f} s" for i in shown],
        ["the true scene", "generated with memory", "generated without memory"],
        [[truth[i] for i in shown], *([video[i] for i in shown] for video in results)],
        ["The same model and noise in both; only the lower row has to make the place up again."],
    )
