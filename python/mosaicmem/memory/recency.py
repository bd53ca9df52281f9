"""Warns if a half-life hides everything that memory would have shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mosaicmem.errors import suspect

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.memory.options import RetrievalOptions
    from mosaicmem.memory.queries import StoreQueries

_HALF_LIVES = 30.0  # a score has then decayed to a billionth, which no visibility makes up for


def suspect_forgotten(store: StoreQueries, targets: CameraTrajectory, options: RetrievalOptions) -> None:
    """Warn with `SuspiciousInput`, once per store, if targets see patches and each is at least 30 half-lives old.

    Call this when nothing was retrieved. Ages that large are hardly ever intended: they suggest times in another unit.
    """
    if not options.half_life or store._said_forgotten or not options.min_visibility > 0.5**_HALF_LIVES:
        return
    last = store.statistics().last_time
    if last is None:
        return
    age = targets[0].timestamp - last
    if not age > _HALF_LIVES * options.half_life:
        return
    ageless = replace(options, half_life=0.0, top_k=1)
    if not any(len(store._retrieved(*camera, ageless)) for camera in zip(targets.cameras, targets, strict=True)):
        return
    store._said_forgotten = True
    suspect(
        f"half_life: nothing was retrieved, since all patches are {age:.4g} s old or older, which is "
        f"{age / options.half_life:.4g} times the half-life of {options.half_life:g} s; timestamps in another unit "
        "than seconds, or of another clock? half_life=0 does not look at age"
    )
