"""Saving: only what is new, and in an order in which any instant leaves a whole store."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.errors import StoreLockedError
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.memory.storage.manifest import MANIFEST, FileEntry, Manifest, StoreSettings, is_own_file, read_manifest
from mosaicmem.memory.storage.tensors import write_tensors

_SEGMENT_BYTES = 64 * 2**20  # of one file of keyframes, about
_SEGMENT_KEYFRAMES = 16384
_SMALL_BYTES = 16 * 2**20
_MOST_SMALL = 64  # files of keyframes; more are joined
_MOST_STATES = 64

Place: TypeAlias = tuple[int, int]  # of a keyframe: number of its file, position in it


class Record(NamedTuple):
    """An observation, as a folder has it."""

    place: Place
    first_id: int
    world_from_camera: bytes
    alive: bytes


@dataclass
class StoreFolder(Uncopied):
    """One folder, as one store knows it: what is there already, and where.

    Attributes
    ----------
    path : Path
    manifest : Manifest or None
        As this store last wrote or read it.
    places : dict
        Where keyframes are, by their serial in this process.
    recorded : dict
        By slot: what the folder has of each observation.
    """

    _instead: ClassVar[str] = "one process may write to a folder; open the store again"

    path: Path
    manifest: Manifest | None = None
    places: dict[int, Place] = field(default_factory=dict)
    recorded: dict[int, Record] = field(default_factory=dict)
    _next_number: int = 1  # of a file; never given twice, also not after a save that failed
    _attempt: tuple[Manifest, dict[int, Place], dict[int, Record]] | None = None
    _lock: FolderLock | None = None
    _saving: ForkSafeLock = field(default_factory=lambda: ForkSafeLock(rank=1))  # within the lock of a store

    def __post_init__(self) -> None:
        self.path = self.path.resolve()

    def save(self, core: _core.MemoryStore, settings: StoreSettings, next_frame_id: int, label: str = "") -> None:
        """Bring the folder to the state of the store. Until this returns, the state before is what is there."""
        with self._saving:
            self._save(core, settings, next_frame_id, label)

    def _save(self, core: _core.MemoryStore, settings: StoreSettings, next_frame_id: int, label: str) -> None:
        self._take_lock()
        self._next_number = max(self._next_number, self.manifest.next_file if self.manifest else 1)
        exported = core.export_observations()
        places, keyframe_files = self._write_new_keyframes(_keyframes_of(exported))
        recorded = _records(exported, places)
        state_files = self._write_changes(exported, recorded)
        manifest = Manifest(
            settings=settings,
            next_id=exported["next_id"],
            next_slot=exported["next_slot"],
            next_file=self._next_number,
            next_frame_id=next_frame_id,
            channels=exported["channels"],
            origin=list(exported["origin"]),
            patches=exported["patches"],
            observations=len(recorded),
            keyframes=keyframe_files,
            states=state_files,
            label=label,
        )
        self._attempt = (manifest, places, recorded)
        if manifest != self.manifest:
            manifest.write(self.path)
        self._settle()
        self._remove_leftovers()

    def close(self) -> None:
        """Let another process write."""
        with self._saving:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def is_there(self) -> bool:
        """Whether the folder that is locked is still what the path leads to; True where nothing is locked."""
        return self._lock is None or self._lock.is_at(self.path / "lock")

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _settle(self) -> None:
        """What was attempted last is what is there."""
        assert self._attempt is not None
        self.manifest, self.places, self.recorded = self._attempt
        self._attempt = None

    def _take_lock(self) -> None:
        """Be the one writer of the folder, for good, and be sure that it holds what this store has put there."""
        if self._lock is not None and not self._lock.is_own():
            self._lock = None  # this process was forked from the one that holds it
        if self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.manifest is None and self._attempt is None:
                _expect_free(self.path)
            self._lock = FolderLock.take(self.path)
        try:
            self._expect_unchanged()
        except BaseException:
            self._lock.release()
            self._lock = None
            raise

    def _expect_unchanged(self) -> None:
        try:
            found = read_manifest(self.path)
        except FileNotFoundError:
            found = None
        if self._attempt is not None and found == self._attempt[0]:
            self._settle()  # the last save failed when all was done
        if found == self.manifest:
            return
        if self.manifest is None:
            _expect_free(self.path)
        raise StoreLockedError(
            f"{self.path}: another process has saved here since this store was saved or opened; open it again, or save "
            "to another folder"
        )

    def _files_to_rewrite(self, keyframes: dict[int, _Keyframe]) -> set[int]:
        """Files of keyframes that are mostly dead, where those take half of the folder, or are many and small."""
        living: dict[int, int] = defaultdict(int)
        for serial in keyframes:
            if serial in self.places:
                living[self.places[serial][0]] += 1
        files = [entry for entry in (self.manifest.keyframes if self.manifest else []) if living[entry.number] > 0]
        used = {entry.number: entry.nbytes * living[entry.number] / max(1, entry.rows) for entry in files}
        rewritten: set[int] = set()
        if sum(entry.nbytes for entry in files) > 2 * sum(used.values()):
            rewritten |= {entry.number for entry in files if entry.nbytes > 2 * used[entry.number]}
        small = {number for number, nbytes in used.items() if nbytes < _SMALL_BYTES}
        return rewritten | small if len(small) > _MOST_SMALL else rewritten

    def _write_new_keyframes(self, keyframes: dict[int, _Keyframe]) -> tuple[dict[int, Place], list[FileEntry]]:
        """Where all keyframes are then, and the files that hold one of them."""
        rewritten = self._files_to_rewrite(keyframes)
        places = {
            serial: place for serial, place in self.places.items() if serial in keyframes and place[0] not in rewritten
        }
        used = {number for number, _ in places.values()}
        files = [entry for entry in (self.manifest.keyframes if self.manifest else []) if entry.number in used]
        for group in _groups([serial for serial in keyframes if serial not in places], keyframes):
            number = self._take_number()
            files.append(self._write_keyframes(number, group, keyframes))
            places.update({serial: (number, position) for position, serial in enumerate(group)})
        return places, files

    def _write_changes(self, exported: dict[str, Any], recorded: dict[int, Record]) -> list[FileEntry]:
        """The state files that lead to what is recorded: one more, or a single new one in the place of many."""
        files = list(self.manifest.states) if self.manifest else []
        if len(files) >= _MOST_STATES or sum(entry.rows for entry in files) > 2 * len(recorded) + 64:
            files = []
        before = self.recorded if files else {}
        changed = [i for i, slot in enumerate(recorded) if before.get(slot) != recorded[slot]]
        gone = [slot for slot in before if slot not in recorded]
        if changed or gone or not files:
            files.append(self._write_state(self._take_number(), exported, recorded, changed, gone))
        return files

    def _write_keyframes(self, number: int, serials: list[int], keyframes: dict[int, _Keyframe]) -> FileEntry:
        tensors: dict[str, NDArray[Any]] = {}
        for position, serial in enumerate(serials):
            keyframe = keyframes[serial]
            tensors[f"{position}.latents"] = keyframe.latents
            tensors[f"{position}.depth"] = keyframe.depth
            if keyframe.confidence is not None:
                tensors[f"{position}.confidence"] = keyframe.confidence
        path = self.path / f"keyframes-{number:08d}.safetensors"
        return write_tensors(path, tensors, {"format": "mosaicmem keyframes; U16 is bfloat16"}, rows=len(serials))

    def _write_state(
        self,
        number: int,
        exported: dict[str, Any],
        recorded: dict[int, Record],
        changed: list[int],
        gone: list[int],
    ) -> FileEntry:
        values = list(recorded.values())
        alive = b"".join(values[i].alive for i in changed)
        tensors = {
            "slot": exported["slot"][changed],
            "first_id": exported["first_id"][changed],
            "place": np.array([values[i].place for i in changed], dtype=np.int64).reshape(-1, 2),
            "world_from_camera": exported["world_from_camera"][changed],
            "camera": exported["camera"][changed],
            "frame_id": exported["frame_id"][changed],
            "provenance": exported["provenance"][changed],
            "words": exported["words"][changed],
            "alive": np.frombuffer(alive, dtype="<u8"),
            "gone": np.array(gone, dtype=np.uint64),
        }
        path = self.path / f"state-{number:08d}.safetensors"
        return write_tensors(path, tensors, {"format": "mosaicmem state"}, rows=len(changed) + len(gone))

    def _remove_leftovers(self) -> None:
        """Files that the manifest no longer names, or never did: of a save that did not end."""
        assert self.manifest is not None
        named = {entry.name for entry in (*self.manifest.keyframes, *self.manifest.states)}
        for name in os.listdir(self.path):
            if (is_own_file(name) and name not in named) or _is_temporary(name):
                (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class _Keyframe:
    latents: NDArray[Any]
    depth: NDArray[Any]
    confidence: NDArray[Any] | None

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + self.depth.nbytes + (0 if self.confidence is None else self.confidence.nbytes)


def _keyframes_of(exported: dict[str, Any]) -> dict[int, _Keyframe]:
    """The keyframes that observations show, each once, by serial."""
    serials = exported["keyframe"].tolist()
    return {serial: _Keyframe(*arrays) for serial, arrays in zip(serials, exported["arrays"], strict=True)}


def _records(exported: dict[str, Any], places: dict[int, Place]) -> dict[int, Record]:
    """What there is to keep of each observation, by slot, ascending."""
    ends = 8 * np.cumsum(exported["words"])
    alive = np.ascontiguousarray(exported["alive"], dtype="<u8").tobytes()
    columns = (exported["slot"], exported["keyframe"], exported["first_id"], ends)
    records, begin = {}, 0
    for row, (slot, serial, first_id, end) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        pose = exported["world_from_camera"][row].tobytes()
        records[slot] = Record(places[serial], first_id, pose, alive[begin:end])
        begin = end
    return records


def _groups(serials: Iterable[int], keyframes: dict[int, _Keyframe]) -> Iterator[list[int]]:
    """Keyframes that go into one file each."""
    group: list[int] = []
    nbytes = 0
    for serial in serials:
        if group and (nbytes + keyframes[serial].nbytes > _SEGMENT_BYTES or len(group) == _SEGMENT_KEYFRAMES):
            yield group
            group, nbytes = [], 0
        group.append(serial)
        nbytes += keyframes[serial].nbytes
    if group:
        yield group


# What safetensors writes before it gives a file the name it was asked for.
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")


def _is_temporary(name: str) -> bool:
    own = name.startswith(".") and name.endswith(".writing") and is_own_file(name[1:].removesuffix(".writing"))
    return own or name.startswith(f".{MANIFEST}.") or _OF_SAFETENSORS.fullmatch(name) is not None


def _expect_free(path: Path) -> None:
    """A folder that is empty, or holds no more than what a first save left that did not end."""
    names = os.listdir(path)
    if MANIFEST in names:
        raise FileExistsError(
            f"{path}: another store is saved here; choose a new folder, or go on from it with MosaicMemoryStore.open()"
        )
    foreign = [name for name in names if not (name == "lock" or is_own_file(name) or _is_temporary(name))]
    if foreign:
        raise FileExistsError(f"{path}: expected a new or empty folder, got one with {sorted(foreign)[0]!r} in it")
