"""Keyframe files: new keyframes go into new files, mostly dead files are rewritten, and damaged files are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from mosaicmem.errors import suspect
from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.manifest import FileEntry, new_name
from mosaicmem.memory.storage.tensors import MappedFile, copy_file, write_tensors

_SEGMENT_BYTES = 64 * 2**20  # approximate size of a keyframe file
_SEGMENT_KEYFRAMES = 16384
_WRITERS = 3  # threads
_SMALL_BYTES = 16 * 2**20
_MOST_SMALL = 64  # small keyframe files; more are merged

Place: TypeAlias = tuple[int, int]  # where a keyframe is: file number, position in the file


@dataclass(frozen=True, eq=False)
class StoredKeyframe:
    """The arrays of a keyframe, as stored in a file."""

    latents: NDArray[Any]
    depth: NDArray[Any]
    confidence: NDArray[Any] | None
    image: NDArray[Any] | None
    subcell_depth: NDArray[Any] | None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Those that there are, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


def keyframes_of(exported: ExportedStore) -> dict[int, StoredKeyframe]:
    """The distinct keyframes of the exported observations, by serial."""
    serials = exported.keyframe.tolist()
    return {serial: StoredKeyframe(*arrays) for serial, arrays in zip(serials, exported.arrays, strict=True)}


@dataclass
class KeyframeFiles:
    """Updates the keyframe files of a folder in one save.

    Attributes
    ----------
    path : Path
    entries : list of FileEntry
        The existing files.
    places : dict
        Where the existing keyframes are, by their serial in this process.
    damaged : set of int
        Numbers of damaged files, which are kept as they are. Newly found ones are added.
    take_number : callable
        Returns the number of the next file.
    densely : bool
        Rewrite every file that holds a dead keyframe, and all small ones.
    durably : bool
        Wait for the disk.
    """

    path: Path
    entries: list[FileEntry]
    places: dict[int, Place]
    damaged: set[int]
    take_number: Callable[[], int]
    densely: bool = False
    durably: bool = True

    def write(self, keyframes: dict[int, StoredKeyframe]) -> tuple[dict[int, Place], list[FileEntry]]:
        """Write new and moved keyframes; return where all keyframes are, and the files that hold them."""
        rewritten = self._files_to_rewrite(keyframes) - self.damaged
        places = {
            serial: place for serial, place in self.places.items() if serial in keyframes and place[0] not in rewritten
        }
        new = [serial for serial in keyframes if serial not in places]
        carried, copies = self._carry_damage_over(new, keyframes)
        places.update(carried)
        used = {number for number, _ in places.values()}
        files = [entry for entry in self.entries if entry.number in used] + copies
        groups = [(self.take_number(), group) for group in _groups([s for s in new if s not in carried], keyframes)]
        with ThreadPoolExecutor(_WRITERS) as writers:  # one file is synced while another one is written
            files += writers.map(lambda each: self._write_keyframes(each[0], each[1], keyframes), groups)
        for number, group in groups:
            places.update({serial: (number, position) for position, serial in enumerate(group)})
        return places, files

    def _files_to_rewrite(self, keyframes: dict[int, StoredKeyframe]) -> set[int]:
        """Mostly dead files, if dead keyframes take over half of the folder; small files, if there are too many."""
        living: dict[int, int] = defaultdict(int)
        for serial in keyframes:
            if serial in self.places:
                living[self.places[serial][0]] += 1
        files = [entry for entry in self.entries if living[entry.number] > 0]
        used = {entry.number: entry.nbytes * living[entry.number] / max(1, entry.rows) for entry in files}
        small = {number for number, nbytes in used.items() if nbytes < _SMALL_BYTES}
        if self.densely:
            return {entry.number for entry in files if living[entry.number] < entry.rows} | (
                small if len(small) > 1 else set()
            )
        rewritten: set[int] = set()
        if sum(entry.nbytes for entry in files) > 2 * sum(used.values()):
            rewritten |= {entry.number for entry in files if entry.nbytes > 2 * used[entry.number]}
        return rewritten | small if len(small) > _MOST_SMALL else rewritten

    def _carry_damage_over(
        self, serials: list[int], keyframes: dict[int, StoredKeyframe]
    ) -> tuple[dict[int, Place], list[FileEntry]]:
        """Places of keyframes in files that no longer match their checksums, and the copies made of such files.

        Writing their keyframes to a new file would give that a matching checksum and hide the damage. So the file is
        kept, or copied byte for byte, and still fails `verify`.
        """
        places: dict[int, Place] = {}
        copies: list[FileEntry] = []
        numbers: dict[MappedFile, int | None] = {}  # file that keeps their keyframes; None: intact, they are rewritten
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
        """The number of a damaged file in this folder; copies the file if it is from another folder."""
        entry = source.entry
        if entry not in self.entries:
            number = self.take_number()
            entry = entry.model_copy(update={"name": new_name("keyframes", number)})
            copy_file(source, self.path / entry.name)
            copies.append(entry)
        self.damaged.add(entry.number)
        suspect(
            f"{source.path}: damaged: its content does not match the manifest's checksum; it is kept as it is, and "
            f"what its {entry.rows} keyframes show may be wrong; whatever else is saved is not affected"
        )
        return entry.number

    def _write_keyframes(self, number: int, serials: list[int], keyframes: dict[int, StoredKeyframe]) -> FileEntry:
        tensors: dict[str, NDArray[Any]] = {}
        for position, serial in enumerate(serials):
            for name, array in keyframes[serial].arrays.items():
                tensors[f"{position}.{name}"] = array
        metadata = {"format": "mosaicmem keyframes; U16 is bfloat16"}
        path = self.path / new_name("keyframes", number)
        return write_tensors(path, tensors, metadata, rows=len(serials), durably=self.durably)


def _groups(serials: Iterable[int], keyframes: dict[int, StoredKeyframe]) -> Iterator[list[int]]:
    """Groups of keyframes, one group per file."""
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
