"""Errors that are more than a TypeError or a ValueError."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


_MOST_PROBLEMS = 16  # that are described
_LONGEST = 2000  # letters of a message


def shorten(message: str) -> str:
    """A message fit to be shown, whatever of a file it quotes: the middle of a long one is left out, and characters
    that would move the cursor of a terminal are escaped.
    """
    if len(message) > _LONGEST:
        head, tail = message[: _LONGEST * 3 // 4], message[-_LONGEST // 4 :]
        message = f"{head} ... ({len(message) - len(head) - len(tail)} more characters) ... {tail}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)


class FormatError(ValueError):
    """A file does not hold what it should.

    The message starts with the file and, where known, the line. What it quotes of the file is cut to a readable length.
    """

    def __init__(self, path: str | Path, message: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {shorten(message)}")
        self.path = Path(path)
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt_error, (type(self), self.args, self.__dict__)


def rebuilt_error(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """An error as pickle brings it back, in another process, say: its class makes the message of other arguments."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SuspiciousInput(UserWarning):
    """Input that is possible, but looks like a common mistake; the message says which and what to do."""


# Modules whose frames lie between this package and whoever called it.
_NOT_THE_CALLER = ("mosaicmem", "contextlib", "dataclasses", "functools")


def suspect(message: str) -> None:
    """Warn of `SuspiciousInput`, at the line of the caller outside this package, wherever in it this is called."""
    level, frame = 1, sys._getframe(1)
    while _is_ours(frame) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(shorten(message), SuspiciousInput, stacklevel=level + 1)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _NOT_THE_CALLER


class StoreLockedError(OSError):
    """Another process writes to the folder of a store, or has written to it meanwhile."""


def describe_validation(error: ValidationError) -> str:
    """One line a problem: field, what was wrong, what came. The first ones are described, and the others counted."""
    problems = error.errors(include_url=False)
    described = [shorten(_describe_one(problem)) for problem in problems[:_MOST_PROBLEMS]]
    more = len(problems) - len(described)
    return "; ".join([*described, *([f"and {more} more problems"] if more else [])])


def _describe_one(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such setting"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    return f"{field}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
