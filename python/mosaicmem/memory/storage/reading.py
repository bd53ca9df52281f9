"""Opens a store: checks everything that could do harm, and defers all reading that can wait."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem.camera.pose import determinant
from mosaicmem.errors import FormatError
from mosaicmem.memory.storage.exported import in_pieces
from mosaicmem.memory.storage.folder import Record, StoreFolder
from mosaicmem.memory.storage.keyframe_files import Place
from mosaicmem.memory.storage.manifest import MANIFEST, FileEntry, Manifest, StoreSettings, read_manifest
from mosaicmem.memory.storage.stored_keyframe import stored_arrays
from mosaicmem.memory.storage.tensors import MappedTensors

_TYPES = {"f4": _core.LatentType.float32, "f2": _core.LatentType.float16, "u2": _core.LatentType.bfloat16}
_PROVENANCES = (_core.Provenance.observed, _core.Provenance.generated)  # by number
_MOST = 1e12
_MOST_INTRINSICS = 1e300
_MOST_ID = np.uint64(2**62)
_PATIENCE = 10.0  # seconds to find all files of one manifest while another process saves


@dataclass(frozen=True, eq=False)
class _Rows:
    """Observations by ascending slot; ``alive`` (total,) concatenates their bit mask words."""

    slot: NDArray[np.uint64]
    first_id: NDArray[np.uint64]
    place: NDArray[np.int64]  # (n, 2): file number, position in the file
    world_from_camera: NDArray[np.float64]  # (n, 3, 4)
    camera: NDArray[np.float64]  # (n, 6): fx, fy, cx, cy, stride, timestamp
    frame_id: NDArray[np.int64]
    provenance: NDArray[np.uint8]  # 0 observed, 1 generated
    words: NDArray[np.int64]
    alive: NDArray[np.uint64]

    @cached_property
    def word_lists(self) -> list[NDArray[np.uint64]]:
        """Of each observation."""
        return in_pieces(self.alive, self.words)


def open_folder(
    path: Path, num_threads: int, **overrides: Any
) -> tuple[StoreFolder, _core.MemoryStore, StoreSettings, int]:
    """Open the store in a folder: (folder, core, settings with ``overrides``, next frame id).

    Raises
    ------
    FileNotFoundError
        There is no store.
    FormatError
        It is damaged, or was written by a newer version.
    """
    manifest, states, files = _map_all(path)
    settings = StoreSettings(**{**manifest.settings.model_dump(), **overrides})
    rows = _replay(path, states)
    _check_rows(path, manifest, rows)
    keyframes, which = _keyframes_of(path, manifest, rows, files)
    grids = np.array([latents.shape[:2] for latents, *_ in keyframes], dtype=np.int64).reshape(-1, 2)
    _check_ids(path, manifest, rows, grids[which])
    try:
        core, serials = _core.open_store(
            settings.latent_patch_size,
            settings.max_patches,
            settings.max_bytes,
            getattr(_core.Eviction, settings.eviction),
            manifest.channels,
            (manifest.origin[0], manifest.origin[1], manifest.origin[2]),
            manifest.next_id,
            manifest.next_slot,
            keyframes,
            rows.slot,
            rows.first_id,
            which,
            rows.world_from_camera,
            rows.alive,
            bool(overrides),
            num_threads,
        )
    except ValueError as error:
        raise FormatError(path, f"damaged: {error}") from None
    first = np.unique(which, return_index=True)[1]
    places: dict[int, Place] = {
        serial: (int(file), int(position))
        for serial, (file, position) in zip(serials.tolist(), rows.place[first].tolist(), strict=True)
    }
    recorded = {
        slot: Record((file, position), first_id, pose.tobytes(), words.tobytes())
        for slot, (file, position), first_id, pose, words in zip(
            rows.slot.tolist(),
            rows.place.tolist(),
            rows.first_id.tolist(),
            rows.world_from_camera,
            rows.word_lists,
            strict=True,
        )
    }
    return StoreFolder(path, manifest, places, recorded), core, settings, manifest.next_frame_id


def verify(path: Path) -> Manifest:
    """Compare every byte of every file with its checksum, then open the store.

    Raises
    ------
    FileNotFoundError, FormatError
        As `open_folder`.
    """
    manifest, _, _ = _map_all(path, whole=True)
    for index in range(len(manifest.attachments)):
        read_attachment(path, manifest, index)
    open_folder(path, 0)
    return manifest


def read_attachment(path: Path, manifest: Manifest, index: int) -> MappedTensors:
    """The attachment ``index`` of a store, compared with its checksum.

    Raises
    ------
    FormatError
        It is missing, damaged, or not a regular file.
    """
    entry = manifest.attachments[index]
    try:
        return MappedTensors(path, entry, whole=True)
    except OSError as error:
        raise FormatError(path, f"{entry.name} {_why_not(error)}") from None


def _why_not(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read: {'it is a symbolic link' if error.errno == errno.ELOOP else error.strerror}"


def _map_all(path: Path, *, whole: bool = False) -> tuple[Manifest, list[MappedTensors], dict[int, MappedTensors]]:
    """A manifest and its mapped files: states in order, keyframes by number."""
    if not path.is_dir():
        what = "a file, not the folder of a store" if path.exists() else "no folder of a store"
        raise FileNotFoundError(f"{path}: {what}")
    mapped: dict[FileEntry, MappedTensors] = {}  # a mapped file stays readable after it is removed
    until = time.monotonic() + _PATIENCE
    manifest = _manifest_of(path)
    while True:
        try:
            for entries, all_of_it in ((manifest.states, True), (manifest.keyframes, whole)):
                for entry in entries:
                    if entry not in mapped:
                        mapped[entry] = MappedTensors(path, entry, whole=all_of_it)
                        mapped[entry].will_read("depth")
        except FileNotFoundError as error:
            # Another process may have saved in between, and removed files of the previous manifest.
            before, manifest = manifest, _manifest_of(path)
            if manifest == before:
                raise FormatError(path, f"{Path(error.filename).name} is missing") from None
            if time.monotonic() > until:
                raise FormatError(path, "is being saved to too often to be read") from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise  # says nothing about the files
            raise FormatError(path, f"{Path(str(error.filename)).name} {_why_not(error)}") from None
        else:
            states = [mapped[entry] for entry in manifest.states]
            return manifest, states, {entry.number: mapped[entry] for entry in manifest.keyframes}


def _manifest_of(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no store: it has no {MANIFEST}") from None


def _replay(path: Path, states: list[MappedTensors]) -> _Rows:
    """The observations that remain after each state file has added, replaced and removed its own."""
    parts: dict[int, tuple[int, int]] = {}  # by slot: state file, row
    tables: list[_Rows] = []
    for number, file in enumerate(states):
        slot = file.get("slot", ("U64",), (None,))
        n = len(slot)
        table = _Rows(
            slot=slot,
            first_id=file.get("first_id", ("U64",), (n,)),
            place=file.get("place", ("I64",), (n, 2)),
            world_from_camera=file.get("world_from_camera", ("F64",), (n, 3, 4)),
            camera=file.get("camera", ("F64",), (n, 6)),
            frame_id=file.get("frame_id", ("I64",), (n,)),
            provenance=_provenance_in(file, n),
            words=file.get("words", ("I64",), (n,)),
            alive=file.get("alive", ("U64",), (None,)),
        )
        if (table.words < 1).any() or (table.words > len(table.alive)).any() or table.words.sum() != len(table.alive):
            raise FormatError(file.path, "damaged: living patches do not fit the observations")
        for gone in file.get("gone", ("U64",), (None,)).tolist():
            parts.pop(gone, None)
        parts.update({s: (number, row) for row, s in enumerate(slot.tolist())})
        tables.append(table)
    slots = sorted(parts)
    chosen = [parts[slot] for slot in slots]

    def gather(name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A column of the remaining rows, each from its state file."""
        out = np.empty((len(chosen), *shape), dtype=dtype)
        source = np.array([number for number, _ in chosen], dtype=np.int64)
        row = np.array([row for _, row in chosen], dtype=np.int64)
        for number, table in enumerate(tables):
            mine = source == number
            out[mine] = getattr(table, name)[row[mine]]
        return out

    lists = [table.word_lists for table in tables]
    words = [lists[number][row] for number, row in chosen]
    return _Rows(
        slot=np.array(slots, dtype=np.uint64),
        first_id=gather("first_id", (), np.uint64),
        place=gather("place", (2,), np.int64),
        world_from_camera=gather("world_from_camera", (3, 4), np.float64),
        camera=gather("camera", (6,), np.float64),
        frame_id=gather("frame_id", (), np.int64),
        provenance=gather("provenance", (), np.uint8),
        words=gather("words", (), np.int64),
        alive=np.concatenate(words) if words else np.zeros(0, dtype=np.uint64),
    )


