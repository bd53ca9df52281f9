"""What memory shows to the cameras of a window, as a model takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mosaicmem._arrays import F32, Bool, as_array
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import MemoryContext, TextEncoder
from mosaicmem.memory import KeyframeRetrieval, MemoryRetrieval, Mosaic, MosaicMemoryStore
from mosaicmem.memory.summary import coverage_figures
from mosaicmem.pipeline.config import PipelineConfig


class Conditioner:
    """Retrieves and aligns memory: patches for attention, and a canvas composed from whole keyframes.

    Parameters
    ----------
    config : PipelineConfig
        Its ``use_...`` fields leave parts out, so that their worth can be seen.
    stride, channels : int
        Of the latents.
    text_encoder : TextEncoder
    """

    def __init__(self, config: PipelineConfig, stride: int, channels: int, text_encoder: TextEncoder) -> None:
        self._config, self._stride, self._channels, self._text = config, stride, channels, text_encoder
        self._texts: dict[str, F32] = {}  # by prompt
        self._patches = MemoryRetrieval(**config.patch_options())
        self._keyframes = KeyframeRetrieval(**config.keyframe_options())

    @property
    def has_warned(self) -> bool:
        """Whether retrieval has said already why it finds nothing."""
        return self._patches._has_warned or self._keyframes._has_warned

    def context(self, store: MosaicMemoryStore, cameras: CameraTrajectory, window: int) -> MemoryContext:
        """The context of a window; ``cameras`` are those of its latent frames, of whole latent cells."""
        c = self._config
        empty = self.empty(cameras, window)
        if not (c.use_memory and len(store)):
            return empty
        mosaic: Mosaic | None = None
        if c.memory_gate != 0:
            mosaic = self._patches.retrieve(store, cameras, self._stride)
            mosaic = mosaic if c.use_warped_rope else mosaic.unwarped()
        if not c.use_warped_latent:
            return replace(empty, mosaic=mosaic)
        canvas = self._keyframes.retrieve(store, cameras, self._stride)
        return replace(
            empty,
            mosaic=mosaic,
            canvas=canvas.latents,
            coverage=canvas.coverage,
            depth=canvas.depth,
            observed=canvas.observed,
        )

    def empty(self, cameras: CameraTrajectory, window: int) -> MemoryContext:
        """The context of a window without memory."""
        c = self._config
        grid = cameras.intrinsics.latent_grid(self._stride)
        shape = (len(cameras), grid.height, grid.width)
        prompt = c.prompt_of(window)
        if prompt not in self._texts:
            encoded = self._text.encode(prompt)
            self._texts[prompt] = as_array(
                "text encoder's vectors", encoded, np.float32, ("L", "d"), finite=True, values=True, own=True
            )
        return MemoryContext(
            cameras,
            self._stride,
            None,
            np.zeros((*shape, self._channels), np.float32),
            np.zeros(shape, np.bool_),
            np.zeros(shape, np.float32),
            prompt,
            c.seed,
            window,
            self._texts[prompt],
            c.use_prope,
            c.memory_gate,
            np.zeros(shape, np.bool_),
        )

    def known(self, store: MosaicMemoryStore, intrinsics: CameraIntrinsics, pose: CameraPose) -> tuple[Bool, F32]:
        """The cells of one view that memory shows, (h, w), and their depth, metres, 0 elsewhere."""
        camera = CameraTrajectory([pose], intrinsics)
        if not len(store):
            grid = intrinsics.latent_grid(self._stride)
            return np.zeros((grid.height, grid.width), np.bool_), np.zeros((grid.height, grid.width), np.float32)
        shown = self._keyframes.retrieve(store, camera, self._stride)
        return shown.coverage[0], shown.depth[0]


def coverage_of(context: MemoryContext) -> dict[str, float]:
    """The part of a window's cells that memory reaches, on the canvas or by attention alone; see `coverage_figures`."""
    mosaic, observed = context.mosaic, context.observed
    if context.coverage.any() or mosaic is None:
        return coverage_figures(context.coverage, context.coverage if observed is None else observed)
    return coverage_figures(mosaic.coverage, mosaic.observed)
