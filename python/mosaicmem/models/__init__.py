"""Memory in torch models. Needs torch: ``pip install 'mosaicmem[torch]'``."""

from mosaicmem.models.memory_cross_attention import MemoryCrossAttention

__all__ = ["MemoryCrossAttention"]
