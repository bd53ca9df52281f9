"""A store in tiles, of which those that can matter for a view are open."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, ArrayLike, Bool, check_instance, check_integer, check_number
from mosaicmem._copies import Uncopied
from mosaicmem._files import make_folder
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.errors import StoreLockedError, suspect
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.queries import cameras
from mosaicmem.memory.results import RetrievedPatches
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.memory.storage.manifest import MANIFEST
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.tiles.id_map import IdMap
from mosaicmem.memory.tiles.surface import surface_bounds
from mosaicmem.memory.tiles.tile_file import TILES, TileEntry, TileFile, read_tiles

_TILES_FOLDER = "tiles"
_MARGIN = 2  # cells
_ROUNDING = 2.0**-21  # of coordinates in the index, which are float32, relative to the largest one


@dataclass(frozen=True)
class TiledStatistics:
    """What a tiled store holds, and what of it is open.

    Attributes
    ----------
    tiles, patches : int
        All.
    open_tiles, open_patches : int
        Those that are open.
    opened, closed : int
        How often a tile was opened or closed so far.
    """

    tiles: int
    patches: int
    open_tiles: int
    open_patches: int
    opened: int
    closed: int


@dataclass
class _Tile:
    """A tile; ``store`` is where it is written, if it has been since it was opened."""

    cell: tuple[int, int, int]
    centres: F64 | None = None  # (2, 3)
    surface: F64 | None = None
    newest: float = -math.inf
    patches: int = 0
    store: MosaicMemoryStore | None = None
    is_changed: bool = False

    @classmethod
    def of(cls, entry: TileEntry) -> _Tile:
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


class TiledStore(Uncopied):
    """A store that is larger than memory. The world is cut into cubes; the keyframes whose cameras stand in one are a
    tile, saved as a store of its own.

    Answers are those of one store with all keyframes (but for which of equal scores wins): before it answers, it opens
    every tile that could hold a patch good enough, by an upper bound of the score over the tile's bounds, and no
    others. Tiles that were used least are closed when more than ``open_patches`` are open. One thread at a time; one
    process may write.

    Parameters
    ----------
    folder : path
        A new folder, or that of a tiled store, which is opened.
    tile_size : float
        Edge of a tile, metres. Larger than what a camera sees clearly, so that few are open; small enough that some
        fit into memory. Of a store that is there: its own.
    open_patches : int
        How many may stay open between two calls. A patch takes about 50 bytes of memory; latents and depth stay on
        disk.
    latent_patch_size, latent_dtype, num_threads
        As for `MosaicMemoryStore`; those of a store that is there are its own.

    Raises
    ------
    FormatError
        What is there is damaged.
    ValueError
        ``tile_size`` is another one than that of the store that is there.
    """

    _instead: ClassVar[str] = "make another one of the same folder, which may read"

    def __init__(
        self,
        folder: str | Path,
        *,
        tile_size: float | None = None,
        open_patches: int = 20_000_000,
        latent_patch_size: int = 2,
        latent_dtype: str = "float16",
        num_threads: int = 0,
    ) -> None:
        self._folder = Path(folder).absolute()
        self._most = check_integer("open_patches", open_patches, minimum=1)
        self._tiles: list[_Tile] = []
        self._lock = ForkSafeLock(over_io=True)
        self._held: FolderLock | None = None
        self._listed: TileFile | None = None  # as it was last read or written
        self._is_closed = False
        self._opened = self._closed = 0
        self._loaded: OrderedDict[int, None] = OrderedDict()  # numbers of open tiles, the least recently used first
        self._ids = IdMap()
        if (self._folder / TILES).is_file():
            known = read_tiles(self._folder)
            if tile_size not in (None, known.tile_size):
                raise ValueError(f"tile_size: expected {known.tile_size:g}, as {self._folder} has, got {tile_size}")
            self.tile_size = known.tile_size
            self._world = _empty_store(known, num_threads)
            self._tiles, self._listed = [_Tile.of(tile) for tile in known.tiles], known
        else:
            if tile_size is None:
                raise ValueError(f"tile_size: expected metres, since {self._folder} is no tiled store yet")
            self.tile_size = check_number("tile_size", tile_size, above=0.0, maximum=1e12)
            self._world = MosaicMemoryStore(latent_patch_size, latent_dtype=latent_dtype, num_threads=num_threads)
        self._by_cell = {tile.cell: number for number, tile in enumerate(self._tiles)}

    def __len__(self) -> int:
        """The number of live patches, in all tiles."""
        return sum(tile.patches for tile in self._tiles)

    def insert_keyframe(
        self, latents: Any, depth: Any, intrinsics: CameraIntrinsics, pose: CameraPose, **options: Any
    ) -> int:
        """Remember one frame, in the tile in which its camera stands.

        Parameters are those of `MosaicMemoryStore.insert_keyframe`. It is durable after the next `save`.

        Returns
        -------
        int
            Id of the first patch; ids have the number of the tile in their upper bits.
        """
        with self._using():
            keyframe, frame_id = self._checked(latents, depth, intrinsics, pose, **options)
            number = self._tile_at(pose)
            tile = self._tiles[number]
            self._open([number])
            if tile.store is None:
                tile.store = self._writable(tile)
            first = tile.store._insert(keyframe, frame_id)
            here = self._world._insert(keyframe, frame_id)
            rows, columns = keyframe["depth"].shape
            size = self._world.latent_patch_size
            self._ids.add(here, -(-rows // size) * -(-columns // size), number, first)
            alone = self._new_store()
            alone._insert(keyframe, frame_id)
            tile.note(alone.bounds, surface_bounds(keyframe, intrinsics, pose), pose.timestamp)
            self._close_excess({number})
            return IdMap.id_of(number, first)

    def retrieve(self, intrinsics: CameraIntrinsics, pose: CameraPose, **options: Any) -> RetrievedPatches:
        """The patches with the highest scores for a camera, exactly; as `MosaicMemoryStore.retrieve`."""
        with self._using():
            store = self._near(CameraTrajectory([pose], intrinsics), RetrievalOptions(**options))
            found = store.retrieve(intrinsics, pose, **options)
            return RetrievedPatches(self._ids.outside(found.ids), found.scores, found.pixels, found.depth)

    def near(self, targets: CameraTrajectory, **options: Any) -> MosaicMemoryStore:
        """A store with all that `MemoryRetrieval` with these ``options`` could find for these targets.

        It is valid until the next call of this object, and only to be read. Fewer tiles are opened than for `in_view`,
        as those with better patches come first.

        Parameters
        ----------
        targets : CameraTrajectory
        options
            Fields of `RetrievalOptions`, all that retrieval is given.
        """
        check_instance("targets", targets, CameraTrajectory)
        with self._using():
            return self._near(targets, RetrievalOptions(**options))

    def in_view(
        self, targets: CameraTrajectory, stride: int, *, near: float = 0.05, far: float = math.inf
    ) -> MosaicMemoryStore:
        """A store with all that is in view: for canvases of `KeyframeRetrieval`, and for `MemoryBatch`.

        It is valid until the next call of this object, and only to be read. Without ``far``, that is every tile in the
        direction of view.

        Parameters
        ----------
        targets : CameraTrajectory
        stride : int
            Pixels per cell of their grid.
        near, far : float
            Metres. Pass the same ``far`` to whatever reads the store.
        """
        check_instance("targets", targets, CameraTrajectory)
        margin = _MARGIN * check_integer("stride", stride, minimum=1)  # cells beyond the edge still reach in
        with self._using():
            options = RetrievalOptions(near=near, far=far, min_visibility=0.0)
            bounds = self._bounds(_widened(targets, margin), options, "surface").max(axis=0, initial=-1.0)
            wanted = np.flatnonzero(bounds >= 0).tolist()
            self._open(wanted)
            self._close_excess(set(wanted))
            return self._world

    def prefetch(self, position: Sequence[float] | F64, radius: float) -> None:
        """Open the tiles with patches within a radius of a point, metres, as far as ``open_patches`` permits."""
        place = np.asarray(position, np.float64)
        if place.shape != (3,) or not np.isfinite(place).all():
            raise ValueError(f"position: expected three finite numbers, got {position!r}")
        reach = check_number("radius", radius, minimum=0.0)
        with self._using():
            away = [tile.distance(place) for tile in self._tiles]
            wanted, room = [], self._most
            for number in np.argsort(away, kind="stable").tolist():
                room -= self._tiles[number].patches
                if away[number] > reach or room < 0:
                    break
                wanted.append(number)
            self._open(wanted)
            self._close_excess(set(wanted))

    def save(self) -> None:
        """Save the tiles that have changed, durably, and free the memory of their latents.

        Raises
        ------
        StoreLockedError
            Another process has written here since this object read or wrote it.
        OSError
            The disk is full, say. What was saved before is intact, and saving again is safe.
        """
        with self._using():
            self._save([number for number, tile in enumerate(self._tiles) if tile.is_changed])

    def close(self) -> None:
        """Let another process write. What was not saved is lost, and this object can no longer be used."""
        with self._lock:
            self._is_closed = True
            for tile in self._tiles:
                if tile.store is not None:
                    tile.store.close()
                    tile.store = None
            if self._held is not None:
                self._held.release()
                self._held = None

    def statistics(self) -> TiledStatistics:
        """Counts as of now."""
        with self._using():
            open_patches = sum(self._tiles[number].patches for number in self._loaded)
            return TiledStatistics(
                *(len(self._tiles), len(self), len(self._loaded), open_patches, self._opened, self._closed)
            )

    def _checked(
        self,
        latents: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        frame_id: int | None = None,
        copy: bool = True,
        image_pixels: int = 2,
        provenance: str = "observed",
        **arrays: ArrayLike | None,
    ) -> tuple[dict[str, Any], int]:
        unknown = sorted(set(arrays) - {"subcell_depth", "valid", "dynamic", "confidence", "image"})
        if unknown:
            raise TypeError(f"insert_keyframe: got an unexpected argument {unknown[0]!r}")
        names = ("subcell_depth", "valid", "dynamic", "confidence", "image")
        given: dict[str, Any] = {"latents": latents, "depth": depth} | {name: arrays.get(name) for name in names}
        given |= {"intrinsics": intrinsics, "pose": pose, "image_pixels": image_pixels, "provenance": provenance}
        return self._world._as_keyframe(given, frame_id, copy)

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self._folder} is closed: make another TiledStore of it")
            yield

    # --- Which tiles.

    def _near(self, targets: CameraTrajectory, options: RetrievalOptions) -> MosaicMemoryStore:
        """Open tiles, the most promising first, until none of the others can hold anything better."""
        bounds, asked = self._bounds(targets, options), cameras(targets, options)
        weights, threads = options.weights(), self._world.num_threads
        while True:
            taken = self._world._core.least_taken(*asked, options.top_k, weights, threads)
            promises = bounds >= np.maximum(taken, options.min_visibility)[:, None]
            closed = promises & ~self._is_open()
            if not closed.any():
                break
            self._open([int(np.where(closed, bounds, -1.0).max(axis=0).argmax())])
        used = set(np.flatnonzero(promises.any(axis=0)).tolist())
        for number in used:
            self._loaded.move_to_end(number)
        self._close_excess(used)
        return self._world

    def _bounds(self, targets: CameraTrajectory, options: RetrievalOptions, of: str = "centres") -> F64:
        """Upper bounds of the scores in each tile, (T, tiles); -1 where nothing of it is in view."""
        known = [getattr(tile, of) for tile in self._tiles]
        boxes = np.array([np.zeros((2, 3)) if box is None else box for box in known]).reshape(-1, 2, 3)
        slack = _ROUNDING * np.abs(boxes - self._world._core.origin).max(axis=(1, 2), initial=0.0)
        boxes[:, 0] -= slack[:, None]
        boxes[:, 1] += slack[:, None]
        newest = np.array([max(tile.newest, -1e300) for tile in self._tiles])
        bounds = _core.score_bounds(boxes, newest, *cameras(targets, options), options.weights())
        bounds[:, [box is None for box in known]] = -1.0
        return bounds

    def _is_open(self) -> Bool:
        is_open = np.zeros(len(self._tiles), np.bool_)
        is_open[list(self._loaded)] = True
        return is_open

    def _tile_at(self, pose: CameraPose) -> int:
        """The number of the tile in which a camera stands; a new one, if there is none."""
        x, y, z = np.floor(pose.position / self.tile_size).astype(np.int64).tolist()
        if (x, y, z) not in self._by_cell:
            self._begin_writing()
            self._by_cell[x, y, z] = len(self._tiles)
            self._tiles.append(_Tile((x, y, z)))
        return self._by_cell[x, y, z]

    # --- Opening and closing.

    def _open(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number not in self._loaded:
                self._load(number)
            self._loaded[number] = None
            self._loaded.move_to_end(number)

    def _load(self, number: int) -> None:
        tile = self._tiles[number]
        if tile.store is None and not self._is_there(tile):
            if tile.patches:
                suspect(
                    f"{self._path(tile)}: no store is there, though {TILES} lists {tile.patches} patches: was it "
                    "removed, or the process that saved it killed? What it held is missing"
                )
            tile.patches = 0
            return
        store = tile.store or MosaicMemoryStore.open(self._path(tile), num_threads=self._world.num_threads)
        tile.patches = len(store)
        if len(store):
            shift = self._world._splice(store, np.eye(4)[:3])
            self._ids.add(shift, self._world._core.next_id - shift, number, 0)
            self._opened += 1

    def _unload(self, number: int) -> None:
        self._world.delete_patches(self._ids.drop(number))
        del self._loaded[number]
        self._closed += 1

    def _close_excess(self, used: set[int]) -> None:
        """Close the least recently used tiles beyond ``open_patches``, saving them first if they have changed."""
        total = sum(self._tiles[number].patches for number in self._loaded)
        for number in [each for each in self._loaded if each not in used]:
            if total <= self._most:
                return
            tile = self._tiles[number]
            total -= tile.patches
            if tile.is_changed:
                self._save([number])
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

    def _writable(self, tile: _Tile) -> MosaicMemoryStore:
        self._begin_writing()
        if self._is_there(tile):
            return MosaicMemoryStore.open(self._path(tile), num_threads=self._world.num_threads)
        return self._new_store()

    def _new_store(self) -> MosaicMemoryStore:
        world = self._world
        return MosaicMemoryStore(
            world.latent_patch_size, latent_dtype=world.latent_dtype, num_threads=world.num_threads
        )

    def _save(self, numbers: Sequence[int]) -> None:
        """Save tiles. They are listed first, with bounds that hold what they had before, too: if this is cut short,
        the list promises too much, never too little.
        """
        if not numbers:
            return
        self._expect_unchanged()
        self._write_tiles()
        for number in numbers:
            tile = self._tiles[number]
            assert tile.store is not None
            tile.store.save(self._path(tile), release=True)
            tile.is_changed = False
            if number in self._loaded:  # again, over the files that hold it now
                self._world.delete_patches(self._ids.drop(number))
                self._load(number)
                self._opened -= 1

    def _write_tiles(self) -> None:
        world = self._world
        listed = TileFile(
            latent_patch_size=world.latent_patch_size,
            latent_dtype=world.latent_dtype,  # type: ignore[arg-type]
            tile_size=self.tile_size,
            origin=world._core.origin,
            channels=world._core.channels,
            next_frame_id=world._next_frame_id,
            revision=0 if self._listed is None else self._listed.revision + 1,
            tiles=[tile.entry() for tile in self._tiles],
        )
        listed.write(self._folder)
        self._listed = listed

    def _is_there(self, tile: _Tile) -> bool:
        return (self._path(tile) / MANIFEST).is_file()

    def _path(self, tile: _Tile) -> Path:
        return self._folder / _TILES_FOLDER / tile.name


def _widened(targets: CameraTrajectory, margin: int) -> CameraTrajectory:
    """The same cameras with images that reach ``margin`` pixels further on each side."""
    wide = [
        CameraIntrinsics(c.fx, c.fy, c.cx + margin, c.cy + margin, c.width + 2 * margin, c.height + 2 * margin)
        for c in targets.cameras
    ]
    return CameraTrajectory(targets.poses, wide)


def _empty_store(known: TileFile, num_threads: int) -> MosaicMemoryStore:
    """A store without keyframes whose index counts from where that of the tiled store did."""
    store = MosaicMemoryStore(known.latent_patch_size, latent_dtype=known.latent_dtype, num_threads=num_threads)
    nothing = np.zeros(0, np.uint64)
    store._core, _ = _core.open_store(
        *(known.latent_patch_size, None, None, _core.Eviction.oldest, known.channels, known.origin, 0, 0, []),
        *(nothing, nothing, np.zeros(0, np.int64), np.zeros((0, 3, 4)), nothing, False, num_threads),
    )
    store._next_frame_id = known.next_frame_id
    return store
