"""Throughput on this machine: ``generate`` stage by stage, and memory alone at the size of a real model."""

from __future__ import annotations

import cProfile
import math
import pstats
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.geometry import depth_to_grid
from mosaicmem.memory import KeyframeRetrieval, MemoryRetrieval, MosaicMemoryStore
from mosaicmem.pipeline import AutoregressivePipeline, PipelineConfig
from mosaicmem.synthetic import SyntheticWorld

_OBSERVED = 4  # frames observed before a run
_KEYFRAMES = 100  # in the memory at full size
_LATENTS, _STRIDE, _CHANNELS = 21, 16, 48  # of a window of Wan 2.2's 5-billion-parameter model
_SUBCELLS = 2  # along the edge of a cell, whose depth keyframes have
_FUNCTIONS = 15  # listed in a profile


@dataclass(frozen=True)
class Case:
    """One run: image size in pixels, frames, denoising steps."""

    width: int
    height: int
    frames: int
    steps: int


@dataclass(frozen=True)
class ProfileEntry:
    """A function's own time in seconds, its fraction of the total, its number of calls, and its location."""

    seconds: float
    part: float
    calls: int
    function: str


@dataclass(frozen=True)
class CaseResult:
    """Seconds of the median run of ``generate``, of each of its stages in that run, and of all runs.

    Attributes
    ----------
    case : Case
    seconds : float
    stages : dict of str to float
    runs : tuple of float
        Ascending.
    profile : list of ProfileEntry, optional
    """

    case: Case
    seconds: float
    stages: dict[str, float]
    runs: tuple[float, ...]
    profile: list[ProfileEntry] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **asdict(self),
            "least": self.runs[0],
            "most": self.runs[-1],
            "frames_per_second": self.case.frames / self.seconds,
        }


@dataclass(frozen=True)
class MemoryResult:
    """Median seconds of each part of memory's work for one window."""

    width: int
    height: int
    latents: int
    channels: int
    keyframes: int
    patches: int
    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        """Total of all parts."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "seconds": self.seconds}


def measure_case(
    config: PipelineConfig, case: Case, *, seed: int = 0, repeats: int = 5, profile: bool = False
) -> CaseResult:
    """Time ``generate`` with the pipeline's own synthetic parts, in a synthetic world after a few observed frames.

    Parameters
    ----------
    config : PipelineConfig
        Its number of steps is replaced by the case's.
    case : Case
    seed : int
        Of the world.
    repeats : int
        Number of runs; the one of median duration is reported.
    profile : bool
        Also run once under a profiler.
    """
    world = SyntheticWorld(seed)
    camera = CameraIntrinsics.from_fov(case.width, case.height, fov_x=math.radians(75))
    path = world.leave_and_return(camera, max(2, case.frames))[: case.frames]
    settings = PipelineConfig(**{**config.model_dump(), "num_inference_steps": case.steps})
    views = [world.render(camera, pose) for pose in path[:_OBSERVED]]

    def prepared() -> AutoregressivePipeline:
        """A new pipeline that has only observed the views."""
        pipeline = AutoregressivePipeline(settings)
        for view, pose in zip(views, path, strict=False):
            pipeline.observe(view.image, view.depth, camera, pose)
        return pipeline

    runs = []
    for _ in range(repeats):
        pipeline = prepared()
        start = time.perf_counter()
        windows = pipeline.generate(path).windows
        seconds = time.perf_counter() - start
        runs.append((seconds, {stage: sum(w.seconds[stage] for w in windows) for stage in windows[0].seconds}))
    runs.sort(key=lambda run: run[0])
    seconds, stages = runs[len(runs) // 2]
    entries = _profiled(prepared(), path) if profile else None
    return CaseResult(case, seconds, stages, tuple(each for each, _ in runs), entries)


def measure_memory(config: PipelineConfig, size: tuple[int, int], *, seed: int = 0, repeats: int = 5) -> MemoryResult:
    """Time the work of memory for a window of 21 latents of 48 channels at 16 pixels per cell.

    Parameters
    ----------
    config : PipelineConfig
        Its retrieval settings are used.
    size : (int, int)
        (width, height), pixels; padded to whole cells.
    seed, repeats : int
        As for `measure_case`.
    """
    world = SyntheticWorld(seed)
    camera = CameraIntrinsics.from_fov(*size, fov_x=math.radians(75)).padded(_STRIDE)
    grid = camera.latent_grid(_STRIDE)
    path = world.leave_and_return(camera, _KEYFRAMES)
    rng = np.random.default_rng(seed)
    store = MosaicMemoryStore(config.latent_patch_size, latent_dtype="float16", num_threads=config.num_threads)
    depths = [world.depth(grid, pose) for pose in path]
    latents = rng.standard_normal((grid.height, grid.width, _CHANNELS), dtype=np.float32)
    inserts = []
    for depth, pose in zip(depths, path, strict=True):
        fine = np.repeat(np.repeat(depth, _SUBCELLS, axis=0), _SUBCELLS, axis=1)
        start = time.perf_counter()
        store.insert_keyframe(latents, depth, camera, pose, subcell_depth=fine, copy=False)
        inserts.append(time.perf_counter() - start)
    targets = path[_KEYFRAMES // 2 : _KEYFRAMES // 2 + _LATENTS]
    patches = MemoryRetrieval(**config.patch_options())
    keyframes = KeyframeRetrieval(**config.keyframe_options())
    full = np.repeat(np.repeat(depths[0], _STRIDE, axis=0), _STRIDE, axis=1)
    parts = {
        "depth to the latent grid, one keyframe": _median(
            lambda: depth_to_grid(full, _STRIDE, num_threads=config.num_threads), repeats
        ),
        "insert, one keyframe": float(np.median(inserts)),
        "choose keyframes and compose canvases": _median(lambda: keyframes.retrieve(store, targets, _STRIDE), repeats),
        f"retrieve and land up to {config.top_k} patches per latent": _median(
            lambda: patches.retrieve(store, targets, _STRIDE), repeats
        ),
    }
    return MemoryResult(camera.width, camera.height, _LATENTS, _CHANNELS, _KEYFRAMES, len(store), parts)


def _median(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(max(2, repeats)):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first warms up


def _profiled(pipeline: AutoregressivePipeline, path: CameraTrajectory) -> list[ProfileEntry]:
    """The functions with the largest own time."""
    profiler = cProfile.Profile()
    profiler.runcall(pipeline.generate, path)
    statistics: Any = pstats.Stats(profiler)
    total = float(statistics.total_tt)
    entries = []
    for (file, line, name), (_, calls, own, _, _) in statistics.stats.items():
        where = name if file == "~" else f"{Path(file).parent.name}/{Path(file).name}:{line} {name}"
        entries.append(ProfileEntry(float(own), float(own) / total, int(calls), where))
    return sorted(entries, key=lambda entry: -entry.seconds)[:_FUNCTIONS]
