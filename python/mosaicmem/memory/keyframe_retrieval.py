"""From a store and target cameras to canvases: choose whole keyframes, and compose them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import check_instance, check_methods
from mosaicmem.camera import CameraTrajectory
from mosaicmem.device import keyframes
from mosaicmem.memory.absence import suspect_mistake, without_score
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.selection import ComposedMosaic, DeviceSelection, KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.strategies import Strategy, VisibleCoverage, make_strategy
from mosaicmem.memory.target_grids import target_grids


class KeyframeRetrieval:
    """Chooses the parts of memory that show a window of targets best, and composes canvases from them.

    All targets of a window share the keyframes that are taken for it.

    Parameters
    ----------
    strategy : str or Strategy
        Which parts of memory: a name of `strategy_names`, or an object of your own. The default, ``visible_coverage``,
        takes whole keyframes by the cells that each shows in front (see `KeyframeOptions`); its candidates come from
        the patch index, so the cost does not grow with the store.
    options
        Fields of `KeyframeOptions`.

    Examples
    --------
    >>> mosaic = KeyframeRetrieval(composition="backward").retrieve(store, targets, stride=8)  # doctest: +SKIP
    """

    def __init__(self, strategy: str | Strategy = "visible_coverage", **options: Any) -> None:
        self.options = KeyframeOptions(**options)
        if isinstance(strategy, str):
            self.strategy: Strategy = make_strategy(strategy, self.options)
        else:
            check_methods("strategy", strategy, Strategy)
            self.strategy = strategy
        self._has_warned = False

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> Any:
        """What the strategy takes for a window: a `KeyframeSelection`, or a `Mosaic` of patches.

        ``visible_coverage`` gives a `DeviceSelection` from a store on a device; its candidates come from the index, on
        the host, which takes a few milliseconds where the store has more than 96 keyframes.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels per cell of the target grid.
        """
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        return self.strategy.select(store, targets, stride)

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
            For these targets. Keyframes and patches that are no longer in the store are skipped. A store on a
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
        if not isinstance(self.strategy, VisibleCoverage):
            composed = self.compose(store, targets, stride, self.select(store, targets, stride))
            self._suspect_absence(store, targets, composed.coverage)
            return composed
        grids = self._targets(store, targets, stride)
        if store._mirror is not None:
            mirror = store._mirror
            with mirror.following(store._core) as (call, tables):
                picks = self.strategy.choose_on_device(store, call, tables, grids)
                selection = DeviceSelection(picks, mirror.described()["observation"], mirror.state)
                there = keyframes.compose(call, tables, mirror, grids, picks, self.options.blend())
                return _composed({**there, "keyframes": mirror.described()}, selection)
        chosen, arrays = store._core.choose_and_compose(
            grids, self.options.selection(), self.options.blend(), store.num_threads
        )
        self._suspect_absence(store, targets, arrays["coverage"])
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

    def _suspect_absence(self, store: MosaicMemoryStore, targets: CameraTrajectory, coverage: Any) -> None:
        if not self._has_warned and not coverage.any():
            options = without_score(self.options.near, self.options.far, self.options.generated_weight)
            self._has_warned = suspect_mistake(store, targets, options)

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
        return target_grids(targets, stride, self.options.near, self.options.far)


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
