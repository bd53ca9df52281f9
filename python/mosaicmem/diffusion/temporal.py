"""Which frames a latent frame covers, defined only here."""

from __future__ import annotations

from dataclasses import dataclass

from mosaicmem._arrays import check_choice, check_integer


@dataclass(frozen=True)
class TemporalLayout:
    """How a video VAE groups frames into latent frames.

    Parameters
    ----------
    kind : {"causal", "uniform"}
        ``causal``: latent 0 covers frame 0, latent l frames factor * (l - 1) + 1 to factor * l (most video VAEs).
        ``uniform``: latent l covers frames factor * l to factor * (l + 1) - 1.
    factor : int
        Frames per latent frame.
    """

    kind: str = "causal"
    factor: int = 4

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("causal", "uniform"))
        check_integer("factor", self.factor, minimum=1)

    def num_latents(self, num_frames: int) -> int:
        """Latent frames that cover ``num_frames`` frames. The last may cover frames beyond the end."""
        check_integer("num_frames", num_frames, minimum=1)
        if self.kind == "causal":
            return 1 + -(-(num_frames - 1) // self.factor)
        return -(-num_frames // self.factor)

    def frames_of(self, latent: int, num_frames: int) -> range:
        """The frames below ``num_frames`` that latent frame ``latent`` covers."""
        check_integer("latent", latent, minimum=0, maximum=self.num_latents(num_frames) - 1)
        if self.kind == "causal":
            start, stop = self.factor * (latent - 1) + 1, self.factor * latent + 1
        else:
            start, stop = self.factor * latent, self.factor * (latent + 1)
        return range(max(0, start), min(stop, num_frames))

    def latent_of(self, frame: int) -> int:
        """The latent frame that covers a frame."""
        check_integer("frame", frame, minimum=0)
        return -(-frame // self.factor) if self.kind == "causal" else frame // self.factor

    def reference_frame(self, latent: int, num_frames: int) -> int:
        """The frame whose camera stands for a latent frame: the last that it covers."""
        return self.frames_of(latent, num_frames)[-1]

    def reference_frames(self, num_frames: int) -> list[int]:
        """`reference_frame` of each latent frame."""
        return [self.reference_frame(latent, num_frames) for latent in range(self.num_latents(num_frames))]
