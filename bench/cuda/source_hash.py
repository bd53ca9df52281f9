"""A hash of the sources of the CUDA kernels."""

import hashlib
from pathlib import Path

CUDA = Path(__file__).parents[2] / "cuda"


def source_hash(folder=CUDA):
    """SHA-256 of the names and contents of all files in a folder; cuda/ if not given."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
