"""Memories without data: what a synthetic world shows along a camera path, remembered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mosaicmem.cli._trajectories import read_trajectory

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.pipeline import PipelineConfig


def synthetic_memory(path: CameraTrajectory, settings: PipelineConfig) -> MosaicMemoryStore:
    """The memory of the synthetic flat of ``settings.seed``, as seen by a path's keyframes.

    Raises
    ------
    ValueError
        No camera of the path sees anything: it stays outside the flat.
    """
    from mosaicmem.pipeline import AutoregressivePipeline
    from mosaicmem.synthetic import SyntheticWorld

    world, pipeline = SyntheticWorld(settings.seed), AutoregressivePipeline(settings)
    frames = path.select_keyframes(settings.keyframe_translation, settings.keyframe_angle, settings.keyframe_interval)
    for i in frames:
        seen = world.render(path.cameras[i], path[i])
        pipeline.observe(seen.image, seen.depth, path.cameras[i], path[i])
    if not len(pipeline.store):
        raise ValueError("trajectory: expected cameras within the synthetic flat, about 8 x 3 x 6 m around the origin")
    return pipeline.store


def open_or_walk(
    place: Path, intrinsics: str | None, size: str | None, settings: PipelineConfig
) -> tuple[MosaicMemoryStore, bool]:
    """A saved store or, for the file of a camera path, the synthetic memory along it; and whether it is the latter."""
    from mosaicmem.memory import MosaicMemoryStore

    if place.is_file():
        return synthetic_memory(read_trajectory(place, intrinsics, size), settings), True
    return MosaicMemoryStore.open(place, num_threads=settings.num_threads), False
