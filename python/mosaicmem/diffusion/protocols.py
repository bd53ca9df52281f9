"""The protocols of a model that the pipeline can drive, the same for synthetic and real models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F32
from mosaicmem._border import on_host
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion.temporal import TemporalLayout
from mosaicmem.memory import Mosaic

_T = TypeVar("_T")

Array: TypeAlias = Any
"""A float32 array: NumPy's or, if the store is on a GPU, its framework's."""


@dataclass(frozen=True, eq=False)
class MemoryContext:
    """What conditions the denoising of one window. Arrays are on the store's device, except the text.

    Attributes
    ----------
    cameras : CameraTrajectory
        The camera of each of the T latent frames; intrinsics in pixels.
    stride : int
        Pixels per cell of the latent grid.
    mosaic : Mosaic or None
        Retrieved tokens with their warped positions; None without memory.
    canvas : (T, h, w, C) float32
        Warped latents, zero where uncovered.
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
        Of the canvas, metres, 0 where uncovered.
    prompt : str
    seed : int
    window : int
        Index of the window in the run.
    text : (L, d) float32
        The prompt, encoded by the text encoder; L is 0 without a prompt.
    use_prope : bool
        Whether attention to memory encodes cameras; False for ablations.
    gate : float or None
        Overrides the gates of attention to memory, if not None: 0 shuts them, 1 opens them fully.
    observed : (T, h, w) bool or None
        The covered cells of the canvas that show observed content; the other covered cells show content generated
        earlier. None if unknown.
    frames : CameraTrajectory or None
        The camera of each frame of the window: the sub-frames of its latent frames, which ``temporal`` assigns.
    temporal : TemporalLayout or None
    anchor : (C, 1, h, w) float32 or None
        The latents of the image that the window begins with, for backbones with ``uses_anchor``: the first image of
        the run, or the first frame that the window shares with the one before. The result keeps them.
    previous : (C, T, h, w) float32 or None
        The latents of the window before, for backbones with ``uses_previous``. The windows share ``shared`` frames.
    shared : int
        How many frames at its beginning the window shares with the one before.
    """

    cameras: CameraTrajectory
    stride: int
    mosaic: Mosaic | None
    canvas: Array
    coverage: Any
    depth: Array
    prompt: str
    seed: int
    window: int
    text: F32 = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    use_prope: bool = True
    gate: float | None = None
    observed: Any = None
    frames: CameraTrajectory | None = None
    temporal: TemporalLayout | None = None
    anchor: Array | None = None
    previous: Array | None = None
    shared: int = 0
    _made: dict[str, Any] = field(default_factory=dict, repr=False, init=False)

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` returns, called once per window: for what a backbone computes from memory alone.

        All steps and both guidance branches share it, since they see the same memory. A context that ``replace`` makes
        of this one does not.
        """
        if name not in self._made:
            self._made[name] = make()
        return cast(_T, self._made[name])

    def on_host(self) -> MemoryContext:
        """The same with arrays on the host; itself if they are there. On a GPU this synchronizes."""
        names = ("canvas", "coverage", "depth", "observed", "anchor", "previous")
        here = on_host({name: getattr(self, name) for name in names if getattr(self, name) is not None})
        if here["canvas"] is self.canvas:
            return self
        return replace(self, **here, mosaic=None if self.mosaic is None else self.mosaic.on_host())

    def without_prompt(self) -> MemoryContext:
        """The same memory without text: the context that classifier-free guidance steers away from."""
        other = replace(self, prompt="", text=self.text[:0])
        object.__setattr__(other, "_made", self._made)
        return other


@runtime_checkable
class VAE(Protocol):
    """Converts between video and latents. On a GPU, it takes and returns latents there, but video on the host.

    Runs in chunks need one more method, unless latent frames are frames: ``decode_chunk(latents, num_frames, *,
    first)``, which decodes latents as those that follow the chunk that it decoded before, or with ``first`` as the
    beginning of a video. It continues one video at a time, so such runs must not be interleaved.
    """

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along both axes."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def temporal(self) -> TemporalLayout:
        """Frames per latent frame."""
        ...

    def encode(self, video: Array) -> Array:
        """Video (F, H, W, 3) in [0, 1] to latents (C, T, h, w), T = temporal.num_latents(F)."""
        ...

    def decode(self, latents: Array, num_frames: int) -> Array:
        """Latents (C, T, h, w) to the first ``num_frames`` frames of video (F, H, W, 3) in [0, 1]."""
        ...

    def encode_image(self, image: Array) -> Array:
        """One image (H, W, 3) to the latents of a keyframe, (h, w, C)."""
        ...


@runtime_checkable
class NoiseScheduler(Protocol):
    """The noise process: x_t = signal * x_0 + noise_level * noise.

    A timestep is the number that the backbone was conditioned on in training: an index for DDPM, 1000 sigma for flow
    matching, not rounded. None stands for the clean sample, x_0.
    """

    def inference_timesteps(self, num_steps: int) -> NDArray[Any]:
        """The timesteps that inference visits, descending, (num_steps,)."""
        ...

    def levels(self, timestep: float | None) -> tuple[float, float]:
        """(signal, noise level) at a timestep."""
        ...

    def add_noise(self, sample: Array, noise: Array, timestep: float | None) -> Array:
        """x_t of a clean sample."""
        ...

    def previous_sample(
        self, prediction: Array, timestep: float, previous_timestep: float | None, sample: Array, noise: Array
    ) -> Array:
        """x at ``previous_timestep`` from x at ``timestep`` and what the backbone predicts."""
        ...


@runtime_checkable
class DiffusionBackbone(Protocol):
    """The denoiser.

    Images are padded to whole latent cells, or with an attribute ``patch`` to multiples of as many.

    It may have two more attributes, False if they are missing: ``uses_anchor``, whether windows begin with the latents
    of an image, as in image-to-video models; and ``uses_previous``, whether it continues from the latents of the window
    before. A method ``finish_window(latents, context)`` is called with the clean latents of each window, (C, T, h, w),
    before its frames are remembered: a causal model adds them to its cache of keys and values. For windows restored
    from a checkpoint it is called too, with a context without mosaic. ``context.window`` 0 begins a run.
    """

    @property
    def prediction_type(self) -> str:
        """What it predicts: "epsilon", "sample", "v_prediction" or "velocity"; must match the scheduler."""
        ...

    def predict(self, sample: Array, timestep: float, context: MemoryContext) -> Array:
        """Prediction, of the shape of ``sample``: (B, C, T, h, w); ``timestep`` is one of the scheduler's."""
        ...
