"""``mosaicmem evaluate``: leave and return on a posed RGB-D sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
from mosaicmem.cli._scenes import A_SEQUENCE, ColorFocal, SceneIntrinsics, SceneSize, open_scene
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.cli._trajectories import read_trajectory
from mosaicmem.memory import strategy_names

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.evaluation import GridFrame, Noise
    from mosaicmem.evaluation.frames import RgbdSource
    from mosaicmem.geometry import PoseCheck
    from mosaicmem.pipeline import PipelineConfig

SYNTHETIC = "synthetic"
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
    if video is not None:
        chosen = {"--strategy": strategy, "--composition": composition, "--config": config, "--set": changes}
        idle = chosen | {"--memory-frames": memory_frames, "--budgets": budgets, "--threads": threads, "--plot": plot}
        idle |= {"--baselines": baselines}
        levels = {"--depth-noise": depth_noise, "--pose-noise": pose_noise, "--rotation-noise": rotation_noise}
        given = {"--stride": stride != _STRIDE, "--repeats": repeats != _REPEATS}
        idle |= given | {name: level > 0 for name, level in levels.items()}
        check_useful(idle, "expected no --video with it, whose frames are all that is evaluated")
        _evaluate_video(video, scene, trajectory, frames, intrinsics, size, color_focal, seed, output, force, as_json)
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
    plan = _plan(_open(scene, intrinsics, size, color_focal, settings.seed), stride, memory_frames, frames)
    if not as_json:
        plan.announce()
    measured = _measure(plan, noise, rules, repeats, settings, with_curves=budgets is not None, baselines=baselines)
    summary = _summarize(scene, plan, {**errors, "seed": settings.seed}, settings, measured)
    if as_json:
        print_json(summary)
    else:
        measured.print()
    if output is None:
        return
    _write(output, force, plot, plan, measured, summary)
    if not as_json:
        say(f"Figures in {output}")


def _evaluate_video(
    video: Path,
    scene: str | None,
    trajectory: Path | None,
    frames: str | None,
    intrinsics: str | None,
    size: str | None,
    color_focal: str | None,
    seed: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import without_nan
    from mosaicmem.cli._video_evaluation import evaluate_video, print_video

    if (scene is None) == (trajectory is None):
        raise UsageError("--video: expected either --scene or --trajectory with it, for the cameras of its frames")
    if scene != SYNTHETIC:
        check_useful({"--seed": seed}, f"expected --scene {SYNTHETIC} with it")
    if output is None:
        check_useful({"--force": force}, "expected --output too, the folder to write into")
    else:
        folder_of = None if scene is None or scene == SYNTHETIC else Path(scene)
        check_apart({"--output": output}, {"--video": video, "--trajectory": trajectory, "--scene": folder_of})
        check_output_folder(output, force, "evaluate")
    source, shown = None, range(0)
    if scene is not None:
        source = _open(scene, intrinsics, size, color_focal, seed or 0)
        everything = f"0:{len(source)}" if frames is None else frames
        shown = parse_range("--frames", everything, len(source), getattr(source, "number", None))
        path = source.trajectory(shown)
    else:
        assert trajectory is not None
        check_useful({"--frames": frames}, "expected --scene with it, of whose frames they are")
        path = read_trajectory(trajectory, intrinsics, size)
    summary = evaluate_video(video, path, source, shown)
    if as_json:
        print_json(without_nan(summary))
    else:
        print_video(summary)
    if output is not None:
        with output_folder(output, force, "evaluate") as folder:
            write_json(folder / SUMMARY, without_nan(summary))


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


@dataclass
class _Plan:
    """What is remembered, and whose cameras come back."""

    source: RgbdSource
    camera: CameraIntrinsics
    stride: int
    remembered: range
    targets: range

    def announce(self) -> None:
        """Say which frames are remembered, and whose cameras come back."""
        say(f"Memory holds {selected(self.remembered, own_numbers(self.source, self.remembered))}.")
        say(f"Cameras come back in {selected(self.targets, own_numbers(self.source, self.targets))}.")


def _plan(source: RgbdSource, stride: int, memory_frames: str | None, frames: str | None) -> _Plan:
    from mosaicmem.evaluation.frames import cropped

    with blames({"stride": "--stride"}):
        camera = cropped(source.intrinsics, stride)
    return _Plan(source, camera, stride, *_choose(source, memory_frames, frames))


@dataclass
class _Measured:
    """What came of it."""

    runs: list[Run]
    truth: list[GridFrame]
    check: PoseCheck
    options: dict[str, Any]  # of `KeyframeRetrieval`

    def print(self) -> None:
        """Tables of the runs, and what is known of the poses if nothing could be compared."""
        from mosaicmem.cli._evaluation_report import print_runs

        print_runs(self.runs)
        if not self.check.compared:
            say(self.check.conclusion)


def _measure(
    plan: _Plan,
    noise: Noise,
    rules: list[tuple[str, str, int | None]],
    repeats: int,
    settings: PipelineConfig,
    *,
    with_curves: bool,
    baselines: bool,
) -> _Measured:
    import importlib.util

    from mosaicmem.cli._evaluation_report import EDGES, Run
    from mosaicmem.evaluation import (
        BASELINES,
        Baseline,
        common_cells,
        evaluate_composition,
        forgetting_curve,
        grid_frames,
        seconds_since_seen,
    )
    from mosaicmem.geometry import PoseCheck, RegistrationCheck

    source, camera, stride = plan.source, plan.camera, plan.stride
    with progress_bar() as progress:
        exact = grid_frames(source, progress.track(plan.remembered, description="Reading memory"), stride)
        memory = exact
        if noise:
            memory = grid_frames(source, progress.track(plan.remembered, description="Adding noise"), stride, noise)
        truth = grid_frames(source, progress.track(plan.targets, description="Reading targets"), stride)
    check, registration = PoseCheck(), RegistrationCheck()
    for frame in exact:
        check.add(frame.pixel_depth, camera, frame.pose)
        registration.add(frame.image, frame.pixel_depth, camera, frame.pose)
    options, found = settings.keyframe_options(), registration.result()
    if "field_angle" not in settings.model_fields_set:
        options["field_angle"] = found.field_angle
    with progress_bar() as progress:
        runs = [
            _run(memory, truth, camera, stride, *each, repeats, settings, options)
            for each in progress.track(rules, description="Composing")
        ]
    if baselines:
        with progress_bar() as progress:
            names = [name for name in BASELINES if name != "tsdf" or importlib.util.find_spec("open3d")]
            for name in progress.track(names, description="Baselines"):
                compose = Baseline(name, memory, camera, stride, num_threads=settings.num_threads)
                result = evaluate_composition(compose, truth, camera, repeats=repeats, fill=compose.mean_color)
                runs.append(Run("", name, None, result))
    common = common_cells([run.result for run in runs], truth)
    runs = [replace(run, common=psnr) for run, psnr in zip(runs, common, strict=True)]
    if with_curves:
        ages = seconds_since_seen(exact, truth, camera, stride)
        runs = [replace(run, curve=forgetting_curve(run.result, truth, ages, EDGES)) for run in runs]
    return _Measured(runs, truth, check, options)


def _summarize(
    scene: str, plan: _Plan, noise: dict[str, Any], settings: PipelineConfig, measured: _Measured
) -> dict[str, Any]:
    from mosaicmem import __version__
    from mosaicmem.cli._evaluation_report import run_summary

    numbers = own_numbers(plan.source, plan.targets)
    return {
        "mosaicmem": __version__,
        "scene": scene,
        "memory_frames": list(plan.remembered),
        "memory_numbers": own_numbers(plan.source, plan.remembered) or list(plan.remembered),
        "target_frames": list(plan.targets),
        "target_numbers": numbers or list(plan.targets),
        "stride": plan.stride,
        "noise": noise,
        "options": measured.options | {"far": settings.far},
        "runs": [run_summary(run, plan.targets, numbers) for run in measured.runs],
    }


def _write(output: Path, force: bool, plot: bool, plan: _Plan, measured: _Measured, summary: dict[str, Any]) -> None:
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import write_figures

    with output_folder(output, force, "evaluate") as folder:
        write_json(folder / SUMMARY, summary)
        if plot:
            numbers = own_numbers(plan.source, plan.targets)
            write_figures(folder, measured.runs, measured.truth, plan.targets, numbers)


def _open(scene: str, intrinsics: str | None, size: str | None, color_focal: str | None, seed: int) -> RgbdSequence:
    from mosaicmem.datasets import SyntheticWalk

    if scene != SYNTHETIC:
        return open_scene(scene, intrinsics, size, color_focal)
    if intrinsics is not None or size is not None or color_focal is not None:
        raise UsageError(f"--intrinsics, --size, --color-focal: expected a folder as --scene, got {SYNTHETIC}")
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
    settings: PipelineConfig,
    options: dict[str, Any],
) -> Run:
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.evaluation import Composer, evaluate_composition

    compose = Composer(
        memory,
        camera,
        stride,
        strategy,
        composition,
        max_bytes=limit,
        extend_depth=settings.extend_depth,
        num_threads=settings.num_threads,
        options=options,
    )
    result = evaluate_composition(compose, targets, camera, repeats=repeats, fill=compose.mean_color)
    return Run(strategy, composition, limit, result)
