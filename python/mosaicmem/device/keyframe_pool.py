"""Latents of keyframes in device memory, as far as a budget goes; of the others in pinned memory of the host.

A kernel may read either: pinned memory has an address on the device too, it is only slower. So where the latents of a
keyframe are is never wrong, and nothing waits to find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem.device.staging import Staging, pinned_empty


def pinned_copy(array: Any) -> Any:
    """A copy of a NumPy array in pinned memory, which lives as long as the copy."""
    copy = pinned_empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _bytes_of(array: Any) -> Any:
    return array.reshape(-1).view(np.uint8)


@dataclass
class _Held:
    host: Any  # (rows, columns, channels), pinned or not
    uses: int
    device: Any = None

    def pinned_address(self) -> int:
        if not _core.cuda.is_pinned(self.host):
            self.host = pinned_copy(self.host)
        return int(self.host.ctypes.data)


class KeyframePool:
    """Where the latents of each keyframe are.

    Calls are made one after the other, in streams that follow each other.

    Parameters
    ----------
    budget : int or None
        Bytes of latents in device memory; None for all.
    staging : Staging
        What new keyframes go through.

    Attributes
    ----------
    moved : dict
        Keyframes whose address has changed, as keys, until somebody takes them out: kernels must not run before they
        know the new one.
    """

    def __init__(self, budget: int | None, staging: Staging) -> None:
        self._budget = budget
        self._staging = staging
        self._held: dict[int, _Held] = {}
        self._nbytes = 0  # on the device
        self._resident: dict[int, None] = {}  # those on the device, the one that was not used for longest first
        self._side: Any = None
        self._arriving: list[int] = []
        self.moved: dict[int, None] = {}
        self._leaving: list[tuple[Any, Any]] = []  # a moment of the stream, and what it may still read

    @property
    def nbytes(self) -> int:
        """Bytes of latents in device memory."""
        return self._nbytes

    def __contains__(self, keyframe: int) -> bool:
        """Whether the latents of a keyframe are in device memory."""
        return self._held[keyframe].device is not None

    def add(self, call: Call, keyframe: int, latents: Any) -> None:
        """Hold the latents of a keyframe, once more if they are held; others may be moved out for it. Where memory is
        used up, nothing is held."""
        if keyframe in self._held:
            self._held[keyframe].uses += 1
            return
        self._make_room(call, latents.nbytes, keep=frozenset())
        held = _Held(latents, 1)
        if self._fits(latents.nbytes):
            device, room = call.empty((latents.nbytes,), "uint8")
            if _core.cuda.is_pinned(latents):
                _core.cuda.upload(_bytes_of(latents), room, 0, call.stream)
            else:
                self._staging.upload(call, latents, room, 0)
            self._settle(keyframe, held, device)
        self._held[keyframe] = held

    def drop(self, call: Call, keyframe: int) -> None:
        """Let go of a keyframe that `add` was called with."""
        held = self._held[keyframe]
        held.uses -= 1
        if held.uses > 0:
            return
        self._leaving = [(moment, array) for moment, array in self._leaving if not moment.has_passed]
        self._leaving.append((_core.cuda.Event(call.stream), held.host))
        self._evict(call, keyframe)
        del self._held[keyframe]
        self.moved.pop(keyframe, None)

    def address(self, call: Call, keyframe: int) -> int:
        """Where kernels read the latents of a keyframe."""
        held = self._held[keyframe]
        if held.device is None or keyframe in self._arriving:
            return held.pinned_address()
        return int(call.view(held.device).address)

    def prefetch(self, call: Call, keyframes: list[int]) -> None:
        """Begin to move keyframes into device memory, the most wanted first, as far as the budget goes; others leave.

        The copies run beside what is in the stream. Until `arrived`, kernels read those keyframes from the host.
        """
        wanted = frozenset(keyframes)
        for keyframe in keyframes:
            held = self._held[keyframe]
            if held.device is not None:
                self._resident[keyframe] = self._resident.pop(keyframe)
                continue
            self._make_room(call, held.host.nbytes, keep=wanted)
            if self._fits(held.host.nbytes):
                self._fetch(call, keyframe)

    def arrived(self, call: Call) -> None:
        """The stream waits for the keyframes that are on their way."""
        if self._arriving:
            _core.cuda.order_streams(self._side.handle, call.stream)
        self.moved.update(dict.fromkeys(keyframe for keyframe in self._arriving if keyframe in self._held))
        self._arriving = []

    def _fetch(self, call: Call, keyframe: int) -> None:
        held = self._held[keyframe]
        held.pinned_address()
        device, room = call.empty((held.host.nbytes,), "uint8")
        if self._side is None:
            self._side = _core.cuda.SideStream(call.stream[0])
        _core.cuda.order_streams(call.stream, self._side.handle)  # until here the memory was another's
        _core.cuda.upload(_bytes_of(held.host), room, 0, self._side.handle)
        self._settle(keyframe, held, device)
        self._arriving.append(keyframe)

    def _fits(self, nbytes: int) -> bool:
        return self._budget is None or self._nbytes + nbytes <= self._budget

    def _make_room(self, call: Call, nbytes: int, keep: frozenset[int]) -> None:
        """Moves out what was not used for longest, if that makes room at all."""
        if self._budget is None or nbytes > self._budget:
            return
        for keyframe in list(self._resident):
            if self._fits(nbytes):
                break
            if keyframe not in keep:
                self.moved[keyframe] = None
                self._evict(call, keyframe)

    def _settle(self, keyframe: int, held: _Held, device: Any) -> None:
        held.device = device
        self._resident[keyframe] = None
        self._nbytes += held.host.nbytes

    def _evict(self, call: Call, keyframe: int) -> None:
        held = self._held[keyframe]
        if held.device is None:
            return
        call.release(held.device)
        held.device = None
        del self._resident[keyframe]
        self._nbytes -= held.host.nbytes
