"""Attention that also returns its log-sum-exp, so that parts of one softmax can be computed apart and merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_EXTRA = 8  # features that hold what is not a feature; GPU kernels need multiples of 8
_MASKED = -1e4  # logit of a masked key, or as near as the dtype comes: its weight underflows to 0


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of q (B, H, N, d) to k and v (B, H, M, d), M at least 1.

    Computed by torch's own flash kernels: memory grows with N + M. Differentiable, log-sum-exp included.

    Parameters
    ----------
    mask : (B, M) bool, optional
        Which keys exist. A query without any gets an arbitrary finite output and a log-sum-exp below -1000, so it has
        no weight in `merge`.

    Returns
    -------
    out : (B, H, N, d)
    lse : (B, H, N) float32
        Of the scaled logits.
    """
    q, k, v = in_autocast(q, k, v)
    dim, scale = q.shape[-1], q.shape[-1] ** -0.5
    if mask is None:
        return _apply(q, k, v, scale)
    # The mask as one more feature: 1 in every query, and a large negative number in the keys that do not exist.
    ones, zeros = q.new_zeros(_EXTRA), v.new_zeros(*v.shape[:-1], _EXTRA)
    ones[0] = 1
    offsets = k.new_zeros(k.shape[0], 1, k.shape[2], _EXTRA)
    offsets[..., 0] = torch.where(mask, 0.0, max(_MASKED / scale, torch.finfo(k.dtype).min))[:, None]
    q = torch.cat([q, ones.expand(*q.shape[:-1], _EXTRA)], -1)
    k = torch.cat([k, offsets.expand(-1, k.shape[1], -1, -1)], -1)
    out, lse = _apply(q, k, torch.cat([v, zeros], -1), scale)
    return out[..., :dim], lse


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor, gate: Tensor | None = None) -> Tensor:
    """The softmax over two sets of keys from those over each: (B, H, N, d) and (B, H, N) of both.

    ``gate`` (H,) scales what the second set changes: at 0 the result is ``out``, bit for bit; at 1, or without a gate,
    it is the softmax over both.
    """
    weight = torch.sigmoid(more_lse - lse)[..., None]
    if gate is not None:
        weight = weight * gate.to(weight.dtype)[:, None, None]
    return out.lerp(more, weight.type_as(out))


def in_autocast(*tensors: Tensor) -> list[Tensor]:
    """All in autocast's dtype, as torch's own attention would have them; without autocast, unchanged."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    return [x.to(torch.get_autocast_dtype(kind)) for x in tensors]


class _Attend(torch.autograd.Function):
    """(q, k, v, scale) to the output and its log-sum-exp; both have gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        out, lse, state = _forward(q, k, v, scale)
        ctx.save_for_backward(q, k, v, out, lse, *state)
        ctx.scale = scale
        return out, lse[..., : q.shape[2]]

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        # dS = P * (d_out v^T + d_lse - sum(d_out * out)). The kernels do not know d_lse, but one more feature adds it
        # to d_out v^T, and leaves the sum as it is: 1 in v, d_lse in d_out, 0 in out.
        q, k, v, out, lse, *state = ctx.saved_tensors
        dim = q.shape[-1]
        more_v, more_d = v.new_zeros(*v.shape[:-1], _EXTRA), d_out.new_zeros(*d_out.shape[:-1], _EXTRA)
        more_v[..., 0], more_d[..., 0] = 1, d_lse
        pairs = ((d_out, more_d), (q, _room(q)), (k, _room(k)), (v, more_v), (out, _room(out)))
        gradients = _backward([torch.cat(pair, -1) for pair in pairs], lse, state, ctx.scale)
        return *(x[..., :dim] for x in gradients), None


def _apply(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = _Attend.apply(q, k, v, scale)
    return out, lse


def _room(x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], _EXTRA)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, log-sum-exp, and what else the backward of the same kernel needs."""
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
        return out, lse, []
    if q.dtype == torch.float32:
        out, lse, *state = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
        return out, lse, state
    out, lse, _, _, _, _, *state, _ = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
    return out, lse, state


def _backward(given: list[Tensor], lse: Tensor, state: list[Tensor], scale: float) -> tuple[Tensor, ...]:
    """Gradients of q, k and v from the gradient of the output, q, k, v and the output."""
    aten: Any = torch.ops.aten
    d_out, q, k, v, out = given
    if q.device.type == "cpu":
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
        made = backward(d_out, q, k, v, out, lse, 0.0, False, scale=scale)
    elif q.dtype == torch.float32:
        backward, every = aten._scaled_dot_product_efficient_attention_backward, [True, True, True, False]
        made = backward(d_out, q, k, v, None, out, lse, *state, 0.0, every, scale=scale)[:3]
    else:
        backward, lengths = aten._scaled_dot_product_flash_attention_backward, (None, None, q.shape[2], k.shape[2])
        made = backward(d_out, q, k, v, out, lse, *lengths, 0.0, False, *state, scale=scale)
    return tuple(made)
