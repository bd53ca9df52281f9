"""``mosaicmem evaluate``: leave and return on a posed RGB-D sequence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    SUMMARY,
    AsJson,
    Config,
    Debug,
    Force,
    Seed,
    Set,
    Threads,
    check_output_folder,
    console,
    output_folder,
    parse_range,
    print_json,
    progress_bar,
    reports_errors,
    warn_of_overlap,
)

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.evaluation import GridFrame, Noise
    from mosaicmem.evaluation.frames import RgbdSource

SYNTHETIC = "synthetic"


@reports_errors
def evaluate(
    scene: Annotated[
        str,
        typer.Option(help="Folder of a posed RGB-D sequence (7-Scenes, TUM RGB-D, Replica or ScanNet), or synthetic."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")] = None,
    memory_frames: Annotated[
        str | None, typer.Option(help="Frames to remember, A:B or A:B:STEP. Default: the first half.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="Frames whose cameras come back, A:B or A:B:STEP. Default: the last third.")
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="visible_coverage, top_k (patches), pose_nearest or coverage (the published rules); may be repeated."
        ),
    ] = None,
    composition: Annotated[
        list[str] | None,
        typer.Option(help="blend, backward, near or far (the published rules); may be repeated."),
    ] = None,
    stride: Annotated[int, typer.Option(help="Pixels a latent cell.", min=1)] = 16,
    budgets: Annotated[
        str | None,
        typer.Option(help="Megabytes that memory may hold, comma-separated: a forgetting curve for each."),
    ] = None,
    depth_noise: Annotated[
        float, typer.Option(help="Relative error of the memory's depth, per pixel and per frame.", min=0)
    ] = 0.0,
    pose_noise: Annotated[float, typer.Option(help="Error of the memory's positions, metres.", min=0)] = 0.0,
    rotation_noise: Annotated[float, typer.Option(help="Error of the memory's rotations, degrees.", min=0)] = 0.0,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(help="Times that each window is timed.", min=1)] = 3,
    threads: Threads = 0,
    config: Config = None,
    changes: Set = None,
    plot: Annotated[bool, typer.Option("--plot", help="Write figures and pictures into --output.")] = False,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember some frames of a sequence, and compare what memory shows to other cameras with what they saw.

    Colours pooled to the latent grid stand for latents, so figures are those of memory alone, without a model. Of the
    settings, those that choose keyframes and compose a canvas count; without --config their defaults are the library's.

    Example: mosaicmem evaluate --scene rgbd_scene --memory-frames 0:60 --frames 60:81 --output out --plot
    """
    from dataclasses import replace

    from mosaicmem import __version__
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import EDGES, print_runs, run_summary, write_figures
    from mosaicmem.cli._settings import read_settings
    from mosaicmem.evaluation import forgetting_curve, grid_frames, seconds_since_seen
    from mosaicmem.evaluation.frames import cropped
    from mosaicmem.evaluation.image_metrics import require_metrics
    from mosaicmem.geometry import PoseCheck
    from mosaicmem.plots import require_matplotlib

    require_metrics()
    if plot and output is None:
        raise ValueError("--plot: expected --output too, the folder to write into")
    if plot:
        require_matplotlib("--plot")
    if output is not None:
        check_output_folder(output, force, "evaluate")
    options = read_settings(config, changes).keyframe_options() if config or changes else {}
    rules = _rules(strategy or ["visible_coverage"], composition or ["blend"], budgets, stride)
    noise = _noise(depth_noise, pose_noise, rotation_noise, seed)
    source = _open(scene, seed)
    count = len(source)
    camera = cropped(source.intrinsics, stride)
    remembered = parse_range(
        "--memory-frames", f"0:{max(count // 2, 1)}" if memory_frames is None else memory_frames, count
    )
    targets = parse_range("--frames", f"{2 * count // 3}:{count}" if frames is None else frames, count)
    warn_of_overlap(list(targets), list(remembered))
    with progress_bar() as progress:
        exact = grid_frames(source, progress.track(remembered, description="Reading memory"), stride)
        memory = (
            grid_frames(source, progress.track(remembered, description="Adding noise"), stride, noise)
            if noise
            else exact
        )
        truth = grid_frames(source, progress.track(targets, description="Reading targets"), stride)

    check = PoseCheck()
    for frame in exact:
        check.add(frame.pixel_depth, camera, frame.pose)
    runs = [_run(memory, truth, camera, stride, *each, repeats, threads, options) for each in rules]
    if budgets is not None:
        ages = seconds_since_seen(exact, truth, camera, stride)
        runs = [replace(run, curve=forgetting_curve(run.result, truth, ages, EDGES)) for run in runs]
    summary = {
        "mosaicmem": __version__,
        "scene": scene,
        "memory_frames": list(remembered),
        "target_frames": list(targets),
        "stride": stride,
        "noise": {"depth": depth_noise, "metres": pose_noise, "degrees": rotation_noise, "seed": seed},
        "options": options,
        "runs": [run_summary(run) for run in runs],
    }
    if as_json:
        print_json(summary)
    else:
        print_runs(runs)
        if not check.compared:
            console.print(check.conclusion, highlight=False, soft_wrap=True)
    if output is None:
        return
    with output_folder(output, force, "evaluate") as folder:
        write_json(folder / SUMMARY, summary)
        if plot:
            write_figures(folder, runs, truth)
    if not as_json:
        console.print(f"Figures in {output}", highlight=False, soft_wrap=True)


def _open(scene: str, seed: int) -> RgbdSource:
    from mosaicmem.datasets import SyntheticWalk, open_sequence

    return SyntheticWalk(seed=seed) if scene == SYNTHETIC else open_sequence(scene)


def _rules(
    strategies: list[str], compositions: list[str], budgets: str | None, stride: int
) -> list[tuple[str, str, int | None]]:
    """Every strategy with every composition and limit of bytes; refused if any of them do not go together."""
    from mosaicmem.evaluation.strategies import PUBLISHED, check_rules

    limits = [None] if budgets is None else _megabytes(budgets)
    for strategy in strategies:
        if budgets is not None and strategy in PUBLISHED:
            raise ValueError(f"--budgets: expected none with {strategy}, which never forgets")
        for composition in compositions:
            check_rules(strategy, composition, stride)
    return [(chosen, composed, limit) for chosen in strategies for composed in compositions for limit in limits]


def _noise(depth: float, metres: float, degrees: float, seed: int) -> Noise:
    from mosaicmem._arrays import check_number
    from mosaicmem.evaluation import Noise

    for name, value, most in (("depth", depth, 1e3), ("pose", metres, 1e3), ("rotation", degrees, 180.0)):
        check_number(f"--{name}-noise", value, minimum=0.0, maximum=most)
    return Noise(depth, metres, math.radians(degrees), seed)


def _megabytes(text: str) -> list[int | None]:
    try:
        limits = [float(part) for part in text.split(",")]
        if not all(1e-6 <= limit <= 1e12 for limit in limits):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--budgets: expected megabytes with commas between, each at least 1e-6, got {text!r}"
        ) from None
    return [round(limit * 1e6) for limit in limits]


def _run(
    memory: list[GridFrame],
    targets: list[GridFrame],
    camera: CameraIntrinsics,
    stride: int,
    strategy: str,
    composition: str,
    limit: int | None,
    repeats: int,
    threads: int,
    options: dict[str, Any],
) -> Run:
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.evaluation import Composer, evaluate_composition

    compose = Composer(
        memory, camera, stride, strategy, composition, max_bytes=limit, num_threads=threads, options=options
    )
    return Run(strategy, composition, limit, evaluate_composition(compose, targets, camera, repeats=repeats))
