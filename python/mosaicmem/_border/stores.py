"""Where a store is read: on the host, or in the memory of a GPU, which follows it.

Both places offer the same. A question to memory opens a reading, makes room for its answer, and calls the core, whose
two stores take the same arguments:

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
"""Makes arrays in the memory of the host."""


class HostPlace:
    """The memory of the host.

    Attributes
    ----------
    may_look : bool
        Whether the values of an answer can be looked at without waiting for a device.
    """

    may_look = True

    def __init__(self) -> None:
        self._call = HOST

    @contextmanager
    def reading(self, core: _core.MemoryStore, num_threads: int) -> Iterator[tuple[HostCall, Any]]:
        """The call, and the store that it asks, by so many threads."""
        if self._call.handle != num_threads:
            self._call = HostCall("store", None, num_threads)
        yield self._call, core

    def room(self, top_k: int, patches: int) -> int:
        """For the patches of a view, of a store of so many. Where the store grows before it is read, the core says that
        there is too little."""
        return min(top_k, patches)

    def kept(self, latents: NDArray[Any]) -> NDArray[Any]:
        """Latents as a store keeps them."""
        return latents

    def picks(self, _call: HostCall, _store: Any, picks: Any, _version: int | None) -> NDArray[np.int32]:
        """Picks of keyframes as the core takes them."""
        return np.ascontiguousarray(to_host("picks", picks), np.int32)

    def version(self, _store: Any) -> int | None:
        """What picks are good for; None: for good."""
        return None

    def prefetch(self, core: _core.MemoryStore, observations: NDArray[np.uint64]) -> None:
        """Nothing: all is here."""

    def anew(self) -> HostPlace:
        """The place for another store."""
        return self


class DevicePlace:
    """The memory of a GPU. It holds tables that follow the store, which stays on the host.

    Parameters
    ----------
    device
        See `mosaicmem._border.device.anchor`.
    budget : int or None
        Bytes of latents in device memory; None for all.
    """

    may_look = False

    def __init__(self, device: Any, budget: int | None) -> None:
        self._device, self._budget = device, budget
        self._anchor = anchor(device)
        self._store = _core.cuda.DeviceStore(budget, _core.cuda.retrieval_room)
        self._lock = ForkSafeLock()

    @contextmanager
    def reading(self, core: _core.MemoryStore, num_threads: int) -> Iterator[tuple[DeviceCall, Any]]:
        """The call, and the tables as the store is now. One thread at a time: its kernels are in the stream when it
        leaves, so what comes next cannot overtake them."""
        with self._lock:
            call = DeviceCall("device", self._anchor)
            self._store.follow(core, num_threads, call.handle)
            yield call, self._store

    def room(self, top_k: int, _patches: int) -> int:
        """For the patches of a view: always the same, so that shapes do not depend on what is found."""
        if top_k > _core.cuda.most_top_k:
            raise ValueError(f"top_k: expected at most {_core.cuda.most_top_k} on a GPU, got {top_k}")
        return top_k

    def kept(self, latents: NDArray[Any]) -> NDArray[Any]:
        """A copy in pinned memory, which kernels can read."""
        return _core.cuda.pinned_copy(np.ascontiguousarray(latents))

    def picks(self, call: DeviceCall, store: Any, picks: Any, version: int | None) -> Any:
        """Picks of keyframes as the core takes them. Those of the tables as they are now are used where they lie; for
        others this waits."""
        if is_on_device(picks) and version == store.version:
            return call.view(picks)
        return np.ascontiguousarray(to_host("picks", picks), np.int32)

    def version(self, store: Any) -> int | None:
        """Of the tables; no others have it."""
        return int(store.version)

    def prefetch(self, core: _core.MemoryStore, observations: NDArray[np.uint64]) -> None:
        """Begin to move the keyframes of observations into device memory, the most wanted first."""
        with self.reading(core, 0) as (call, store):
            store.prefetch(observations, call.handle)

    def anew(self) -> DevicePlace:
        """The place for another store."""
        return DevicePlace(self._device, self._budget)


Axes = Mapping[str, tuple[tuple[int, ...], str]]
"""Arrays by name: their last axes and dtype."""


def room_for(call: HostCall | DeviceCall, shape: tuple[int, ...], axes: Axes) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Arrays for an answer that have ``shape`` and axes of their own: by name, and as the core takes them."""
    made = {name: call.empty((*shape, *own), dtype) for name, (own, dtype) in axes.items()}
    return {name: array for name, (array, _) in made.items()}, tuple(view for _, view in made.values())


def place_of(device: Any, budget: int | None) -> HostPlace | DevicePlace:
    """Where a store with this ``device`` is read."""
    if device is not None:
        return DevicePlace(device, budget)
    if budget is not None:
        raise ValueError("device_bytes: expected with device only")
    return HostPlace()