def _provenance_in(file: MappedTensors, n: int) -> NDArray[np.uint8]:
    """The provenance of n observations. Files of version 1 lack it: their observations count as observed."""
    if "provenance" not in file:
        return np.zeros(n, np.uint8)
    return file.get("provenance", ("U8",), (n,))


def _check_rows(path: Path, manifest: Manifest, rows: _Rows) -> None:
    if len(rows.slot) != manifest.observations or _count_bits(rows.alive) != manifest.patches:
        raise FormatError(path, "damaged: the manifest counts other patches than the state files hold")
    if not all(abs(x) <= 2 * _MOST for x in manifest.origin):
        raise FormatError(path, "damaged: an origin out of reach")
    if not (np.isfinite(rows.world_from_camera).all() and np.abs(rows.world_from_camera).max(initial=0) <= 1e15):
        raise FormatError(path, "damaged: an observation that stands nowhere")
    rotations = rows.world_from_camera[:, :, :3]
    if (np.abs(determinant(rotations)) < 1e-9 * np.abs(rotations).max(axis=(1, 2), initial=1e-99) ** 3).any():
        raise FormatError(path, "damaged: an observation whose pose cannot be inverted")
    camera = rows.camera
    intrinsics = camera[:, :5]
    if not (
        np.isfinite(camera).all()
        and (camera[:, [0, 1, 4]] > 0).all()
        and np.abs(intrinsics).max(initial=0) <= _MOST_INTRINSICS
    ):
        raise FormatError(path, "damaged: an impossible camera")
    if (rows.provenance >= len(_PROVENANCES)).any():
        raise FormatError(path, "damaged: a keyframe neither observed nor generated")
    if (rows.place < 0).any():
        raise FormatError(path, "damaged: a keyframe that is nowhere")


