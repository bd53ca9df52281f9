"""Memory as one padded batch of tokens for a video transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data._utils.collate import default_collate_fn_map

from mosaicmem._arrays import check_choice, check_instance, check_integer
from mosaicmem.attention import WarpedRoPE
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion import MemoryContext, TemporalLayout
from mosaicmem.memory import MemoryRetrieval, Mosaic, MosaicMemoryStore
from mosaicmem.models.batch_inputs import cameras_of, check_patch, samples_of
from mosaicmem.models.canvases import Canvases
from mosaicmem.models.dit_tokens import INCOMPLETE, DiTTokens, group_cells, no_tokens
from mosaicmem.models.prope_cameras import PRoPECameras, prope_options

_TOKENS = ("latents", "filled", "positions", "cos", "sin", "mask", "frame")


@dataclass(frozen=True, eq=False)
class MemoryBatch:
    """What memory shows to B samples of T latent frames, as tokens of a video transformer, padded to M per sample.

    Make it once per window with `build`; all layers, steps and guidance branches share it.

    Attributes
    ----------
    latents : (B, M, C, ph, pw)
        The latent cells under each token; zero where there is no token.
    filled : (B, M, ph, pw) bool
        The cells that come from memory.
    positions : (B, M, 3) float32
        Where a token lands, (t, y, x) in the transformer's grid, fractions included.
    cos, sin : (B, M, 1, head_dim) float32
        Warped RoPE at these positions, per feature, as Wan of diffusers takes it.
    mask : (B, M) bool
        Which tokens exist.
    frame : (B, M) int64
        The latent frame that each was retrieved for.
    frames, rows, columns : int
        T, and the transformer's grid of one latent frame.
    per_frame : int
        Room for tokens per latent frame: the first T * per_frame tokens are ordered by frame. 0 with ``distinct``.
    prope : PRoPECameras or None
    """

    latents: Tensor
    filled: Tensor
    positions: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor
    frame: Tensor
    frames: int
    rows: int
    columns: int
    per_frame: int
    prope: PRoPECameras | None = None
    _canvases: Canvases | None = None

    @classmethod
    def build(
        cls,
        stores: MosaicMemoryStore | Sequence[MosaicMemoryStore],
        targets: CameraTrajectory | Sequence[CameraTrajectory],
        *,
        vae_stride: int,
        patch: tuple[int, int, int] = (1, 2, 2),
        rope: WarpedRoPE,
        top_k: int = 256,
        pad_to: int | None = None,
        prope: str | Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        distinct: bool = False,
        incomplete: str = "drop",
        temporal: TemporalLayout | None = None,
        retrieval: Mapping[str, Any] | None = None,
        canvas: Mapping[str, Any] | bool = True,
    ) -> MemoryBatch:
        """Retrieve from one store per sample, and align what is found to the sample's cameras.

        Parameters
        ----------
        stores : MosaicMemoryStore, or a sequence of them
            Of any size, empty ones included.
        targets : CameraTrajectory, or one per store
            The camera of each of T latent frames; with ``temporal``, of each frame of the video.
        vae_stride : int
            Pixels per latent cell.
        patch : (int, int, int)
            The transformer's patch, (1, ph, pw) latent cells; ph and pw divide the stores' ``latent_patch_size``.
        rope : WarpedRoPE
            Of the transformer: `wan_rope` for Wan.
        top_k : int
            Patches retrieved for each latent frame.
        pad_to : int, optional
            M, for a shape that no window changes. If not given, the least that holds all samples.
        prope : str or mapping, optional
            A layout of `PRoPE`, or its options. ``full`` has a camera per sub-frame, so pass ``temporal`` with it.
        device, dtype : optional
            Of the result; those of memory if not given. RoPE stays float32.
        distinct : bool
            Keep each patch for one latent frame only, where it scores best: for attention from all to all.
        incomplete : {"drop", "fill", "mask"}
            Of tokens with cells without depth: left out; or filled with their other cells' mean; or zero there.
        temporal : TemporalLayout, optional
            Which frames of ``targets`` a latent frame covers; the last of them stands for it.
        retrieval : mapping, optional
            Options of `MemoryRetrieval`. By default a patch counts half for each better one within a token's width:
            memory then shows about as many cells as there are tokens, not the same ones repeatedly.
        canvas : mapping or bool
            Options of `KeyframeRetrieval`, which `canvas` uses; False if no canvas is needed.

        Raises
        ------
        ValueError
            Samples differ in frames or image size; a patch does not fit stores or image; more than ``pad_to`` tokens.
        """
        samples = samples_of(stores, targets, temporal)
        make = _Maker(rope, check_patch(patch), prope, incomplete, distinct)
        stride = check_integer("vae_stride", vae_stride, minimum=1)
        apart = {"diversity_radius": float(stride * max(make.patch)), "diversity_penalty": 0.5}
        search = MemoryRetrieval(top_k=check_integer("top_k", top_k, minimum=1), **{**apart, **(retrieval or {})})
        parts = []
        for store, frames, cameras in samples:
            make.check_size(cameras, stride)
            made = make(search.retrieve(store, cameras, stride), store.channels or 0, cameras, frames, temporal)
            later = None if canvas is False else Canvases.later(canvas, store, cameras, stride)
            parts.append(replace(made, _canvases=later))
        return cls._finished(parts, pad_to, device, dtype)

    @classmethod
    def of_contexts(
        cls,
        contexts: MemoryContext | Sequence[MemoryContext],
        *,
        patch: tuple[int, int, int] = (1, 2, 2),
        rope: WarpedRoPE,
        pad_to: int | None = None,
        prope: str | Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        distinct: bool = False,
        incomplete: str = "drop",
    ) -> MemoryBatch:
        """The batch of what the pipeline has retrieved: its mosaics, canvases and cameras, one sample per context.

        Parameters are those of `build`.
        """
        make = _Maker(rope, check_patch(patch), prope, incomplete, distinct)
        parts = []
        for context in [contexts] if isinstance(contexts, MemoryContext) else contexts:
            check_instance("contexts", context, MemoryContext)
            make.check_size(context.cameras, context.stride)
            frames = context.cameras if context.frames is None else context.frames
            temporal = None if context.frames is None else context.temporal
            channels = int(context.canvas.shape[-1])
            made = make(context.mosaic, channels, context.cameras, frames, temporal, context.coverage.shape[1:])
            parts.append(replace(made, _canvases=Canvases.of(context.canvas, context.coverage)))
        return cls._finished(parts, pad_to, device, dtype)

    @classmethod
    def _finished(cls, parts: list[MemoryBatch], pad_to: int | None, device: Any, dtype: Any) -> MemoryBatch:
        batch = cls.cat(parts)
        if pad_to is not None:
            batch = batch._padded(check_integer("pad_to", pad_to, minimum=1))
        return batch.to(device, dtype)

    @classmethod
    def _of_tokens(cls, tokens: DiTTokens, rope: WarpedRoPE, grid: tuple[int, int], channels: int) -> MemoryBatch:
        """A batch of one sample, with room for one token at least."""
        frames, room = tokens.valid.shape
        latents = (
            tokens.latents
            if tokens.latents.shape[2]
            else tokens.latents.new_zeros(*tokens.latents.shape[:2], channels, *tokens.latents.shape[3:])
        )
        positions = tokens.positions.reshape(-1, 3)
        table = rope.table(positions)
        cos, sin = (per_feature(x, rope.pairing, positions) for x in (table.cos, table.sin))
        frame = torch.arange(frames, device=positions.device).repeat_interleave(room)
        made = cls(
            latents=latents.flatten(0, 1)[None],
            filled=tokens.filled.flatten(0, 1)[None],
            positions=positions.float()[None],
            cos=cos,
            sin=sin,
            mask=tokens.valid.flatten()[None],
            frame=frame[None],
            frames=frames,
            rows=grid[0],
            columns=grid[1],
            per_frame=room,
        )
        return made if room else made._with_room(1)

    def __repr__(self) -> str:
        shape = ", ".join(f"{name}={value}" for name, value in (("frames", self.frames), ("rows", self.rows)))
        return (
            f"MemoryBatch({len(self)} samples of {self.mask.shape[1]} tokens, {shape}, columns={self.columns}, "
            f"channels={self.channels}, dtype={self.latents.dtype}, device={str(self.device)!r})"
        )

    def __len__(self) -> int:
        """B."""
        return len(self.mask)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.latents.shape[2])

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return self.latents.device

    def canvas(self) -> Tensor:
        """Warped latents, and in the last channel their coverage, (B, C + 1, T, h, w), zero where uncovered.

        Composed at the first call, from memory as it was when the batch was built.
        """
        if self._canvases is None:
            raise ValueError("canvas: this batch was built with canvas=False, so nothing was kept to compose one from")
        return self._canvases.tensor(self.device, self.latents.dtype)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> MemoryBatch:
        """The same on another device, or with latents and canvas of another dtype."""
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype: expected a floating dtype, got {dtype}")
        moved = {name: getattr(self, name).to(device) for name in _TOKENS}
        moved["latents"] = moved["latents"].to(dtype or self.latents.dtype)
        return replace(self, **moved)

    def pin_memory(self) -> MemoryBatch:
        """The same in page-locked memory, for a DataLoader with ``pin_memory``."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TOKENS})

    def repeat(self, count: int) -> MemoryBatch:
        """The batch ``count`` times, one after the other: for guidance that runs both branches in one call."""
        return self.samples(list(range(len(self))) * check_integer("count", count, minimum=1))

    def samples(self, which: Sequence[int]) -> MemoryBatch:
        """Some samples, by index, or some repeatedly."""
        index = torch.as_tensor(which, dtype=torch.long, device=self.device)
        picked = {name: getattr(self, name)[index] for name in _TOKENS}
        cameras = None if self.prope is None else self.prope.samples(np.asarray(which, np.int64))
        canvases = None if self._canvases is None else self._canvases.samples(which)
        return replace(self, **picked, prope=cameras, _canvases=canvases)

    @staticmethod
    def cat(batches: Sequence[MemoryBatch]) -> MemoryBatch:
        """The samples of all batches, padded to the same number of tokens; what a DataLoader does with batches."""
        batches = list(batches)
        if not batches:
            raise ValueError("batches: expected at least one")
        first = batches[0]
        channels = max(batch.channels for batch in batches)
        for batch in batches[1:]:
            for name in ("frames", "rows", "columns"):
                if getattr(batch, name) != getattr(first, name):
                    raise ValueError(
                        f"batches: expected the same {name} for all samples, "
                        f"got {getattr(first, name)} and {getattr(batch, name)}"
                    )
            if (batch.prope is None) != (first.prope is None) or bool(batch.per_frame) != bool(first.per_frame):
                raise ValueError("batches: expected all to be built with the same options")
        if first.per_frame:
            room = max(batch.per_frame for batch in batches)
            batches = [batch._with_room(room) for batch in batches]
        tokens = max(batch.mask.shape[1] for batch in batches)
        batches = [batch._with_channels(channels)._padded(tokens) for batch in batches]
        joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in _TOKENS}
        known = [batch.prope for batch in batches if batch.prope is not None]
        canvases = [batch._canvases for batch in batches if batch._canvases is not None]
        return replace(
            batches[0],
            **joined,
            prope=PRoPECameras.cat(known) if known else None,
            _canvases=Canvases.cat(canvases) if len(canvases) == len(batches) else None,
        )

    def _with_channels(self, channels: int) -> MemoryBatch:
        """With latents of ``channels`` channels, if it has none because memory is empty."""
        if self.channels == channels:
            return self
        if self.channels:
            raise ValueError(f"stores: expected latents of {channels} channels in all, got {self.channels} in one")
        shape = self.latents.shape
        canvases = None if self._canvases is None else self._canvases.of_channels(channels)
        return replace(self, latents=self.latents.new_zeros(*shape[:2], channels, *shape[3:]), _canvases=canvases)

    def _with_room(self, room: int) -> MemoryBatch:
        """With room for ``room`` tokens per latent frame."""
        if room == self.per_frame:
            return self
        batch, had = len(self), self.per_frame

        def widened(x: Tensor) -> Tensor:
            x = x[:, : self.frames * had].reshape(batch, self.frames, had, *x.shape[2:])
            return pad(x, (0, 0) * (x.ndim - 3) + (0, room - had)).flatten(1, 2)

        wide = {name: widened(getattr(self, name)) for name in _TOKENS}
        wide["frame"] = torch.arange(self.frames, device=self.device).repeat_interleave(room).expand(batch, -1)
        known = self.prope
        if known is not None:
            shape = (batch, self.frames, had)
            extra = ((0, 0), (0, 0), (0, room - had))
            known = replace(
                known,
                source=np.pad(known.source[:, : self.frames * had].reshape(shape), extra).reshape(batch, -1),
                source_positions=np.pad(
                    known.source_positions[:, : self.frames * had].reshape(*shape, 2), (*extra, (0, 0))
                ).reshape(batch, -1, 2),
            )
        return replace(self, **wide, per_frame=room, prope=known)

    def _packed(self) -> MemoryBatch:
        """A batch of one sample with the tokens that exist in front, and no others but one."""
        order = torch.argsort(~self.mask[0], stable=True)[: max(1, int(self.mask.sum()))]
        known = self.prope
        if known is not None:
            at = order.cpu().numpy()
            known = replace(known, source=known.source[:, at], source_positions=known.source_positions[:, at])
        return replace(self, **{name: getattr(self, name)[:, order] for name in _TOKENS}, per_frame=0, prope=known)

    def _padded(self, tokens: int) -> MemoryBatch:
        """With room for ``tokens`` tokens per sample."""
        more = tokens - self.mask.shape[1]
        if more < 0:
            raise ValueError(
                f"pad_to: expected at least the {self.mask.shape[1]} tokens that top_k patches of {self.frames} latent "
                f"frames may have, got {tokens}; lower top_k, or pass distinct=True"
            )
        if not more:
            return self
        wide = {name: getattr(self, name) for name in _TOKENS}
        wide = {name: pad(x, (0, 0) * (x.ndim - 2) + (0, more)) for name, x in wide.items()}
        known = None if self.prope is None else self.prope.padded(tokens, self.prope.sources.shape[1])
        return replace(self, **wide, prope=known)

    def __getstate__(self) -> dict[str, Any]:
        if self._canvases is not None:
            self._canvases.tensor(self.device, self.latents.dtype)  # a store cannot go to another process
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


