"""What memory shows to the cameras of a window, as the context of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import F32, Bool, as_array
from mosaicmem._border import to_host
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import VAE, MemoryContext, TextEncoder
from mosaicmem.memory import KeyframeRetrieval, MemoryRetrieval, Mosaic, MosaicMemoryStore
from mosaicmem.memory.summary import coverage_figures
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.frames import enlarged


class Conditioner:
    """Retrieves and aligns memory: patches for attention, and a canvas composed from whole keyframes.

    Parameters
    ----------
    config : PipelineConfig
        Its ``use_...`` fields leave parts out, for ablations.
    vae : VAE
        Encodes canvases of pixels, if the configuration asks for them.
    text_encoder : TextEncoder
    """

    def __init__(self, config: PipelineConfig, vae: VAE, text_encoder: TextEncoder) -> None:
        self._config, self._vae, self._text = config, vae, text_encoder
        self._stride, self._channels = vae.stride, vae.channels
        self._texts: dict[str, F32] = {}  # by prompt
        self._patches = MemoryRetrieval(**config.patch_options())
        self._keyframes = KeyframeRetrieval(**config.keyframe_options())

    @property
    def has_warned(self) -> bool:
        """Whether retrieval has already warned that it finds nothing."""
        return self._patches._has_warned or self._keyframes._has_warned

    def context(self, store: MosaicMemoryStore, cameras: CameraTrajectory, window: int) -> MemoryContext:
        """The context of a window, on the store's device; ``cameras`` are those of its latent frames, padded to whole
        latent cells."""
        c = self._config
        is_asked = c.use_memory and len(store) > 0
        mosaic: Mosaic | None = None
        if is_asked and c.memory_gate != 0:
            mosaic = self._patches.retrieve(store, cameras, self._stride)
            mosaic = mosaic if c.use_warped_rope else mosaic.unwarped()
        if not (is_asked and c.use_warped_latent):
            return self.empty(store, cameras, window, mosaic)
        composed = self._keyframes.retrieve(store, cameras, self._stride)
        canvas = {name: getattr(composed, name) for name in ("coverage", "depth", "observed")}
        canvas["canvas"] = composed.latents
        if c.canvas == "pixels":
            canvas = self._of_pixels(store, cameras, canvas)
        return self._with(cameras, window, mosaic=mosaic, **canvas)

    def _of_pixels(
        self, store: MosaicMemoryStore, cameras: CameraTrajectory, latents: dict[str, Any]
    ) -> dict[str, Any]:
        """Canvases of the images of keyframes, encoded; those of latents where images show nothing."""
        pixel_stride = max(1, self._stride // self._config.image_pixels)
        shown = self._keyframes.retrieve_pixels(store, cameras, self._stride, pixel_stride=pixel_stride)
        cells = shown.pooled(self._stride)
        camera, shape = cameras.cameras[0], (*cells["coverage"].shape[1:], self._channels)
        encoded = []
        for colors in shown.filled():
            of_image = to_host("encoded canvas", self._vae.encode_image(enlarged(colors, camera)))
            encoded.append(as_array("encoded canvas", of_image, np.float32, shape, values=True, own=True))
        by_pixels = cells["coverage"]
        merged = {"canvas": np.where(by_pixels[..., None], np.stack(encoded), to_host("canvas", latents["canvas"]))}
        for name in ("coverage", "depth", "observed"):
            merged[name] = np.where(by_pixels, cells[name], to_host(name, latents[name]))
        return store._there(merged)

    def empty(
        self, store: MosaicMemoryStore, cameras: CameraTrajectory, window: int, mosaic: Mosaic | None = None
    ) -> MemoryContext:
        """The context of a window with an empty canvas."""
        grid = cameras.cameras[0].latent_grid(self._stride)
        shape = (len(cameras), grid.height, grid.width)
        dtypes = {"coverage": np.bool_, "depth": np.float32, "observed": np.bool_}
        nothing: dict[str, Any] = {name: np.zeros(shape, dtype) for name, dtype in dtypes.items()}
        nothing["canvas"] = np.zeros((*shape, self._channels), np.float32)
        return self._with(cameras, window, mosaic=mosaic, **store._there(nothing))

    def _with(self, cameras: CameraTrajectory, window: int, **of_memory: Any) -> MemoryContext:
        """A context whose other fields follow from cameras and configuration."""
        c = self._config
        prompt = c.prompt_of(window)
        if prompt not in self._texts:
            encoded = self._text.encode(prompt)
            self._texts[prompt] = as_array(
                "text encoder's vectors", encoded, np.float32, ("L", "d"), finite=True, values=True, own=True
            )
        return MemoryContext(
            cameras,
            self._stride,
            prompt=prompt,
            seed=c.seed,
            window=window,
            text=self._texts[prompt],
            use_prope=c.use_prope,
            gate=c.memory_gate,
            **of_memory,
        )

    def known(self, store: MosaicMemoryStore, intrinsics: CameraIntrinsics, pose: CameraPose) -> tuple[Bool, F32]:
        """The cells of one view that memory shows, (h, w), and their depth, metres, 0 elsewhere; on the host."""
        camera = CameraTrajectory([pose], intrinsics)
        if not len(store):
            grid = intrinsics.latent_grid(self._stride)
            return np.zeros((grid.height, grid.width), np.bool_), np.zeros((grid.height, grid.width), np.float32)
        shown = self._keyframes.retrieve(store, camera, self._stride)
        return to_host("coverage", shown.coverage)[0], to_host("depth", shown.depth)[0]


def coverage_of(context: MemoryContext) -> dict[str, float]:
    """`coverage_figures` of a window's cells: of the canvas, or of attention alone if the canvas is empty."""
    coverage, observed, mosaic = to_host("coverage", context.coverage), context.observed, context.mosaic
    if not coverage.any() and mosaic is not None:
        coverage, observed = to_host("coverage", mosaic.coverage), mosaic.observed
    return coverage_figures(coverage, coverage if observed is None else to_host("observed", observed))
