"""A store in tiles, of which those that can matter for a view are open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, ArrayLike, check_instance, check_integer, check_number
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.queries import cameras
from mosaicmem.memory.results import RetrievedPatches
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.tiles.shelf import TileShelf, empty_store
from mosaicmem.memory.tiles.tile_file import TILES, read_tiles

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
        self._lock = ForkSafeLock(over_io=True)
        self._is_closed = False
        listed = read_tiles(self._folder) if (self._folder / TILES).is_file() else None
        if listed is None:
            if tile_size is None:
                raise ValueError(f"tile_size: expected metres, since {self._folder} is no tiled store yet")
            check_number("tile_size", tile_size, above=0.0, maximum=1e12)
            self._world = MosaicMemoryStore(latent_patch_size, latent_dtype=latent_dtype, num_threads=num_threads)
        else:
            if tile_size not in (None, listed.tile_size):
                raise ValueError(f"tile_size: expected {listed.tile_size:g}, as {self._folder} has, got {tile_size}")
            tile_size = listed.tile_size
            self._world = empty_store(listed, num_threads)
        self.tile_size = tile_size
        self._shelf = TileShelf(self._folder, tile_size, self._world, listed)

    def __len__(self) -> int:
        """The number of live patches, in all tiles."""
        return sum(tile.patches for tile in self._shelf.tiles)

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
            number = self._shelf.at(pose)
            first = self._shelf.insert(number, keyframe, frame_id, intrinsics, pose)
            self._shelf.close_excess({number}, self._most)
            return first

    def retrieve(self, intrinsics: CameraIntrinsics, pose: CameraPose, **options: Any) -> RetrievedPatches:
        """The patches with the highest scores for a camera, exactly; as `MosaicMemoryStore.retrieve`."""
        with self._using():
            store = self._near(CameraTrajectory([pose], intrinsics), RetrievalOptions(**options))
            found = store.retrieve(intrinsics, pose, **options)
            return RetrievedPatches(self._shelf.ids.outside(found.ids), found.scores, found.pixels, found.depth)

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
            self._shelf.open(wanted)
            self._shelf.close_excess(set(wanted), self._most)
            return self._world

    def prefetch(self, position: Sequence[float] | F64, radius: float) -> None:
        """Open the tiles with patches within a radius of a point, metres, as far as ``open_patches`` permits."""
        place = np.asarray(position, np.float64)
        if place.shape != (3,) or not np.isfinite(place).all():
            raise ValueError(f"position: expected three finite numbers, got {position!r}")
        reach = check_number("radius", radius, minimum=0.0)
        with self._using():
            away = [tile.distance(place) for tile in self._shelf.tiles]
            wanted, room = [], self._most
            for number in np.argsort(away, kind="stable").tolist():
                room -= self._shelf.tiles[number].patches
                if away[number] > reach or room < 0:
                    break
                wanted.append(number)
            self._shelf.open(wanted)
            self._shelf.close_excess(set(wanted), self._most)

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
            self._shelf.save([number for number, tile in enumerate(self._shelf.tiles) if tile.is_changed])

    def close(self) -> None:
        """Let another process write. What was not saved is lost, and this object can no longer be used."""
        with self._lock:
            self._is_closed = True
            self._shelf.release()

    def statistics(self) -> TiledStatistics:
        """Counts as of now."""
        with self._using():
            shelf = self._shelf
            tiles, loaded = len(shelf.tiles), len(shelf.loaded)
            return TiledStatistics(tiles, len(self), loaded, shelf.open_patches(), shelf.opened, shelf.closed)

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
            closed = promises & ~self._shelf.is_open()
            if not closed.any():
                break
            self._shelf.open([int(np.where(closed, bounds, -1.0).max(axis=0).argmax())])
        used = set(np.flatnonzero(promises.any(axis=0)).tolist())
        self._shelf.use(used)
        self._shelf.close_excess(used, self._most)
        return self._world

    def _bounds(self, targets: CameraTrajectory, options: RetrievalOptions, of: str = "centres") -> F64:
        """Upper bounds of the scores in each tile, (T, tiles); -1 where nothing of it is in view."""
        known = [getattr(tile, of) for tile in self._shelf.tiles]
        boxes = np.array([np.zeros((2, 3)) if box is None else box for box in known]).reshape(-1, 2, 3)
        slack = _ROUNDING * np.abs(boxes - self._world._core.origin).max(axis=(1, 2), initial=0.0)
        boxes[:, 0] -= slack[:, None]
        boxes[:, 1] += slack[:, None]
        newest = np.array([max(tile.newest, -1e300) for tile in self._shelf.tiles])
        bounds = _core.score_bounds(boxes, newest, *cameras(targets, options), options.weights())
        bounds[:, [box is None for box in known]] = -1.0
        return bounds


def _widened(targets: CameraTrajectory, margin: int) -> CameraTrajectory:
    """The same cameras with images that reach ``margin`` pixels further on each side."""
    wide = [
        CameraIntrinsics(c.fx, c.fy, c.cx + margin, c.cy + margin, c.width + 2 * margin, c.height + 2 * margin)
        for c in targets.cameras
    ]
    return CameraTrajectory(targets.poses, wide)
