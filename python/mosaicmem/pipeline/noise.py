"""Noise that depends only on seed and window, so that a window can be regenerated without those before it."""

from __future__ import annotations

import numpy as np


def window_noise(seed: int, window: int) -> np.random.Generator:
    """The noise of one window: a counter-based generator (Philox) keyed by the seed, started at the window."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, window]))
