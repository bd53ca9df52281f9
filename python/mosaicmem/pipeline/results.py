"""Results of a run: finished windows, the whole video, or the window that failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem.diffusion import MemoryContext
from mosaicmem.errors import rebuilt_error


@dataclass(frozen=True)
class WindowStatistics:
    """What happened in one window.

    Attributes
    ----------
    window : int
    first_frame, last_frame : int
        Both inclusive.
    patches, tokens : int
        Retrieved for attention, over all latent frames.
    coverage : float
        Fraction of the window's latent cells that memory covered; the sum of the next two.
    coverage_observed, coverage_generated : float
        Fractions of the cells that showed mostly observed content, and content generated earlier.
    keyframes : int
        Remembered from this window.
    store_patches : int
        In the store afterwards.
    seconds : dict of str to float
        Time of each stage: retrieve, denoise, decode, remember.
    warp_valid_ratio : float
        See `Mosaic.warp_valid_ratio`.
    fused_points, fused_voxels : int
        Points fused into the pipeline's map by this window, and voxels of the map afterwards; 0 without a map.
    """

    window: int
    first_frame: int
    last_frame: int
    patches: int
    tokens: int
    coverage: float
    coverage_observed: float
    coverage_generated: float
    keyframes: int
    store_patches: int
    seconds: dict[str, float]
    warp_valid_ratio: float = 0.0
    fused_points: int = 0
    fused_voxels: int = 0


@dataclass(frozen=True, eq=False)
class Window:
    """A finished window, as `AutoregressivePipeline.stream` and callbacks give it.

    Attributes
    ----------
    frames : range
        Its frames in the trajectory.
    video : (len(frames), H, W, 3) float32 in [0, 1]
        Blended with the previous window. The next window may still be blended into the frames that they share.
    final : range
        The frames that this window made final. Over all windows, these are all frames, once each, in order.
    final_video : (len(final), H, W, 3) float32 in [0, 1]
    context : MemoryContext
        What conditioned it. Its mosaic is None for a window restored from a checkpoint.
    statistics : WindowStatistics
    """

    frames: range
    video: F32
    final: range
    final_video: F32
    context: MemoryContext
    statistics: WindowStatistics


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A generated video.

    Attributes
    ----------
    frames : (T, H, W, 3) float32 in [0, 1]
        One for each pose of the trajectory.
    windows : list of WindowStatistics
    """

    frames: F32
    windows: list[WindowStatistics] = field(default_factory=list)


class WindowError(RuntimeError):
    """A window failed; the results before it are kept.

    Attributes
    ----------
    window : int
    frames : range
        Of the failed window.
    stage : str
        retrieve, denoise, decode, remember, checkpoint or callback.
    completed : GenerationResult
        All windows before it; in stage callback, the window itself too. From a stream, which has already handed out
        the final frames, only the frames that were not final yet.
    """

    def __init__(self, window: int, frames: range, stage: str, completed: GenerationResult, cause: Exception) -> None:
        super().__init__(
            f"window {window} (frames {frames.start}-{frames.stop - 1}) failed in stage {stage!r}: "
            f"{type(cause).__name__}: {cause}"
        )
        self.window = window
        self.frames = frames
        self.stage = stage
        self.completed = completed

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt_error, (type(self), self.args, self.__dict__)


class Progress:
    """Tracks a run: the images still needed, the current stage, and stage times; gives failures their context.

    Parameters
    ----------
    size : (int, int)
        (height, width) of the output; the images of windows may be larger.
    video : (T, height, width, 3) float32, optional
        Filled with frames as they become final. Without it only the last window is kept.
    """

    def __init__(self, size: tuple[int, int], video: F32 | None = None) -> None:
        self.video = video
        self.size = size
        self.frames = range(0)  # of the last window
        self.tail: F32 = np.zeros((0, *size, 3), np.float32)  # its images
        self.latents: Any = None  # and its latents, if the backbone continues from them
        self.final = 0  # frames before this are final
        self.done: list[WindowStatistics] = []
        self.seconds: dict[str, float] = {}
        self._window, self._frames = 0, range(0)

    @property
    def end(self) -> int:
        """Frames before this have been generated."""
        return self.frames.stop

    def begin(self, window: int, frames: range) -> None:
        """Attribute the following stages to this window."""
        self._window, self._frames, self.seconds = window, frames, {}

    def shared(self, frames: range) -> F32:
        """The previous window's images of the frames that it shares with ``frames``."""
        return self.tail[frames.start - self.frames.start :]

    def add(self, frames: range, images: F32, final: int, statistics: WindowStatistics) -> range:
        """Add a finished window; frames before ``final`` are final now. Returns the frames that became final."""
        self.frames, self.tail = frames, images
        finished, self.final = range(self.final, final), final
        self.done.append(statistics)
        if self.video is not None:
            self.video[finished.start : finished.stop] = self.images(finished)
        return finished

    def images(self, frames: range) -> F32:
        """Copies of images of the last window, cropped to the output size."""
        start = self.frames.start
        height, width = self.size
        return np.array(self.tail[frames.start - start : frames.stop - start, :height, :width])

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage; an exception in it becomes a `WindowError`."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            completed = GenerationResult(self._completed(), list(self.done))
            raise WindowError(self._window, self._frames, stage, completed, error) from error
        self.seconds[stage] = time.perf_counter() - start

    def _completed(self) -> F32:
        """All images so far; without ``video``, only those that are not final yet."""
        rest = self.images(range(self.final, self.end))
        return rest if self.video is None else np.concatenate([self.video[: self.final], rest])
