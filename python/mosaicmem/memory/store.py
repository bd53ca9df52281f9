"""The patch store: keyframes on the latent grid, placed in the world, indexed by kd-trees."""

from __future__ import annotations

from pathlib import Path
from types import EllipsisType
from typing import Any

from mosaicmem import _core
from mosaicmem._arrays import (
    F64,
    U64,
    ArrayLike,
    as_ids,
    check_choice,
    check_instance,
    check_integer,
    check_threads,
)
from mosaicmem._border.device import on_host
from mosaicmem._border.stores import place_of
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.memory.keyframe import as_keyframe, check_fits
from mosaicmem.memory.queries import StoreQueries
from mosaicmem.memory.results import StoreSnapshot
from mosaicmem.memory.storage import Attachment, StoreHome, StoreSettings, open_folder

LATENT_DTYPES = ("float32", "float16", "bfloat16")
EVICTIONS = ("oldest", "redundant")
_MOST_FRAME_ID = 2**62
_MOST_COORDINATE = 1e13  # metres; squared distances stay within float32


class MosaicMemoryStore(StoreQueries, Uncopied):
    """Keeps observed frames as patches of latent tokens in 3D.

    `insert_keyframe` copies a keyframe's arrays, unless they are read-only or it is told to share them. They never
    change afterwards; forks, snapshots and edits share them. A patch is a tile of
    ``latent_patch_size`` x ``latent_patch_size`` cells of a keyframe; its id never changes. A store is thread-safe:
    each call sees one consistent state.

    Parameters
    ----------
    latent_patch_size : int
        Cells along the edge of a patch.
    latent_dtype : {"float32", "float16", "bfloat16"}
        Storage dtype of latents; they are returned as float32.
    max_patches : int, optional
        Limit on live patches; the excess is evicted.
    max_bytes : int, optional
        Limit on `nbytes`; beyond it, keyframes are evicted. Where images hold more than half of it, the oldest
        keyframes first lose theirs, and stay with their latents.
    eviction : {"oldest", "redundant"}
        What is evicted first. ``"redundant"``: patches whose place closer or newer views also hold, then the oldest.
        ``max_bytes`` evicts whole keyframes, since memory is freed only when all patches of a keyframe are gone: with
        ``"redundant"``, the keyframe that holds the fewest places per byte. This keeps coverage of the world as long
        as possible.
    num_threads : int
        0 for all cores (or MOSAICMEM_NUM_THREADS). No result depends on it.
    device : optional
        ``"cuda"`` or ``"cuda:1"`` for torch, or an array module such as ``cupy``: tables on that GPU mirror the store.
        `retrieve_window`, `MemoryRetrieval`, `KeyframeRetrieval` and `AutoregressivePipeline` then run there and
        return arrays there; everything else stays on the host, which holds the whole store. Keyframes may be given as
        arrays on the GPU; inserting them synchronizes.
    device_bytes : int, optional
        Bytes of latents kept in GPU memory. Latents of the other keyframes are read from pinned host memory until
        `KeyframeRetrieval.prefetch` has moved them. Index, depth and confidence are always on the GPU: 12 bytes per
        patch, and 4 per cell, per subcell, and per cell with a confidence.
    """

    _instead = "use fork() for a second store, save() and open() for another process"

    def __init__(
        self,
        latent_patch_size: int = 2,
        *,
        latent_dtype: str = "float32",
        max_patches: int | None = None,
        max_bytes: int | None = None,
        eviction: str = "oldest",
        num_threads: int = 0,
        device: Any = None,
        device_bytes: int | None = None,
    ) -> None:
        self.latent_patch_size = check_integer("latent_patch_size", latent_patch_size, minimum=1, maximum=1024)
        self.latent_dtype = check_choice("latent_dtype", latent_dtype, LATENT_DTYPES)
        self.max_patches = _limit("max_patches", max_patches)
        self.max_bytes = _limit("max_bytes", max_bytes)
        self.eviction = check_choice("eviction", eviction, EVICTIONS)
        self.num_threads = check_threads(num_threads)
        self._core = _core.MemoryStore(
            self.latent_patch_size, self.max_patches, self.max_bytes, getattr(_core.Eviction, self.eviction)
        )
        self.device = device
        self.device_bytes = None if device_bytes is None else check_integer("device_bytes", device_bytes, minimum=0)
        self._place = place_of(device, self.device_bytes)
        self._next_frame_id = 0
        self._said_forgotten = False
        self._lock = ForkSafeLock(rank=1)  # guards _next_frame_id
        self._home = StoreHome()

    def insert_keyframe(
        self,
        latents: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        frame_id: int | None = None,
        subcell_depth: ArrayLike | None = None,
        valid: ArrayLike | None = None,
        dynamic: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        image: ArrayLike | None = None,
        image_pixels: int = 2,
        provenance: str = "observed",
        copy: bool = True,
    ) -> int:
        """Remember one frame.

        Parameters
        ----------
        latents : (h, w, C) array
            Channel-last; C must match the first keyframe. bfloat16 and float16 are widened exactly.
        depth : (h, w) array
            Depth of each cell, metres (see `depth_to_grid`). Cells whose depth is not finite or <= 0 are not
            remembered, nor are patches further than 1e12 from where the first camera stood.
        intrinsics : CameraIntrinsics
            Of the image, in pixels. Its size must be the same whole multiple of the grid in rows and columns.
        pose : CameraPose
            Where and when the frame was seen.
        frame_id : int, optional
            An id of your choice, for `delete_frame`; auto-incremented if not given.
        subcell_depth : (n h, n w) array, n = 2, 4 or 8, optional
            Depth of each of the n x n parts of a cell: ``depth_to_grid(depth, stride // n)``. Canvases are then
            composed from where the parts land, so that a cell that shows two surfaces goes to both of them. Costs 4 n^2
            bytes per cell.
        valid : (h, w) bool array, optional
            Cells that are False are not remembered.
        dynamic : (h, w) bool array, optional
            Cells that show something moving. It will be elsewhere later, so they are not remembered.
        confidence : (h, w) array, optional
            In [0, 1], 1 if not given. Weights a cell in tokens and canvases; 0 hides it. Below 0.01 a cell is doubtful:
            composition ``blend`` shows it only where nothing else is, and no keyframe is chosen for it.
        image : (H, W, 3) array, optional
            The frame, uint8 or float in [0, 1]. The store keeps it reduced, so that viewers and plots show the scene
            instead of false colours, and `KeyframeRetrieval.retrieve_pixels` can warp it.
        image_pixels : int
            What is kept of ``image``: pixels along the edge of a cell, 1 to 64. 2 is enough for viewers.
        provenance : {"observed", "generated"}
            Whether a camera saw the frame or a model generated it. Permanent: coverage reports the two separately,
            and ``generated_weight`` downweights or excludes generated keyframes in retrieval.
        copy : bool
            False: share contiguous float32 arrays instead of copying them. Do not write to them afterwards: the store
            would change unnoticed. Arrays that nobody can write to (``flags.writeable`` is False for them and for every
            array they are views of, as with files mapped read-only) are always shared.

        Returns
        -------
        int
            Id of the first patch. The patches of a frame have consecutive ids, row by row.
        """
        given = {"latents": latents, "depth": depth, "subcell_depth": subcell_depth, "valid": valid}
        given |= {"dynamic": dynamic, "confidence": confidence, "image": image}
        if not isinstance(copy, bool):
            raise TypeError(f"copy: expected True or False, got {copy!r}")
        others = {"intrinsics": intrinsics, "pose": pose, "image_pixels": image_pixels, "provenance": provenance}
        return self._insert(*self._as_keyframe(on_host(given) | others, frame_id, copy))

    def _as_keyframe(self, given: dict[str, Any], frame_id: int | None, copy: bool) -> tuple[dict[str, Any], int]:
        """A keyframe as the core takes it, checked, and its frame id."""
        keyframe = as_keyframe(**given, channels=self.channels, dtype=self.latent_dtype, own=copy)
        if frame_id is not None:
            frame_id = check_integer("frame_id", frame_id, minimum=-_MOST_FRAME_ID, maximum=_MOST_FRAME_ID)
        check_fits(keyframe, self.latent_patch_size, self.max_patches, self.max_bytes, self.eviction, self.num_threads)
        keyframe["latents"] = self._place.kept(keyframe["latents"])
        return keyframe, self._take_frame_id(frame_id)

    def _insert(self, keyframe: dict[str, Any], frame_id: int) -> int:
        return self._core.insert(*[*keyframe.values(), frame_id, self.num_threads])

    def _take_frame_id(self, given: int | None) -> int:
        """The id of a new keyframe: the given one, or that after the largest so far."""
        with self._lock:
            frame_id = self._next_frame_id if given is None else given
            if frame_id > _MOST_FRAME_ID:
                raise ValueError("frame_id: expected one to be given: the number after the largest so far is too large")
            self._next_frame_id = max(self._next_frame_id, frame_id + 1)
            return frame_id

    def _transform(self, affine: F64, ids: U64 | None) -> int:
        return self._core.transform(affine, ids, self.num_threads)

    def _duplicate(self, affine: F64, ids: U64 | None) -> U64:
        return self._core.duplicate(affine, ids, self.num_threads)

    def _splice(self, other: MosaicMemoryStore, affine: F64) -> int:
        return self._core.splice(other._core, affine, self.num_threads)

    def delete_patches(self, ids: ArrayLike) -> int:
        """Erase patches by id; ids of no live patch are skipped. Returns how many were erased."""
        return self._core.erase(as_ids("ids", ids))

    def delete_frame(self, frame_id: int) -> int:
        """Erase all patches of a frame. Returns how many were erased; 0 if there is no such frame."""
        return self._core.erase_frame(check_integer("frame_id", frame_id))

    def snapshot(self) -> StoreSnapshot:
        """The current state of the store, for `restore`.

        Takes less than a millisecond for a thousand keyframes: it shares tensors and trees, which stay in memory as
        long as the snapshot does.
        """
        return StoreSnapshot(self._core.fork(), self._settings())

    def restore(self, snapshot: StoreSnapshot) -> None:
        """Restore a snapshot. Ids that were assigned since it was taken are not reused."""
        check_instance("snapshot", snapshot, StoreSnapshot)
        for name, own in self._settings():
            theirs = getattr(snapshot._settings, name)
            if theirs != own:
                raise ValueError(f"snapshot: expected one of a store with {name} {own}, got {theirs}")
        self._core.restore(snapshot._core)

    def fork(self) -> MosaicMemoryStore:
        """A second store with the same content and settings.

        As cheap as `snapshot`. Changes to one never show in the other.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._core, other._lock, other._home = self._core.fork(), ForkSafeLock(rank=1), StoreHome()
        other._place = other._place.anew()
        return other

    def save(
        self,
        path: str | Path,
        *,
        label: str = "",
        attachment: Attachment | None = None,
        release: bool = False,
        durable: bool = True,
    ) -> None:
        """Save the store to a folder; `mosaicmem.memory.storage` documents its layout.

        Writes only what is new since the last save there. The previous save stays readable until this one is durable,
        and once this returns, a power cut loses nothing of it. From the first save on, only this store may write
        there, until `close` or the end of the process; any number of processes may read. Other threads may insert,
        retrieve and edit meanwhile: the state at the time of the call is saved.

        Parameters
        ----------
        path : path
            A new or empty folder, or the one that this store was last saved to or opened from.
        label : str
            At most 1000 characters, saved atomically with the rest.
        attachment : (dict of str to array, dict of str to str), optional
            Arrays and texts to keep with the store from this save on; see `mosaicmem.memory.storage.read_attachment`.
        release : bool
            Free the memory of what is saved: from then on latents, depth and images are read from the files, as in a
            store that was opened. So a store can grow larger than memory; its index, about 50 bytes per patch, stays.
        durable : bool
            False: do not wait for the disk, for what may be lost with the power. The next durable save of this object
            makes up for it; until then, not even the save before is safe from a power cut.

        Raises
        ------
        FileExistsError
            Something else is there.
        StoreLockedError
            Another process writes there, or has saved there since this store was opened.
        OSError
            The disk is full, for example. The previous save is intact; saving again is safe.

        Warns
        -----
        SuspiciousInput
            A file that this store was opened from no longer matches its checksum. It is kept unchanged, also in another
            folder, so that `mosaicmem inspect --verify` still reports it.
        """
        check_instance("label", label, str)
        with self._home.saving:
            exported = self._exported()
            with self._lock:
                next_frame_id = self._next_frame_id
            self._home.save(Path(path), exported, self._settings(), next_frame_id, label, attachment, durable)
            if release:
                self._core.remap(*self._home.mapped(exported))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        max_patches: int | EllipsisType | None = ...,
        max_bytes: int | EllipsisType | None = ...,
        eviction: str | EllipsisType = ...,
        num_threads: int = 0,
        device: Any = None,
        device_bytes: int | None = None,
    ) -> MosaicMemoryStore:
        """Open a saved store. Its tensors are memory-mapped, and stay on disk until they are accessed.

        Files may be removed while they are mapped, but must not be truncated: reading beyond their end kills the
        process.

        Parameters
        ----------
        path : path
            The folder.
        max_patches, max_bytes, eviction
            As for a new store; those it was saved with if omitted.
        num_threads, device, device_bytes
            As for a new store.

        Raises
        ------
        FileNotFoundError
            No store is there.
        FormatError
            Files are damaged, missing, or of a newer version; the message names the file. Tensor data is compared with
            its checksums only by `mosaicmem.memory.storage.verify` (``mosaicmem inspect --verify``).
        """
        given = {"max_patches": max_patches, "max_bytes": max_bytes, "eviction": eviction}
        given = {name: value for name, value in given.items() if value is not ...}
        checked = cls(**given)  # type: ignore[arg-type]
        overrides = {name: getattr(checked, name) for name in given}
        folder, core, settings, next_frame_id = open_folder(Path(path), check_threads(num_threads), **overrides)
        store = cls(**settings.model_dump(), num_threads=num_threads, device=device, device_bytes=device_bytes)
        store._core, store._home, store._next_frame_id = core, StoreHome(folder), next_frame_id
        return store

    def close(self) -> None:
        """Let another process write to the folder that this store was saved to. The store itself stays usable."""
        self._home.close()

    def __copy__(self) -> MosaicMemoryStore:
        return self.fork()

    def _settings(self) -> StoreSettings:
        return StoreSettings.model_validate({name: getattr(self, name) for name in StoreSettings.model_fields})


def _limit(name: str, value: Any) -> int | None:
    return None if value is None else check_integer(name, value, minimum=1, maximum=2**61)
