"""The operators that align memory with a view: Warped RoPE, Warped Latent, PRoPE, and attention over memory tokens."""

from mosaicmem.attention._keys_values import MemoryKeysValues
from mosaicmem.attention.cross_attention import MemoryCrossAttention
from mosaicmem.attention.kernel import attention, merge_attention
from mosaicmem.attention.prope import PRoPE, prope_attention
from mosaicmem.attention.rotary_table import RotaryTable
from mosaicmem.attention.warped_latent import LatentCanvas, WarpedLatent, bilinear_sample, reproject_depth_grid
from mosaicmem.attention.warped_rope import WarpedRoPE, grid_positions, warped_positions

__all__ = [
    "LatentCanvas",
    "MemoryCrossAttention",
    "MemoryKeysValues",
    "PRoPE",
    "RotaryTable",
    "WarpedLatent",
    "WarpedRoPE",
    "attention",
    "bilinear_sample",
    "grid_positions",
    "merge_attention",
    "prope_attention",
    "reproject_depth_grid",
    "warped_positions",
]
