"""From a store and target cameras to a mosaic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mosaicmem._arrays import check_choice, check_instance, check_number
from mosaicmem._border.stores import room_for
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.absence import suspect_mistake
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.queries import cameras
from mosaicmem.memory.recency import suspect_forgotten
from mosaicmem.memory.results import FOUND, KeyframeTable
from mosaicmem.memory.store import MosaicMemoryStore


class MemoryRetrieval:
    """Retrieves the patches that each target view sees and aligns their tokens to it.

    Parameters
    ----------
    temporal : {"target", "offset"}
        The t of a token's position: its target frame, or source time minus target time in latent frames.
    options
        Fields of `RetrievalOptions`, applied to each target frame.
    """

    def __init__(self, *, temporal: str = "target", **options: Any) -> None:
        self.temporal = check_choice("temporal", temporal, ("target", "offset"))
        self.options = RetrievalOptions(**options)
        self._has_warned = False

    def retrieve(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        stride: int,
        *,
        seconds_per_latent: float | None = None,
    ) -> Mosaic:
        """Build the mosaic of a window, from one state of the store.

        Parameters
        ----------
        store : MosaicMemoryStore
        targets : CameraTrajectory
            The camera of each target latent frame.
        stride : int
            Pixels per cell of the target grid.
        seconds_per_latent : float, optional
            Needed by ``temporal="offset"``.

        Warns
        -----
        SuspiciousInput
            Nothing is found for any target, and ``near``, ``far``, ``min_visibility`` or ``half_life`` hides what is in
            view, or poses and depth seem to be in different units. Given once, and not for a store on a GPU.
        """
        check_instance("store", store, MosaicMemoryStore)
        check_instance("targets", targets, CameraTrajectory)
        if self.temporal == "offset":
            seconds_per_latent = check_number("seconds_per_latent", seconds_per_latent, above=0.0)
        grid = targets.cameras[0].latent_grid(stride)
        age_unit = 0.0 if seconds_per_latent is None or self.temporal == "target" else seconds_per_latent
        answer = None
        while answer is None:  # the store may grow after its patches are counted
            answer = self._read(store, targets, (grid.height, grid.width), float(stride), age_unit)
        mosaic = Mosaic(**answer)
        if store._place.may_look and not len(mosaic.sources):
            self._suspect_absence(store, targets)
        return mosaic

    def _read(
        self,
        store: MosaicMemoryStore,
        targets: CameraTrajectory,
        grid: tuple[int, int],
        stride: float,
        seconds_per_latent: float,
    ) -> dict[str, Any] | None:
        """The fields of a mosaic; None if the store has more patches than were allocated for."""
        options, cells = self.options, store.latent_patch_size**2
        with store._reading() as (call, memory):
            room = (len(targets), store._place.room(options.top_k, len(store)))
            found, found_out = room_for(call, room, FOUND)
            count, counted = call.empty(room[:1], "int32")
            sources, sources_out = room_for(call, room, _SOURCES)
            latents = {"tokens": ((memory.channels,), "float32")}
            tokens, tokens_out = room_for(call, (*room, cells), latents | _TOKENS)
            masks, masks_out = room_for(call, (len(targets), *grid), _MASKS)
            table = memory.retrieve_tokens(
                *cameras(targets, options),
                options.top_k,
                options.weights(),
                stride,
                seconds_per_latent,
                (*found_out, counted),
                (*sources_out, *tokens_out, *masks_out),
                call.handle,
            )
            if table is None:
                return None
            patches = {"patch_ids": found["ids"], "patch_scores": found["scores"], **sources}
            patches, tokens = call.filled(patches, count), call.filled(tokens, count)
        tokens = {name: array.reshape(_joined(array)) for name, array in tokens.items()}
        return {**patches, **tokens, **masks, "sources": KeyframeTable.of_core(table)}

    def _suspect_absence(self, store: MosaicMemoryStore, targets: CameraTrajectory) -> None:
        suspect_forgotten(store, targets, self.options)
        if not self._has_warned:
            ageless = replace(self.options, half_life=0.0)  # suspect_forgotten has checked ages
            self._has_warned = suspect_mistake(store, targets, ageless)


def _joined(array: Any) -> tuple[int, ...]:
    """The shape of an array (T, K, cells, ...) with its tokens along one axis."""
    views, patches, cells, *rest = array.shape
    return (views, patches * cells, *rest)


# Outputs of the core besides latents, in its order: per patch, per token, per cell of a target.
_SOURCES = {"patch_sources": ((), "int32"), "patch_generated": ((), "bool")}
_TOKENS = {
    "positions": ((3,), "float64"),
    "source_positions": ((2,), "int32"),
    "depth": ((), "float32"),
    "confidence": ((), "float32"),
    "valid": ((), "bool"),
}
_MASKS = {"coverage": ((), "bool"), "observed": ((), "bool")}
