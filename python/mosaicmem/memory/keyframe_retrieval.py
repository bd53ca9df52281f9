"""From a store and target cameras to canvases: choose whole keyframes, and compose them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import check_instance, check_integer, check_methods
from mosaicmem._border.device import to_host
from mosaicmem._border.stores import HOST, Axes, room_for
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.absence import suspect_mistake, without_score
from mosaicmem.memory.keyframe_options import KeyframeOptions
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.pixels import PixelMosaic
from mosaicmem.memory.results import KeyframeTable
from mosaicmem.memory.selection import ComposedMosaic, KeyframeSelection
from mosaicmem.memory.store import MosaicMemoryStore
from mosaicmem.memory.strategies import Strategy, VisibleCoverage, make_strategy
from mosaicmem.memory.target_grids import target_grids


class KeyframeRetrieval:
    """Chooses the parts of memory that best show a window of targets, and composes canvases from them.

    All targets of a window share the keyframes chosen for it.

    Parameters
    ----------
    strategy : str or Strategy
        How to choose: a name of `strategy_names`, or an object of your own. The default, ``visible_coverage``, takes
        whole keyframes by the front surfaces that each shows (see `KeyframeOptions`); its candidates come from the
        patch index, so the cost does not grow with the store.
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

    def select(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> KeyframeSelection | Mosaic:
        """The strategy's choice for a window: keyframes, or patches.

        The candidates of ``visible_coverage`` come from the index, on the host, which takes a few milliseconds if the
        store has more than 96 keyframes.

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
        sources: KeyframeSelection | Mosaic,
    ) -> ComposedMosaic:
        """Compose canvases from chosen keyframes, or from the patches of a mosaic, by the same rules.

        Parameters
        ----------
        store, targets, stride
            As for `select`.
        sources : KeyframeSelection or Mosaic
            For these targets. Keyframes and patches that are no longer in the store are skipped. On a GPU, patches are
            composed on the host, which synchronizes; keyframes synchronize only if the store has changed since they
            were chosen.
        """
        grids = self._targets(store, targets, stride)
        if not isinstance(sources, (KeyframeSelection, Mosaic)):
            raise TypeError(f"sources: expected KeyframeSelection or Mosaic, got {type(sources).__name__}")
        count = sources.frames if isinstance(sources, Mosaic) else len(sources)
        if count != len(targets):
            raise ValueError(f"sources: expected those of {len(targets)} targets, got those of {count}")
        blend = self.options.blend()
        with store._reading() as (call, memory):
            if isinstance(sources, KeyframeSelection):
                canvases, out = _room_for_canvases(call, grids, memory.channels)
                picks = store._place.picks(call, memory, sources.picks, sources._version)
                table = memory.compose(grids, picks, sources.observations, blend, out, call.handle)
                return ComposedMosaic.of_core(canvases, table, sources)
            ids = np.ascontiguousarray(to_host("patch_ids", sources.patch_ids))
            here, out_here = _room_for_canvases(HOST, grids, store.channels or 0)
            table = store._compose_patches(grids, ids, blend, out_here)
            return ComposedMosaic.of_core({name: call.there(array) for name, array in here.items()}, table, None)

    def retrieve(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> ComposedMosaic:
        """`select` and `compose`, both on one state of the store.

        Warns
        -----
        SuspiciousInput
            No cell is covered, and ``near`` or ``far`` hides what is in view, or poses and depth seem to be in
            different units. Given once, and not for a store on a GPU.
        """
        if isinstance(self.strategy, VisibleCoverage):
            grids = self._targets(store, targets, stride)
            params, blend = self.options.selection(), self.options.blend()
            with store._reading() as (call, memory):
                picks, picked = call.empty((len(targets), self.options.most_picks), "int32")
                canvases, out = _room_for_canvases(call, grids, memory.channels)
                observations, table = memory.select_and_compose(grids, params, blend, picked, out, call.handle)
                selection = KeyframeSelection.of_core(picks, observations, store._place.version(memory))
            composed = ComposedMosaic.of_core(canvases, table, selection)
        else:
            composed = self.compose(store, targets, stride, self.select(store, targets, stride))
        if store._place.may_look:
            self._suspect_absence(store, targets, composed.coverage)
        return composed

    def retrieve_pixels(
        self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int, *, pixel_stride: int = 4
    ) -> PixelMosaic:
        """Choose keyframes, among those that keep an image, and `compose_pixels` from them, on the host."""
        if isinstance(self.strategy, VisibleCoverage):
            grids = self._targets(store, targets, stride)
            picks = np.empty((len(targets), self.options.most_picks), np.int32)
            observations = store._select_on_host(grids, self.options.selection(only_images=True), picks)
            chosen: KeyframeSelection | Mosaic = KeyframeSelection.of_core(picks, observations, None)
        else:
            chosen = self.select(store, targets, stride)
        return self.compose_pixels(store, targets, stride, chosen, pixel_stride=pixel_stride)

    def compose_pixels(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        stride: int,
        sources: KeyframeSelection | Mosaic,
        *,
        pixel_stride: int = 4,
    ) -> PixelMosaic:
        """Compose colours from the images that chosen keyframes keep, on the host.

        Pixels are moved one by one, so what comes back is as sharp as depth and poses are good, where latents move as
        whole cells or subcells. A model's VAE then encodes the colours anew (`PixelMosaic.filled`). Keyframes without
        an image (``insert_keyframe(image=, image_pixels=)``) show nothing. Each thread needs 36 bytes for every pixel
        of the keyframes of a target.

        Parameters
        ----------
        store, targets, stride
            As for `select`.
        sources : KeyframeSelection
            For these targets; patches of a mosaic are refused.
        pixel_stride : int
            Pixels of the camera for each pixel of the canvases; divides ``stride``. Keyframes should keep as many:
            ``image_pixels = stride / pixel_stride``.
        """
        pixel_stride = check_integer("pixel_stride", pixel_stride, minimum=1)
        if stride % pixel_stride:
            raise ValueError(f"pixel_stride: expected a divisor of stride = {stride}, got {pixel_stride}")
        if not isinstance(sources, KeyframeSelection):
            raise TypeError(f"sources: expected KeyframeSelection, got {type(sources).__name__}")
        if len(sources) != len(targets):
            raise ValueError(f"sources: expected those of {len(targets)} targets, got those of {len(sources)}")
        grids = self._targets(store, targets, pixel_stride)
        canvases, out = _room_for_canvases(HOST, grids, 3)
        picks = np.ascontiguousarray(to_host("picks", sources.picks), np.int32)
        table = store._compose_images(grids, picks, sources.observations, self.options.blend(), out)
        colors = canvases.pop("latents")
        return PixelMosaic(colors, **canvases, pixel_stride=pixel_stride, **vars(KeyframeTable.of_core(table)))

    def prefetch(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> None:
        """Begin moving the keyframes that a window will need into GPU memory, up to the store's ``device_bytes``.

        They are chosen on the host, so this does not wait for the GPU; the copies overlap with the GPU's work. Call it
        for the next window while this one is generated. For a store on the host it does nothing.
        """
        grids = self._targets(store, targets, stride)
        if store._place.may_look:
            return
        picks = np.empty((len(targets), self.options.most_picks), np.int32)
        observations = store._select_on_host(grids, self.options.selection(), picks)
        ranks: dict[int, int] = {}  # the best of any target first, then the second best
        for rank, column in enumerate(picks.T):
            for pick in np.unique(column[column >= 0]).tolist():
                ranks.setdefault(pick, rank)
        store._prefetch(observations[list(ranks)])

    def _suspect_absence(self, store: MosaicMemoryStore, targets: CameraTrajectory, coverage: Any) -> None:
        if not self._has_warned and not coverage.any():
            options = without_score(self.options.near, self.options.far, self.options.generated_weight)
            self._has_warned = suspect_mistake(store, targets, options)

    def _targets(self, store: MosaicMemoryStore, targets: CameraTrajectory, stride: int) -> _core.TargetGrids:
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        return target_grids(targets, stride, self.options.near, self.options.far)


def _room_for_canvases(call: Any, grids: _core.TargetGrids, channels: int) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Canvases (T, h, w, ...) by name, and as the core takes them."""
    axes: Axes = {"latents": ((channels,), "float32"), **_CANVASES}
    return room_for(call, (grids.count, grids.rows, grids.columns), axes)


_CANVASES: Axes = {
    "coverage": ((), "bool"),
    "depth": ((), "float32"),
    "source": ((), "int32"),
    "weight": ((), "float32"),
    "observed": ((), "bool"),
}
