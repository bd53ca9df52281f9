"""The tiles of a folder, and the store that holds what the open ones hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import Bool
from mosaicmem._files import make_folder
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.errors import StoreLockedError, suspect
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.memory.storage.manifest import MANIFEST
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.tiles.id_map import IdMap
from mosaicmem.memory.tiles.surface import surface_bounds
from mosaicmem.memory.tiles.tile import Tile
from mosaicmem.memory.tiles.tile_file import TILES, TileFile, read_tiles

_TILES_FOLDER = "tiles"


class TileShelf:
    """Opens, closes and saves tiles.

    Parameters
    ----------
    folder : Path
    tile_size : float
    world : MosaicMemoryStore
        Empty; it then holds the patches of all open tiles.
    listed : TileFile, optional
        What the folder lists.

    Attributes
    ----------
    tiles : list of Tile
        All; a tile's number is its position.
    loaded : OrderedDict
        Numbers of open tiles, the least recently used first.
    ids : IdMap
    opened, closed : int
        How often so far.
    """

    def __init__(self, folder: Path, tile_size: float, world: MosaicMemoryStore, listed: TileFile | None) -> None:
        self.tile_size, self.world, self.ids = tile_size, world, IdMap()
        self.tiles = [] if listed is None else [Tile.of(entry) for entry in listed.tiles]
        self.loaded: OrderedDict[int, None] = OrderedDict()
        self.opened = self.closed = 0
        self._folder, self._listed = folder, listed  # as it was last read or written
        self._by_cell = {tile.cell: number for number, tile in enumerate(self.tiles)}
        self._held: FolderLock | None = None

    def is_open(self) -> Bool:
        """Of each tile."""
        is_open = np.zeros(len(self.tiles), np.bool_)
        is_open[list(self.loaded)] = True
        return is_open

    def at(self, pose: CameraPose) -> int:
        """The number of the tile in which a camera stands; a new one, if there is none."""
        x, y, z = np.floor(pose.position / self.tile_size).astype(np.int64).tolist()
        if (x, y, z) not in self._by_cell:
            self._begin_writing()
            self._by_cell[x, y, z] = len(self.tiles)
            self.tiles.append(Tile((x, y, z)))
        return self._by_cell[x, y, z]

    def insert(
        self, number: int, keyframe: dict[str, Any], frame_id: int, intrinsics: CameraIntrinsics, pose: CameraPose
    ) -> int:
        """Insert a keyframe, as the core takes it, into a tile; returns the id of its first patch."""
        tile = self.tiles[number]
        self.open([number])
        if tile.store is None:
            tile.store = self._writable(tile)
        first = tile.store._insert(keyframe, frame_id)
        here = self.world._insert(keyframe, frame_id)
        self.ids.add(here, self.world._core.next_id - here, number, first)
        alone = self.new_store()
        alone._insert(keyframe, frame_id)
        tile.note(alone.bounds, surface_bounds(keyframe, intrinsics, pose), pose.timestamp)
        return IdMap.id_of(number, first)

    def open_patches(self) -> int:
        """How many are open."""
        return sum(self.tiles[number].patches for number in self.loaded)

    def use(self, numbers: set[int]) -> None:
        """Count open tiles as used."""
        for number in numbers:
            self.loaded.move_to_end(number)

    def release(self) -> None:
        """Let another process write; nothing more may be asked of this object."""
        for tile in self.tiles:
            if tile.store is not None:
                tile.store.close()
                tile.store = None
        if self._held is not None:
            self._held.release()
            self._held = None

    # --- Opening and closing.

    def open(self, numbers: Sequence[int]) -> None:
        """Open tiles, where they are not."""
        for number in numbers:
            if number not in self.loaded:
                self._load(number)
            self.loaded[number] = None
            self.loaded.move_to_end(number)

    def _load(self, number: int) -> None:
        tile = self.tiles[number]
        if tile.store is None and not self._is_there(tile):
            if tile.patches:
                suspect(
                    f"{self._path(tile)}: no store is there, though {TILES} lists {tile.patches} patches: was it "
                    "removed, or the process that saved it killed? What it held is missing"
                )
            tile.patches = 0
            return
        store = tile.store or MosaicMemoryStore.open(self._path(tile), num_threads=self.world.num_threads)
        tile.patches = len(store)
        if len(store):
            shift = self.world._splice(store, np.eye(4)[:3])
            self.ids.add(shift, self.world._core.next_id - shift, number, 0)
            self.opened += 1

    def _unload(self, number: int) -> None:
        self.world.delete_patches(self.ids.drop(number))
        del self.loaded[number]
        self.closed += 1

    def close_excess(self, used: set[int], most: int) -> None:
        """Close the least recently used tiles beyond ``most`` open patches, saving them first if they have changed."""
        total = self.open_patches()
        for number in [each for each in self.loaded if each not in used]:
            if total <= most:
                return
            tile = self.tiles[number]
            total -= tile.patches
            if tile.is_changed:
                self.save([number])
            if tile.store is not None:
                tile.store.close()
                tile.store = None
            self._unload(number)

    # --- Writing.

    def _begin_writing(self) -> None:
        if self._held is None:
            make_folder(self._folder)
            self._held = FolderLock.take(self._folder)
            try:
                self._expect_unchanged()
            except BaseException:
                self._held.release()
                self._held = None
                raise

    def _expect_unchanged(self) -> None:
        is_there = (self._folder / TILES).is_file()
        if (read_tiles(self._folder) if is_there else None) != self._listed:
            raise StoreLockedError(
                f"{self._folder}: another process has written here since this object read it; make another one"
            )

    def _writable(self, tile: Tile) -> MosaicMemoryStore:
        self._begin_writing()
        if self._is_there(tile):
            return MosaicMemoryStore.open(self._path(tile), num_threads=self.world.num_threads)
        return self.new_store()

    def new_store(self) -> MosaicMemoryStore:
        """An empty store with the settings of all tiles."""
        world = self.world
        return MosaicMemoryStore(
            world.latent_patch_size, latent_dtype=world.latent_dtype, num_threads=world.num_threads
        )

    def save(self, numbers: Sequence[int]) -> None:
        """Save tiles. They are listed first, with bounds that hold what they had before, too: if this is cut short,
        the list promises too much, never too little.
        """
        if not numbers:
            return
        self._expect_unchanged()
        self._write_tiles()
        for number in numbers:
            tile = self.tiles[number]
            assert tile.store is not None
            tile.store.save(self._path(tile), release=True)
            tile.is_changed = False
            if number in self.loaded:  # again, over the files that hold it now
                self.world.delete_patches(self.ids.drop(number))
                self._load(number)
                self.opened -= 1

    def _write_tiles(self) -> None:
        world = self.world
        listed = TileFile(
            latent_patch_size=world.latent_patch_size,
            latent_dtype=world.latent_dtype,  # type: ignore[arg-type]
            tile_size=self.tile_size,
            origin=world._core.origin,
            channels=world._core.channels,
            next_frame_id=world._next_frame_id,
            revision=0 if self._listed is None else self._listed.revision + 1,
            tiles=[tile.entry() for tile in self.tiles],
        )
        listed.write(self._folder)
        self._listed = listed

    def _is_there(self, tile: Tile) -> bool:
        return (self._path(tile) / MANIFEST).is_file()

    def _path(self, tile: Tile) -> Path:
        return self._folder / _TILES_FOLDER / tile.name


def empty_store(known: TileFile, num_threads: int) -> MosaicMemoryStore:
    """A store without keyframes whose index counts from where that of the tiled store did."""
    store = MosaicMemoryStore(known.latent_patch_size, latent_dtype=known.latent_dtype, num_threads=num_threads)
    nothing = np.zeros(0, np.uint64)
    store._core, _ = _core.open_store(
        *(known.latent_patch_size, None, None, _core.Eviction.oldest, known.channels, known.origin, 0, 0, []),
        *(nothing, nothing, np.zeros(0, np.int64), np.zeros((0, 3, 4)), nothing, False, num_threads),
    )
    store._next_frame_id = known.next_frame_id
    return store
