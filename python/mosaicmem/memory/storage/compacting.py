"""Makes the folder of a saved store as small as its content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.manifest import MANIFEST
from mosaicmem.memory.storage.reading import open_folder


@dataclass(frozen=True)
class Compaction:
    """What a compaction has changed.

    Attributes
    ----------
    files_before, files_after : int
    nbytes_before, nbytes_after : int
        Of these files.
    """

    files_before: int
    files_after: int
    nbytes_before: int
    nbytes_after: int


def compact(path: str | Path, *, num_threads: int = 0) -> Compaction:
    """Rewrite what holds anything dead or is in many small pieces, and remove what the manifest does not name.

    Saves do this only as far as it is cheap. The content stays the same, label and attachments included. It is as safe
    as a save: at every instant a complete store is there, and processes that have it open keep what they have mapped.
    Damaged files are kept as they are.

    Raises
    ------
    FileNotFoundError
        No store is there.
    FormatError
        It is damaged.
    StoreLockedError
        Another process writes there.
    """
    folder, core, settings, next_frame_id = open_folder(Path(path), num_threads)
    assert folder.manifest is not None
    before = _sizes(folder.path)
    try:
        folder.save(ExportedStore.of(core), settings, next_frame_id, folder.manifest.label, densely=True)
    finally:
        folder.close()
    after = _sizes(folder.path)
    return Compaction(len(before), len(after), sum(before), sum(after))


def _sizes(path: Path) -> list[int]:
    """Of all files but the manifest and the lock."""
    with os.scandir(path) as entries:
        named = [entry for entry in entries if entry.name not in (MANIFEST, "lock")]
        return [entry.stat(follow_symlinks=False).st_size for entry in named if not entry.is_dir(follow_symlinks=False)]
