"""A disk that fails or loses power; in tests it stands between a store and the file system.

It forwards every call and keeps a journal, from which it derives what a power cut at any moment may leave. Each
creation, renaming or removal of a name since the last sync of its folder is kept or lost, independently of the others.
A file holds its content as of its last sync, followed by any part of what was written since, or by zeros. What a failed
sync should have made durable is not made durable by a later one.
"""

import builtins
import errno
import os
from pathlib import Path

from mosaicmem import _files
from mosaicmem.memory.storage import tensors


class PowerCut(BaseException):
    """Not an `Exception`, so that nothing catches it."""


class _File:
    """A file that tells the disk what is written to it."""

    def __init__(self, disk, file, inode):
        self._disk, self._file, self._inode = disk, file, inode

    def write(self, content):
        self._disk.step("write", self._inode, bytes(content))
        return self._file.write(content)

    def flush(self):
        self._disk.step("flush")
        self._file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


class Disk:
    """
    Parameters
    ----------
    monkeypatch
    fail_at : int, optional
        The call that fails with an input/output error, counted from 0.
    forever : bool
        All calls after that fail too, until `repair`.
    """

    def __init__(self, monkeypatch, fail_at=None, *, forever=False):
        self.journal = []
        self.steps = []  # the kind of each call
        self.fail_at, self.forever = fail_at, forever
        self._live = {}  # inode by path
        self._inodes = 0
        for name in (
            "open",
            "fsync",
            "replace",
            "rename",
            "unlink",
            "mkdir",
            "rmdir",
            "ftruncate",
            "pwrite",
            "fchmod",
            "scandir",
        ):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        for module in (_files, tensors):
            monkeypatch.setattr(module, "open", self._open, raising=False)

    def repair(self):
        self.fail_at = None

    def step(self, what, *details):
        """Make a call fail if its turn has come; otherwise enter it in the journal."""
        number = len(self.steps)
        self.steps.append(what)
        if self.fail_at is not None and (number == self.fail_at or (self.forever and number > self.fail_at)):
            if what == "sync folder":
                self.journal.append(("failed sync", *details))
            raise OSError(errno.EIO, f"injected into {what}")
        if details:
            self.journal.append((what, *details))

    def _open(self, path, mode="r", **options):
        if isinstance(path, int) or "x" not in mode:
            return builtins.open(path, mode, **options)
        self._inodes += 1
        self.step("create", str(path), self._inodes)
        self._live[str(path)] = self._inodes
        return _File(self, builtins.open(path, mode, **options), self._inodes)

    def _wrapped(self, name, function):
        def call(*arguments, **options):
            getattr(self, f"_before_{name}", lambda *_: self.step(name))(*arguments)
            return function(*arguments, **options)

        return call

    def _before_fsync(self, descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            self.step("sync folder", path)
        else:
            self.step("sync file", self._live.get(path, 0))

    def _before_replace(self, source, target):
        inode = self._live.pop(str(source), 0)
        self._live[str(target)] = inode
        self.step("rename", str(source), str(target), inode)

    _before_rename = _before_replace

    def _before_unlink(self, path, *_):
        self.step("remove", str(path))
        self._live.pop(str(path), None)

    def _before_rmdir(self, path, *_):
        self.step("remove folder", str(path))

    def _before_mkdir(self, path, *_):
        self.step("make folder", str(path))

    def after_power_cut(self, at, rng, root, copy):
        """Lay out in ``copy`` what may be left of ``root`` if the power fails after ``at`` entries of the journal."""
        names, written, durable = [], {}, {}
        for what, *details in self.journal[:at]:
            if what == "write":
                written[details[0]] = written.get(details[0], b"") + details[1]
            elif what == "sync file":
                durable[details[0]] = len(written.get(details[0], b""))
            elif what in ("sync folder", "failed sync"):
                for change in names:
                    if change["state"] == "pending" and os.path.dirname(change["path"]) == details[0]:
                        change["state"] = "durable" if what == "sync folder" else "lost"
            elif what != "acknowledged":
                names.append(
                    {"what": what, "path": details[-2] if what == "rename" else details[0], "state": "pending"}
                )
                names[-1]["details"] = details
        folders, files = set(), {}
        for change in names:
            if change["state"] != "durable" and rng.random() < 0.5:
                continue
            what, details = change["what"], change["details"]
            if what == "make folder":
                folders.add(details[0])
            elif what == "create":
                files[details[0]] = details[1]
            elif what == "rename":
                files.pop(details[0], None)
                files[details[1]] = details[2]
            elif what == "remove folder":
                folders.discard(details[0])
            else:
                files.pop(details[0], None)
        copy.mkdir()
        for folder in sorted(folders):
            if Path(folder).parent == root or str(Path(folder).parent) in folders:
                (copy / Path(folder).relative_to(root)).mkdir(exist_ok=True)
        for path, inode in files.items():
            target = copy / Path(path).relative_to(root)
            if target.parent.is_dir():
                target.write_bytes(_left_of(written.get(inode, b""), durable.get(inode, 0), rng))


def _left_of(content, durable, rng):
    rest = content[durable:]
    left = (b"", rest, rest[: rng.randrange(len(rest) + 1)], bytes(len(rest)))[rng.randrange(4)]
    return content[:durable] + left
