"""A second folder of a saved store that shares its files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from mosaicmem._files import make_folder, sync_file, sync_folder
from mosaicmem.memory.storage.manifest import read_manifest

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


def linked_copy(source: Path, target: Path) -> None:
    """Make the new folder ``target`` a copy of the store saved in ``source``, durably.

    The files of a store never change, so the copy has hard links to them, and costs no space; where the file system has
    none, it copies. Nobody may save to ``source`` meanwhile. It is complete only when this returns, and then durable,
    also if the save to ``source`` was not.
    """
    manifest = read_manifest(source)
    make_folder(target)
    for entry in manifest.files:
        try:
            os.link(source / entry.name, target / entry.name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source / entry.name, target / entry.name, follow_symlinks=False)
        sync_file(target / entry.name)  # takes no time if it is on the disk already
    sync_folder(target)
    manifest.write(target)
