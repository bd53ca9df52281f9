"""What a VAE has encoded, without the VAE: for processes that only use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from mosaicmem.diffusion import VAE, TemporalLayout


@dataclass(frozen=True)
class EncodedElsewhere:
    """The numbers of a `VAE` whose latents exist already; asked to encode or decode, it raises RuntimeError."""

    stride: int
    channels: int
    temporal: TemporalLayout

    @classmethod
    def of(cls, vae: VAE) -> EncodedElsewhere:
        """The numbers of a VAE."""
        return cls(vae.stride, vae.channels, vae.temporal)

    def encode(self, video: Any) -> NoReturn:
        """Not here."""
        raise RuntimeError("expected latents that were encoded before, got a part that was not: encode() it first")

    encode_image = encode

    def decode(self, latents: Any, num_frames: int) -> NoReturn:
        """Not here."""
        raise RuntimeError("this process has no VAE to decode with, only latents")
