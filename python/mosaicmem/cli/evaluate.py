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
    check_apart,
    check_output_folder,
    finite,
    output_folder,
    print_json,
)
from mosaicmem.cli._errors import UsageError, blames, check_useful, reports_errors
from mosaicmem.cli._frames import own_numbers, parse_range, selected, warn_of_overlap
from mosaicmem.cli._scenes import A_SEQUENCE, SceneIntrinsics, SceneSize, open_scene
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.memory import strategy_names

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.evaluation import GridFrame, Noise
    from mosaicmem.evaluation.frames import RgbdSource

SYNTHETIC = "synthetic"
_USED = (  # settings that count here
    *(
        "strategy",
        "max_keyframes",
        "max_window_keyframes",
        "composition",
        "depth_tolerance",
        "near",
        "far",
        "half_life",
    ),
    *("seed", "num_threads"),
)


@reports_errors
def evaluate(
    scene: Annotated[
        str,
        typer.Option(help=f"{A_SEQUENCE}, or synthetic."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")] = None,
    memory_frames: Annotated[
        str | None,
        typer.Option(help="Frames to remember, A:B or A:B:STEP, by position from 0. Default: the first half."),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            help="Frames whose cameras come back, A:B or A:B:STEP, by position from 0. Default: the last third."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Which parts of memory: {', '.join(strategy_names())}; may be repeated. Default: as --config, or "
            f"{strategy_names()[0]}."
        ),
    ] = None,
    composition: Annotated[
        list[str] | None,
        typer.Option(
            help="blend, backward, near or far (the published rules); may be repeated. Default: as --config, or blend."
        ),
    ] = None,
    stride: Annotated[int, typer.Option(help="Pixels per latent cell.", min=1)] = 16,
    budgets: Annotated[
        str | None,
        typer.Option(help="Megabytes that memory may hold, comma-separated: a forgetting curve for each."),
    ] = None,
    depth_noise: Annotated[
        float,
        typer.Option(help="Relative error of the memory's depth, per pixel and per frame.", min=0, callback=finite),
    ] = 0.0,
    pose_noise: Annotated[
        float, typer.Option(help="Error of the memory's positions, metres.", min=0, callback=finite)
    ] = 0.0,
    rotation_noise: Annotated[
        float, typer.Option(help="Error of the memory's rotations, degrees.", min=0, max=180, callback=finite)
    ] = 0.0,
    intrinsics: SceneIntrinsics = None,
    size: SceneSize = None,
    seed: Seed = None,
    repeats: Annotated[int, typer.Option(help="Times that each window is timed.", min=1)] = 3,
    threads: Threads = None,
    config: Config = None,
    changes: Set = None,
    plot: Annotated[bool, typer.Option("--plot", help="Write figures and pictures into --output.")] = False,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember some frames of a sequence, and compare what memory shows to other cameras with what they saw.

    Colours pooled to the latent grid stand for latents, so figures are those of memory alone, without a model. Of the
    settings, those that choose keyframes and compose a canvas count.

    Example: mosaicmem evaluate --scene rgbd_scene --memory-frames 0:60 --frames 60:81 --output out --plot
    """
    from dataclasses import replace

    from mosaicmem import __version__
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import EDGES, print_runs, run_summary, write_figures
    from mosaicmem.cli._settings import read_changes, read_settings
    from mosaicmem.evaluation import forgetting_curve, grid_frames, seconds_since_seen
    from mosaicmem.evaluation.frames import cropped
    from mosaicmem.evaluation.image_metrics import require_metrics
    from mosaicmem.geometry import PoseCheck
    from mosaicmem.plots import require_matplotlib

    require_metrics()
    if output is None:
        check_useful({"--plot": plot, "--force": force}, "expected --output too, the folder to write into")
    if not (depth_noise or pose_noise or rotation_noise) and scene != SYNTHETIC:
        check_useful({"--seed": seed}, f"expected --depth-noise, --pose-noise, --rotation-noise or --scene {SYNTHETIC}")
    if plot:
        require_matplotlib("--plot")
    given = {"seed": seed, "num_threads": threads}
    settings = read_settings(config, changes, given, command="evaluate", used=_USED)
    options = settings.keyframe_options()
    for name, chosen in (("strategy", strategy), ("composition", composition)):
        if chosen and name in read_changes(changes):
            raise UsageError(f"--{name}, --set {name}: expected at most one of the two")
    rules = _rules(strategy or [settings.strategy], composition or [settings.composition], budgets, stride)
    if output is not None:
        check_apart({"--output": output}, {"--scene": None if scene == SYNTHETIC else Path(scene), "--config": config})
        check_output_folder(output, force, "evaluate")
    noise = _noise(depth_noise, pose_noise, rotation_noise, settings.seed)
    source = _open(scene, intrinsics, size, settings.seed)
    with blames({"stride": "--stride"}):
        camera = cropped(source.intrinsics, stride)
    remembered, targets = _choose(source, memory_frames, frames)
    numbers = own_numbers(source, targets)
    if not as_json:
        say(f"Memory holds {selected(remembered, own_numbers(source, remembered))}.")
        say(f"Cameras come back in {selected(targets, numbers)}.")
    with progress_bar() as progress:
        exact = grid_frames(source, progress.track(remembered, description="Reading memory"), stride)
        memory = exact
        if noise:
            memory = grid_frames(source, progress.track(remembered, description="Adding noise"), stride, noise)
        truth = grid_frames(source, progress.track(targets, description="Reading targets"), stride)

    check = PoseCheck()
    for frame in exact:
        check.add(frame.pixel_depth, camera, frame.pose)
    with progress_bar() as progress:
        runs = [
            _run(memory, truth, camera, stride, *each, repeats, settings.num_threads, options)
            for each in progress.track(rules, description="Composing")
        ]
    if budgets is not None:
        ages = seconds_since_seen(exact, truth, camera, stride)
        runs = [replace(run, curve=forgetting_curve(run.result, truth, ages, EDGES)) for run in runs]
    summary = {
        "mosaicmem": __version__,
        "scene": scene,
        "memory_frames": list(remembered),
        "memory_numbers": own_numbers(source, remembered) or list(remembered),
        "target_frames": list(targets),
        "target_numbers": numbers or list(targets),
        "stride": stride,
        "noise": {"depth": depth_noise, "metres": pose_noise, "degrees": rotation_noise, "seed": settings.seed},
        "options": options,
        "runs": [run_summary(run, targets, numbers) for run in runs],
    }
    if as_json:
        print_json(summary)
    else:
        print_runs(runs)
        if not check.compared:
            say(check.conclusion)
    if output is None:
        return
    with output_folder(output, force, "evaluate") as folder:
        write_json(folder / SUMMARY, summary)
        if plot:
            write_figures(folder, runs, truth, targets, numbers)
    if not as_json:
        say(f"Figures in {output}")


def _open(scene: str, intrinsics: str | None, size: str | None, seed: int) -> RgbdSource:
    from mosaicmem.datasets import SyntheticWalk

    if scene != SYNTHETIC:
        return open_scene(scene, intrinsics, size)
    if intrinsics is not None or size is not None:
        raise UsageError(f"--intrinsics, --size: expected a folder as --scene with them, got {SYNTHETIC}")
    return SyntheticWalk(seed=seed)


def _choose(source: RgbdSource, memory_frames: str | None, frames: str | None) -> tuple[range, range]:
    """The frames to remember, and those whose cameras come back; by default the first half and the last third."""
    count = len(source)
    number = getattr(source, "number", None)
    half, third = f"0:{max(count // 2, 1)}", f"{2 * count // 3}:{count}"
    remembered = parse_range("--memory-frames", half if memory_frames is None else memory_frames, count, number)
    targets = parse_range("--frames", third if frames is None else frames, count, number)
    warn_of_overlap(targets, remembered)
    return remembered, targets


def _noise(depth: float, metres: float, degrees: float, seed: int) -> Noise:
    from mosaicmem.evaluation import Noise

    with blames({"depth": "--depth-noise", "translation": "--pose-noise"}):
        return Noise(depth, metres, math.radians(degrees), seed)


def _rules(
    strategies: list[str], compositions: list[str], budgets: str | None, stride: int
) -> list[tuple[str, str, int | None]]:
    """Every strategy with every composition and limit of bytes; refused if any of them do not go together."""
    from mosaicmem.evaluation.strategies import check_rules

    limits = [None] if budgets is None else _megabytes(budgets)
    options = {name: f"--{name}" for name in ("strategy", "composition", "stride")}
    for strategy in strategies:
        for composition in compositions:
            with blames({**options, "max_bytes": "--budgets"}):
                check_rules(strategy, composition, stride, limits[0])
    return [(chosen, composed, limit) for chosen in strategies for composed in compositions for limit in limits]


def _megabytes(text: str) -> list[int | None]:
    try:
        limits = [float(part) for part in text.split(",")]
        if not all(1e-6 <= limit <= 1e12 for limit in limits):
            raise ValueError
    except ValueError:
        raise UsageError(
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
