"""The manifest: which files make up a store, and all state that is not in them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mosaicmem._files import read_json_object, write_json
from mosaicmem.errors import FormatError, describe_validation

MANIFEST = "manifest.json"
MAX_LABEL = 1000
FORMAT = "mosaicmem store"
VERSION = 4  # 1: no provenance; 2: no attachments, no random digits in file names; 3: no depth of subcells

_MAX_MANIFEST_BYTES = 16 * 2**20
_MOST_FILES = 100_000
_NAME = re.compile(r"(keyframes|state|attachment)-([0-9]{8,12})(-[0-9a-f]{8})?\.safetensors")

Count = Annotated[int, Field(ge=0, lt=2**62)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StoreSettings(_Strict):
    """The settings that a store was created with."""

    latent_patch_size: Annotated[int, Field(ge=1, le=1024)]
    latent_dtype: Literal["float32", "float16", "bfloat16"]
    max_patches: Annotated[int, Field(ge=1, lt=2**62)] | None
    max_bytes: Annotated[int, Field(ge=1, lt=2**62)] | None
    eviction: Literal["oldest", "redundant"]


class FileEntry(_Strict):
    """One file of a store.

    Its name contains a number, which is never reused, and random digits, so that two writers never write to the same
    name even if the folder's lock fails to keep them apart.
    """

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    nbytes: Count
    rows: Count  # number of keyframes in it, or of observations that it changes
    sha256: Digest
    header_sha256: Digest

    @property
    def number(self) -> int:
        """The number in the name."""
        return int(self.name.removesuffix(".safetensors").split("-")[1])


class Manifest(_Strict):
    """A complete store at the time of a save.

    Attributes
    ----------
    next_id, next_slot, next_file, next_frame_id : int
        The first ones that were never assigned.
    channels : int
        Of the latents; 0 before the first keyframe.
    origin : three floats
        Origin of the spatial index, world metres.
    patches, observations : int
        Number of live ones.
    keyframes, states : lists of FileEntry
        States are replayed in order.
    attachments : list of FileEntry
        Data that saves were given to keep with the store, in order.
    label : str
        Any text that the save was given to keep.
    """

    format: Literal["mosaicmem store"] = "mosaicmem store"
    version: Literal[1, 2, 3, 4] = 4
    settings: StoreSettings
    next_id: Count
    next_slot: Count
    next_file: Count
    next_frame_id: Annotated[int, Field(ge=-(2**62), le=2**62 + 1)]
    channels: Count
    origin: Annotated[list[float], Field(min_length=3, max_length=3)]
    patches: Count
    observations: Count
    keyframes: list[FileEntry]
    states: list[FileEntry]
    attachments: list[FileEntry] = []
    label: Annotated[str, Field(max_length=MAX_LABEL)] = ""

    @property
    def checksum(self) -> str:
        """SHA-256 of everything else."""
        body = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(body.encode()).hexdigest()

    def write(self, folder: Path, *, durably: bool = True) -> None:
        """Replace the manifest of ``folder``."""
        write_json(folder / MANIFEST, {**self._content(), "checksum": self.checksum}, durably=durably)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        for name in ("label", "attachments"):  # older versions do not know these fields
            if not content[name]:
                del content[name]
        return content

    @property
    def files(self) -> list[FileEntry]:
        """All files of the store."""
        return [*self.keyframes, *self.states, *self.attachments]


def new_name(kind: str, number: int) -> str:
    """A name for a new file; ``kind`` is keyframes, state or attachment."""
    return f"{kind}-{number:08d}-{secrets.token_hex(4)}.safetensors"


def is_own_file(name: str) -> bool:
    """Whether a name has the form of a store's data files."""
    return _NAME.fullmatch(name) is not None


def read_manifest(folder: Path) -> Manifest:
    """Read and validate the manifest of a folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    FormatError
        It is not a manifest, unreadable, of a newer version, damaged, or inconsistent.
    """
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = read_json_object(path, _MAX_MANIFEST_BYTES, follow=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error
    if content.get("format") != FORMAT:
        raise FormatError(path, f"expected the manifest of a mosaicmem store, got format {content.get('format')!r:.80}")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise FormatError(path, f"of format version {version!s:.20}; this mosaicmem reads up to {VERSION}: update it")
    checksum = content.pop("checksum", None)
    lists = (content.get(name) for name in ("keyframes", "states", "attachments"))
    most = max((len(entries) for entries in lists if isinstance(entries, list)), default=0)
    if most > _MOST_FILES:  # each invalid one would add an error
        raise FormatError(path, f"expected at most {_MOST_FILES} files of a kind, got {most}")
    try:
        manifest = Manifest(**content)
    except ValidationError as error:
        raise FormatError(path, f"damaged: {describe_validation(error)[:500]}") from None
    if manifest.checksum != checksum:
        raise FormatError(path, "damaged: its checksum does not match what it says")
    files = manifest.files
    if len({file.number for file in files}) < len(files) or any(file.number >= manifest.next_file for file in files):
        raise FormatError(path, "damaged: a file is named twice or has a number that was not given yet")
    return manifest
