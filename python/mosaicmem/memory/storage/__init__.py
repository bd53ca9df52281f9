"""A store as a folder.

::

    manifest.json                      what belongs to the store; replaced atomically, last of all
    keyframes-00000001-….safetensors   latents, depth and confidence of keyframes; never changed, mapped when opened
    state-00000002-….safetensors       observations that came, changed or went since the state file before
    attachment-00000003-….safetensors  what a save was given to keep beside: a window of a run, say
    lock                               held by the process that writes

Files are written once under new names, a number and eight random digits, and made durable before a manifest names them,
so at every instant the manifest that is there describes a whole store. It has the size and the SHA-256 of each file.
Files that no manifest names are left over from a write that did not end; the next one removes them.
"""

from mosaicmem.memory.storage.exported import ExportedStore
from mosaicmem.memory.storage.folder import Attachment, StoreFolder
from mosaicmem.memory.storage.home import StoreHome
from mosaicmem.memory.storage.manifest import MAX_LABEL, Manifest, StoreSettings, read_manifest
from mosaicmem.memory.storage.reading import MAX_CELLS, open_folder, read_attachment, verify

__all__ = [
    "MAX_CELLS",
    "MAX_LABEL",
    "Attachment",
    "ExportedStore",
    "Manifest",
    "StoreFolder",
    "StoreHome",
    "StoreSettings",
    "open_folder",
    "read_attachment",
    "read_manifest",
    "verify",
]
