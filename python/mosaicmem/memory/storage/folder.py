"""Saves a store: writes only changes, in an order that leaves a complete store at every instant."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import U64
from mosaicmem._copies import Uncopied
from mosaicmem._files import make_folder, sync_file
from mosaicmem._locks import ForkSafeLock
from mosaicmem.errors import StoreLockedError
from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.keyframe_files import KeyframeFiles, Place, keyframes_of
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.memory.storage.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    StoreSettings,
    is_own_file,
    new_name,
    read_manifest,
)
from mosaicmem.memory.storage.stored_keyframe import stored_arrays
from mosaicmem.memory.storage.tensors import MappedFile, MappedTensors, write_tensors

_MOST_STATES = 64

Attachment: TypeAlias = tuple[Mapping[str, NDArray[Any]], dict[str, str]]  # arrays, and texts, by name


class Record(NamedTuple):
    """An observation as recorded in a folder."""

    place: Place
    first_id: int
    world_from_camera: bytes
    alive: bytes


@dataclass
class StoreFolder(Uncopied):
    """A folder as one store knows it: what it already holds, and where.

    Attributes
    ----------
    path : Path
    manifest : Manifest or None
        As this store last wrote or read it.
    places : dict
        Where keyframes are, by their serial in this process.
    recorded : dict
        The record of each observation in the folder, by slot.
    """

    _instead: ClassVar[str] = "one process may write to a folder; open the store again"

    path: Path
    manifest: Manifest | None = None
    places: dict[int, Place] = field(default_factory=dict)
    recorded: dict[int, Record] = field(default_factory=dict)
    _next_number: int = 1  # of a file; never reused, even after a failed save
    _attempt: tuple[Manifest, dict[int, Place], dict[int, Record]] | None = None
    _is_durable: bool = True  # False from the first write of a save until all of it is known to be on the disk
    _durably: bool = True  # whether the save in progress waits for the disk
    _damaged: set[int] = field(default_factory=set)  # numbers of damaged files, which are kept as they are
    _lock: FolderLock | None = None
    _saving: ForkSafeLock = field(default_factory=lambda: ForkSafeLock(rank=1, over_io=True))
    _settling: ForkSafeLock = field(default_factory=lambda: ForkSafeLock(rank=2))

    def __post_init__(self) -> None:
        self.path = self.path.resolve()

    def save(
        self,
        exported: ExportedStore,
        settings: StoreSettings,
        next_frame_id: int,
        label: str = "",
        attachment: Attachment | None = None,
        *,
        densely: bool = False,
        durably: bool = True,
    ) -> None:
        """Save the exported state of a store. The previous state stays valid until the new manifest replaces it.

        With ``densely``, what is there is written again where that makes the folder smaller. Without ``durably``, the
        disk is not waited for; the next durable save makes up for it.
        """
        with self._saving:
            self._take_lock()
            if durably:
                self._make_durable()
            self._is_durable, self._durably = False, durably
            self._save(exported, settings, next_frame_id, label, attachment, densely)
            self._is_durable = durably
            self._remove_leftovers()

    def _save(
        self,
        exported: ExportedStore,
        settings: StoreSettings,
        next_frame_id: int,
        label: str,
        attachment: Attachment | None,
        densely: bool,
    ) -> None:
        self._next_number = max(self._next_number, self.manifest.next_file if self.manifest else 1)
        before = self.manifest.keyframes if self.manifest else []
        files = KeyframeFiles(self.path, before, self.places, self._damaged, self._take_number, densely, self._durably)
        places, keyframe_files = files.write(keyframes_of(exported))
        recorded = _records(exported, places)
        state_files = self._write_changes(exported, recorded, densely)
        attachments = list(self.manifest.attachments) if self.manifest else []
        if attachment is not None:
            attachments.append(self._write("attachment", self._take_number(), *attachment, rows=0))
        manifest = Manifest(
            settings=settings,
            next_id=exported.next_id,
            next_slot=exported.next_slot,
            next_file=self._next_number,
            next_frame_id=next_frame_id,
            channels=exported.channels,
            origin=list(exported.origin),
            patches=exported.patches,
            observations=len(recorded),
            keyframes=keyframe_files,
            states=state_files,
            attachments=attachments,
            label=label,
        )
        if manifest != self.manifest:
            self._expect_unchanged()  # check again, in case the lock did not keep others out
            self._attempt = (manifest, places, recorded)
            manifest.write(self.path, durably=self._durably)
        else:
            self._attempt = (manifest, places, recorded)
        self._settle()

    def _make_durable(self) -> None:
        """After a failed save, take nothing for durable before syncing all files and rewriting the manifest.

        The system may report a failed write to the disk only once, and then forget it.
        """
        if self._is_durable or self.manifest is None:
            return
        for entry in self.manifest.files:
            sync_file(self.path / entry.name)
        self.manifest.write(self.path)

    def mapped(self, exported: ExportedStore) -> tuple[U64, list[Any]]:
        """Keyframes that were saved here and are in memory: their serials, and the same arrays as mapped from disk."""
        assert self.manifest is not None
        files = {entry.number: entry for entry in self.manifest.keyframes}
        opened: dict[int, MappedTensors] = {}
        found: dict[int, Any] = {}
        for serial, arrays in zip(exported.keyframe.tolist(), exported.arrays, strict=True):
            if serial in found or MappedFile.of(arrays[0]) is not None:
                continue
            number, position = self.places[serial]
            if number not in opened:
                opened[number] = MappedTensors(self.path, files[number])
            found[serial] = stored_arrays(opened[number], position, exported.channels)
        return np.array(list(found), np.uint64), list(found.values())

    def close(self) -> None:
        """Release the lock, so that another process can write."""
        with self._saving:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    def is_there(self) -> bool:
        """Whether the path still leads to the locked folder; True if nothing is locked."""
        return self._lock is None or self._lock.is_at(self.path / "lock")

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _settle(self) -> None:
        """Adopt the last attempted state as that of the folder."""
        assert self._attempt is not None
        with self._settling:
            self.manifest, self.places, self.recorded = self._attempt
            self._attempt = None

    def _take_lock(self) -> None:
        """Lock the folder until `close`, and check that it still holds what this store last saved or opened."""
        if self._lock is not None and not self._lock.is_own():
            self._lock = None  # this process was forked from the one that holds it
        if self._lock is None:
            make_folder(self.path)
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
            self._settle()  # the last save failed only after it had replaced the manifest
        if found == self.manifest:
            return
        if self.manifest is None:
            _expect_free(self.path)
        raise StoreLockedError(
            f"{self.path}: another process has saved here since this store was saved or opened; open it again, or save "
            "to another folder"
        )

    def _write_changes(self, exported: ExportedStore, recorded: dict[int, Record], densely: bool) -> list[FileEntry]:
        """The state files that replay to ``recorded``: one more for the changes, or one that replaces all."""
        files = list(self.manifest.states) if self.manifest else []
        if densely and (len(files) > 1 or sum(entry.rows for entry in files) > len(recorded)):
            files = []
        if len(files) >= _MOST_STATES or sum(entry.rows for entry in files) > 2 * len(recorded) + 64:
            files = []
        before = self.recorded if files else {}
        changed = [i for i, slot in enumerate(recorded) if before.get(slot) != recorded[slot]]
        gone = [slot for slot in before if slot not in recorded]
        if changed or gone or not files:
            files.append(self._write_state(self._take_number(), exported, recorded, changed, gone))
        return files

    def _write(
        self, kind: str, number: int, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str], *, rows: int
    ) -> FileEntry:
        path = self.path / new_name(kind, number)
        return write_tensors(path, tensors, metadata, rows=rows, durably=self._durably)

    def _write_state(
        self,
        number: int,
        exported: ExportedStore,
        recorded: dict[int, Record],
        changed: list[int],
        gone: list[int],
    ) -> FileEntry:
        values = list(recorded.values())
        alive = b"".join(values[i].alive for i in changed)
        tensors = {
            "slot": exported.slot[changed],
            "first_id": exported.first_id[changed],
            "place": np.array([values[i].place for i in changed], dtype=np.int64).reshape(-1, 2),
            "world_from_camera": exported.world_from_camera[changed],
            "camera": exported.camera[changed],
            "frame_id": exported.frame_id[changed],
            "provenance": exported.provenance[changed],
            "words": exported.words[changed],
            "alive": np.frombuffer(alive, dtype="<u8"),
            "gone": np.array(gone, dtype=np.uint64),
        }
        return self._write("state", number, tensors, {"format": "mosaicmem state"}, rows=len(changed) + len(gone))

    def _remove_leftovers(self) -> None:
        """Remove files that the manifest no longer names, and those of an interrupted save, which it never named."""
        assert self.manifest is not None
        named = {entry.name for entry in self.manifest.files}
        for name in _files_in(self.path):
            if (is_own_file(name) and name not in named) or _is_temporary(name):
                (self.path / name).unlink(missing_ok=True)


def _records(exported: ExportedStore, places: dict[int, Place]) -> dict[int, Record]:
    """The record of each observation by slot, ascending."""
    columns = zip(exported.slot.tolist(), exported.keyframe.tolist(), exported.first_id.tolist(), strict=True)
    return {
        slot: Record(places[serial], first_id, pose.tobytes(), words.tobytes())
        for (slot, serial, first_id), pose, words in zip(
            columns, exported.world_from_camera, exported.alive_words, strict=True
        )
    }


def _files_in(path: Path) -> list[str]:
    """Names of the entries that are not folders."""
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]


# Temporary names that the safetensors library gives to files until they are complete.
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")


def _is_temporary(name: str) -> bool:
    own = name.startswith(".") and name.endswith(".writing") and is_own_file(name[1:].removesuffix(".writing"))
    return own or name.startswith(f".{MANIFEST}.") or _OF_SAFETENSORS.fullmatch(name) is not None


def _expect_free(path: Path) -> None:
    """Require a folder that is empty, or holds nothing but leftovers of an interrupted first save."""
    names = os.listdir(path)
    if MANIFEST in names:
        raise FileExistsError(
            f"{path}: another store is saved here; choose a new folder, or continue it with MosaicMemoryStore.open()"
        )
    own = {name for name in _files_in(path) if name == "lock" or is_own_file(name) or _is_temporary(name)}
    foreign = [name for name in names if name not in own]
    if foreign:
        raise FileExistsError(f"{path}: expected a new or empty folder, got one with {sorted(foreign)[0]!r} in it")
