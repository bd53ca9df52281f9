"""Opens untrusted files; every reader goes through this module.

Only regular files are opened, and opening never blocks. No reader takes more memory than `allowed_bytes` of its file:
before it does any work, it declares the memory that it needs to `check_growth`. `foreign_parser` turns any error of
another library's parser into a `FormatError`, and `errors_in` does so for errors of our own value checks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mosaicmem.errors import FormatError

_GROWTH = 4  # bytes of memory allowed per byte of a file
_SPARE = 59 * 10**6  # bytes allowed in addition; the rest of 64 MB is the error margin of the estimates


def allowed_bytes(size: int) -> int:
    """The memory that reading a file of ``size`` bytes may take."""
    return _GROWTH * size + _SPARE


def check_growth(path: str | Path, size: int, needed: int, what: str) -> None:
    """Reject a file of ``size`` bytes that would need more memory than allowed; call it before the work.

    ``what`` names the content that needs so much.
    """
    allowed = allowed_bytes(size)
    if needed > allowed:
        raise FormatError(
            path,
            f"expected what fits into {allowed // 10**6} MB of memory, {_GROWTH} times the file and {_SPARE // 10**6} "
            f"MB, got {what}, which need {needed // 10**6} MB; is the file damaged?",
        )


@contextmanager
def errors_in(path: Path, line: int | None = None) -> Iterator[None]:
    """Turn errors of our own checks in the block into a FormatError that names this file."""
    try:
        yield
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FormatError(path, str(error), line) from None


@contextmanager
def foreign_parser(path: str | Path, what: str) -> Iterator[None]:
    """Turn any error of another library's parser in the block into a FormatError that starts with ``what``.

    Parsers raise any class on damaged input, even IndexError and AttributeError. So the block must hold their call and
    nothing else: a bug of our own must not look like a damaged file.
    """
    try:
        yield
    except (FormatError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(path, f"{what}: {str(error) or type(error).__name__}") from error


@contextmanager
def open_regular(path: str | Path, *, follow: bool = True) -> Iterator[IO[bytes]]:
    """Open a regular file without blocking; follows a symbolic link only if ``follow``.

    Raises
    ------
    OSError
        It cannot be opened.
    FormatError
        It is a folder, a pipe, a device or a socket.
    """
    with _open(path, "expected a regular file", 0 if follow else os.O_NOFOLLOW) as file:
        yield file


@contextmanager
def open_file(path: Path, beside: Path | None = None) -> Iterator[IO[bytes]]:
    """`open_regular`, but a file that cannot be opened raises FormatError.

    ``beside`` is a file that requires this one: the message names it if this one is missing.
    """
    try:
        file = _open(path, "not a file: expected a regular file")
    except FileNotFoundError:
        raise FormatError(path, _missing(path, beside)) from None
    except OSError as error:
        raise FormatError(path, f"not readable: {error.strerror}") from error
    with file:
        yield file


def _open(path: str | Path, refusal: str, flags: int = 0) -> IO[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)  # else a pipe would block
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise FormatError(path, refusal) from None
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise FormatError(path, f"{refusal}, got a symbolic link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(path, refusal)
    return open(descriptor, "rb")


def _missing(path: Path, beside: Path | None) -> str:
    """The message for a missing file: which file requires it, and which similar one exists."""
    others = [other.name for other in path.parent.iterdir() if other.stem == path.stem] if path.parent.is_dir() else []
    wrong = min((name for name in others if name != path.name and (beside is None or name != beside.name)), default="")
    though = f", though {beside.name} is there" if beside else ""
    hint = f"; {wrong} is there: convert it to {path.suffix}, or rename it" if wrong else ""
    return f"missing{though}{hint}"


def file_size(file: IO[bytes]) -> int:
    """The reported size of an open file. It may grow, so reads must be limited too."""
    return os.fstat(file.fileno()).st_size


def read_bytes(path: str | Path, file: IO[bytes], max_bytes: int) -> bytes:
    """All of an open file, if it has at most ``max_bytes``."""
    size = file_size(file)
    if size <= max_bytes:
        content = file.read(max_bytes + 1 if size else 1)
        if content and not size:  # files of /proc, some of which never end
            raise FormatError(path, "expected a regular file, got one that says it is empty and is not")
        size = max(size, len(content))
    if size > max_bytes:
        raise FormatError(path, f"expected at most {max_bytes} bytes, got {size}")
    return content
