"""Saving: only what is new, and in an order in which any instant leaves a whole store."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem.errors import StoreLockedError
from mosaicmem.memory.storage.manifest import MANIFEST, FileEntry, Manifest, StoreSettings, is_own_file, read_manifest
from mosaicmem.memory.storage.tensors import write_tensors

_SEGMENT_BYTES = 64 * 2**20  # of one file of keyframes, about
_SEGMENT_KEYFRAMES = 16384
_SMALL_BYTES = 16 * 2**20
_MOST_SMALL = 64  # files of keyframes; more are joined
_MOST_STATES = 64

Place: TypeAlias = tuple[int, int]  # of a keyframe: number of its file, position in it


@dataclass
class StoreFolder:
    """One folder, as one store knows it: what is there already, and where.

    Attributes
    ----------
    path : Path
    manifest : Manifest or None
        As this store last wrote or read it.
    places : dict
        Where keyframes are, by their serial in this process.
    recorded : dict
        By slot: the place and the living patches of the observations, as the folder has them.
    """

    path: Path
    manifest: Manifest | None = None
    places: dict[int, Place] = field(default_factory=dict)
    recorded: dict[int, tuple[Place, bytes]] = field(default_factory=dict)
    _unlock: weakref.finalize[Any, Any] | None = None

    def save(self, core: _core.MemoryStore, settings: StoreSettings, next_frame_id: int) -> None:
        """Bring the folder to the state of the store. Until this returns, the state before is what is there."""
        self._lock()
        exported = core.export_observations()
        keyframes = _keyframes_of(exported)
        rewritten = self._files_to_rewrite(keyframes)
        new = [serial for serial in keyframes if serial not in self.places or self.places[serial][0] in rewritten]

        number = self.manifest.next_file if self.manifest else 1
        places = {serial: place for serial, place in self.places.items() if serial in keyframes}
        entries: list[FileEntry] = []
        for group in _groups(new, keyframes):
            entries.append(self._write_keyframes(number, group, keyframes))
            places.update({serial: (number, position) for position, serial in enumerate(group)})
            number += 1

        recorded = _records(exported, places)
        states = list(self.manifest.states) if self.manifest else []
        if len(states) >= _MOST_STATES or self._rows(states) > 2 * len(recorded) + 64:
            states = []
        before = self.recorded if states else {}
        changed = [i for i, slot in enumerate(recorded) if before.get(slot) != recorded[slot]]
        gone = [slot for slot in before if slot not in recorded]
        if changed or gone or not states:
            states.append(self._write_state(number, exported, recorded, changed, gone))
            number += 1

        living = {place[0] for place in places.values()}
        kept = [e for e in (self.manifest.keyframes if self.manifest else []) if e.number in living]
        manifest = Manifest(
            settings=settings,
            next_id=exported["next_id"],
            next_slot=exported["next_slot"],
            next_file=number,
            next_frame_id=next_frame_id,
            channels=exported["channels"],
            origin=list(exported["origin"]),
            patches=exported["patches"],
            observations=len(recorded),
            keyframes=kept + entries,
            states=states,
        )
        if manifest != self.manifest:
            manifest.write(self.path)
        self.manifest, self.places, self.recorded = manifest, places, recorded
        self._remove_leftovers()

    def close(self) -> None:
        """Let another process write."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def _lock(self) -> None:
        """Be the one writer of the folder, for good; checks that it holds what this store has put there."""
        if self._unlock is not None and self._unlock.alive:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        if self.manifest is None:
            _expect_free(self.path)
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            writer = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreLockedError(
                f"{self.path}: another store writes here (process {writer}); close it, or save to another folder"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        unlock = weakref.finalize(self, os.close, descriptor)  # a process that ends lets go of it, too
        try:
            self._expect_unchanged()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            unlock()
            raise
        self._unlock = unlock

    def _expect_unchanged(self) -> None:
        if self.manifest is None:
            _expect_free(self.path)
            return
        if read_manifest(self.path) != self.manifest:
            raise StoreLockedError(
                f"{self.path}: another process has saved here since this store was opened; open it again, or save to "
                "another folder"
            )

    def _files_to_rewrite(self, keyframes: dict[int, _Keyframe]) -> set[int]:
        """Files of keyframes that are mostly dead, where those take half of the folder, or are many and small."""
        files = {entry.number: entry.nbytes for entry in self.manifest.keyframes} if self.manifest else {}
        living: dict[int, int] = defaultdict(int)
        for serial, keyframe in keyframes.items():
            if serial in self.places:
                living[self.places[serial][0]] += keyframe.nbytes
        files = {number: nbytes for number, nbytes in files.items() if number in living}
        rewritten: set[int] = set()
        if sum(files.values()) > 2 * sum(living.values()):
            rewritten |= {number for number, nbytes in files.items() if nbytes > 2 * living[number]}
        small = {number for number in files if living[number] < _SMALL_BYTES}
        return rewritten | small if len(small) > _MOST_SMALL else rewritten

    def _write_keyframes(self, number: int, serials: list[int], keyframes: dict[int, _Keyframe]) -> FileEntry:
        tensors: dict[str, NDArray[Any]] = {}
        for position, serial in enumerate(serials):
            keyframe = keyframes[serial]
            tensors[f"{position}.latents"] = keyframe.latents
            tensors[f"{position}.depth"] = keyframe.depth
            if keyframe.confidence is not None:
                tensors[f"{position}.confidence"] = keyframe.confidence
        path = self.path / f"keyframes-{number:08d}.safetensors"
        return write_tensors(path, tensors, {"format": "mosaicmem keyframes; U16 is bfloat16"})

    def _write_state(
        self,
        number: int,
        exported: dict[str, Any],
        recorded: dict[int, tuple[Place, bytes]],
        changed: list[int],
        gone: list[int],
    ) -> FileEntry:
        values = list(recorded.values())
        alive = b"".join(values[i][1] for i in changed)
        tensors = {
            "slot": exported["slot"][changed],
            "first_id": exported["first_id"][changed],
            "place": np.array([values[i][0] for i in changed], dtype=np.int64).reshape(-1, 2),
            "world_from_camera": exported["world_from_camera"][changed],
            "camera": exported["camera"][changed],
            "frame_id": exported["frame_id"][changed],
            "words": exported["words"][changed],
            "alive": np.frombuffer(alive, dtype="<u8"),
            "gone": np.array(gone, dtype=np.uint64),
        }
        path = self.path / f"state-{number:08d}.safetensors"
        return write_tensors(path, tensors, {"format": "mosaicmem state"})

    @staticmethod
    def _rows(states: list[FileEntry]) -> int:
        """About how many observations state files hold: their sizes say."""
        return sum(entry.nbytes for entry in states) // 240

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


def _records(exported: dict[str, Any], places: dict[int, Place]) -> dict[int, tuple[Place, bytes]]:
    """By slot, ascending: place of the keyframe and living patches."""
    ends = 8 * np.cumsum(exported["words"])
    alive = np.ascontiguousarray(exported["alive"], dtype="<u8").tobytes()
    records, begin = {}, 0
    for slot, serial, end in zip(exported["slot"].tolist(), exported["keyframe"].tolist(), ends.tolist(), strict=True):
        records[slot] = (places[serial], alive[begin:end])
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


def _is_temporary(name: str) -> bool:
    own = name.startswith(".") and name.endswith(".writing") and is_own_file(name[1:].removesuffix(".writing"))
    return own or name.startswith(f".{MANIFEST}.")


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
