"""Text encoders: from a prompt to one vector per token."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol, runtime_checkable

import numpy as np

from mosaicmem._arrays import F32, check_integer

_WORD = re.compile(r"\w+")


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that turns a prompt into vectors."""

    def encode(self, prompt: str) -> F32:
        """One vector per token, (L, dim) float32; an empty prompt may have none."""
        ...


class HashedTextEncoder:
    """Encodes words as fixed random directions: deterministic, without weights, and blind to meaning.

    Prompts are split into words, ignoring case and punctuation; each word has a random unit vector seeded by its hash.
    Prompts that share words share vectors.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    """

    def __init__(self, dim: int = 64) -> None:
        self.dim = check_integer("dim", dim, minimum=1, maximum=2**16)

    def encode(self, prompt: str) -> F32:
        """One unit vector per word, (L, dim) float32; (0, dim) for a prompt without words."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt: expected a string, got {type(prompt).__name__}")
        rows = [self._vector(word) for word in _WORD.findall(prompt.casefold())]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _vector(self, word: str) -> F32:
        digest = hashlib.sha256(word.encode()).digest()
        drawn = np.random.default_rng(np.frombuffer(digest, dtype="<u4")).standard_normal(self.dim)
        return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)
