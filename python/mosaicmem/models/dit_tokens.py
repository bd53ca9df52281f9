"""Memory as tokens of a video transformer: its patches are groups of latent cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mosaicmem.memory import Mosaic

INCOMPLETE = ("drop", "fill", "mask")


@dataclass(frozen=True, eq=False)
class DiTTokens:
    """Tokens retrieved for T latent frames, K each, padded.

    Attributes
    ----------
    latents : (T, K, C, ph, pw) float32
    filled : (T, K, ph, pw) bool
        The cells whose latents come from memory.
    positions : (T, K, 3) float64
        (t, y, x) in the transformer's grid.
    valid : (T, K) bool
    source : (T, K) int64
        Index into the mosaic's ``sources``; 0 where not valid.
    source_positions : (T, K, 2) float64
        (y, x) in the grid of the keyframe, in the transformer's patches.
    """

    latents: Tensor
    filled: Tensor
    positions: Tensor
    valid: Tensor
    source: Tensor
    source_positions: Tensor


def group_cells(mosaic: Mosaic, patch: tuple[int, int], incomplete: str, distinct: bool) -> DiTTokens:
    """Group the cells of a mosaic's patches into tokens of ph x pw cells.

    The position of a token is the mean of its cells', (y + 0.5) / ph - 0.5: where `MemoryRetrieval.retrieve` would put
    it with a stride of stride * ph pixels.

    Parameters
    ----------
    incomplete : {"drop", "fill", "mask"}
        Of tokens with cells without depth. ``drop``: leave them out. ``fill``: such cells get the mean of the others.
        ``mask``: such cells are zero.
    distinct : bool
        Keep each patch for one latent frame only: the one that it scores best for.
    """
    ids, scores = as_tensor(mosaic.patch_ids), as_tensor(mosaic.patch_scores)
    frames, patches = ids.shape
    side = round((mosaic.valid.shape[1] / max(patches, 1)) ** 0.5)
    ph, pw = patch
    if patches and (side % ph or side % pw):
        raise ValueError(
            f"stores: expected a latent_patch_size in multiples of patch = {patch}, so that patches hold whole tokens, "
            f"got {side}"
        )
    high, wide = side // ph, side // pw
    tokens = patches * high * wide

    def grouped(array: Any) -> Tensor:
        x = as_tensor(array)
        x = x.reshape(frames, patches, high, ph, wide, pw, *x.shape[2:])
        return x.transpose(3, 4).reshape(frames, tokens, ph, pw, *x.shape[6:])

    is_there = ids >= 0
    if distinct:
        is_there = is_there & _best_of_each(ids, scores)
    filled = grouped(mosaic.valid)
    count = filled.sum((2, 3))
    valid = (count == ph * pw if incomplete == "drop" else count > 0) & is_there.repeat_interleave(high * wide, 1)
    filled = filled & valid[..., None, None]
    latents = grouped(mosaic.tokens)
    share = filled / count.clamp(min=1)[..., None, None]  # of each cell in the mean over its token
    if incomplete == "fill":
        mean = (latents * share[..., None]).sum((2, 3), keepdim=True)
        latents = torch.where(filled[..., None], latents, mean)
    latents = torch.where((filled if incomplete == "mask" else valid[..., None, None])[..., None], latents, 0)
    token_places = _mean_place(grouped(mosaic.positions)[..., 1:], share, patch)
    time = grouped(mosaic.positions)[:, :, 0, 0, :1]
    if incomplete != "drop":  # its first cell may be one of those without depth
        time = (grouped(mosaic.positions)[..., :1] * share[..., None]).sum((2, 3))
    source = as_tensor(mosaic.patch_sources).long().repeat_interleave(high * wide, 1)
    return DiTTokens(
        latents=latents.movedim(-1, 2).contiguous(),
        filled=filled,
        positions=torch.where(valid[..., None], torch.cat([time, token_places], -1), 0),
        valid=valid,
        source=torch.where(valid, source, 0),
        source_positions=_mean_place(grouped(mosaic.source_positions).double(), share, patch),
    )


def no_tokens(frames: int, patch: tuple[int, int]) -> DiTTokens:
    """Of no memory at all."""
    nothing = torch.zeros(frames, 0)
    return DiTTokens(
        latents=nothing.reshape(frames, 0, 0, *patch),
        filled=nothing.bool().reshape(frames, 0, 1, 1).expand(-1, -1, *patch),
        positions=nothing.double().reshape(frames, 0, 1).expand(-1, -1, 3),
        valid=nothing.bool(),
        source=nothing.long(),
        source_positions=nothing.double().reshape(frames, 0, 1).expand(-1, -1, 2),
    )


def _mean_place(cells: Tensor, share: Tensor, patch: tuple[int, int]) -> Tensor:
    """Where tokens are, (T, K, 2), from (y, x) of their cells (T, K, ph, pw, 2), in the transformer's grid."""
    size = torch.tensor(patch, device=cells.device)
    y, x = (torch.arange(n, device=cells.device) - (n - 1) / 2 for n in patch)
    from_centre = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
    centre = ((cells - from_centre) * share[..., None]).sum((2, 3))
    return (centre + 0.5) / size - 0.5


def _best_of_each(ids: Tensor, scores: Tensor) -> Tensor:
    """Where a patch (T, K) scores best among its occurrences; the first of equal ones."""
    by_score = torch.argsort(scores.flatten(), descending=True, stable=True)
    order = by_score[torch.argsort(ids.flatten()[by_score], stable=True)]
    ordered = ids.flatten()[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).index_put_((order,), first).reshape(ids.shape)


def as_tensor(array: Any) -> Tensor:
    """A mosaic's array as a tensor where it is, without a copy."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(array) if hasattr(array, "__array_interface__") else torch.from_dlpack(array)
