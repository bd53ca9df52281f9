"""``mosaicmem evaluate`` without ``--video``: what memory shows to cameras that come back."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicmem.cli._common import SUMMARY, output_folder
from mosaicmem.cli._errors import blames
from mosaicmem.cli._frames import own_numbers, parse_range, selected, warn_of_overlap
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics
    from mosaicmem.cli._evaluation_report import Run
    from mosaicmem.evaluation import GridFrame, Noise
    from mosaicmem.evaluation.frames import RgbdSource
    from mosaicmem.geometry import PoseCheck
    from mosaicmem.pipeline import PipelineConfig


@dataclass
class Plan:
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


def plan_of(source: RgbdSource, stride: int, memory_frames: str | None, frames: str | None) -> Plan:
    """The plan that the options --stride, --memory-frames and --frames make of a sequence."""
    from mosaicmem.evaluation.frames import cropped

    with blames({"stride": "--stride"}):
        camera = cropped(source.intrinsics, stride)
    return Plan(source, camera, stride, *_choose(source, memory_frames, frames))


@dataclass
class Measured:
    """The scores of each run, and what the poses of memory's frames say of each other."""

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


def measure(
    plan: Plan,
    noise: Noise,
    rules: list[tuple[str, str, int | None]],
    repeats: int,
    settings: PipelineConfig,
    *,
    with_curves: bool,
    baselines: bool,
) -> Measured:
    """Fill a memory and compose its canvases by each of ``rules``: strategy, composition, limit of bytes."""
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
    return Measured(runs, truth, check, options)


def summarize(
    scene: str, plan: Plan, noise: dict[str, Any], settings: PipelineConfig, measured: Measured
) -> dict[str, Any]:
    """All figures, with what they were measured on, as plain values."""
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


def write_results(
    output: Path, force: bool, plot: bool, plan: Plan, measured: Measured, summary: dict[str, Any]
) -> None:
    """Write the figures into a folder, and pictures of them with ``plot``."""
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import write_figures

    with output_folder(output, force, "evaluate") as folder:
        write_json(folder / SUMMARY, summary)
        if plot:
            numbers = own_numbers(plan.source, plan.targets)
            write_figures(folder, measured.runs, measured.truth, plan.targets, numbers)


def _choose(source: RgbdSource, memory_frames: str | None, frames: str | None) -> tuple[range, range]:
    """The frames to remember, and those whose cameras come back; by default the first half and the last third."""
    count = len(source)
    number = getattr(source, "number", None)
    half, third = f"0:{max(count // 2, 1)}", f"{2 * count // 3}:{count}"
    remembered = parse_range("--memory-frames", half if memory_frames is None else memory_frames, count, number)
    targets = parse_range("--frames", third if frames is None else frames, count, number)
    warn_of_overlap(targets, remembered)
    return remembered, targets


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
