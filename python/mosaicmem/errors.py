"""Errors that are more than a TypeError or a ValueError."""

from __future__ import annotations

from pathlib import Path


class FormatError(ValueError):
    """A file does not hold what it should.

    The message starts with the file and, where known, the line.
    """

    def __init__(self, path: str | Path, message: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {message}")
        self.path = Path(path)
        self.line = line
