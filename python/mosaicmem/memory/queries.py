"""What a store is asked: everything that reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mosaicmem._arrays import (
    F32,
    F64,
    I32,
    I64,
    U8,
    U64,
    ArrayLike,
    as_array,
    as_ids,
    check_instance,
    check_integer,
    check_number,
)
from mosaicmem._border.stores import DevicePlace, HostPlace, room_for
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.recency import suspect_forgotten
from mosaicmem.memory.results import FOUND, RetrievedPatches, RetrievedWindow, StoreStatistics
from mosaicmem.memory.storage import ExportedStore
from mosaicmem.memory.target_grids import camera_rows

if TYPE_CHECKING:
    from mosaicmem._core import BlendOptions, KeyframeParams, MemoryStore, TargetGrids

_MOST_COORDINATE = 1e13  # metres; squared distances stay within float32


class StoreQueries:
    """The reading half of `MosaicMemoryStore`. Each call sees one state of the store."""

    num_threads: int
    _core: MemoryStore
    _place: HostPlace | DevicePlace  # where the store is read
    _said_forgotten: bool

    def __len__(self) -> int:
        """The number of live patches."""
        return self._core.alive_count

    @property
    def channels(self) -> int | None:
        """Channels of the latents; None before the first keyframe."""
        return self._core.channels or None

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
            suspect_forgotten(self, CameraTrajectory([pose], intrinsics), chosen)
        return found

    def _retrieved(self, intrinsics: CameraIntrinsics, pose: CameraPose, options: RetrievalOptions) -> RetrievedPatches:
        """`retrieve` without the warning."""
        camera, camera_from_world = _view(intrinsics, pose, options.near, options.far)
        time = np.array([pose.timestamp])
        window = self._window(np.array([camera]), camera_from_world[None], time, options, len(self))
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
            suspect_forgotten(self, targets, chosen)
        return window

    def _window(
        self, cameras: F64, camera_from_world: F64, times: F64, options: RetrievalOptions, most: int
    ) -> RetrievedWindow:
        """`retrieve_window` with room for ``most`` patches per camera."""
        views, asked = len(camera_from_world), (cameras, camera_from_world, times, options.top_k, options.weights())
        while True:
            with self._reading() as (call, memory):
                arrays, found = room_for(call, (views, self._place.room(options.top_k, most)), FOUND)
                count, counted = call.empty((views,), "int32")
                if memory.retrieve_window(*asked, (*found, counted), call.handle):
                    return RetrievedWindow(**arrays, count=count)
            most = len(self)  # the store has grown since its patches were counted

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

    @property
    def bounds(self) -> F64 | None:
        """The smallest and the largest world coordinates of live patches, (2, 3) metres; None for an empty store."""
        return self._core.bounds(self.num_threads)

    def statistics(self) -> StoreStatistics:
        """Counts, bytes and times."""
        return StoreStatistics(channels=self.channels, **self._core.statistics())

    @property
    def nbytes(self) -> int:
        """Bytes that the store holds: keyframes (each once, whoever allocated its arrays), index, bookkeeping."""
        return self._core.nbytes

    # For the other modules of this package, which do not use the core directly.

    @property
    def _revision(self) -> int:
        """Increases with every write."""
        return self._core.revision

    def _exported(self) -> ExportedStore:
        return ExportedStore.of(self._core)

    def _images(self, observations: U64) -> list[tuple[U8 | None, float] | None]:
        """The image of each observation's keyframe, and its pixels per pixel of the camera; None if it is gone."""
        return self._core.images(np.ascontiguousarray(observations, np.uint64))

    def _inside(self, half_spaces: F64) -> U64:
        return self._core.inside(half_spaces, self.num_threads)

    def _inside_sphere(self, centre: tuple[float, float, float], radius: float) -> U64:
        return self._core.inside_sphere(centre, radius, self.num_threads)

    def _compose_images(self, grids: TargetGrids, picks: I32, observations: U64, blend: BlendOptions, out: Any) -> Any:
        return self._core.compose_images(grids, picks, observations, blend, out, self.num_threads)

    def _compose_patches(self, grids: TargetGrids, ids: I64, blend: BlendOptions, out: Any) -> Any:
        return self._core.compose_patches(grids, ids, blend, out, self.num_threads)

    def _select_on_host(self, grids: TargetGrids, params: KeyframeParams, picks: Any) -> U64:
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


def _view(intrinsics: CameraIntrinsics, pose: CameraPose, near: float, far: float) -> tuple[Any, F64]:
    """A camera as the core takes it."""
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    check_instance("pose", pose, CameraPose)
    return (*intrinsics.params, intrinsics.width, intrinsics.height, near, far), pose.camera_from_world


def cameras(targets: CameraTrajectory, options: Any) -> tuple[F64, F64, F64]:
    """The cameras of a window as the core takes them; ``options`` has near and far."""
    times = np.array([pose.timestamp for pose in targets])
    return camera_rows(targets, options.near, options.far), targets.camera_from_world, times


def _as_points(points: ArrayLike) -> F64:
    queries = as_array("points", points, np.float64, ("N", 3), finite=True)
    if np.abs(queries).max(initial=0) > _MOST_COORDINATE:
        raise ValueError(f"points: expected values within {_MOST_COORDINATE:g}, got {np.abs(queries).max():g}")
    return queries
