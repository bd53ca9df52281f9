"""A store as a folder on disk.

::

    manifest.json                      names the files of the store; replaced atomically, as the last step
    keyframes-00000001-….safetensors   arrays of keyframes; never changed, mapped when opened
    state-00000002-….safetensors       observations added, changed or removed since the previous state file
    attachment-00000003-….safetensors  data that a save was given to keep with the store: a window of a run, say
    lock                               held by the process that writes

Each file is written once under a new name (a number and eight random hex digits) and made durable before a manifest
names it, so at every instant the current manifest describes a complete store. It has the size and the SHA-256 of each
file. Files that the manifest does not name are left over from an interrupted save; the next save removes them.
"""

from mosaicmem.memory.storage.compacting import Compaction, compact
from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.folder import Attachment, StoreFolder
from mosaicmem.memory.storage.home import StoreHome
from mosaicmem.memory.storage.linked_copy import linked_copy
from mosaicmem.memory.storage.manifest import MAX_LABEL, Manifest, StoreSettings, read_manifest
from mosaicmem.memory.storage.plain_names import plain_names
from mosaicmem.memory.storage.reading import open_folder, read_attachment, verify
from mosaicmem.memory.storage.stored_keyframe import MAX_CELLS, MOST_PIXELS

__all__ = [
    "MAX_CELLS",
    "MAX_LABEL",
    "MOST_PIXELS",
    "Attachment",
    "Compaction",
    "ExportedStore",
    "Manifest",
    "StoreFolder",
    "StoreHome",
    "StoreSettings",
    "compact",
    "linked_copy",
    "open_folder",
    "plain_names",
    "read_attachment",
    "read_manifest",
    "verify",
]
