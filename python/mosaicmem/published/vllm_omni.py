"""A memory as a state object of vllm-omni's sessions (`vllm_omni.experimental.world_models.session_state`).

Its session manager asks an object for three things alone: whether it is resident, to be reset, and for its bytes by
device. `SpatialMemoryState` has these and the other members of ``StateObject``, by name; vllm-omni need not be there::

    memory = session.get_or_create("memory", SpatialMemoryState.allocated, SpatialMemoryState)
    memory.commit({"latents": latents, "depth": depth, "intrinsics": camera, "pose": pose})
    mosaic = MemoryRetrieval().retrieve(memory.view(), targets, stride)

``fork``, ``snapshot`` and ``restore`` are ours: vllm-omni has named them in its plans and not yet defined them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mosaicmem._copies import Uncopied
from mosaicmem.memory import MosaicMemoryStore

_Payload = Mapping[str, Any]
_DEVICE = "cpu"


class SpatialMemoryState(Uncopied):
    """A `MosaicMemoryStore` under the lifecycle of vllm-omni: allocate, stage, commit, discard, view, evict, reset.

    A payload is a keyframe, as a mapping of the arguments of `MosaicMemoryStore.insert_keyframe`, or a list of them.

    Parameters
    ----------
    **options
        Of `MosaicMemoryStore`, each time that one is allocated: ``max_bytes``, for example, is a budget that the memory
        keeps by itself.
    """

    _instead = "fork() gives an independent one; save view() for another process"

    recompute_source: Any = None
    recompute_cost = 0

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._store: MosaicMemoryStore | None = None
        self._staged: list[_Payload] | None = None

    @classmethod
    def allocated(cls, **options: Any) -> SpatialMemoryState:
        """A new object with an empty memory: a factory for ``get_or_create``."""
        made = cls(**options)
        made.allocate()
        return made

    def allocate(self) -> None:
        """Begin an empty memory."""
        self._store, self._staged = MosaicMemoryStore(**self._options), None

    def stage(self, payload: _Payload | Sequence[_Payload]) -> None:
        """Hold keyframes back until `commit`; those staged before are replaced."""
        self._staged = _keyframes(payload)

    def commit(self, payload: _Payload | Sequence[_Payload] | None = None) -> None:
        """Remember keyframes, those that are staged if none are given; all of them, or on an error none.

        Given keyframes leave what is staged as it is.
        """
        given = self._staged if payload is None else _keyframes(payload)
        if given is None:
            raise RuntimeError("commit: expected a payload, since nothing is staged")
        store = self._allocated("commit")
        before = store.snapshot()
        try:
            for keyframe in given:
                store.insert_keyframe(**keyframe)
        except BaseException:
            store.restore(before)
            raise
        if payload is None:
            self._staged = None

    def append(self, payload: _Payload | Sequence[_Payload]) -> None:
        """Remember keyframes."""
        self.commit(payload)

    def discard(self) -> None:
        """Forget what is staged; memory stays as it is."""
        self._staged = None

    def view(self, *, include_staged: bool = True) -> MosaicMemoryStore:
        """The memory, to retrieve from; with ``include_staged``, a fork that holds what is staged too."""
        store = self._allocated("view")
        if not include_staged or not self._staged:
            return store
        ahead = store.fork()
        for keyframe in self._staged:
            ahead.insert_keyframe(**keyframe)
        return ahead

    def evict(self, policy: Any = None) -> int:
        """Drop the whole memory. Returns how many bytes it held."""
        freed = self.nbytes
        self.reset()
        return freed

    def reset(self) -> None:
        """Drop the memory and what is staged."""
        self._store, self._staged = None, None

    @property
    def resident(self) -> bool:
        """Whether there is a memory."""
        return self._store is not None

    @property
    def recomputable(self) -> bool:
        """Whether ``recompute_source``, of which there is none by default, could make it again now."""
        return self.recompute_source is not None and bool(self.recompute_source.resident)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory, of what it shares with forks too."""
        return sum(self.nbytes_by_device(set()).values())

    def nbytes_by_device(self, seen: set[tuple[str, int]]) -> dict[str, int]:
        """Bytes by device: those on the host, also of a memory that has a copy on the GPU.

        Keyframes that forks share count once: what is in ``seen`` is skipped, and what is counted is added to it.
        """
        if self._store is None:
            return {}
        arrays = [array for each in self._store._exported().arrays for array in each if array is not None]
        buffers = {(_DEVICE, int(array.ctypes.data)): int(array.nbytes) for array in arrays}
        own = (_DEVICE, -id(self._store))  # index and bookkeeping, which are not shared
        buffers[own] = self._store.nbytes - sum(buffers.values())
        fresh = buffers.keys() - seen
        seen |= fresh
        return {_DEVICE: sum(buffers[key] for key in fresh)}

    # --- Ours: vllm-omni has not defined these.

    def fork(self) -> SpatialMemoryState:
        """A second memory of the same content, independent from here on. No tensor is copied.

        Raises
        ------
        RuntimeError
            Something is staged, or nothing is allocated.
        """
        store = self._settled("fork")
        made = type(self)(**self._options)
        made._store = store.fork()
        return made

    def snapshot(self) -> Any:
        """The memory as it is now, for `restore`. Refused while something is staged."""
        return self._settled("snapshot").snapshot()

    def restore(self, snapshot: Any) -> None:
        """The memory as it was at a snapshot of it; what is staged is discarded."""
        self._allocated("restore").restore(snapshot)
        self._staged = None

    def _settled(self, name: str) -> MosaicMemoryStore:
        store = self._allocated(name)
        if self._staged is not None:
            raise RuntimeError(f"{name}: expected nothing staged; commit or discard it first")
        return store

    def _allocated(self, name: str) -> MosaicMemoryStore:
        if self._store is None:
            raise RuntimeError(f"{name}: expected a memory, got none; call allocate first")
        return self._store


def _keyframes(payload: Any) -> list[_Payload]:
    given = [payload] if isinstance(payload, Mapping) else list(payload)
    for i, keyframe in enumerate(given):
        if not isinstance(keyframe, Mapping):
            kind = type(keyframe).__name__
            raise TypeError(f"payload[{i}]: expected a mapping of the arguments of insert_keyframe, got {kind}")
    return given
