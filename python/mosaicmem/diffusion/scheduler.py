"""What schedulers share, and DDPM: the variance-preserving noise process and its ancestral sampler."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from mosaicmem._arrays import F64, I64, check_choice, check_integer, check_number
from mosaicmem._border import as_float32
from mosaicmem.diffusion.protocols import Array


def spaced_timesteps(num_train_timesteps: int, num_steps: int) -> I64:
    """``num_steps`` evenly spaced timesteps, descending from the last one, (num_steps,) int64."""
    num_steps = check_integer("num_steps", num_steps, minimum=1, maximum=num_train_timesteps)
    spacing = num_train_timesteps / num_steps
    return np.asarray(np.rint(num_train_timesteps - spacing * np.arange(num_steps)) - 1, dtype=np.int64)


def check_order(timestep: float, previous_timestep: float | None) -> None:
    """Check that ``previous_timestep`` has less noise than ``timestep``."""
    if previous_timestep is not None and not previous_timestep < timestep:
        raise ValueError(f"previous_timestep: expected less than timestep = {timestep}, got {previous_timestep}")


class NoiseProcess(ABC):
    """x_t = signal * x_0 + noise_level * noise, of a scheduler with ``levels``."""

    @abstractmethod
    def levels(self, timestep: float | None) -> tuple[float, float]:
        """(signal, noise level) at a timestep; (1, 0) for None, the clean sample."""

    def add_noise(self, sample: Array, noise: Array, timestep: float | None) -> Array:
        """x_t of a clean sample and standard normal noise of its shape."""
        signal, level = self.levels(timestep)
        return as_float32(signal * sample + level * noise)


class DDPMScheduler(NoiseProcess):
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, on NumPy arrays and torch tensors alike.

    Parameters
    ----------
    num_train_timesteps : int
    schedule : {"linear", "cosine"}
        ``linear``: beta from ``beta_start`` to ``beta_end``. ``cosine``: abar from a squared cosine (improved DDPM).
    beta_start, beta_end : float
        Of the linear schedule.
    prediction_type : {"epsilon", "sample", "v_prediction"}
        What the backbone predicts: the noise, x_0, or sqrt(abar) noise - sqrt(1 - abar) x_0.

    References
    ----------
    Denoising Diffusion Probabilistic Models, arXiv 2006.11239; Improved DDPM, arXiv 2102.09672.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "cosine",
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        prediction_type: str = "sample",
    ) -> None:
        self.num_train_timesteps = check_integer("num_train_timesteps", num_train_timesteps, minimum=1)
        self.schedule = check_choice("schedule", schedule, ("linear", "cosine"))
        self.prediction_type = check_choice("prediction_type", prediction_type, ("epsilon", "sample", "v_prediction"))
        if schedule == "linear":
            first = check_number("beta_start", beta_start, above=0.0, maximum=0.999)
            last = check_number("beta_end", beta_end, minimum=first, maximum=0.999)
            betas = np.linspace(first, last, num_train_timesteps)
        else:
            edges = np.arange(num_train_timesteps + 1) / num_train_timesteps
            abar = np.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - abar[1:] / abar[:-1], 0.999)
        self.alphas_cumprod: F64 = np.cumprod(1 - betas, dtype=np.float64)

    def inference_timesteps(self, num_steps: int) -> I64:
        """``num_steps`` evenly spaced timesteps, descending from the noisiest, T - 1, (num_steps,) int64."""
        return spaced_timesteps(self.num_train_timesteps, num_steps)

    def levels(self, timestep: float | None) -> tuple[float, float]:
        """(sqrt(abar_t), sqrt(1 - abar_t)); (1, 0) for None, the clean sample."""
        abar = self._abar(timestep)
        return math.sqrt(abar), math.sqrt(1 - abar)

    def predict_clean(self, prediction: Array, timestep: float, sample: Array) -> Array:
        """The x_0 that the prediction implies."""
        signal, level = self.levels(timestep)
        if self.prediction_type == "sample":
            return prediction
        if self.prediction_type == "epsilon":
            return as_float32((sample - level * prediction) / signal)
        return as_float32(signal * sample - level * prediction)

    def previous_sample(
        self, prediction: Array, timestep: float, previous_timestep: float | None, sample: Array, noise: Array
    ) -> Array:
        """One ancestral step: a draw from q(x_prev | x_t, x_0).

        Parameters
        ----------
        prediction : array
            What the backbone predicts at ``timestep``.
        timestep : int
        previous_timestep : int or None
            Less than ``timestep``; None is the clean sample, to which no noise is added.
        sample : array
            x_t.
        noise : array
            Standard normal.
        """
        check_order(timestep, previous_timestep)
        clean = self.predict_clean(prediction, timestep, sample)
        abar, abar_previous = self._abar(timestep), self._abar(previous_timestep)
        alpha = abar / abar_previous
        beta = 1 - alpha
        mean = (
            math.sqrt(abar_previous) * beta / (1 - abar) * clean
            + math.sqrt(alpha) * (1 - abar_previous) / (1 - abar) * sample
        )
        deviation = math.sqrt(beta * (1 - abar_previous) / (1 - abar))
        return as_float32(mean + deviation * noise)

    def _abar(self, timestep: float | None) -> float:
        if timestep is None:
            return 1.0
        return float(
            self.alphas_cumprod[check_integer("timestep", timestep, minimum=0, maximum=self.num_train_timesteps - 1)]
        )
