"""The canvases of a batch, composed when they are first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory import KeyframeRetrieval, MosaicMemoryStore
from mosaicmem.models.dit_tokens import as_tensor

_Source: TypeAlias = tuple[KeyframeRetrieval, MosaicMemoryStore, CameraTrajectory, int]


class _Sample:
    """One canvas with its coverage, (C + 1, T, h, w): made from a copy of the store, which is then let go."""

    def __init__(self, source: _Source | None, canvas: Tensor | None = None) -> None:
        self._source, self._canvas = source, canvas

    def canvas(self) -> Tensor:
        """(C + 1, T, h, w), composed at the first call."""
        if self._canvas is None:
            assert self._source is not None
            retrieval, store, targets, stride = self._source
            made = retrieval.retrieve(store, targets, stride)
            self._canvas, self._source = _channels_first(made.latents, made.coverage), None
        return self._canvas


class Canvases:
    """Warped latents of B samples, with their coverage as the last channel.

    Parameters
    ----------
    samples
        One per sample of the batch.
    channels : int
        At least this many channels of latents: an empty store has none.
    """

    def __init__(self, samples: Sequence[_Sample], channels: int = 0) -> None:
        self._samples, self._channels = list(samples), channels
        self._made: Tensor | None = None

    @classmethod
    def later(
        cls, options: Mapping[str, Any] | bool, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int
    ) -> Canvases:
        """The canvas of one sample, from the store as it is now; ``options`` are those of `KeyframeRetrieval`."""
        retrieval = KeyframeRetrieval(**(options if isinstance(options, Mapping) else {}))
        return cls([_Sample((retrieval, store.fork(), targets, stride))])

    @classmethod
    def of(cls, latents: Any, coverage: Any) -> Canvases:
        """The canvas of one sample, (T, h, w, C), and its coverage, (T, h, w), already composed."""
        return cls([_Sample(None, _channels_first(latents, coverage))])

    def samples(self, which: Sequence[int]) -> Canvases:
        """Some samples, or some repeatedly."""
        return Canvases([self._samples[i] for i in which], self._channels)

    def of_channels(self, channels: int) -> Canvases:
        """The same with latents of ``channels`` channels, where memory is empty too."""
        return Canvases(self._samples, channels)

    @staticmethod
    def cat(parts: Sequence[Canvases]) -> Canvases:
        """The samples of all parts."""
        return Canvases([sample for part in parts for sample in part._samples], max(p._channels for p in parts))

    def tensor(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(B, C + 1, T, h, w)."""
        if self._made is None or self._made.device != device or self._made.dtype != dtype:
            each = [sample.canvas() for sample in self._samples]
            channels = max(self._channels + 1, *(len(canvas) for canvas in each))
            wide = [_with_channels(canvas, channels) for canvas in each]
            joined = wide[0][None] if len(wide) == 1 else torch.stack(wide)
            self._made = joined.to(device, dtype)
        return self._made


def _channels_first(latents: Any, coverage: Any) -> Tensor:
    """(C + 1, T, h, w) of a canvas (T, h, w, C) and its coverage; in memory, channels stay last."""
    latents, coverage = as_tensor(latents), as_tensor(coverage)
    canvas = latents.new_empty(*coverage.shape, latents.shape[-1] + 1)
    canvas[..., :-1] = latents
    canvas[..., -1] = coverage
    return canvas.movedim(-1, 0)


def _with_channels(canvas: Tensor, channels: int) -> Tensor:
    """An empty store has no channels: zeros then, with the coverage last as ever."""
    if len(canvas) == channels:
        return canvas
    return torch.cat([canvas.new_zeros(channels - len(canvas), *canvas.shape[1:]), canvas])
