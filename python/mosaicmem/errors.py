"""The errors and warnings of this library beyond TypeError and ValueError."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


_MOST_PROBLEMS = 16  # described per message
_LONGEST = 2000  # characters per message


def shorten(message: str) -> str:
    """Make a message safe to show, whatever file content it quotes: cut the middle of a long one, and escape characters
    that would move the cursor of a terminal.
    """
    if len(message) > _LONGEST:
        head, tail = message[: _LONGEST * 3 // 4], message[-_LONGEST // 4 :]
        message = f"{head} ... ({len(message) - len(head) - len(tail)} more characters) ... {tail}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)


class FormatError(ValueError):
    """A file does not have the expected content.

    The message starts with the file and, if known, the line. Quoted file content is cut to a readable length.
    """

    def __init__(self, path: str | Path, message: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {shorten(message)}")
        self.path = Path(path)
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt_error, (type(self), self.args, self.__dict__)


def rebuilt_error(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Unpickle an error, bypassing its constructor, which takes other arguments than ``args``."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SuspiciousInput(UserWarning):
    """Input that is valid but looks like a common mistake; the message says which one and what to do."""


# Top-level modules whose stack frames may lie between a warning and the caller of this package.
_NOT_THE_CALLER = ("mosaicmem", "contextlib", "dataclasses", "functools")


def suspect(message: str) -> None:
    """Warn with `SuspiciousInput` at the line of the caller outside this package."""
    level, frame = 1, sys._getframe(1)
    while _is_ours(frame) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(shorten(message), SuspiciousInput, stacklevel=level + 1)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _NOT_THE_CALLER


class StoreLockedError(OSError):
    """Another process is writing to a store's folder, or has written to it in the meantime."""


def describe_validation(error: ValidationError) -> str:
    """Describe each problem by field, fault and value; only the first are described, the rest counted."""
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
