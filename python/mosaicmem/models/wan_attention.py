"""Self-attention of diffusers' Wan blocks with memory beside the video's own tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mosaicmem.models.prope_cameras import PRoPECameras
from mosaicmem.models.softmax import attend, merge


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tokens see which: the same for all blocks.

    Attributes
    ----------
    mask : (B, M) bool
        Which memory tokens exist.
    frames : int
        T.
    per_frame : int
        If positive, the video tokens of a latent frame see only that frame's ``per_frame`` memory tokens, and those
        only each other and the video tokens of that frame.
    prope : PRoPECameras or None
    gate : float or None
        Overrides the gates of all blocks, if not None.
    """

    mask: Tensor
    frames: int
    per_frame: int
    prope: PRoPECameras | None = None
    gate: float | None = None


@dataclass(eq=False)
class VideoRotary:
    """What a block's self-attention takes in place of Wan's (cos, sin), for the tokens of the video.

    Attributes
    ----------
    cos, sin : (1, N, 1, d)
        Of the video's tokens.
    layout : Layout
    memory : list of (k, v)
        Of each block, (B, H, M, d), rotated.
    seen : list
        If not None, the block appends the video's own (k, v) here.
    """

    cos: Tensor
    sin: Tensor
    layout: Layout
    memory: list[tuple[Tensor, Tensor]]
    seen: list[tuple[Tensor, Tensor]] | None = None


@dataclass(eq=False)
class MemoryRotary:
    """The same for the tokens of memory, (B, M, dim), as they pass through a block.

    Attributes
    ----------
    cos, sin : (B, M, 1, d)
    layout : Layout
    own : list of (k, v)
        Of this block's memory tokens, if known; if empty, the block appends them.
    video : list of (k, v)
        Of the video's tokens, if memory sees them; else empty.
    """

    cos: Tensor
    sin: Tensor
    layout: Layout
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    video: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(eq=False)
class ConcatRotary:
    """What blocks take in place of (cos, sin) if memory's tokens pass through them together with the video's.

    Attributes
    ----------
    cos, sin : (1, N, 1, d)
        Of the video's tokens.
    layout : Layout
    memory_cos, memory_sin : (B, M, 1, d)
    embedded : (B, M, dim)
        Memory's tokens before the first block.
    modulation : (B, 6, dim)
        Of timestep 0.
    """

    cos: Tensor
    sin: Tensor
    layout: Layout
    memory_cos: Tensor
    memory_sin: Tensor
    embedded: Tensor
    modulation: Tensor


class WanMemoryProcessor:
    """The attention processor of a block's ``attn1``; without memory, that of before.

    Parameters
    ----------
    stock
        The processor that it replaces.
    block : int
        Index of the block.
    """

    def __init__(self, stock: Any, block: int) -> None:
        self.stock, self.block = stock, block

    @property
    def _attention_backend(self) -> Any:
        """Which diffusers sets on processors; the attention to memory has kernels of its own."""
        return self.stock._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.stock._attention_backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
        **options: Any,
    ) -> Tensor:
        """hidden_states (B, N, dim) to the same shape."""
        if isinstance(rotary_emb, VideoRotary):
            heads = self._video(attn, hidden_states, rotary_emb)
        elif isinstance(rotary_emb, MemoryRotary):
            heads = self._memory(attn, hidden_states, rotary_emb)
        else:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb, **options)
        merged = heads.transpose(1, 2).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](merged))

    def _video(self, attn: Any, hidden: Tensor, given: VideoRotary) -> Tensor:
        """The video's tokens attend to each other and to memory, in one softmax but for the gate."""
        layout = given.layout
        q, (k, v) = queries(attn, hidden, given.cos, given.sin), keys_values(attn, hidden, given.cos, given.sin)
        if given.seen is not None:
            given.seen.append((k, v))
        out, lse = attend(q, k, v)
        more_k, more_v = given.memory[self.block]
        cameras = layout.prope
        if cameras is not None:
            q, more_k, more_v = cameras.on_queries(q), cameras.on_memory(more_k), cameras.on_memory(more_v)
        more, more_lse = (
            _frame_by_frame(q, more_k, more_v, layout) if layout.per_frame else attend(q, more_k, more_v, layout.mask)
        )
        if cameras is not None:
            more = cameras.on_outputs(more)
        gate = attn.memory_gate if layout.gate is None else torch.full_like(attn.memory_gate, layout.gate)
        return merge(out, lse, more, more_lse, gate)

    def _memory(self, attn: Any, hidden: Tensor, given: MemoryRotary) -> Tensor:
        """Memory's tokens attend to each other, and to the video if it is there."""
        layout = given.layout
        q = queries(attn, hidden, given.cos, given.sin)
        if not given.own:
            given.own.append(keys_values(attn, hidden, given.cos, given.sin))
        if not layout.per_frame:
            out, lse = attend(q, *given.own[0], layout.mask)
            return merge(out, lse, *attend(q, *given.video[0])) if given.video else out
        regular, tokens = layout.frames * layout.per_frame, q.shape[2]
        q = _by_frame(q[:, :, :regular], layout.frames)
        k, v = (_by_frame(x[:, :, :regular], layout.frames) for x in given.own[0])
        out, lse = attend(q, k, v, layout.mask[:, :regular].reshape(-1, layout.per_frame))
        if given.video:
            k, v = (_by_frame(x, layout.frames) for x in given.video[0])
            out = merge(out, lse, *attend(q, k, v))
        out = _all_frames(out, layout.frames)
        return torch.nn.functional.pad(out, (0, 0, 0, tokens - regular))