def _keyframes_of(
    path: Path, manifest: Manifest, rows: _Rows, files: dict[int, MappedTensors]
) -> tuple[list[Any], NDArray[np.int64]]:
    """The distinct keyframes as the core takes them, and the index of each observation's keyframe."""
    distinct, first, which = np.unique(rows.place, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1).astype(np.int64)
    same = (rows.camera == rows.camera[first][which]).all(axis=1) & (rows.frame_id == rows.frame_id[first][which])
    same &= rows.provenance == rows.provenance[first][which]
    keyframes: list[Any] = []
    for (number, position), row in zip(distinct.tolist(), first.tolist(), strict=True):
        file = files.get(number)
        if file is None:
            raise FormatError(path, f"damaged: a keyframe in file {number}, which is none of the store's")
        latents, *others = stored_arrays(file, position, manifest.channels)
        camera = tuple(rows.camera[row].tolist())
        kind, provenance = _TYPES[latents.dtype.str[1:]], _PROVENANCES[rows.provenance[row]]
        frame_id = int(rows.frame_id[row])
        keyframes.append((latents, kind, *others, camera, frame_id, provenance))
    if not same.all():
        raise FormatError(path, "damaged: one keyframe with two cameras, frame ids or provenances")
    return keyframes, which


def _check_ids(path: Path, manifest: Manifest, rows: _Rows, grids: NDArray[np.int64]) -> None:
    """Check that ids and slots do not overlap, and that each live patch has one id."""
    size = manifest.settings.latent_patch_size
    counts = np.prod(-(-grids // size), axis=1)
    if (rows.words != -(-counts // 64)).any():
        raise FormatError(path, "damaged: living patches do not fit the keyframe")
    if (rows.slot >= _MOST_ID).any() or (rows.first_id >= _MOST_ID).any():
        raise FormatError(path, "damaged: an impossible id")
    lists = rows.word_lists
    for words, count in zip(lists, counts.tolist(), strict=True):
        if count % 64 and int(words[-1]) >> (count % 64):
            raise FormatError(path, "damaged: living patches beyond the keyframe")
    slots, ids = rows.slot.astype(np.int64), rows.first_id.astype(np.int64)
    if (slots[:-1] + counts[:-1] > slots[1:]).any() or (slots + counts > manifest.next_slot).any():
        raise FormatError(path, "damaged: slots overlap")
    if (ids + counts > manifest.next_id).any():
        raise FormatError(path, "damaged: an id that was not given yet")
    order = np.argsort(ids, kind="stable")
    ends, next_ids = (ids + counts)[order][:-1], ids[order][1:]
    if ((ends > next_ids) & (ids[order][:-1] != next_ids)).any():
        raise FormatError(path, "damaged: ids overlap")
    _check_fragments(path, ids, counts, lists)


def _check_fragments(
    path: Path, ids: NDArray[np.int64], counts: NDArray[np.int64], lists: list[NDArray[np.uint64]]
) -> None:
    """Check that each patch is alive in at most one of the observations that share its id."""
    _, first, which, shared = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    taken: dict[int, NDArray[np.uint64]] = {}
    for i in np.flatnonzero(shared[which] > 1).tolist():
        group = int(which[i])
        if counts[i] != counts[first[group]]:
            raise FormatError(path, "damaged: ids overlap")
        bits = taken.setdefault(group, np.zeros_like(lists[i]))
        if (bits & lists[i]).any():
            raise FormatError(path, "damaged: a patch that lives twice")
        taken[group] = bits | lists[i]


def _count_bits(words: NDArray[np.uint64]) -> int:
    return int(np.unpackbits(words.view(np.uint8)).sum())
