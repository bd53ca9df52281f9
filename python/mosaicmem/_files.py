"""Writes files and folders atomically and durably."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, TypeVar

from mosaicmem._json import decode_json, parse_json
from mosaicmem._opening import open_regular, read_bytes
from mosaicmem.errors import FormatError

_T = TypeVar("_T")


@contextmanager
def atomic_write(path: str | Path, *, durably: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that durably replaces ``path`` when the block ends without an error.

    Without ``durably`` it does not wait for the disk. It keeps the permissions of the file that it replaces; a new file
    gets those that the umask leaves.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(temporary, "xb") as file:  # with the permissions that the umask leaves
        try:
            yield file
            file.flush()
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            if durably:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durably:
        sync_folder(path.parent)


def make_folder(path: str | Path) -> None:
    """Create a folder and its missing parents durably."""
    path = Path(path).absolute()
    missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    innermost_there = missing[-1].parent if missing else path
    with suppress(PermissionError):  # the parent belongs to somebody else
        sync_folder(innermost_there.parent)  # whoever created the folder may have been killed before syncing it
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        try:
            sync_folder(folder.parent)
        except OSError:
            with suppress(OSError):  # so that the next attempt creates it again
                folder.rmdir()
            raise


def put_folder_in_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path`` durably. An existing folder ``path`` is deleted afterwards, never before.

    Both must have the same parent. If the file system can exchange two names, ``path`` exists at every instant;
    otherwise it is missing for an instant between two renames, while the old folder is called ``NEW.old``.
    """
    sync_tree(new)
    if not path.exists():
        new.rename(path)
        sync_folder(path.parent)
        return
    old = new
    if not _exchange(new, path):
        old = new.with_name(f"{new.name}.old")
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    sync_folder(path.parent)
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here = ctypes.c_int(-100)  # AT_FDCWD
    exchange = ctypes.c_uint(2)  # RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def with_many_files(make: Callable[[], _T]) -> _T:
    """What ``make`` returns; if too many files are open for it, after raising the soft limit of the process.

    Before Python 3.13 each mapped file keeps one open, and the usual soft limit of 1024 is for programs that cannot
    deal with more.

    Raises
    ------
    OSError
        More than the hard limit permits; the message says what to do.
    """
    try:
        return make()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == hard:
            raise OSError(
                error.errno, f"more files would be open than the limit of this process, {hard}: raise it (ulimit -Hn)"
            ) from error
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return make()


def sync_tree(folder: Path) -> None:
    """Make a folder durable, recursively: the content and the names of all its files and folders."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(root, name))
        sync_folder(root)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str | Path) -> None:
    """Make the creations, renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any, *, durably: bool = True) -> None:
    """``value`` as indented JSON, atomically."""
    with atomic_write(path, durably=durably) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: str | Path, max_bytes: int = 256 * 2**20, *, follow: bool = True) -> Any:
    """The JSON value in a file; follows a symbolic link only if ``follow``.

    Raises
    ------
    FormatError
        The file is not regular, is larger than ``max_bytes``, is not JSON, or would need more memory than a file of its
        size may.
    OSError
        It cannot be opened.
    """
    path = Path(path)
    with open_regular(path, follow=follow) as file:
        text = decode_json(path, read_bytes(path, file, max_bytes))
    return parse_json(path, text)


def read_json_object(path: str | Path, max_bytes: int = 256 * 2**20, *, follow: bool = True) -> dict[str, Any]:
    """The JSON object in a file; as `read_json`, and FormatError for other values."""
    value = read_json(path, max_bytes, follow=follow)
    if not isinstance(value, dict):
        raise FormatError(path, f"expected a JSON object, got {type(value).__name__}")
    return value