class MemoryBlock:
    """The forward of a block through which memory's tokens pass, by themselves or together with the video's.

    By themselves: the block returns their keys and values too, as outputs, whose gradients FSDP waits for.
    Together: they follow the video's tokens between blocks; the first block adds them, the last drops them.
    """

    def __init__(self, block: Any, index: int, *, last: bool) -> None:
        self.block, self.stock, self.index, self.last = block, block.forward, index, last
        self._had = vars(block).get("forward")  # of another wrapper

    def remove(self) -> None:
        """Give the block its forward back; where another wrapper holds this one, it stays, and has no effect."""
        if vars(self.block).get("forward") is not self:
            return
        if self._had is None:
            del self.block.forward
        else:
            self.block.forward = self._had

    def __call__(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Any:
        """What the block's own forward takes and returns, with memory's tokens behind the video's."""
        given = rotary_emb
        if isinstance(given, MemoryRotary):
            hidden_states = self.stock(hidden_states, encoder_hidden_states, temb, given)
            return hidden_states, *given.own[0]
        if not isinstance(given, ConcatRotary):
            return self.stock(hidden_states, encoder_hidden_states, temb, given)
        tokens = given.embedded.shape[1]
        if self.index:
            video, memory = hidden_states[:, :-tokens], hidden_states[:, -tokens:]
        else:
            video, memory = hidden_states, given.embedded
        own = block_keys_values(self.block, memory, given.modulation, given.memory_cos, given.memory_sin)
        seen: list[tuple[Tensor, Tensor]] = []
        of_video = VideoRotary(given.cos, given.sin, given.layout, [own] * (self.index + 1), seen)
        video = self.stock(video, encoder_hidden_states, temb, of_video)
        if self.last:
            return video
        of_memory = MemoryRotary(given.memory_cos, given.memory_sin, given.layout, [own], seen)
        memory = self.stock(memory, encoder_hidden_states, given.modulation, of_memory)
        return torch.cat([video, memory], dim=1)


def queries(attn: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated queries (B, H, N, d)."""
    q = attn.to_qkv(hidden).chunk(3, dim=-1)[0] if getattr(attn, "fused_projections", False) else attn.to_q(hidden)
    return rotate(attn.norm_q(q).unflatten(2, (attn.heads, -1)), cos, sin).transpose(1, 2)


def keys_values(attn: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated keys, and values, (B, H, N, d)."""
    if getattr(attn, "fused_projections", False):
        _, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        k, v = attn.to_k(hidden), attn.to_v(hidden)
    k, v = attn.norm_k(k).unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))
    return rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)


def block_keys_values(
    block: Any, hidden: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """What a block's self-attention makes of tokens that enter the block: keys, rotated, and values."""
    shift, scale = (block.scale_shift_table + modulation.float())[:, :2].chunk(2, dim=1)
    normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    return keys_values(block.attn1, normed, cos, sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE of x (B, N, H, d) by angles per feature (B or 1, N, 1, d), computed as Wan of diffusers does."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


def _frame_by_frame(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Attention of the video's tokens to the memory tokens of their latent frame."""
    frames, regular = layout.frames, layout.frames * layout.per_frame
    k, v = (_by_frame(x[:, :, :regular], frames) for x in (k, v))
    mask = layout.mask[:, :regular].reshape(-1, layout.per_frame)
    out, lse = attend(_by_frame(q, frames), k, v, mask)
    return _all_frames(out, frames), _all_frames(lse[..., None], frames)[..., 0]


def _by_frame(x: Tensor, frames: int) -> Tensor:
    """(B, H, T * n, d) to (B * T, H, n, d)."""
    return x.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)


def _all_frames(x: Tensor, frames: int) -> Tensor:
    """(B * T, H, n, d) to (B, H, T * n, d)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)
