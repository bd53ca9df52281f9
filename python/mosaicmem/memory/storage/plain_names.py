"""Files of a saved store without the random digits in their names."""

from __future__ import annotations

from pathlib import Path

from mosaicmem._files import sync_folder
from mosaicmem.memory.storage.manifest import FileEntry, read_manifest


def plain_names(folder: Path) -> None:
    """Rename the files of a store, so that equal stores are equal byte for byte.

    Nobody may have the store open to write; a process that is killed on the way leaves a store that cannot be read. So
    this is for copies, before they get their name.
    """
    manifest = read_manifest(folder)
    plain = {entry.name: _plain(entry) for entry in manifest.files}
    for name, entry in plain.items():
        (folder / name).rename(folder / entry.name)
    renamed = {
        kind: [plain[e.name] for e in getattr(manifest, kind)] for kind in ("keyframes", "states", "attachments")
    }
    manifest.model_copy(update=renamed).write(folder)
    sync_folder(folder)


def _plain(entry: FileEntry) -> FileEntry:
    kind = entry.name.partition("-")[0]
    return entry.model_copy(update={"name": f"{kind}-{entry.number:08d}.safetensors"})
