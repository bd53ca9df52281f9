"""Attention to memory whose tokens lie on several devices: each attends to its own part, and the parts are merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mosaicmem.models.softmax import attend, in_autocast


def sharded_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, group: Any = None
) -> tuple[Tensor, Tensor]:
    """Attention of the same queries to the memory tokens of all ranks, of which each holds a part.

    Every rank calls it, with equal ``q``; all get the result. Each attends to its own tokens, which are never sent:
    what crosses the network is the output and its log-sum-exp, d + 1 numbers per query and head, however large memory
    is. Gradients arrive where the tensors are: those of ``k`` and ``v`` on their own rank, that of ``q`` complete on
    each, if all ranks have the same gradient of the result, as where the following layers are replicated.

    Parameters
    ----------
    q : (B, H, N, d)
        Equal on all ranks.
    k, v : (B, H, M, d)
        The memory tokens of this rank; M may differ between ranks, and be 0.
    mask : (B, M) bool, optional
        Which of them exist.
    group : ProcessGroup, optional
        Of the ranks; all if not given.

    Returns
    -------
    out : (B, H, N, d)
        softmax(q k^T / sqrt(d)) v over the tokens of all ranks; 0 where there is none.
    lse : (B, H, N) float32
        Log-sum-exp of the logits over all ranks, for merging with other parts; below -1000 where there is no token.

    Raises
    ------
    RuntimeError
        torch.distributed is not initialized.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError("sharded_attention: expected torch.distributed to be initialized: init_process_group first")
    q = _Replicated.apply(q, group)
    if k.shape[2]:
        out, lse = attend(q, k, v, mask)
    else:  # nothing of its own, but the others wait for it
        out = in_autocast(q)[0] * 0
        lse = torch.full(q.shape[:3], -torch.inf, dtype=torch.float32, device=q.device)
    merged, total = _Merged.apply(out, lse, group)
    return merged, total


class _Replicated(torch.autograd.Function):
    """A tensor that is equal on all ranks, each of which computes a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Merged(torch.autograd.Function):
    """The softmax over the keys of all ranks from that over each one's: out and its log-sum-exp.

    With w = exp(lse - total) of a rank, out = sum of w out_rank over the ranks, and total = log sum exp(lse).
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, lse: Tensor, group: Any) -> tuple[Tensor, Tensor]:
        lse = lse.contiguous()  # ranks reduce bytes in order, so all need the same strides
        most = lse.clone()
        dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
        most = torch.where(most.isfinite(), most, torch.zeros_like(most))
        share = torch.exp(lse - most)
        parts = torch.cat([out.float() * share[..., None], share[..., None]], -1).contiguous()
        dist.all_reduce(parts, group=group)
        sums = parts[..., -1]
        weight = torch.where(sums > 0, share / sums.clamp(min=torch.finfo(sums.dtype).tiny), torch.zeros_like(share))
        merged = torch.where(sums[..., None] > 0, parts[..., :-1] / sums.clamp(min=1e-37)[..., None], 0)
        total = torch.where(sums > 0, most + sums.log(), -torch.inf)
        exists = total > _NOTHING
        merged = (merged * exists[..., None]).to(out.dtype)
        ctx.save_for_backward(out, merged, weight * exists)
        return merged, total

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_total: Tensor) -> tuple[Tensor, Tensor, None]:
        out, merged, weight = ctx.saved_tensors
        d_part = d_out * weight[..., None].to(d_out.dtype)
        d_lse = weight * ((d_out.float() * (out.float() - merged.float())).sum(-1) + d_total)
        return d_part, d_lse, None


_NOTHING = -1000.0  # log-sum-exp of a query without any key, or below; see `attend`
