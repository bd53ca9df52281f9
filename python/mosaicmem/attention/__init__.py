"""The operators that align memory with a view: Warped RoPE, Warped Latent, PRoPE, and attention over memory tokens."""

from mosaicmem.attention.cross_attention import MemoryCrossAttention
from mosaicmem.attention.kernel import attention
from mosaicmem.attention.prope import PRoPE
from mosaicmem.attention.warped_latent import LatentCanvas, WarpedLatent, reproject_depth_grid
from mosaicmem.attention.warped_rope import RotaryTable, WarpedRoPE, grid_positions

__all__ = [
    "LatentCanvas",
    "MemoryCrossAttention",
    "PRoPE",
    "RotaryTable",
    "WarpedLatent",
    "WarpedRoPE",
    "attention",
    "grid_positions",
    "reproject_depth_grid",
]
