"""A store that is larger than memory: tiles of the world, each a saved store, opened where they can matter."""

from mosaicmem.memory.tiles.tiled_store import TiledStatistics, TiledStore

__all__ = ["TiledStatistics", "TiledStore"]
