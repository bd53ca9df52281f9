"""``mosaicmem evaluate``: leave and return on a posed RGB-D sequence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicmem.cli._common import (
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
    print_json,
)
from mosaicmem.cli._errors import UsageError, blames, check_useful, reports_errors
from mosaicmem.cli._scenes import A_SEQUENCE, SYNTHETIC, ColorFocal, SceneIntrinsics, SceneSize, open_evaluated
from mosaicmem.cli._tables import say
from mosaicmem.memory import strategy_names

if TYPE_CHECKING:
    from mosaicmem.evaluation import Noise
    from mosaicmem.pipeline import PipelineConfig

_STRIDE, _REPEATS = 16, 3
_USED = (  # settings that count here
    *("strategy", "max_keyframes", "max_window_keyframes", "composition", "depth_tolerance"),
    *("near", "far", "half_life", "field_angle", "extend_depth"),
    *("seed", "num_threads"),
)


Scene = Annotated[str | None, typer.Option(help=f"{A_SEQUENCE}, or synthetic.")]
Video = Annotated[
    Path | None,
    typer.Option(
        help="A generated video to evaluate in place of memory: RotErr, TransErr, returns, dynamics. With --scene, its "
        "frames are those of the scene (--frames; all if left out); else --trajectory has their cameras."
    ),
]
Trajectory = Annotated[Path | None, typer.Option(help="The cameras of --video, of any format that convert reads.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.")]
MemoryFrames = Annotated[
    str | None,
    typer.Option(help="Frames to remember, A:B or A:B:STEP, by position from 0. Default: the first half."),
]
Frames = Annotated[
    str | None,
    typer.Option(help="Frames whose cameras come back, A:B or A:B:STEP, by position from 0. Default: the last third."),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Which parts of memory: {', '.join(strategy_names())}; may be repeated. Default: as --config, or "
        f"{strategy_names()[0]}."
    ),
]
Compositions = Annotated[
    list[str] | None,
    typer.Option(
        help="blend, backward, pixels (images of keyframes, warped), near or far (the published rules); may be "
        "repeated. Default: as --config, or blend."
    ),
]
Stride = Annotated[int, typer.Option(help="Pixels per latent cell.", min=1)]
Budgets = Annotated[
    str | None, typer.Option(help="Megabytes that memory may hold, comma-separated: a forgetting curve for each.")
]
DepthNoise = Annotated[
    float, typer.Option(help="Relative error of the memory's depth, per pixel and per frame.", min=0, callback=finite)
]
PoseNoise = Annotated[float, typer.Option(help="Error of the memory's positions, metres.", min=0, callback=finite)]
RotationNoise = Annotated[
    float, typer.Option(help="Error of the memory's rotations, degrees.", min=0, max=180, callback=finite)
]
Repeats = Annotated[int, typer.Option(help="Times that each window is timed.", min=1)]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines",
        help="Rows to compare with: a copy of the nearest frame, pixels of the 5 nearest ones, a blend without "
        "weights, and a fused surface if Open3D is installed.",
    ),
]
Plot = Annotated[bool, typer.Option("--plot", help="Write figures and pictures into --output.")]


@reports_errors
def evaluate(
    scene: Scene = None,
    video: Video = None,
    trajectory: Trajectory = None,
    output: Output = None,
    memory_frames: MemoryFrames = None,
    frames: Frames = None,
    strategy: Strategies = None,
    composition: Compositions = None,
    stride: Stride = _STRIDE,
    budgets: Budgets = None,
    depth_noise: DepthNoise = 0.0,
    pose_noise: PoseNoise = 0.0,
    rotation_noise: RotationNoise = 0.0,
    intrinsics: SceneIntrinsics = None,
    size: SceneSize = None,
    color_focal: ColorFocal = None,
    seed: Seed = None,
    repeats: Repeats = _REPEATS,
    threads: Threads = None,
    config: Config = None,
    changes: Set = None,
    baselines: Baselines = False,
    plot: Plot = False,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Remember some frames of a sequence, and compare what memory shows to other cameras with what they saw.

    Colours pooled to the latent grid stand for latents, so figures are those of memory alone, without a model. Of the
    settings, those that choose keyframes and compose a canvas count. --video evaluates a generated video instead.

    Example: mosaicmem evaluate --scene rgbd_scene --memory-frames 0:60 --frames 60:81 --output out --plot
    """
    from mosaicmem.cli._memory_evaluation import measure, plan_of, summarize, write_results
    from mosaicmem.cli._video_evaluation import run_video_evaluation

    if video is not None:
        chosen = {"--strategy": strategy, "--composition": composition, "--config": config, "--set": changes}
        idle = chosen | {"--memory-frames": memory_frames, "--budgets": budgets, "--threads": threads, "--plot": plot}
        idle |= {"--baselines": baselines}
        levels = {"--depth-noise": depth_noise, "--pose-noise": pose_noise, "--rotation-noise": rotation_noise}
        given = {"--stride": stride != _STRIDE, "--repeats": repeats != _REPEATS}
        idle |= given | {name: level > 0 for name, level in levels.items()}
        check_useful(idle, "expected no --video with it, whose frames are all that is evaluated")
        run_video_evaluation(
            video, scene, trajectory, frames, intrinsics, size, color_focal, seed, output, force, as_json
        )
        return
    check_useful({"--trajectory": trajectory}, "expected --video too, whose cameras it has")
    if scene is None:
        raise UsageError(f"--scene: expected the folder of a sequence or {SYNTHETIC}, or else --video")
    errors = {"depth": depth_noise, "metres": pose_noise, "degrees": rotation_noise}
    _check_options(scene, output, errors, seed, plot, force)
    settings = _settings(config, changes, seed, threads, {"strategy": strategy, "composition": composition})
    rules = _rules(strategy or [settings.strategy], composition or [settings.composition], budgets, stride)
    if output is not None:
        check_apart({"--output": output}, {"--scene": None if scene == SYNTHETIC else Path(scene), "--config": config})
        check_output_folder(output, force, "evaluate")
    noise = _noise(depth_noise, pose_noise, rotation_noise, settings.seed)
    plan = plan_of(open_evaluated(scene, intrinsics, size, color_focal, settings.seed), stride, memory_frames, frames)
    if not as_json:
        plan.announce()
    measured = measure(plan, noise, rules, repeats, settings, with_curves=budgets is not None, baselines=baselines)
    summary = summarize(scene, plan, {**errors, "seed": settings.seed}, settings, measured)
    if as_json:
        print_json(summary)
    else:
        measured.print()
    if output is None:
        return
    write_results(output, force, plot, plan, measured, summary)
    if not as_json:
        say(f"Figures in {output}")


