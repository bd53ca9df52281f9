"""Memory in torch models. Needs torch: ``pip install 'mosaicmem[torch]'``; for Wan, ``'mosaicmem[diffusers]'``."""

from mosaicmem.models.diffusers_scheduler import DiffusersScheduler
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.memory_cross_attention import MemoryCrossAttention
from mosaicmem.models.sharded_attention import sharded_attention
from mosaicmem.models.wan_memory import MemoryHandle, add_memory, wan_rope
from mosaicmem.models.wan_model import WanMemoryModel
from mosaicmem.models.wan_vae import WanMemoryVAE

__all__ = [
    "DiffusersScheduler",
    "MemoryBatch",
    "MemoryCrossAttention",
    "MemoryHandle",
    "WanMemoryModel",
    "WanMemoryVAE",
    "add_memory",
    "sharded_attention",
    "wan_rope",
]
