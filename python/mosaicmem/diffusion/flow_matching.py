"""Flow matching: straight lines from noise to data, followed by Euler steps."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F32, I64, check_choice, check_integer, check_number
from mosaicmem.diffusion.scheduler import spaced_timesteps


class FlowMatchingScheduler:
    """x_t = (1 - sigma_t) x_0 + sigma_t noise, sampled by the ODE dx / dsigma = noise - x_0.

    Nothing is random after the first noise.

    Parameters
    ----------
    num_train_timesteps : int
        T. Timestep t stands for s = (t + 1) / T.
    shift : float
        sigma = shift * s / (1 + (shift - 1) * s): above 1, more steps are spent where noise is high, as large images
        and long videos want it. 1 is none.
    prediction_type : {"velocity", "sample"}
        What the backbone predicts: noise - x_0, or x_0.

    References
    ----------
    Flow Matching for Generative Modeling, arXiv 2210.02747; the shift is that of arXiv 2403.03206.
    """

    def __init__(
        self, num_train_timesteps: int = 1000, *, shift: float = 1.0, prediction_type: str = "velocity"
    ) -> None:
        self.num_train_timesteps = check_integer("num_train_timesteps", num_train_timesteps, minimum=1)
        self.shift = check_number("shift", shift, above=0.0)
        self.prediction_type = check_choice("prediction_type", prediction_type, ("velocity", "sample"))

    def timesteps(self, num_steps: int) -> I64:
        """``num_steps`` timesteps from the noisiest, T - 1, evenly down, (num_steps,) int64."""
        return spaced_timesteps(self.num_train_timesteps, num_steps)

    def levels(self, timestep: int) -> tuple[float, float]:
        """(1 - sigma, sigma); (1, 0) at timestep -1, the clean sample."""
        sigma = self._sigma(timestep)
        return 1 - sigma, sigma

    def add_noise(self, sample: F32, noise: F32, timestep: int) -> F32:
        """x_t of a clean sample and standard normal noise of its shape."""
        signal, sigma = self.levels(timestep)
        return np.asarray(signal * sample + sigma * noise, dtype=np.float32)

    def step(self, prediction: F32, timestep: int, previous_timestep: int, sample: F32, noise: F32) -> F32:
        """One Euler step along the velocity; ``noise`` is not used.

        Parameters
        ----------
        prediction : array
            What the backbone predicts at ``timestep``.
        timestep, previous_timestep : int
            Descending; ``previous_timestep`` -1 is the clean sample.
        sample : array
            x_t.
        noise : array
        """
        if not previous_timestep < timestep:
            raise ValueError(f"previous_timestep: expected less than timestep = {timestep}, got {previous_timestep}")
        sigma, next_sigma = self._sigma(timestep), self._sigma(previous_timestep)
        if self.prediction_type == "sample":  # the point that divides the way from x_t to x_0
            part = next_sigma / sigma
            return np.asarray(part * sample + (1 - part) * prediction, dtype=np.float32)
        return np.asarray(sample + (next_sigma - sigma) * prediction, dtype=np.float32)

    def _sigma(self, timestep: int) -> float:
        check_integer("timestep", timestep, minimum=-1, maximum=self.num_train_timesteps - 1)
        s = (timestep + 1) / self.num_train_timesteps
        return self.shift * s / (1 + (self.shift - 1) * s)
