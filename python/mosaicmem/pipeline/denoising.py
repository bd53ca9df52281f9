"""From noise to the latents of a window, step by step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from mosaicmem._border import Call
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
) -> Any:
    """The clean latents (C, T, h, w) of a window, on the device of its canvas. Noise depends only on seed and window.

    If the context has an anchor, the first latent frame is that one.

    Noise is drawn on the host; nothing else passes through it during a step. ``on_step`` is called after each step with
    the number of finished steps and their total number.
    """
    shape = (1, channels, *context.coverage.shape)
    here = Call("canvas", context.canvas, config.num_threads)
    noise = window_noise(config.seed, context.window)

    def fresh() -> Any:
        # In a separate call, since a call keeps the arrays that it made.
        drawn = noise.standard_normal(shape, dtype=np.float32)
        return Call("canvas", context.canvas, config.num_threads).there(drawn)

    def predict(sample: Any, timestep: float, given: MemoryContext) -> Any:
        prediction = backbone.predict(sample, timestep, given)
        return here.result(here.checked("backbone's prediction", prediction, shape, finite=True, wide=True))

    sample = fresh()
    steps = [*np.asarray(scheduler.inference_timesteps(config.num_inference_steps)).tolist(), None]
    unprompted = context.without_prompt()
    scale = float(config.guidance_scale)
    for done, (timestep, previous) in enumerate(pairwise(steps), 1):
        prediction = predict(sample, timestep, context)
        if scale != 1:
            prediction = here.owned(prediction)  # a model may reuse its output array
            base = predict(sample, timestep, unprompted)
            prediction = base + scale * (prediction - base)
        sample = scheduler.previous_sample(prediction, timestep, previous, sample, fresh())
        if on_step is not None:
            on_step(done, len(steps) - 1)
    if context.anchor is None:
        return sample[0]
    latents = here.owned(sample)[0]  # the last step may have returned an array of the backbone
    latents[:, :1] = context.anchor
    return latents
