"""Wan's video VAE behind the library's `VAE` protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosaicmem._arrays import F32, ArrayLike, ArrayT, as_array, as_pixels
from mosaicmem.diffusion import TemporalLayout


class WanMemoryVAE:
    """Latents of an ``AutoencoderKLWan`` as its transformers see them: normalized by its configuration.

    Implements the `VAE` protocol. Latents come back where they came from: on the VAE's device for tensors, as NumPy
    for NumPy.

    Parameters
    ----------
    vae : diffusers.AutoencoderKLWan
        Wan 2.1 (stride 8, 16 channels), Wan 2.2 TI2V (stride 16, 48 channels), or any other configuration.

    Attributes
    ----------
    stride, channels : int
    temporal : TemporalLayout
    """

    def __init__(self, vae: Any) -> None:
        from diffusers import AutoencoderKLWan

        if not isinstance(vae, AutoencoderKLWan):
            hint = ": did you mean pipe.vae?" if isinstance(getattr(vae, "vae", None), AutoencoderKLWan) else ""
            raise TypeError(f"vae: expected an AutoencoderKLWan of diffusers, got {type(vae).__name__}{hint}")
        self.vae: Any = vae
        config = self.vae.config
        self.stride, self.channels = int(config.scale_factor_spatial), int(config.z_dim)
        self.temporal = TemporalLayout("causal", int(config.scale_factor_temporal))
        for name in ("latents_mean", "latents_std"):
            if len(config[name]) != self.channels:
                raise ValueError(
                    f"vae: expected {self.channels} numbers in its configuration's {name}, one per channel, "
                    f"got {len(config[name])}"
                )
        self._features: list[Any] = []  # what the decoder keeps of the latents before
        self._mean, self._std = (
            torch.tensor(config[name])[:, None, None, None] for name in ("latents_mean", "latents_std")
        )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def encode_video(self, video: ArrayT) -> ArrayT:
        """Video (F, H, W, 3), uint8 or float in [0, 1], to latents (C, T, h, w) float32, T = temporal.num_latents(F).

        The last frame is repeated up to a whole latent frame.
        """
        is_tensor = isinstance(video, Tensor)
        frames: Tensor = video if is_tensor else torch.from_numpy(_pixels(video))
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"video: expected shape (F, H, W, 3), got {tuple(frames.shape)}")
        if any(size % self.stride for size in frames.shape[1:3]):
            raise ValueError(
                f"video: expected height and width in multiples of {self.stride}, got {tuple(frames.shape[1:3])}"
            )
        if frames.dtype == torch.uint8:
            frames = frames / 255
        elif not frames.is_floating_point():
            raise TypeError(f"video: expected uint8, or float in [0, 1], got {frames.dtype}")
        elif is_tensor and not bool((frames.min() >= -1e-3) & (frames.max() <= 1.001)):
            raise ValueError(
                f"video: expected values in [0, 1], got {float(frames.min()):g} to {float(frames.max()):g}"
            )
        count = len(frames)
        whole = 1 + self.temporal.factor * (self.temporal.num_latents(count) - 1)
        frames = torch.cat([frames, frames[-1:].expand(whole - count, -1, -1, -1)])
        x = (2 * frames.to(self.vae.device, torch.float32) - 1).to(self.vae.dtype).permute(3, 0, 1, 2)[None]
        latents = self.vae.encode(x).latent_dist.mode()[0].float()
        latents = (latents - self._mean.to(latents.device)) / self._std.to(latents.device)
        encoded: ArrayT = latents if is_tensor else latents.cpu().numpy()
        return encoded

    encode = encode_video

    def encode_image(self, image: ArrayT) -> ArrayT:
        """One image (H, W, 3) to the latents of a keyframe, (h, w, C) float32: those of a video of one frame."""
        if len(np.shape(image)) != 3 or np.shape(image)[-1] != 3:
            hint = "; channels come last" if np.shape(image)[:1] == (3,) else ""
            raise ValueError(f"image: expected shape (H, W, 3), got {tuple(np.shape(image))}{hint}")
        video = image[None] if isinstance(image, Tensor) else np.asarray(image)[None]
        latents: Any = self.encode_video(video)[:, 0]
        grid: ArrayT = (
            latents.permute(1, 2, 0).contiguous()
            if isinstance(latents, Tensor)
            else np.ascontiguousarray(latents.transpose(1, 2, 0))
        )
        return grid

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def decode(self, latents: ArrayT, num_frames: int | None = None) -> ArrayT:
        """Latents (C, T, h, w) to the first ``num_frames`` frames of video, (F, H, W, 3) float32 in [0, 1]."""
        x = self._unnormalized(latents)
        video: ArrayT = self._video(self.vae.decode(x).sample, num_frames, isinstance(latents, Tensor))
        return video

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def decode_chunk(self, latents: ArrayT, num_frames: int | None = None, *, first: bool) -> ArrayT:
        """`decode` of the latents that follow those of the call before, or with ``first``, of those that begin a video.

        The chunks of a video give what `decode` gives for the whole; one video at a time. Tiling is not used.
        """
        x = self.vae.post_quant_conv(self._unnormalized(latents))
        if first:
            self.vae.clear_cache()
            self._features = list(self.vae._feat_map)
        if not self._features:
            raise ValueError("first: expected True at the beginning of a video, got False before any chunk")
        parts = []
        for i in range(x.shape[2]):
            begins = {"first_chunk": True} if first and i == 0 else {}
            parts.append(self.vae.decoder(x[:, :, i : i + 1], feat_cache=self._features, feat_idx=[0], **begins))
        decoded = torch.cat(parts, 2)
        if self.vae.config.patch_size is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            decoded = unpatchify(decoded, patch_size=self.vae.config.patch_size)
        video: ArrayT = self._video(decoded, num_frames, isinstance(latents, Tensor))
        return video

    def _unnormalized(self, latents: ArrayLike) -> Tensor:
        """(1, C, T, h, w) as the VAE takes them."""
        shape = (self.channels, "T", "h", "w")
        x = (
            latents
            if isinstance(latents, Tensor)
            else torch.from_numpy(as_array("latents", latents, np.float32, shape))
        )
        if x.ndim != 4 or x.shape[0] != self.channels:
            raise ValueError(f"latents: expected shape ({self.channels}, T, h, w), got {tuple(x.shape)}")
        x = x.to(self.vae.device, torch.float32)
        return (x * self._std.to(x.device) + self._mean.to(x.device)).to(self.vae.dtype)[None]

    def _video(self, decoded: Tensor, num_frames: int | None, is_tensor: bool) -> Any:
        """(F, H, W, 3) of what the VAE gives, (1, 3, F, H, W) in [-1, 1]."""
        video = decoded[0].float().clamp(-1, 1)[:, :num_frames]
        video = ((video + 1) / 2).permute(1, 2, 3, 0).contiguous()
        return video if is_tensor else video.cpu().numpy()


def _pixels(video: ArrayLike) -> F32:
    shape = np.shape(video)
    return as_pixels("video", video, (*shape[:3], 3) if len(shape) == 4 else ("F", "H", "W", 3))
