"""Saving: only what is new, and in an order in which any instant leaves a whole store."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicmem._copies import Uncopied
from mosaicmem._files import make_folder, sync_file
from mosaicmem._locks import ForkSafeLock
from mosaicmem.errors import StoreLockedError, suspect
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
from mosaicmem.memory.storage.tensors import MappedFile, copy_file, write_tensors

_SEGMENT_BYTES = 64 * 2**20  # of one file of keyframes, about
_SEGMENT_KEYFRAMES = 16384
_SMALL_BYTES = 16 * 2**20
_MOST_SMALL = 64  # files of keyframes; more are joined
_MOST_STATES = 64

Place: TypeAlias = tuple[int, int]  # of a keyframe: number of its file, position in it
Attachment: TypeAlias = tuple[Mapping[str, NDArray[Any]], dict[str, str]]  # arrays, and texts, by name


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
    _is_durable: bool = True  # False from the first write of a save until all of it is known to be on the disk
    _damaged: set[int] = field(default_factory=set)  # numbers of files that are kept as they are
    _lock: FolderLock | None = None
    _saving: ForkSafeLock = field(default_factory=lambda: ForkSafeLock(rank=1, over_io=True))
    _settling: ForkSafeLock = field(default_factory=lambda: ForkSafeLock(rank=2))

    def __post_init__(self) -> None:
        self.path = self.path.resolve()

    def save(
        self,
        exported: dict[str, Any],
        settings: StoreSettings,
        next_frame_id: int,
        label: str = "",
        attachment: Attachment | None = None,
    ) -> None:
        """Bring the folder to the state that a store had. Until this returns, the state before is what is there."""
        with self._saving:
            self._take_lock()
            self._make_durable()
            self._is_durable = False
            self._save(exported, settings, next_frame_id, label, attachment)
            self._is_durable = True
            self._remove_leftovers()

    def _save(
        self,
        exported: dict[str, Any],
        settings: StoreSettings,
        next_frame_id: int,
        label: str,
        attachment: Attachment | None,
    ) -> None:
        self._next_number = max(self._next_number, self.manifest.next_file if self.manifest else 1)
        places, keyframe_files = self._write_new_keyframes(_keyframes_of(exported))
        recorded = _records(exported, places)
        state_files = self._write_changes(exported, recorded)
        attachments = list(self.manifest.attachments) if self.manifest else []
        if attachment is not None:
            attachments.append(self._write("attachment", self._take_number(), *attachment, rows=0))
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
            attachments=attachments,
            label=label,
        )
        if manifest != self.manifest:
            self._expect_unchanged()  # still, should the lock not keep others out
            self._attempt = (manifest, places, recorded)
            manifest.write(self.path)
        else:
            self._attempt = (manifest, places, recorded)
        self._settle()

    def _make_durable(self) -> None:
        """After a save that failed, nothing is taken for durable that has not been written out again.

        What the disk refused once the system may have forgotten, and say nothing of it the next time.
        """
        if self._is_durable or self.manifest is None:
            return
        for entry in self.manifest.files:
            sync_file(self.path / entry.name)
        self.manifest.write(self.path)

    def close(self) -> None:
        """Let another process write."""
        with self._saving:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    def is_there(self) -> bool:
        """Whether the folder that is locked is still what the path leads to; True where nothing is locked."""
        return self._lock is None or self._lock.is_at(self.path / "lock")

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _settle(self) -> None:
        """What was attempted last is what is there."""
        assert self._attempt is not None
        with self._settling:
            self.manifest, self.places, self.recorded = self._attempt
            self._attempt = None

    def _take_lock(self) -> None:
        """Be the one writer of the folder, for good, and be sure that it holds what this store has put there."""
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
        rewritten = self._files_to_rewrite(keyframes) - self._damaged
        places = {
            serial: place for serial, place in self.places.items() if serial in keyframes and place[0] not in rewritten
        }
        new = [serial for serial in keyframes if serial not in places]
        carried, copies = self._carry_damage_over(new, keyframes)
        places.update(carried)
        used = {number for number, _ in places.values()}
        files = [entry for entry in (self.manifest.keyframes if self.manifest else []) if entry.number in used] + copies
        for group in _groups([serial for serial in new if serial not in carried], keyframes):
            number = self._take_number()
            files.append(self._write_keyframes(number, group, keyframes))
            places.update({serial: (number, position) for position, serial in enumerate(group)})
        return places, files

    def _carry_damage_over(
        self, serials: list[int], keyframes: dict[int, _Keyframe]
    ) -> tuple[dict[int, Place], list[FileEntry]]:
        """Places of keyframes in files that no longer match their checksums, and copies that were made of such files.

        To write what they hold to another file would give it a checksum that it matches. So the file stays as it is, or
        comes along as it is, and goes on failing `verify`.
        """
        places: dict[int, Place] = {}
        copies: list[FileEntry] = []
        numbers: dict[MappedFile, int | None] = {}  # of files to which keyframes go; None: they are rewritten
        for serial in serials:
            latents = keyframes[serial].latents
            source = MappedFile.of(latents)
            if source is None:
                continue
            if source not in numbers:
                numbers[source] = None if source.is_intact() else self._keep_as_it_is(source, copies)
            number = numbers[source]
            if number is not None:
                places[serial] = (number, source.position_of(latents))
        return places, copies

    def _keep_as_it_is(self, source: MappedFile, copies: list[FileEntry]) -> int:
        """The number in this folder of a damaged file, which is copied if it is from elsewhere."""
        entry = source.entry
        if self.manifest is None or entry not in self.manifest.keyframes:
            number = self._take_number()
            entry = entry.model_copy(update={"name": new_name("keyframes", number)})
            copy_file(source, self.path / entry.name)
            copies.append(entry)
        self._damaged.add(entry.number)
        suspect(
            f"{source.path}: damaged: its content does not match the manifest's checksum; it is kept as it is, and "
            f"what its {entry.rows} keyframes show may be wrong; whatever else is saved is not affected"
        )
        return entry.number

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
        metadata = {"format": "mosaicmem keyframes; U16 is bfloat16"}
        return self._write("keyframes", number, tensors, metadata, rows=len(serials))

    def _write(
        self, kind: str, number: int, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str], *, rows: int
    ) -> FileEntry:
        return write_tensors(self.path / new_name(kind, number), tensors, metadata, rows=rows)

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
        return self._write("state", number, tensors, {"format": "mosaicmem state"}, rows=len(changed) + len(gone))

    def _remove_leftovers(self) -> None:
        """Files that the manifest no longer names, or never did: of a save that did not end."""
        assert self.manifest is not None
        named = {entry.name for entry in self.manifest.files}
        for name in _files_in(self.path):
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


def _files_in(path: Path) -> list[str]:
    """Names of what is no folder."""
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]


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
    own = {name for name in _files_in(path) if name == "lock" or is_own_file(name) or _is_temporary(name)}
    foreign = [name for name in names if name not in own]
    if foreign:
        raise FileExistsError(f"{path}: expected a new or empty folder, got one with {sorted(foreign)[0]!r} in it")
