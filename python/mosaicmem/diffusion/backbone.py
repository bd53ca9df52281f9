"""A denoiser without weights: the exact posterior mean under a Gaussian whose mean is memory, or a prior."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, check_number
from mosaicmem._border import Call, to_host
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion.memory_attention import PlaceAttention
from mosaicmem.diffusion.protocols import Array, MemoryContext, NoiseScheduler

_PRIOR_WAVES = 12
_LEAST_MASS = 0.2  # least attention mass with which a cell counts as memory


class SyntheticBackbone:
    """Denoises towards memory in cells that memory knows, and towards a prior elsewhere.

    It assumes x_0 ~ N(mean, deviation^2) in each cell. The mean is

    - where the canvas covers the cell: the warped latent, blended with what attention (Warped RoPE, PRoPE) reads there
      by the weight ``gate``;
    - where the canvas is uncovered and tokens land near: what attention reads;
    - elsewhere: a smooth field over viewing directions, drawn from prompt and seed.

    Given x_t = a x_0 + s noise, the best estimate is

        E[x_0 | x_t] = mean + deviation^2 a / (a^2 deviation^2 + s^2) * (x_t - a mean),

    from which its prediction follows. It knows memory, cameras, prompt and seed, and nothing else of the scene.

    Parameters
    ----------
    scheduler : NoiseScheduler
        Gives signal and noise level at a timestep, which a trained model would have learned.
    prediction_type : {"sample", "epsilon", "v_prediction", "velocity"}
        What it predicts; the scheduler's type if not given.
    memory_deviation, prior_deviation : float
        Standard deviation of samples around memory, and around the prior.
    gate : float
        Gate of attention to memory, in [0, 1]; a context may override it.
    attention : PlaceAttention, optional
    num_threads : int
        For the attention that is created if none is given.
    """

    def __init__(
        self,
        scheduler: NoiseScheduler,
        *,
        prediction_type: str | None = None,
        memory_deviation: float = 0.02,
        prior_deviation: float = 0.1,
        gate: float = 0.5,
        attention: PlaceAttention | None = None,
        num_threads: int = 0,
    ) -> None:
        self._scheduler = scheduler
        self._prediction_type = str(prediction_type or getattr(scheduler, "prediction_type", "sample"))
        self._memory_variance = check_number("memory_deviation", memory_deviation, minimum=0.0) ** 2
        self._prior_variance = check_number("prior_deviation", prior_deviation, minimum=0.0) ** 2
        self._gate = check_number("gate", gate, minimum=0.0, maximum=1.0)
        self._attention = attention or PlaceAttention(num_threads=num_threads)
        # Mean and variance are the same at all steps of a window.
        self._known: weakref.WeakKeyDictionary[MemoryContext, tuple[F32, F32]] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._known = weakref.WeakKeyDictionary()  # a copy starts with an empty cache

    @property
    def prediction_type(self) -> str:
        """What it predicts."""
        return self._prediction_type

    def predict(self, sample: Array, timestep: float, context: MemoryContext) -> Array:
        """Predict from the posterior mean of x_0 given x_t, in the shape of ``sample``: (B, C, T, h, w).

        Computed on the host: a sample on a GPU is copied there and back, which synchronizes.
        """
        here = to_host("sample", sample)
        predicted = self._predict(here, timestep, context)
        return predicted if here is sample else Call("sample", sample).there(predicted)

    def _predict(self, sample: F32, timestep: float, context: MemoryContext) -> F32:
        if context not in self._known:
            self._known[context] = self._believe(context.on_host(), sample.shape[1])
        mean, variance = self._known[context]
        signal, noise = self._scheduler.levels(timestep)
        spread = signal**2 * variance + noise**2
        gain = np.divide(signal * variance, spread, out=np.zeros_like(spread), where=spread > 0)
        clean = gain * (sample - np.float32(signal) * mean)
        clean += mean
        if self._prediction_type == "sample":
            return np.asarray(clean, dtype=np.float32)
        epsilon = (sample - signal * clean) / max(noise, 1e-12)
        if self._prediction_type == "v_prediction":
            epsilon = signal * epsilon - noise * clean
        elif self._prediction_type == "velocity":
            epsilon = epsilon - clean
        return np.asarray(epsilon, dtype=np.float32)

    def _believe(self, context: MemoryContext, channels: int) -> tuple[F32, F32]:
        """Mean (1, C, T, h, w) and variance (1, 1, T, h, w) of x_0."""
        gate = self._gate if context.gate is None else context.gate
        covered = context.coverage[..., None]
        mean, known = context.canvas, covered
        if gate > 0 and context.mosaic is not None:
            read, mass = self._attention.read(context)
            near = mass[..., None] >= _LEAST_MASS
            part = np.where(covered, np.float32(gate), 1) * near
            mean, known = mean + part * (read - mean), covered | near
        if not known.all():
            mean = np.where(known, mean, prior_latents(context, channels))
        variance = np.where(known, self._memory_variance, self._prior_variance)
        return (
            np.ascontiguousarray(mean.transpose(3, 0, 1, 2)[None], dtype=np.float32),
            np.ascontiguousarray(variance.transpose(3, 0, 1, 2)[None], dtype=np.float32),
        )


def prior_latents(context: MemoryContext, channels: int) -> F32:
    """A latent for each cell of each frame, (T, h, w, C), from prompt, seed and viewing direction alone.

    A sum of random plane waves over the unit sphere: smooth, the same for the same direction. As in a blurred image,
    its energy is in the first channels, which carry the mean of a cell. Each word of the prompt shifts the phases and
    the mean colour along its own direction, so prompts that share words look alike.
    """
    rng = np.random.default_rng(context.seed)
    waves = rng.normal(scale=3.0, size=(_PRIOR_WAVES, 3))
    phases = rng.uniform(0, 2 * np.pi, size=(_PRIOR_WAVES, channels))
    tint = np.zeros(channels)
    if len(context.text):
        # The sum is a bag of words; a fixed random map turns it into the look of the prior.
        meaning = context.text.sum(axis=0, dtype=np.float64)
        draw = np.random.default_rng(0).standard_normal
        phases += np.tensordot(meaning, draw((len(meaning), *phases.shape)), 1)
        tint = 0.35 * np.tanh(meaning @ draw((len(meaning), channels)))
    amplitudes = 0.8 * np.exp2(-2.0 * np.maximum(0, np.arange(channels) - 2)) / np.sqrt(_PRIOR_WAVES / 2)
    angles = _directions(context.cameras, context.stride) @ waves.T
    # cos(angle + phase) summed over waves, as two products instead of a (cells, waves, channels) array.
    field = np.cos(angles) @ np.cos(phases) - np.sin(angles) @ np.sin(phases)
    return np.asarray(field * amplitudes + tint * (np.arange(channels) < 3), dtype=np.float32)


def _directions(cameras: CameraTrajectory, stride: int) -> F64:
    """Unit viewing direction in the world of each cell of each camera, (T, h, w, 3)."""
    grids = [camera.latent_grid(stride) for camera in (cameras.cameras if cameras.zooms else cameras.cameras[:1])]
    grid = grids[0]
    y, x = np.meshgrid(np.arange(grid.height) + 0.5, np.arange(grid.width) + 0.5, indexing="ij")
    cells = np.stack([x.ravel(), y.ravel()], axis=1)
    rays = np.stack([each.unproject(cells, np.ones(x.size)) for each in grids])
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    rays = np.broadcast_to(rays, (len(cameras), *rays.shape[1:]))
    world = np.einsum("tij,tnj->tni", cameras.world_from_camera[:, :3, :3], rays)
    return np.asarray(world.reshape(len(cameras), grid.height, grid.width, 3))
