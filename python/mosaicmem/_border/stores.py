"""Where a store is read: on the host, or on a GPU that mirrors it.

Both places have the same interface. A query opens a reading, allocates its results, and calls the core, whose two
stores take the same arguments:

    with place.reading(core, num_threads) as (call, store):
        count, out = call.empty((len(targets),), "int32")
        store.retrieve_window(..., out, call.handle)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem._border.device import DeviceCall, anchor, to_host
from mosaicmem._border.frameworks import is_on_device
from mosaicmem._border.host import HostCall
from mosaicmem._locks import ForkSafeLock

HOST = HostCall("store", None, 0)
"""Allocates arrays on the host."""


class HostPlace:
    """Reads stores on the host.

    Attributes
    ----------
    may_look : bool
        Whether the values of a result can be inspected without synchronizing.
    """

    may_look = True

    def __init__(self) -> None:
        self._call = HOST

    @contextmanager
    def reading(self, core: _core.MemoryStore, num_threads: int) -> Iterator[tuple[HostCall, Any]]:
        """The call, which uses ``num_threads``, and the store to query."""
        if self._call.handle != num_threads:
            self._call = HostCall("store", None, num_threads)
        yield self._call, core

    def room(self, top_k: int, patches: int) -> int:
        """How many patches per view to allocate, for a store of ``patches``. If the store grows before it is read, the
        core reports that this is too few."""
        return min(top_k, patches)

    def kept(self, latents: NDArray[Any]) -> NDArray[Any]:
        """Latents in the memory in which a store keeps them."""
        return latents

    def picks(self, _call: HostCall, _store: Any, picks: Any, _version: int | None) -> NDArray[np.int32]:
        """Picks of keyframes as the core takes them."""
        return np.ascontiguousarray(to_host("picks", picks), np.int32)

    def version(self, _store: Any) -> int | None:
        """The version of the tables that picks refer to; None: picks stay valid."""
        return None

    def prefetch(self, core: _core.MemoryStore, observations: NDArray[np.uint64]) -> None:
        """Does nothing: everything is on the host."""

    def anew(self) -> HostPlace:
        """The place for another store."""
        return self


class DevicePlace:
    """Reads a store on a GPU, in tables that mirror the store, which stays on the host.

    Parameters
    ----------
    device
        See `mosaicmem._border.device.anchor`.
    budget : int or None
        Bytes of latents in GPU memory; None for all latents.
    """

    may_look = False

    def __init__(self, device: Any, budget: int | None) -> None:
        self._device, self._budget = device, budget
        self._anchor = anchor(device)
        self._store = _core.cuda.DeviceStore(budget, _core.cuda.retrieval_room)
        self._lock = ForkSafeLock()

    @contextmanager
    def reading(self, core: _core.MemoryStore, num_threads: int) -> Iterator[tuple[DeviceCall, Any]]:
        """The call, and the tables, brought up to date with the store. One thread at a time: its kernels are in the
        stream when it leaves, so later work cannot overtake them."""
        with self._lock:
            call = DeviceCall("device", self._anchor)
            self._store.follow(core, num_threads, call.handle)
            yield call, self._store

    def room(self, top_k: int, _patches: int) -> int:
        """How many patches per view to allocate: always ``top_k``, so that shapes do not depend on the results."""
        if top_k > _core.cuda.most_top_k:
            raise ValueError(f"top_k: expected at most {_core.cuda.most_top_k} on a GPU, got {top_k}")
        return top_k

    def kept(self, latents: NDArray[Any]) -> NDArray[Any]:
        """A copy in pinned memory, which kernels can read."""
        return _core.cuda.pinned_copy(np.ascontiguousarray(latents))

    def picks(self, call: DeviceCall, store: Any, picks: Any, version: int | None) -> Any:
        """Picks of keyframes as the core takes them. Picks from the current version of the tables are used in place;
        other picks on the GPU synchronize."""
        if is_on_device(picks) and version == store.version:
            return call.view(picks)
        return np.ascontiguousarray(to_host("picks", picks), np.int32)

    def version(self, store: Any) -> int | None:
        """The version of the tables, which no other tables have."""
        return int(store.version)

    def prefetch(self, core: _core.MemoryStore, observations: NDArray[np.uint64]) -> None:
        """Begin moving the keyframes of observations into GPU memory, the most wanted first."""
        with self.reading(core, 0) as (call, store):
            store.prefetch(observations, call.handle)

    def anew(self) -> DevicePlace:
        """The place for another store."""
        return DevicePlace(self._device, self._budget)


Axes = Mapping[str, tuple[tuple[int, ...], str]]
"""Trailing axes and dtype of arrays, by name."""


def room_for(call: HostCall | DeviceCall, shape: tuple[int, ...], axes: Axes) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Arrays for a result, of ``shape`` plus their own trailing axes: by name, and as the core takes them."""
    made = {name: call.empty((*shape, *own), dtype) for name, (own, dtype) in axes.items()}
    return {name: array for name, (array, _) in made.items()}, tuple(view for _, view in made.values())


def place_of(device: Any, budget: int | None) -> HostPlace | DevicePlace:
    """Where a store with this ``device`` is read."""
    if device is not None:
        return DevicePlace(device, budget)
    if budget is not None:
        raise ValueError("device_bytes: expected with device only")
    return HostPlace()
