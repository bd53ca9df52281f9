"""From a store and target cameras to canvases: choose whole keyframes, and compose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F64, I64, U64, ArrayLike, Bool, as_ids, check_instance
from mosaicmem._border.device import to_host
from mosaicmem.camera import CameraTrajectory
from mosaicmem.device import keyframes
from mosaicmem.memory.absence import suspect_mistake, without_score
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.storage import MAX_CELLS
from mosaicmem.memory.store import MosaicMemoryStore


@dataclass(frozen=True, eq=False)
class KeyframeSelection:
    """The keyframes chosen for T targets.

    Attributes
    ----------
    observations : list of T (n,) uint64 arrays
        The best first; the numbers that ``describe_patches()["observation"]`` has too. Integers of any kind are taken;
        what is given twice counts once.

    Raises
    ------
    TypeError, ValueError
        Something else is given.
    """

    observations: list[U64]

    def __init__(self, observations: Sequence[ArrayLike]) -> None:
        if not isinstance(observations, Sequence):
            raise TypeError(f"observations: expected a list of arrays, got {type(observations).__name__}")
        object.__setattr__(
            self, "observations", [_distinct(f"observations[{t}]", each) for t, each in enumerate(observations)]
        )

    def __len__(self) -> int:
        """T."""
        return len(self.observations)

    @property
    def window(self) -> U64:
        """All that any target uses, ascending."""
        return np.unique(np.concatenate([*self.observations, np.zeros(0, np.uint64)]))


def _distinct(name: str, ids: ArrayLike) -> U64:
    """Each id once, where it first comes."""
    array = as_ids(name, ids)
    _, first = np.unique(array, return_index=True)
    return array[np.sort(first)]


@dataclass(frozen=True, eq=False)
class DeviceSelection:
    """The keyframes chosen for T targets on a device, where they stay. Good until the store changes.

    Attributes
    ----------
    picks : (T, K) int32
        On the device: positions in ``observations``, the best first, -1 beyond those that were chosen.
    observations : (R,) uint64
        As of `KeyframeSelection`, on the host.
    """

    picks: Any
    observations: U64
    _state: tuple[Any, int]  # of the mirror

    def __len__(self) -> int:
        """T."""
        return int(self.picks.shape[0])

    def on_host(self) -> KeyframeSelection:
        """The same there; waits for the device."""
        rows = to_host("picks", self.picks)
        return KeyframeSelection([self.observations[row[row >= 0]] for row in rows])


@dataclass(frozen=True, eq=False)
class ComposedMosaic:
    """Canvases for T targets, and what each cell was composed from.

    From a store on a device the five arrays of canvases are there, and the K keyframes are all of the store.

    Attributes
    ----------
    latents : (T, h, w, C) float32
        Zero where uncovered.
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
        Of the front surface, metres; 0 where uncovered.
    source : (T, h, w) int32
        Which of the K keyframes has the token that counts most in a cell; -1 where uncovered.
    weight : (T, h, w) float32
        What all that was averaged is worth together, bilinear weights included: how sure a cell is. 0 where uncovered.
    observations : (K,) uint64
        The keyframes in use.
    frame_ids : (K,) int64
    timestamps : (K,) float64
        Seconds.
    world_from_camera : (K, 3, 4) float64
    intrinsics : (K, 4) float64
        fx, fy, cx, cy; pixels.
    generated : (K,) bool
        Whether a model made a keyframe up; False for those that were observed.
    selection : KeyframeSelection, DeviceSelection or None
        None where patches were composed.
    """

    latents: Any
    coverage: Any
    depth: Any
    source: Any
    weight: Any
    observations: U64
    frame_ids: I64
    timestamps: F64
    world_from_camera: F64
    intrinsics: F64
    generated: Bool
    selection: KeyframeSelection | DeviceSelection | None = None

    @property
    def coverage_ratio(self) -> F64:
        """The part of each target's cells that is covered, (T,) float64, on the host."""
        return np.asarray(to_host("coverage", self.coverage).mean(axis=(1, 2)))

    @property
    def observed(self) -> Bool:
        """The covered cells that show mostly what was observed, (T, h, w) bool, on the host.

        They are those whose ``source`` is an observed keyframe. The other covered cells show what a model made up.
        """
        source = to_host("source", self.source)
        return np.asarray((source >= 0) & ~np.append(self.generated, True)[source])

    @property
    def observed_ratio(self) -> F64:
        """The part of each target's cells that show what was observed, (T,) float64, on the host."""
        return np.asarray(self.observed.mean(axis=(1, 2)))


