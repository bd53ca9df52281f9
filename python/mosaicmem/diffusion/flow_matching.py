"""Flow matching: straight paths from noise to data, integrated by Euler steps."""

from __future__ import annotations

from mosaicmem._arrays import F64, check_choice, check_integer, check_number
from mosaicmem._border import as_float32
from mosaicmem.diffusion.protocols import Array
from mosaicmem.diffusion.scheduler import NoiseProcess, check_order, spaced_timesteps


class FlowMatchingScheduler(NoiseProcess):
    """x_t = (1 - sigma_t) x_0 + sigma_t noise, sampled by the ODE dx / dsigma = noise - x_0.

    Works on NumPy arrays and torch tensors alike. Deterministic after the initial noise.

    Parameters
    ----------
    num_train_timesteps : int
        T. Timestep t stands for sigma = t / T, as flow-matching models are conditioned; it is not rounded.
    shift : float
        Steps are spaced evenly in s, and sigma = shift * s / (1 + (shift - 1) * s): above 1, more steps are spent at
        high noise, as large images and long videos need. 1 is no shift.
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

    def inference_timesteps(self, num_steps: int) -> F64:
        """T sigma for ``num_steps`` steps, descending from pure noise, T, to one step before x_0, (num_steps,)."""
        steps = spaced_timesteps(self.num_train_timesteps, num_steps) + 1
        return self.num_train_timesteps * self._shifted(steps / self.num_train_timesteps)

    def levels(self, timestep: float | None) -> tuple[float, float]:
        """(1 - sigma, sigma); (1, 0) for None, the clean sample."""
        sigma = self._sigma(timestep)
        return 1 - sigma, sigma

    def previous_sample(
        self, prediction: Array, timestep: float, previous_timestep: float | None, sample: Array, noise: Array
    ) -> Array:
        """One Euler step along the velocity; ``noise`` is not used.

        Parameters
        ----------
        prediction : array
            What the backbone predicts at ``timestep``.
        timestep : float
            T sigma.
        previous_timestep : float or None
            Less than ``timestep``; None is the clean sample.
        sample : array
            x_t.
        noise : array
        """
        check_order(timestep, previous_timestep)
        sigma, next_sigma = self._sigma(timestep), self._sigma(previous_timestep)
        if self.prediction_type == "sample":  # interpolate between x_t and x_0
            part = next_sigma / sigma
            return as_float32(part * sample + (1 - part) * prediction)
        return as_float32(sample + (next_sigma - sigma) * prediction)

    def _sigma(self, timestep: float | None) -> float:
        if timestep is None:
            return 0.0
        return (
            check_number("timestep", timestep, minimum=0, maximum=self.num_train_timesteps) / self.num_train_timesteps
        )

    def _shifted(self, s: F64) -> F64:
        return self.shift * s / (1 + (self.shift - 1) * s)
