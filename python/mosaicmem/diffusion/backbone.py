"""A denoiser without weights: the exact posterior mean of a Gaussian world whose mean is memory, or a prior."""

from __future__ import annotations

import hashlib

import numpy as np

from mosaicmem._arrays import F32, F64, check_number
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion.protocols import MemoryContext, NoiseScheduler

_PRIOR_WAVES = 12


class SyntheticBackbone:
    """Denoises towards memory where the mosaic covers a cell, and towards a prior where it does not.

    It holds that x_0 ~ N(mean, deviation^2) in each cell, with mean = the warped latent where covered and otherwise a
    smooth field over viewing directions drawn from prompt and seed. Given x_t = a x_0 + s noise, the best estimate is

        E[x_0 | x_t] = mean + deviation^2 a / (a^2 deviation^2 + s^2) * (x_t - a mean),

    which is what it predicts. It knows memory, cameras, prompt and seed, and nothing of the scene.

    Parameters
    ----------
    scheduler : NoiseScheduler
        Tells signal and noise level at a timestep, as training would have.
    memory_deviation, prior_deviation : float
        How far samples stray from memory, and from the prior.
    """

    prediction_type = "sample"

    def __init__(
        self,
        scheduler: NoiseScheduler,
        *,
        memory_deviation: float = 0.02,
        prior_deviation: float = 0.1,
    ) -> None:
        self._scheduler = scheduler
        self._memory_variance = check_number("memory_deviation", memory_deviation, minimum=0.0) ** 2
        self._prior_variance = check_number("prior_deviation", prior_deviation, minimum=0.0) ** 2

    def predict(self, sample: F32, timestep: int, context: MemoryContext) -> F32:
        """The posterior mean of x_0 given x_t, of the shape of ``sample``: (B, C, T, h, w)."""
        signal, noise = self._scheduler.levels(timestep)
        covered = context.coverage[..., None]
        prior = prior_latents(context, sample.shape[1])
        mean = np.where(covered, context.canvas, prior).transpose(3, 0, 1, 2)[None]
        variance = np.where(covered, self._memory_variance, self._prior_variance).transpose(3, 0, 1, 2)[None]
        spread = signal**2 * variance + noise**2
        gain = np.divide(signal * variance, spread, out=np.zeros_like(spread), where=spread > 0)
        return np.asarray(mean + gain * (sample - signal * mean), dtype=np.float32)


def prior_latents(context: MemoryContext, channels: int) -> F32:
    """A latent for each cell of each frame, (T, h, w, C), from prompt, seed and viewing direction alone.

    A sum of random plane waves over the unit sphere: smooth, the same for the same direction. Like a blurred picture,
    it lives in the first channels, which carry the mean of a cell.
    """
    digest = hashlib.sha256(f"{context.seed}\0{context.prompt}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
    waves = rng.normal(scale=3.0, size=(_PRIOR_WAVES, 3))
    phases = rng.uniform(0, 2 * np.pi, size=(_PRIOR_WAVES, channels))
    amplitudes = 0.8 * np.exp2(-2.0 * np.maximum(0, np.arange(channels) - 2)) / np.sqrt(_PRIOR_WAVES / 2)
    angles = _directions(context.cameras, context.stride) @ waves.T
    # cos(angle + phase) summed over waves, as two products instead of a (cells, waves, channels) array.
    field = np.cos(angles) @ np.cos(phases) - np.sin(angles) @ np.sin(phases)
    return np.asarray(field * amplitudes, dtype=np.float32)


def _directions(cameras: CameraTrajectory, stride: int) -> F64:
    """Unit viewing direction in the world of each cell of each camera, (T, h, w, 3)."""
    grid = cameras.intrinsics.latent_grid(stride)
    y, x = np.meshgrid(np.arange(grid.height) + 0.5, np.arange(grid.width) + 0.5, indexing="ij")
    rays = grid.unproject(np.stack([x.ravel(), y.ravel()], axis=1), np.ones(x.size))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    world = np.einsum("tij,nj->tni", cameras.world_from_camera[:, :3, :3], rays)
    return np.asarray(world.reshape(len(cameras), grid.height, grid.width, 3))
