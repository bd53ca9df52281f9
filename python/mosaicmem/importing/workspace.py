"""The folder in which a data set is made: beside its final path, kept when the work is interrupted, and resumed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mosaicmem._files import make_folder, put_folder_in_place, read_json_object, write_json
from mosaicmem.errors import FormatError

_REQUEST = "request.json"


class Workspace:
    """``.NAME.importing`` beside the output ``NAME``, locked while its process lives.

    Parameters
    ----------
    source : Path
        The footage, which errors name.
    output : Path
        The final folder.
    requests : dict of str to dict
        For each stage, in their order, what its result depends on, as JSON. What an earlier run has left is kept up to
        the first stage that depends on something else now.
    files : dict of str to tuple of str
        The names that each stage leaves in the folder.
    start_over : bool
        Discard the work of an earlier run.

    Raises
    ------
    FileExistsError
        Another process is at it.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        requests: dict[str, dict[str, Any]],
        files: dict[str, tuple[str, ...]],
        *,
        start_over: bool = False,
    ) -> None:
        self.source = source
        self.output = Path(os.path.abspath(output))
        self.folder = self.output.with_name(f".{self.output.name}.importing")
        make_folder(self.folder)
        self._lock: int | None = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise FileExistsError(f"{self.folder}: another process is importing to {self.output}") from None
        try:
            self._begin(json.loads(json.dumps(requests)), files, start_over)
        except BaseException:
            self.close()
            raise

    def _begin(self, requests: dict[str, dict[str, Any]], files: dict[str, tuple[str, ...]], start_over: bool) -> None:
        path = self.folder / _REQUEST
        earlier = {} if start_over or not path.exists() else self._read(path)
        same = True
        for stage, request in requests.items():
            same = same and earlier.get(stage) == request
            for name in () if same else files[stage]:
                _remove(self.folder / name)
        write_json(path, requests)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return read_json_object(path)
        except FormatError:
            raise FormatError(path, "damaged: start over (--start-over)") from None

    def done(self, stage: str) -> dict[str, Any] | None:
        """What a stage has left, if it was finished."""
        path = self.folder / f"{stage}.json"
        return self._read(path) if path.exists() else None

    def finish(self, stage: str, result: dict[str, Any]) -> dict[str, Any]:
        """Record that a stage is finished, durably, and what the next ones need of it."""
        write_json(self.folder / f"{stage}.json", result)
        return result

    def fresh(self, name: str) -> Path:
        """An empty folder for a stage that begins again."""
        path = self.folder / name
        _remove(path)
        path.mkdir()
        return path

    def kept(self, name: str) -> Path:
        """A folder whose content an earlier run may have left."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def publish(self, keep: tuple[str, ...]) -> None:
        """Leave only the entries ``keep`` in the folder, and give it the name of the output."""
        for entry in sorted(self.folder.iterdir()):
            if entry.name not in keep:
                _remove(entry)
        put_folder_in_place(self.folder, self.output)
        self.close()

    def discard(self) -> None:
        """Remove the folder, with all work in it."""
        _remove(self.folder)

    def close(self) -> None:
        """Unlock the folder; what is in it stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