class KeyframeRetrieval:
    """Chooses the keyframes that show a window of targets best, and composes canvases from them.

    A cell counts for a keyframe if the keyframe's surface is in front there, by what its sight of it is worth (see
    `KeyframeOptions`). All targets of a window share the keyframes that are taken for it. Candidates come from
    the patch index, so the cost does not grow with the store.

    Parameters
    ----------
    options
        Fields of `KeyframeOptions`.

    Examples
    --------
    >>> mosaic = KeyframeRetrieval(composition="backward").retrieve(store, targets, stride=8)  # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        self.options = KeyframeOptions(**options)
        self._has_warned = False

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> Any:
        """Choose keyframes for a window.

        Returns a `KeyframeSelection`, or a `DeviceSelection` from a store on a device. Candidates come from the index,
        on the host, which takes a few milliseconds where the store has more than 96 keyframes.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels a cell of the target grid.
        """
        grids = self._targets(store, targets, stride)
        if store._mirror is not None:
            with store._mirror.following(store._core) as (call, tables):
                picks = self._choose_on_device(store, call, tables, grids)
                return DeviceSelection(picks, store._mirror.described()["observation"], store._mirror.state)
        return KeyframeSelection(store._core.select_keyframes(grids, self.options.selection(), store.num_threads))

    def compose(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        stride: int,
        sources: KeyframeSelection | DeviceSelection | Mosaic,
    ) -> ComposedMosaic:
        """Compose canvases from chosen keyframes, or from the patches of a mosaic, by the same rules.

        Parameters
        ----------
        store, targets, stride
            As for `select`.
        sources : KeyframeSelection, DeviceSelection or Mosaic
            For these targets. Keyframes and patches that are no longer in the store are passed over. A store on a
            device composes keyframes only, and a `DeviceSelection` only as long as the store is as it was.
        """
        grids = self._targets(store, targets, stride)
        if store._mirror is not None:
            return self._compose_on_device(store, grids, sources, len(targets))
        if isinstance(sources, Mosaic):
            lists = [sources.patch_ids[sources.patch_frames == frame] for frame in range(sources.frames)]
        else:
            lists = check_instance("sources", sources, KeyframeSelection).observations
        if len(lists) != len(targets):
            raise ValueError(f"sources: expected those of {len(targets)} targets, got those of {len(lists)}")
        are_patches = isinstance(sources, Mosaic)
        arrays = store._core.compose(grids, lists, are_patches, self.options.blend(), store.num_threads)
        return _composed(arrays, None if isinstance(sources, Mosaic) else sources)

    def retrieve(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> ComposedMosaic:
        """`select` and `compose`, both of one state of the store.

        Warns
        -----
        SuspiciousInput
            No cell is covered, and ``near`` or ``far`` hide what is in view, or poses and depth seem to be of different
            units. Said once, and not for a store on a device.
        """
        grids = self._targets(store, targets, stride)
        if store._mirror is not None:
            mirror = store._mirror
            with mirror.following(store._core) as (call, tables):
                picks = self._choose_on_device(store, call, tables, grids)
                selection = DeviceSelection(picks, mirror.described()["observation"], mirror.state)
                there = keyframes.compose(call, tables, mirror, grids, picks, self.options.blend())
                return _composed({**there, "keyframes": mirror.described()}, selection)
        chosen, arrays = store._core.choose_and_compose(
            grids, self.options.selection(), self.options.blend(), store.num_threads
        )
        if not self._has_warned and not arrays["coverage"].any():
            options = without_score(self.options.near, self.options.far, self.options.generated_weight)
            self._has_warned = suspect_mistake(store, targets, options)
        return _composed(arrays, KeyframeSelection(chosen))

    def prefetch(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> None:
        """Begin to move what a window will need into device memory, as far as the store's ``device_bytes`` go.

        The keyframes are chosen on the host, so that this does not wait for the device; the copies run beside what the
        device does. Call it for the next window while this one is generated. On the host it does nothing.
        """
        grids = self._targets(store, targets, stride)
        if store._mirror is None:
            return
        chosen = store._core.select_keyframes(grids, self.options.selection(), store.num_threads)
        ranks = {int(slot): rank for each in reversed(chosen) for rank, slot in enumerate(each)}
        store._mirror.prefetch(store._core, sorted(ranks, key=lambda slot: (ranks[slot], slot)))

    def _choose_on_device(self, store: MosaicMemoryStore, call: Any, tables: Any, grids: _core.TargetGrids) -> Any:
        assert store._mirror is not None
        params = self.options.selection()
        candidates = store._core.keyframe_candidates(grids, params, store.num_threads)
        rows = store._mirror.rows_of(candidates.tolist())
        most = self.options.max_window_keyframes, self.options.max_keyframes
        return keyframes.choose(call, tables, grids, rows, params, most)

    def _compose_on_device(
        self, store: MosaicMemoryStore, grids: _core.TargetGrids, sources: Any, count: int
    ) -> ComposedMosaic:
        mirror = store._mirror
        assert mirror is not None
        if not isinstance(sources, (KeyframeSelection, DeviceSelection)):
            raise TypeError(
                f"sources: expected KeyframeSelection or DeviceSelection for a store on a device, "
                f"got {type(sources).__name__}"
            )
        if len(sources) != count:
            raise ValueError(f"sources: expected those of {count} targets, got those of {len(sources)}")
        with mirror.following(store._core) as (call, tables):
            if isinstance(sources, DeviceSelection):
                if sources._state != mirror.state:
                    raise ValueError(
                        "sources: expected a choice from this store as it is, got one from another, or from before it "
                        "changed; select again"
                    )
                picks = sources.picks
            else:
                rows = [mirror.rows_of(each.tolist()) for each in sources.observations]
                table = np.full((count, max(map(len, rows))), -1, np.int32)
                for t, each in enumerate(rows):
                    table[t, : len(each)] = each
                picks = call.constant(table)[0]
            arrays = keyframes.compose(call, tables, mirror, grids, picks, self.options.blend())
            return _composed({**arrays, "keyframes": mirror.described()}, sources)

    def _targets(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> _core.TargetGrids:
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        camera = targets.intrinsics
        grid = camera.latent_grid(stride)
        if grid.width * grid.height > MAX_CELLS:
            raise ValueError(
                f"targets: expected at most {MAX_CELLS} cells of {stride} pixels, "
                f"got {camera.width}x{camera.height} pixels"
            )
        return _core.TargetGrids(
            (*camera.params, camera.width, camera.height, self.options.near, self.options.far),
            targets.camera_from_world,
            np.array([pose.timestamp for pose in targets]),
            grid.height,
            grid.width,
            float(stride),
        )


def _composed(arrays: Any, selection: KeyframeSelection | DeviceSelection | None) -> ComposedMosaic:
    described = cast(dict[str, Any], arrays["keyframes"])
    return ComposedMosaic(
        arrays["latents"],
        arrays["coverage"],
        arrays["depth"],
        arrays["source"],
        arrays["weight"],
        described["observation"],
        described["frame_id"],
        described["timestamp"],
        described["world_from_camera"],
        described["intrinsics"],
        described["generated"],
        selection,
    )
