"""The folder that a store was last saved to, or opened from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mosaicmem._arrays import U64
from mosaicmem._copies import Uncopied
from mosaicmem._locks import ForkSafeLock
from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.folder import Attachment, StoreFolder
from mosaicmem.memory.storage.manifest import MAX_LABEL, StoreSettings


class StoreHome(Uncopied):
    """Saves a store, one save at a time, and remembers where: what is there is not written again.

    Parameters
    ----------
    folder : StoreFolder, optional
        That the store was opened from.
    """

    _instead: ClassVar[str] = "one process may write to a folder; open the store again"

    def __init__(self, folder: StoreFolder | None = None) -> None:
        self._folder = folder
        self._failed: StoreFolder | None = None  # of a save to another folder that failed
        self.saving = ForkSafeLock(over_io=True)

    def save(
        self,
        path: Path,
        exported: ExportedStore,
        settings: StoreSettings,
        next_frame_id: int,
        label: str,
        attachment: Attachment | None,
        durably: bool = True,
    ) -> None:
        """See `MosaicMemoryStore.save`. The caller holds ``saving`` since before it exported the store."""
        if len(label) > MAX_LABEL:
            raise ValueError(f"label: expected at most {MAX_LABEL} characters, got {len(label)}")
        folder = self._known(path.resolve()) or StoreFolder(path)
        try:
            folder.save(exported, settings, next_frame_id, label, attachment, durably=durably)
        except BaseException:
            if folder is not self._folder:
                folder.close()
                self._failed = folder
            raise
        if self._folder is not None and folder is not self._folder:
            self._folder.close()
        self._folder, self._failed = folder, None

    def mapped(self, exported: ExportedStore) -> tuple[U64, list[Any]]:
        """See `StoreFolder.mapped`, of the folder that was last saved to."""
        assert self._folder is not None
        return self._folder.mapped(exported)

    def close(self) -> None:
        """Let another process write to the folder."""
        with self.saving:
            if self._folder is not None:
                self._folder.close()

    def _known(self, path: Path) -> StoreFolder | None:
        """What is known of a folder that was saved to, or tried, if it is still there."""
        for folder in (self._folder, self._failed):
            if folder is not None and folder.path == path and folder.is_there():
                return folder
        return None
