"""Schedulers of diffusers behind the library's `NoiseScheduler` protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._arrays import F64, check_integer
from mosaicmem.diffusion.protocols import Array
from mosaicmem.diffusion.scheduler import NoiseProcess


class DiffusersScheduler(NoiseProcess):
    """A flow-matching scheduler of diffusers: ``FlowMatchEulerDiscreteScheduler``, ``UniPCMultistepScheduler``, ...

    Timesteps are the scheduler's own, with their fractions. A scheduler remembers the steps of a sample, so it
    denoises one window at a time: `inference_timesteps` begins anew.

    Parameters
    ----------
    scheduler
        Its configuration stays as it is; its state is used up.
    """

    prediction_type = "velocity"

    def __init__(self, scheduler: Any) -> None:
        config: Any = getattr(scheduler, "config", None)
        is_flow = config is not None and (
            config.get("prediction_type") == "flow_prediction" or type(scheduler).__name__.startswith("FlowMatch")
        )
        if not is_flow:
            predicts = "no configuration" if config is None else f"prediction_type {config.get('prediction_type')!r}"
            raise ValueError(
                f"scheduler: expected a flow-matching one of diffusers, got {type(scheduler).__name__} with {predicts}"
            )
        self.scheduler = scheduler
        self.num_train_timesteps = int(config.num_train_timesteps)
        self._steps: list[float] = []
        self._next = 0

    def inference_timesteps(self, num_steps: int) -> F64:
        """The timesteps that inference visits, descending, as the scheduler spaces them."""
        self.scheduler.set_timesteps(check_integer("num_steps", num_steps, minimum=1))
        self.scheduler.set_begin_index(0)
        self._steps, self._next = self.scheduler.timesteps.double().tolist(), 0
        return np.array(self._steps)

    def levels(self, timestep: float | None) -> tuple[float, float]:
        """(1 - sigma, sigma) at a timestep; (1, 0) for None, the clean sample."""
        if timestep is None:
            return 1.0, 0.0
        if timestep in self._steps:
            sigma = float(self.scheduler.sigmas[self._steps.index(timestep)])
        else:
            sigma = timestep / self.num_train_timesteps
        return 1 - sigma, sigma

    def previous_sample(
        self, prediction: Array, timestep: float, previous_timestep: float | None, sample: Array, noise: Array
    ) -> Array:
        """The scheduler's own step. Steps come in the order of `inference_timesteps`; ``noise`` is not used."""
        if self._next >= len(self._steps) or self._steps[self._next] != timestep:
            due = "no more" if self._next >= len(self._steps) else f"{self._steps[self._next]}"
            raise ValueError(f"timestep: expected {due}, the scheduler's next, got {timestep}")
        velocity, x = (_tensor(array) for array in (prediction, sample))
        at = self.scheduler.timesteps[self._next]
        after: Any = self.scheduler.step(velocity, at, x, return_dict=False)[0].float()
        self._next += 1
        return after if isinstance(sample, torch.Tensor) else _numpy(after)


def _tensor(array: Array) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))


def _numpy(x: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(x.cpu().numpy(), np.float32)
