"""Errors that are more than a TypeError or a ValueError."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class FormatError(ValueError):
    """A file does not hold what it should.

    The message starts with the file and, where known, the line.
    """

    def __init__(self, path: str | Path, message: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {message}")
        self.path = Path(path)
        self.line = line


class SuspiciousInput(UserWarning):
    """Input that is possible, but looks like a common mistake; the message says which and what to do."""


class StoreLockedError(OSError):
    """Another process writes to the folder of a store, or has written to it meanwhile."""


def describe_validation(error: ValidationError) -> str:
    """One line a problem: field, what was wrong, what came."""
    return "; ".join(_describe_one(problem) for problem in error.errors())


def _describe_one(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such setting"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    return f"{field}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
