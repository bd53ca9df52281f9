"""The patch store: keyframes on the latent grid, placed in the world, indexed by kd-trees."""

from __future__ import annotations

import math
from pathlib import Path
from types import EllipsisType
from typing import Any, cast

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import (
    F32,
    F64,
    I64,
    U64,
    ArrayLike,
    as_array,
    as_ids,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_threads,
)
from mosaicmem._border.device import on_host
from mosaicmem._border.stores import place_of, room_for
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory.keyframe import as_keyframe, check_fits
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.recency import suspect_forgotten
from mosaicmem.memory.results import FOUND, RetrievedPatches, RetrievedWindow, StoreSnapshot, StoreStatistics
from mosaicmem.memory.storage import Attachment, ExportedStore, StoreHome, StoreSettings, open_folder

LATENT_DTYPES = ("float32", "float16", "bfloat16")
EVICTIONS = ("oldest", "redundant")
_MOST_FRAME_ID = 2**62
_MOST_COORDINATE = 1e13  # metres; squared distances stay within float32


class MosaicMemoryStore(Uncopied):
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
        Limit on `nbytes`; beyond it, keyframes are evicted.
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
        `KeyframeRetrieval.prefetch` has moved them. Index and depth are always on the GPU: 12 bytes per patch and 4 per
        cell.
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

    def __len__(self) -> int:
        """The number of live patches."""
        return self._core.alive_count

    @property
    def channels(self) -> int | None:
        """Channels of the latents; None before the first keyframe."""
        return self._core.channels or None

    def insert_keyframe(
        self,
        latents: ArrayLike,
        depth: ArrayLike,
        intrinsics: CameraIntrinsics,
        pose: CameraPose,
        *,
        frame_id: int | None = None,
        valid: ArrayLike | None = None,
        dynamic: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
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
        valid : (h, w) bool array, optional
            Cells that are False are not remembered.
        dynamic : (h, w) bool array, optional
            Cells that show something moving. It will be elsewhere later, so they are not remembered.
        confidence : (h, w) array, optional
            In [0, 1], 1 if not given. Weights a cell in tokens and canvases.
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
        given = {"latents": latents, "depth": depth, "valid": valid, "dynamic": dynamic, "confidence": confidence}
        if not isinstance(copy, bool):
            raise TypeError(f"copy: expected True or False, got {copy!r}")
        keyframe = as_keyframe(
            **on_host(given),
            intrinsics=intrinsics,
            pose=pose,
            provenance=provenance,
            channels=self.channels,
            dtype=self.latent_dtype,
            own=copy,
        )
        if frame_id is not None:
            frame_id = check_integer("frame_id", frame_id, minimum=-_MOST_FRAME_ID, maximum=_MOST_FRAME_ID)
        check_fits(keyframe, self.latent_patch_size, self.max_patches, self.max_bytes, self.eviction, self.num_threads)
        keyframe["latents"] = self._place.kept(keyframe["latents"])
        with self._lock:
            if frame_id is None:
                frame_id = self._next_frame_id
                if frame_id > _MOST_FRAME_ID:
                    raise ValueError(
                        "frame_id: expected one to be given: the number after the largest so far is too large"
                    )
            self._next_frame_id = max(self._next_frame_id, frame_id + 1)
        return self._core.insert(*[*keyframe.values(), frame_id, self.num_threads])

    def retrieve(self, intrinsics: CameraIntrinsics, pose: CameraPose, **options: Any) -> RetrievedPatches:
        """The patches with the highest scores for a camera, exactly.

        Parameters
        ----------
        intrinsics, pose
            The camera, and the time of the view.
        options
            Fields of `RetrievalOptions`: top_k, near, far, half_life, min_visibility, diversity_radius,
            diversity_penalty, generated_weight.

        Returns
        -------
        RetrievedPatches
            Front to back, on the host. Among equal scores, smaller ids win.

        Warns
        -----
        SuspiciousInput
            Nothing in view is found, because the whole store is at least 30 half-lives old. Given once per store.
        """
        chosen = RetrievalOptions(**options)
        found = self._retrieved(intrinsics, pose, chosen)
        if not len(found):
            suspect_forgotten(self, intrinsics, [pose], chosen)
        return found

    def _retrieved(self, intrinsics: CameraIntrinsics, pose: CameraPose, options: RetrievalOptions) -> RetrievedPatches:
        """`retrieve` without the warning."""
        camera, camera_from_world = _view(intrinsics, pose, options.near, options.far)
        window = self._window(camera, camera_from_world[None], np.array([pose.timestamp]), options, len(self))
        return window.packed()[0]

    def retrieve_window(self, targets: CameraTrajectory, **options: Any) -> RetrievedWindow:
        """`retrieve` for each camera of a window, in padded arrays, on the store's device. On a GPU all cameras are
        processed at once, and nothing synchronizes.

        Parameters
        ----------
        targets : CameraTrajectory
        options
            Fields of `RetrievalOptions`. On a GPU ``top_k`` is at most 65536.
        """
        check_instance("targets", targets, CameraTrajectory)
        chosen = RetrievalOptions(**options)
        window = self._window(*cameras(targets, chosen), chosen, chosen.top_k)
        if self._place.may_look and not window.count.any():
            suspect_forgotten(self, targets.intrinsics, list(targets), chosen)
        return window

    def _window(
        self, camera: Any, camera_from_world: F64, times: F64, options: RetrievalOptions, most: int
    ) -> RetrievedWindow:
        """`retrieve_window` with room for ``most`` patches per camera."""
        views, asked = len(camera_from_world), (camera, camera_from_world, times, options.top_k, options.weights())
        while True:
            with self._reading() as (call, memory):
                arrays, found = room_for(call, (views, self._place.room(options.top_k, most)), FOUND)
                count, counted = call.empty((views,), "int32")
                if memory.retrieve_window(*asked, (*found, counted), call.handle):
                    return RetrievedWindow(**arrays, count=count)
            most = len(self)  # the store has grown since its patches were counted

    # For the other modules of this package, which do not use the core directly.

    @property
    def _revision(self) -> int:
        """Increases with every write."""
        return self._core.revision

    def _exported(self) -> ExportedStore:
        return ExportedStore.of(self._core)

    def _transform(self, affine: F64, ids: U64 | None) -> int:
        return self._core.transform(affine, ids, self.num_threads)

    def _duplicate(self, affine: F64, ids: U64 | None) -> U64:
        return self._core.duplicate(affine, ids, self.num_threads)

    def _splice(self, other: MosaicMemoryStore, affine: F64) -> int:
        return self._core.splice(other._core, affine, self.num_threads)

    def _inside(self, half_spaces: F64) -> U64:
        return self._core.inside(half_spaces, self.num_threads)

    def _inside_sphere(self, centre: tuple[float, float, float], radius: float) -> U64:
        return self._core.inside_sphere(centre, radius, self.num_threads)

    def _compose_patches(self, grids: _core.TargetGrids, ids: I64, blend: _core.BlendOptions, out: Any) -> Any:
        return self._core.compose_patches(grids, ids, blend, out, self.num_threads)

    def _select_on_host(self, grids: _core.TargetGrids, params: _core.KeyframeParams, picks: Any) -> U64:
        return self._core.select_keyframes(grids, params, picks, self.num_threads)

    def _prefetch(self, observations: U64) -> None:
        self._place.prefetch(self._core, observations)

    def _there(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """NumPy arrays on the store's device."""
        with self._reading() as (call, _):
            return {name: call.there(array) for name, array in arrays.items()}

    def _reading(self) -> Any:
        """See `mosaicmem._border.stores`."""
        return self._place.reading(self._core, self.num_threads)

    def query_nearest(self, points: ArrayLike, k: int = 1) -> tuple[F32, U64]:
        """The k patches nearest to each point.

        Parameters
        ----------
        points : (N, 3) array
            World, metres, finite.
        k : int

        Returns
        -------
        distances : (N, min(k, len(store))) float32
            Metres, ascending; ties go to the smaller id.
        ids : (N, min(k, len(store))) uint64
        """
        queries = _as_points(points)
        count = check_integer("k", k, minimum=1, maximum=2**31 - 1)
        return self._core.nearest(queries, count, self.num_threads)

    def query_radius(self, points: ArrayLike, radius: float) -> tuple[I64, F32, U64]:
        """All patches within a radius of each point.

        Parameters
        ----------
        points : (N, 3) array
            World, metres, finite.
        radius : float
            Metres.

        Returns
        -------
        offsets : (N + 1,) int64
            The patches of point i are ``[offsets[i]:offsets[i + 1]]`` of the other two.
        distances : (M,) float32
            Metres, ascending for each point; ties go to the smaller id.
        ids : (M,) uint64
        """
        queries = _as_points(points)
        return self._core.within(queries, check_number("radius", radius, minimum=0.0, maximum=1e12), self.num_threads)

    def delete_patches(self, ids: ArrayLike) -> int:
        """Erase patches by id; ids of no live patch are skipped. Returns how many were erased."""
        return self._core.erase(as_ids("ids", ids))

    def delete_frame(self, frame_id: int) -> int:
        """Erase all patches of a frame. Returns how many were erased; 0 if there is no such frame."""
        return self._core.erase_frame(check_integer("frame_id", frame_id))

    @property
    def patch_ids(self) -> U64:
        """Ids of all live patches, ascending."""
        return self._core.alive_ids()

    def describe_patches(self, ids: ArrayLike) -> dict[str, Any]:
        """Describe live patches, in arrays with one entry per patch.

        Returns
        -------
        dict
            ``centre`` (P, 3) world metres; ``frame_id`` (P,); ``timestamp`` (P,) seconds;
            ``generated`` (P,) bool: whether a model generated the keyframe; ``row`` and ``column`` (P,)
            in the keyframe's patch grid; ``observation`` (P,) a number shared by the patches of one keyframe, unless
            edits have moved them apart; ``world_from_camera`` (P, 3, 4) and ``intrinsics`` (P, 4: fx, fy, cx, cy) of
            the keyframe.

        Raises
        ------
        KeyError
            An id belongs to no live patch.
        """
        return cast(dict[str, Any], self._core.describe(as_ids("ids", ids)))

    def project_tokens(
        self, ids: ArrayLike, intrinsics: CameraIntrinsics, pose: CameraPose, *, near: float = 0.05
    ) -> dict[str, Any]:
        """The tokens of patches, and where they land in a camera.

        Tokens without depth, tokens that land nearer than ``near``, and ids of no live patch are left out.

        Returns
        -------
        dict
            With one entry per token: ``latents`` (N, C) float32; ``projected`` (N, 3) float32: u', v' in pixels (maybe
            outside the image), z' in metres; ``confidence`` (N,); ``patch`` (N,) position in ``ids``; ``source_row``
            and ``source_column`` (N,) in the keyframe's grid.
        """
        view = _view(intrinsics, pose, check_number("near", near, above=0.0), math.inf)
        return cast(dict[str, Any], self._core.project_tokens(as_ids("ids", ids), *view))

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

    @property
    def bounds(self) -> F64 | None:
        """The smallest and the largest world coordinates of live patches, (2, 3) metres; None for an empty store."""
        return self._core.bounds(self.num_threads)

    def save(self, path: str | Path, *, label: str = "", attachment: Attachment | None = None) -> None:
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
            self._home.save(Path(path), exported, self._settings(), next_frame_id, label, attachment)

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

    def statistics(self) -> StoreStatistics:
        """Counts, bytes and times."""
        return StoreStatistics(channels=self.channels, **self._core.statistics())

    @property
    def nbytes(self) -> int:
        """Bytes that the store holds: keyframes (each once, whoever allocated its arrays), index, bookkeeping."""
        return self._core.nbytes


def _view(intrinsics: CameraIntrinsics, pose: CameraPose, near: float, far: float) -> tuple[Any, F64]:
    """A camera as the core takes it."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    check_instance("pose", pose, CameraPose)
    return (*intrinsics.params, intrinsics.width, intrinsics.height, near, far), pose.camera_from_world


def cameras(targets: CameraTrajectory, options: Any) -> tuple[Any, F64, F64]:
    """The cameras of a window as the core takes them; ``options`` has near and far."""
    camera, _ = _view(targets.intrinsics, targets[0], options.near, options.far)
    return camera, targets.camera_from_world, np.array([pose.timestamp for pose in targets])


def _limit(name: str, value: Any) -> int | None:
    return None if value is None else check_integer(name, value, minimum=1, maximum=2**61)


def _as_points(points: ArrayLike) -> F64:
    queries = as_array("points", points, np.float64, ("N", 3), finite=True)
    if np.abs(queries).max(initial=0) > _MOST_COORDINATE:
        raise ValueError(f"points: expected values within {_MOST_COORDINATE:g}, got {np.abs(queries).max():g}")
    return queries
