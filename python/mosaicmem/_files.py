"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mosaicmem._json import decode_json, parse_json
from mosaicmem._opening import open_regular, read_bytes
from mosaicmem.errors import FormatError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends without an error."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.close(handle)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync_folder(folder: str | Path) -> None:
    """Make durable what was created, renamed or removed in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """``value`` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json_object(path: str | Path, max_bytes: int = 256 * 2**20) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    FormatError
        The file is no regular one, is larger than ``max_bytes``, is not UTF-8 JSON, would need more memory than a file
        of its size may, or holds something else than an object.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    with open_regular(path) as file:
        text = decode_json(path, read_bytes(path, file, max_bytes))
    value = parse_json(path, text)
    if not isinstance(value, dict):
        raise FormatError(path, f"expected a JSON object, got {type(value).__name__}")
    return value
