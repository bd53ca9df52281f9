"""Which patches of the open store are which patches of tiles."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import I64, U64

_LOCAL_BITS = 40  # of an id outside, for the patch within its tile; the number of the tile is above


class IdMap:
    """Ranges of ids in the open store, each of one tile."""

    def __init__(self) -> None:
        self._ranges: I64 = np.zeros((0, 4), np.int64)  # first id here, how many, tile, first id in the tile

    @staticmethod
    def id_of(tile: int, local: int) -> int:
        """The id of a patch outside, which it keeps for life."""
        return tile << _LOCAL_BITS | local

    def add(self, here: int, count: int, tile: int, local: int) -> None:
        """The ids from ``here`` on, the largest so far, are those of a tile from ``local`` on."""
        self._ranges = np.concatenate([self._ranges, [[here, count, tile, local]]])

    def drop(self, tile: int) -> U64:
        """Forget the ranges of a tile; returns their ids."""
        mine = self._ranges[:, 2] == tile
        gone, self._ranges = self._ranges[mine], self._ranges[~mine]
        parts = [np.arange(here, here + count, dtype=np.uint64) for here, count, _, _ in gone.tolist()]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def outside(self, ids: U64) -> U64:
        """The ids outside of patches in the open store."""
        here = ids.astype(np.int64)
        rows = self._ranges[np.searchsorted(self._ranges[:, 0], here, side="right") - 1]
        return ((rows[:, 2] << _LOCAL_BITS) + rows[:, 3] + here - rows[:, 0]).astype(np.uint64)
