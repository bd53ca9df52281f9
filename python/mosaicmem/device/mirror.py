"""A store in device memory: tables that follow it.

The store itself stays on the host, where it is edited, saved and bounded. Before each use the mirror takes over what
has changed: for each observation the centres of its patches, the depth of what lives, and where its latents are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import F32, U64
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem._border.device import StreamOrder, anchor
from mosaicmem._locks import ForkSafeLock
from mosaicmem.device.keyframe_pool import KeyframePool
from mosaicmem.device.staging import Staging


@dataclass(frozen=True)
class MirroredRow:
    """What a row of the table of observations holds beside its bytes."""

    row: int
    first_chunk: int
    chunks: int
    keyframe: int
    slot: int
    arrays: tuple[Any, ...]  # on the device, that the row points to


class StoreMirror:
    """The tables of one store on one device.

    Parameters
    ----------
    device
        See `mosaicmem.device.arrays.anchor`.
    budget : int or None
        Bytes of latents in device memory; None for all.
    latent_dtype : str
        What latents are kept as.
    """

    def __init__(self, device: Any, budget: int | None, latent_dtype: str) -> None:
        self._anchor = anchor(device)
        self._latent_type = getattr(_core.LatentType, latent_dtype)
        self._staging = Staging()
        self._pool = KeyframePool(budget, self._staging)
        self._identity = object()
        self._lock = ForkSafeLock()
        self._clear()
        self._centres: Any = None
        self._chunk_row: Any = None
        self._table: Any = None
        self._order = StreamOrder()
        self._described: tuple[int, dict[str, Any]] | None = None  # of a revision

    def _clear(self) -> None:
        self._revision = -1
        self._rows: dict[int, MirroredRow] = {}  # by version
        self._by_slot: dict[int, MirroredRow] = {}
        self._by_keyframe: dict[int, set[int]] = {}  # rows
        self._free_rows: list[int] = []
        self._free_chunks: dict[int, list[int]] = {}  # first chunks, by how many there are
        self._used_rows = self._used_chunks = 0
        self._origin = (0.0, 0.0, 0.0)
        self._columns = _empty_columns(64)

    @property
    def state(self) -> tuple[Any, int]:
        """What the tables are of: equal for no other store, and no other revision of this one."""
        return self._identity, self._revision

    @property
    def device_bytes(self) -> int:
        """Bytes of latents in device memory."""
        return self._pool.nbytes

    @contextmanager
    def following(self, core: _core.MemoryStore) -> Iterator[tuple[Call, Any]]:
        """The call and the tables, as the store is now. One thread at a time: its kernels are in the stream when it
        leaves, so what comes next cannot overtake them."""
        with self._lock:
            call = Call("device", self._anchor)
            self._order.follow(call)
            self._pool.arrived(call)
            self._point(call)
            self._follow(call, core)
            yield call, self._tables(call, core)

    def prefetch(self, core: _core.MemoryStore, slots: Iterable[int]) -> None:
        """Begin to move the keyframes of observations into device memory, the most wanted first."""
        with self.following(core) as (call, _):
            rows = [self._by_slot[slot] for slot in slots if slot in self._by_slot]
            keyframes = list(dict.fromkeys(row.keyframe for row in rows))
            self._pool.prefetch(call, keyframes)
            self._point(call)

    def rows_of(self, slots: Iterable[int]) -> list[int]:
        """Rows of observations; those that are not here are left out."""
        return [self._by_slot[slot].row for slot in slots if slot in self._by_slot]

    def is_resident(self, slot: int) -> bool:
        """Whether the latents of an observation are in device memory, or on their way."""
        return self._by_slot[slot].keyframe in self._pool

    @property
    def most_cells(self) -> int:
        """Cells of the largest keyframe."""
        return int(self.described()["cells"].max(initial=0))

    def described(self) -> dict[str, Any]:
        """What is known of each row, as arrays; zero for those that are free."""
        if self._described is None or self._described[0] != self._revision:
            columns = {name: column[: self._used_rows].copy() for name, column in self._columns.items()}
            self._described = self._revision, columns
        return self._described[1]

    def _tables(self, call: Call, core: _core.MemoryStore) -> Any:
        self._reserve(call, 1, 1)
        chunks = call.view(self._chunk_row)
        return _core.cuda.MirrorTables(
            call.view(self._centres),
            _core.cuda.DeviceArray(chunks.address, (self._used_chunks,), (1,), "int32"),
            call.view(self._table),
            self._origin,
            core.channels,
            self._latent_type,
        )

    def _follow(self, call: Call, core: _core.MemoryStore) -> None:
        revision = core.revision
        if revision == self._revision:
            return
        known: U64 = np.sort(np.fromiter(self._rows, np.uint64, len(self._rows)))
        self._origin, versions, fresh = core.changes(known)
        gone = self._rows.keys() - set(versions.tolist())
        for description in fresh:  # before others leave: they may be of the same keyframes
            self._add(call, description)
        for version in gone:
            self._remove(call, version)
        self._revision = revision
        free = sum(chunks * len(firsts) for chunks, firsts in self._free_chunks.items())
        if free > self._used_chunks // 2 + 64:
            self._start_again(call, core)

    def _start_again(self, call: Call, core: _core.MemoryStore) -> None:
        """Compact: drop freed slots."""
        old = list(self._rows.values())
        self._clear()
        try:
            self._follow(call, core)
        finally:
            for held in old:
                self._let_go(call, held)

    def _add(self, call: Call, description: dict[str, Any]) -> None:
        centres: F32 = description.pop("centres")
        depth: F32 = description["depth"]
        latents = description.pop("latents")
        confidence = description.pop("confidence")
        keyframe, slot = description["keyframe"], description["first_slot"]
        chunk = _core.cuda.chunk
        chunks = -(-len(centres) // chunk)
        free = self._free_chunks.get(chunks)
        first_chunk = free[-1] if free else self._used_chunks
        row = self._free_rows[-1] if self._free_rows else self._used_rows
        self._reserve(call, first_chunk + chunks - self._used_chunks, row + 1 - self._used_rows)
        padded = np.full((chunks * chunk, 3), np.nan, np.float32)
        padded[: len(centres)] = centres
        self._upload(call, padded, self._centres, first_chunk * chunk * 12)
        arrays = [self._copied(call, array) for array in (depth, confidence) if array is not None]
        addresses = [call.view(array).address for array in arrays]
        self._pool.add(call, keyframe, latents)
        try:
            self._point(call)
            packed = _core.cuda.pack_observation(
                description, self._pool.address(call, keyframe), addresses[0], (*addresses, 0)[1], first_chunk
            )
            self._upload(call, packed, self._table, row * _core.cuda.observation_bytes)
            # Last of all kernels learn of it: where memory is used up before, nothing has changed for them.
            self._upload(call, np.full(chunks, row, np.int32), self._chunk_row, 4 * first_chunk)
        except BaseException:
            self._pool.drop(call, keyframe)
            raise
        if free:
            free.pop()
        if self._free_rows:
            self._free_rows.pop()
        self._used_chunks = max(self._used_chunks, first_chunk + chunks)
        self._used_rows = max(self._used_rows, row + 1)
        self._by_keyframe.setdefault(keyframe, set()).add(row)
        held = MirroredRow(row, first_chunk, chunks, keyframe, slot, tuple(arrays))
        self._rows[description["version"]] = self._by_slot[slot] = held
        self._describe(row, {**description, "observation": slot, "cells": depth.size})

    def _remove(self, call: Call, version: int) -> None:
        held = self._rows.pop(version)
        if self._by_slot.get(held.slot) is held:
            del self._by_slot[held.slot]
        self._upload(call, np.full(held.chunks, -1, np.int32), self._chunk_row, 4 * held.first_chunk)
        self._free_chunks.setdefault(held.chunks, []).append(held.first_chunk)
        self._free_rows.append(held.row)
        self._by_keyframe[held.keyframe].discard(held.row)
        self._describe(held.row, {})
        self._let_go(call, held)

    def _describe(self, row: int, description: dict[str, Any]) -> None:
        """Writes what is known of a row into the columns; zero where nothing is."""
        if row >= len(self._columns["cells"]):
            grown = _empty_columns(2 * row)
            for name, column in self._columns.items():
                grown[name][: len(column)] = column
            self._columns = grown
        for name, column in self._columns.items():
            column[row] = np.reshape(description.get(name, np.zeros_like(column[row])), column.shape[1:])

    def _let_go(self, call: Call, held: MirroredRow) -> None:
        for array in held.arrays:
            call.release(array)
        self._pool.drop(call, held.keyframe)

    def _point(self, call: Call) -> None:
        """Writes into the table where the latents of keyframes are that have moved."""
        for keyframe in list(self._pool.moved):
            address = np.array([self._pool.address(call, keyframe)], np.uint64)
            for row in self._by_keyframe.get(keyframe, ()):
                offset = row * _core.cuda.observation_bytes + _core.cuda.latents_offset
                self._upload(call, address, self._table, offset)
            del self._pool.moved[keyframe]

    def _reserve(self, call: Call, more_chunks: int, more_rows: int) -> None:
        """Room for more chunks and rows than are used; what is there moves along."""
        chunk = _core.cuda.chunk
        chunks, rows = self._used_chunks + max(more_chunks, 0), self._used_rows + max(more_rows, 0)
        if self._chunk_row is None or chunks > self._chunk_row.shape[0]:
            room = max(1024, 2 * chunks)
            self._centres = self._grown(
                call, self._centres, (room * chunk, 3), "float32", self._used_chunks * chunk * 12
            )
            self._chunk_row = self._grown(call, self._chunk_row, (room,), "int32", 4 * self._used_chunks)
        if self._table is None or rows > self._table.shape[0]:
            size = _core.cuda.observation_bytes
            self._table = self._grown(call, self._table, (max(64, 2 * rows), size), "uint8", self._used_rows * size)

    @staticmethod
    def _grown(call: Call, old: Any, shape: tuple[int, ...], dtype: str, used: int) -> Any:
        array, view = call.empty(shape, dtype)
        if old is not None:
            _core.cuda.copy_bytes(call.view(old), view, 0, used, call.stream)
            call.release(old)
        return array

    def _copied(self, call: Call, array: Any) -> Any:
        room, view = call.empty(array.shape, array.dtype.name)
        self._staging.upload(call, np.ascontiguousarray(array), view, 0)
        return room

    def _upload(self, call: Call, data: Any, array: Any, offset: int) -> None:
        self._staging.upload(call, data, call.view(array), offset)


def _empty_columns(rows: int) -> dict[str, Any]:
    """What is known of each row of the table of observations, on the host."""
    return {
        "cells": np.zeros(rows, np.int64),
        "observation": np.zeros(rows, np.uint64),
        "frame_id": np.zeros(rows, np.int64),
        "timestamp": np.zeros(rows),
        "world_from_camera": np.zeros((rows, 3, 4)),
        "intrinsics": np.zeros((rows, 4)),
        "generated": np.zeros(rows, np.bool_),
    }