def _check_options(
    scene: str, output: Path | None, errors: dict[str, float], seed: int | None, plot: bool, force: bool
) -> None:
    """Refuse options that would do nothing, and figures that could not be drawn."""
    from mosaicmem.evaluation.image_metrics import require_metrics
    from mosaicmem.plots import require_matplotlib

    require_metrics()
    if output is None:
        check_useful({"--plot": plot, "--force": force}, "expected --output too, the folder to write into")
    if not any(errors.values()) and scene != SYNTHETIC:
        check_useful({"--seed": seed}, f"expected --depth-noise, --pose-noise, --rotation-noise or --scene {SYNTHETIC}")
    if plot:
        require_matplotlib("--plot")


def _settings(
    config: Path | None,
    changes: list[str] | None,
    seed: int | None,
    threads: int | None,
    chosen: dict[str, list[str] | None],
) -> PipelineConfig:
    """The configuration; what options choose by name must not be among ``changes`` too."""
    from mosaicmem.cli._settings import read_changes, read_settings

    given = {"seed": seed, "num_threads": threads}
    settings = read_settings(config, changes, given, command="evaluate", used=_USED)
    for name, values in chosen.items():
        if values and name in read_changes(changes):
            raise UsageError(f"--{name}, --set {name}: expected at most one of the two")
    return settings


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
