"""The memory: what was seen, kept as patches in 3D, and what of it a new camera sees."""

from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.retrieval import MemoryRetrieval
from mosaicmem.memory.store import MosaicMemoryStore, RetrievedPatches, StoreStatistics

__all__ = [
    "MemoryRetrieval",
    "Mosaic",
    "MosaicMemoryStore",
    "RetrievalOptions",
    "RetrievedPatches",
    "StoreStatistics",
]
