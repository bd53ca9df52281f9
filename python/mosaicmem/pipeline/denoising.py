"""From noise to the latents of a window, step by step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from mosaicmem._arrays import F32, as_array
from mosaicmem.diffusion import DiffusionBackbone, MemoryContext, NoiseScheduler
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.noise import window_noise


def denoise(
    backbone: DiffusionBackbone,
    scheduler: NoiseScheduler,
    config: PipelineConfig,
    channels: int,
    context: MemoryContext,
    on_step: Callable[[int, int], None] | None = None,
) -> F32:
    """The clean latents (C, T, h, w) of a window. All noise depends on seed and window alone.

    ``on_step`` is called after each step with how many are done, and how many there are.
    """
    shape = (1, channels, *context.coverage.shape)
    noise = window_noise(config.seed, context.window)
    sample = noise.standard_normal(shape, dtype=np.float32)
    steps = [*np.asarray(scheduler.timesteps(config.num_inference_steps)).tolist(), None]
    unprompted = context.without_prompt()
    scale = np.float32(config.guidance_scale)
    for done, (timestep, previous) in enumerate(pairwise(steps), 1):
        prediction = _predict(backbone, sample, timestep, context)
        if scale != 1:
            prediction = prediction.copy()  # a model may answer in the same array each time
            base = _predict(backbone, sample, timestep, unprompted)
            prediction = base + scale * (prediction - base)
        fresh = noise.standard_normal(shape, dtype=np.float32)
        sample = scheduler.step(prediction, timestep, previous, sample, fresh)
        if on_step is not None:
            on_step(done, len(steps) - 1)
    return np.ascontiguousarray(sample[0])


def _predict(backbone: DiffusionBackbone, sample: F32, timestep: float, context: MemoryContext) -> F32:
    prediction = backbone.predict(sample, timestep, context)
    return as_array("backbone's prediction", prediction, np.float32, sample.shape, finite=True, values=True)
