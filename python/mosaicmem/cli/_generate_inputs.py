"""What ``mosaicmem generate`` remembers, where it goes, and what gives its frames a depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mosaicmem.cli._common import parse_range, parse_size
from mosaicmem.cli._trajectories import read_trajectory

if TYPE_CHECKING:
    from mosaicmem._arrays import F32
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.geometry import DepthEstimator
    from mosaicmem.pipeline import PipelineConfig


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run remembers, and where it goes."""

    sequence: RgbdSequence | None
    remembered: list[int]
    targets: list[int]
    path: CameraTrajectory

    def truth(self) -> dict[int, F32]:
        """The true images by frame of the path, where they are known."""
        from mosaicmem._arrays import as_pixels

        if self.sequence is None:
            return {}
        shape = (self.path.intrinsics.height, self.path.intrinsics.width, 3)
        return {n: as_pixels("image", self.sequence[i].image, shape) for n, i in enumerate(self.targets)}


def read_inputs(
    scene: Path | None,
    memory: Path | None,
    memory_frames: str | None,
    frames: str | None,
    trajectory: Path | None,
    intrinsics: str | None,
    size: str | None,
    time_unit: str | None = None,
) -> Inputs:
    """What the options of ``generate`` name, read; a ValueError says which of them do not go together."""
    from mosaicmem.datasets import open_sequence

    if scene is None and memory is None:
        raise ValueError("--scene, --memory: expected one of the two, or both")
    if (frames is None) == (trajectory is None):
        raise ValueError("--frames, --trajectory: expected exactly one of the two")
    if scene is None and (frames is not None or memory_frames is not None):
        raise ValueError("--frames, --memory-frames: expected --scene, whose frames they name")
    sequence = None if scene is None else open_sequence(scene)
    count = 0 if sequence is None else len(sequence)
    targets = [] if frames is None else list(parse_range("--frames", frames, count))
    if memory_frames is not None:
        remembered = list(parse_range("--memory-frames", memory_frames, count))
    else:
        remembered = [] if memory is not None else [i for i in range(count) if i not in set(targets)]
    if trajectory is not None:
        camera = None if sequence is None else sequence.intrinsics
        path = read_trajectory(trajectory, intrinsics, size, time_unit=time_unit, camera=camera)
    else:
        assert sequence is not None
        path = sequence.trajectory(targets)
    return Inputs(sequence, remembered, targets, path)


def make_depth_estimator(
    path: CameraTrajectory,
    settings: PipelineConfig,
    model: Path | None,
    output: str,
    size: str | None,
    files: Path | None,
) -> DepthEstimator | None:
    """The network or the files that generated frames get their depth from; None for the backend's own."""
    from mosaicmem.geometry import DepthFromFiles, OnnxDepthEstimator

    if model is not None and files is not None:
        raise ValueError("--depth-model, --depth-files: expected at most one of the two")
    if files is not None:
        return DepthFromFiles.in_folder(files, [pose.timestamp for pose in path])
    if model is None:
        return None
    pixels = None if size is None else parse_size("--depth-size", size)[::-1]
    return OnnxDepthEstimator(model, output=output, input_size=pixels, num_threads=settings.num_threads)
