"""Inputs of ``mosaicmem generate``: what it remembers, its camera path, and its source of depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicmem.cli._errors import UsageError, blames, check_choice, check_useful
from mosaicmem.cli._frames import own_numbers, parse_range, parse_size, selected
from mosaicmem.cli._scenes import open_scene
from mosaicmem.cli._trajectories import read_trajectory

if TYPE_CHECKING:
    from mosaicmem._arrays import F32
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.geometry import DepthEstimator
    from mosaicmem.pipeline import PipelineConfig


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run remembers, and the path that it generates."""

    sequence: RgbdSequence | None
    remembered: list[int]
    targets: list[int]
    path: CameraTrajectory
    memory: Path | None = None

    def numbers(self, frames: list[int]) -> list[int] | None:
        """The file numbers of some frames of the sequence; None if they equal the positions."""
        return own_numbers(self.sequence, frames)

    def describe(self, image: Path | None = None) -> str:
        """What the run is about to do, in a line or two."""
        known = [str(path) for path in (self.memory, image) if path is not None]
        begins = f"Memory begins with {' and '.join(known)}" if known else "Memory begins empty"
        if self.remembered:
            begins = f"{begins} and" if known else "Memory"
            begins += f" remembers {selected(self.remembered, self.numbers(self.remembered))}"
        elif not known:
            begins += ": the first window is made up, and those after it keep to what it showed"
        goes = (
            selected(self.targets, self.numbers(self.targets)) if self.targets else f"{len(self.path)} frames of a path"
        )
        return f"{begins}.\nGenerating {goes}."

    def truth(self) -> dict[int, F32]:
        """The ground-truth images by frame of the path, where they are known."""
        from mosaicmem._arrays import as_pixels

        if self.sequence is None:
            return {}
        shape = (*self.path.size[::-1], 3)
        return {n: as_pixels("image", self.sequence[i].image, shape) for n, i in enumerate(self.targets)}


def read_inputs(
    scene: Path | None,
    memory: Path | None,
    memory_frames: str | None,
    frames: str | None,
    trajectory: Path | None,
    intrinsics: str | None,
    size: str | None,
    color_focal: str | None,
    time_unit: str | None = None,
) -> Inputs:
    """Read what the options of ``generate`` name; a `UsageError` says which of them are incompatible.

    ``intrinsics`` and ``size`` apply to the scene and to the path.
    """
    if (frames is None) == (trajectory is None):
        raise UsageError("--frames, --trajectory: expected exactly one of the two")
    if scene is None and (frames is not None or memory_frames is not None):
        raise UsageError("--frames, --memory-frames: expected --scene, whose frames they name")
    if scene is None and color_focal is not None:
        raise UsageError("--color-focal: expected --scene, whose colour camera it is")
    sequence = None if scene is None else open_scene(scene, intrinsics, size, color_focal)
    count = 0 if sequence is None else len(sequence)
    number = getattr(sequence, "number", None)
    targets = [] if frames is None else list(parse_range("--frames", frames, count, number))
    if memory_frames is not None:
        remembered = list(parse_range("--memory-frames", memory_frames, count, number))
    else:
        remembered = [] if memory is not None else [i for i in range(count) if i not in set(targets)]
    if trajectory is not None:
        camera = None if sequence is None else sequence.intrinsics
        path = read_trajectory(trajectory, intrinsics, size, time_unit=time_unit, camera=camera)
    else:
        assert sequence is not None
        path = sequence.trajectory(targets)
    if scene is not None and not remembered and memory is None:
        raise UsageError("--frames: expected some frames to be left to remember; or name them with --memory-frames")
    return Inputs(sequence, remembered, targets, path, memory)


@dataclass(frozen=True)
class DepthChoice:
    """The options that say where the depth of generated frames comes from."""

    model: Path | None
    output: str | None
    size: str | None
    files: Path | None

    def paths(self) -> dict[str, Path | None]:
        """What is read, by option."""
        return {"--depth-files": self.files, "--depth-model": self.model}


def check_depth(depth: DepthChoice) -> None:
    """Reject invalid or incompatible depth options."""
    if depth.model is not None and depth.files is not None:
        raise UsageError("--depth-model, --depth-files: expected at most one of the two")
    if depth.model is None:
        idle = {"--depth-output": depth.output, "--depth-size": depth.size}
        check_useful(idle, "expected --depth-model, which they describe")
    if depth.output is not None:
        check_choice("--depth-output", depth.output, ("metric", "depth", "inverse"))
    if depth.size is not None:
        parse_size("--depth-size", depth.size)


def make_depth_estimator(path: CameraTrajectory, settings: PipelineConfig, depth: DepthChoice) -> DepthEstimator | None:
    """The network or the files that provide the depth of generated frames; None for the backend's own depth."""
    from mosaicmem.geometry import DepthFromFiles, OnnxDepthEstimator

    if depth.files is not None:
        try:
            return DepthFromFiles.in_folder(depth.files, [pose.timestamp for pose in path])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--depth-files: {error}") from None
    if depth.model is None:
        return None
    pixels = None if depth.size is None else parse_size("--depth-size", depth.size)[::-1]
    output = depth.output or "inverse"
    with blames({"model": "--depth-model", "output": "--depth-output", "input_size": "--depth-size"}):
        return OnnxDepthEstimator(depth.model, output=output, input_size=pixels, num_threads=settings.num_threads)


@dataclass(frozen=True)
class FirstFrame:
    """The options that say what a run begins with."""

    image: Path | None
    depth_file: Path | None

    def paths(self) -> dict[str, Path | None]:
        """What is read, by option."""
        return {"--image": self.image, "--depth-file": self.depth_file}

    def check(self, trajectory: Path | None) -> None:
        """Reject options that would have no effect."""
        if trajectory is None:
            check_useful({"--image": self.image}, "expected --trajectory, whose first camera sees it")
        if self.image is None:
            check_useful({"--depth-file": self.depth_file}, "expected --image, whose depth it is")

    def read(self, path: CameraTrajectory, estimator: DepthEstimator | None) -> dict[str, Any]:
        """The image and its depth, as arguments of the pipeline; nothing without an image."""
        import numpy as np

        from mosaicmem._images import read_color
        from mosaicmem.geometry import DepthFromFiles

        if self.image is None:
            return {}
        camera = path.cameras[0]
        pixels = read_color(self.image, (camera.width, camera.height))
        if self.depth_file is None:
            if estimator is None:
                raise UsageError("--image: expected its depth too, from --depth-file, --depth-model or --depth-files")
            return {"image": pixels}
        known = DepthFromFiles([self.depth_file], [path[0].timestamp])
        unused = np.zeros(pixels.shape[:2], np.float32)
        return {"image": pixels, "depth": known.estimate(unused, camera, path[0], unused)}
