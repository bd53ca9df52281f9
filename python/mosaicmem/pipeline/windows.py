"""How the frames of a run are divided: overlapping windows, or the chunks of a causal model."""

from __future__ import annotations

from dataclasses import dataclass

from mosaicmem._arrays import F32
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.diffusion import TemporalLayout
from mosaicmem.pipeline.config import PipelineConfig


class WindowPlan:
    """The windows of a run.

    Overlapping windows are encoded each by itself. Chunks continue each other without overlap: each has as many latent
    frames as ``window_size`` frames have, so with a causal VAE the first covers fewer frames than the others.

    Parameters
    ----------
    config : PipelineConfig
    temporal : TemporalLayout
        Of the VAE.
    path : CameraTrajectory

    Attributes
    ----------
    ranges : list of range
        The frames of each window.
    """

    def __init__(self, config: PipelineConfig, temporal: TemporalLayout, path: CameraTrajectory) -> None:
        self._layout, self._has_chunks, count = temporal, config.chunks, len(path)
        if not config.chunks:
            self.ranges = path.windows(config.window_size, config.window_overlap)
            return
        size, total = temporal.num_latents(config.window_size), temporal.num_latents(count)
        lasts = [min(end, total) - 1 for end in range(size, total + size, size)]  # latent frame of each chunk
        ends = [temporal.frames_of(last, count).stop for last in lasts]
        self.ranges = [range(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return len(self.ranges)

    def layout(self, index: int) -> TemporalLayout:
        """Which frames of a window its latent frames cover, counted from its first ones."""
        if self._has_chunks and index:
            return TemporalLayout("uniform", self._layout.factor)
        return self._layout

    def cameras(self, path: CameraTrajectory, index: int) -> CameraTrajectory:
        """The camera that stands for each latent frame of a window."""
        frames = self.ranges[index]
        references = self.layout(index).reference_frames(len(frames))
        return path.taken([frames[i] for i in references])


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What all windows of a run share.

    Attributes
    ----------
    path : CameraTrajectory
        With images padded to whole latent cells.
    cameras : tuple of CameraIntrinsics
        Of each frame's image without padding.
    windows : WindowPlan
    keyframes : list of int
        The frames that are remembered.
    image : (H, W, 3) float32 or None
        What the run begins with.
    """

    path: CameraTrajectory
    cameras: tuple[CameraIntrinsics, ...]
    windows: WindowPlan
    keyframes: list[int]
    image: F32 | None