class _Maker:
    """Makes batches of one sample; holds what all samples share."""

    def __init__(
        self,
        rope: WarpedRoPE,
        patch: tuple[int, int],
        prope: str | Mapping[str, Any] | None,
        incomplete: str,
        distinct: bool,
    ) -> None:
        self.rope, self.patch = check_instance("rope", rope, WarpedRoPE), patch
        self.prope = prope_options(prope)
        self.incomplete, self.distinct = check_choice("incomplete", incomplete, INCOMPLETE), distinct

    def check_size(self, cameras: CameraTrajectory, stride: int) -> None:
        """Check that a transformer's patches fill the images of a sample."""
        camera, (rows, columns) = cameras.cameras[0], (stride * self.patch[0], stride * self.patch[1])
        if camera.height % rows or camera.width % columns:
            raise ValueError(
                f"targets: expected images of whole patches, in multiples of {rows} x {columns} pixels, "
                f"got {camera.height} x {camera.width}"
            )

    def __call__(
        self,
        mosaic: Mosaic | None,
        channels: int,
        cameras: CameraTrajectory,
        frames: CameraTrajectory,
        temporal: TemporalLayout | None,
        grid: Sequence[int] | None = None,
    ) -> MemoryBatch:
        """From a mosaic for ``cameras``, those of the latent frames; ``frames`` and ``temporal`` as for `build`.

        ``channels`` are those of the latents if there are no tokens, ``grid`` is that of the latents if there is no
        mosaic.
        """
        if mosaic is None:
            assert grid is not None
            tokens = no_tokens(len(cameras), self.patch)
            rows, columns = grid
        else:
            tokens = group_cells(mosaic, self.patch, self.incomplete, self.distinct)
            rows, columns = mosaic.rows, mosaic.columns
        shape = (rows // self.patch[0], columns // self.patch[1])
        made = MemoryBatch._of_tokens(tokens, self.rope, shape, channels)
        if self.prope is not None:
            known = cameras_of(frames, cameras, temporal, mosaic, tokens, shape, self.prope)
            made = replace(made, prope=known.padded(made.mask.shape[1], known.sources.shape[1]))
        return made._packed() if self.distinct else made


def _collate(batches: Sequence[MemoryBatch], *, collate_fn_map: Any = None) -> MemoryBatch:
    """`MemoryBatch.cat`, as torch calls it."""
    return MemoryBatch.cat(batches)


default_collate_fn_map[MemoryBatch] = _collate  # in items of a data set, beside tensors


def per_feature(angles: Any, pairing: str, like: Tensor) -> Tensor:
    """cos or sin (N, d / 2) of each feature, (1, N, 1, d) float32."""
    x = torch.as_tensor(angles, device=like.device).float()
    x = x.repeat_interleave(2, 1) if pairing == "interleaved" else torch.cat([x, x], 1)
    return x[None, :, None]
