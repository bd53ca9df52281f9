"""A tile of the world, as a tiled store knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F64
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.tiles.tile_file import TileEntry


@dataclass
class Tile:
    """A tile; ``store`` is where it is written, if it has been since it was opened."""

    cell: tuple[int, int, int]
    centres: F64 | None = None  # (2, 3)
    surface: F64 | None = None
    newest: float = -math.inf
    patches: int = 0
    store: MosaicMemoryStore | None = None
    is_changed: bool = False

    @classmethod
    def of(cls, entry: TileEntry) -> Tile:
        """As a file lists it."""
        centres, surface = (None if box is None else np.array(box) for box in (entry.centres, entry.surface))
        newest = -math.inf if entry.newest is None else entry.newest
        return cls(entry.cell, centres, surface, newest, entry.patches)

    def entry(self) -> TileEntry:
        """As a file lists it."""
        return TileEntry.model_validate(
            {
                "cell": self.cell,
                "centres": None if self.centres is None else self.centres.tolist(),
                "surface": None if self.surface is None else self.surface.tolist(),
                "newest": None if self.newest == -math.inf else self.newest,
                "patches": self.patches,
            }
        )

    @property
    def name(self) -> str:
        """Of its folder."""
        return "_".join(str(part) for part in self.cell)

    def distance(self, place: F64) -> float:
        """From a point to the bounds, metres."""
        if self.surface is None:
            return math.inf
        low, high = self.surface
        return float(np.linalg.norm(np.maximum(0, np.maximum(low - place, place - high))))

    def note(self, centres: F64 | None, surface: F64, timestamp: float) -> None:
        """Take in that a keyframe was inserted; ``centres`` is None if it has no patch."""
        assert self.store is not None
        self.patches, self.is_changed = len(self.store), True
        if centres is not None:
            self.centres, self.surface = _joined(self.centres, centres), _joined(self.surface, surface)
            self.newest = max(self.newest, timestamp)


def _joined(box: F64 | None, other: F64) -> F64:
    if box is None:
        return other
    return np.stack([np.minimum(box[0], other[0]), np.maximum(box[1], other[1])])
