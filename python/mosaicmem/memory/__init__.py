"""Spatial memory: keeps what was seen as patches in 3D, and retrieves what a new camera sees."""

from mosaicmem.memory.edit import SpatialManipulation
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.keyframe_retrieval import KeyframeRetrieval
from mosaicmem.memory.mosaic import Mosaic, PackedMosaic
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.pixels import PixelMosaic
from mosaicmem.memory.regions import Box, Frustum, Sphere
from mosaicmem.memory.results import RetrievedPatches, RetrievedWindow, StoreSnapshot, StoreStatistics
from mosaicmem.memory.retrieval import MemoryRetrieval
from mosaicmem.memory.selection import ComposedMosaic, KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.strategies import Strategy, register_strategy, strategy_names

__all__ = [
    "Box",
    "ComposedMosaic",
    "Frustum",
    "KeyframeOptions",
    "KeyframeRetrieval",
    "KeyframeSelection",
    "MemoryRetrieval",
    "Mosaic",
    "MosaicMemoryStore",
    "PackedMosaic",
    "PixelMosaic",
    "RetrievalOptions",
    "RetrievedPatches",
    "RetrievedWindow",
    "SpatialManipulation",
    "Sphere",
    "StoreSnapshot",
    "StoreStatistics",
    "Strategy",
    "register_strategy",
    "strategy_names",
]
