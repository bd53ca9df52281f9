"""A run that may be killed at any moment: each window is kept when it is done, and not computed again.

A folder holds ``run.json`` (what the run was told), ``window-N.safetensors`` (what window N showed) and ``store`` (the
memory after the last window). A window counts when the store is saved with its number, which is one rename: files of
windows beyond that are leftovers. A run goes on from the store as it was read back, also one that was never stopped, so
that both give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, Bool
from mosaicmem._files import atomic_write, read_json_object, write_json
from mosaicmem.camera import CameraTrajectory
from mosaicmem.errors import FormatError, StoreLockedError
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage import read_manifest
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.results import WindowStatistics

RUN = "run.json"
STORE = "store"

_WINDOWS = "windows done: "
_FREE_FIELDS = {"num_threads"}  # no result depends on them


@dataclass(frozen=True, eq=False)
class KeptWindow:
    """What is kept of a window.

    Attributes
    ----------
    decoded : (F, H, W, 3) float32
        Before it was blended with the window before; sizes are those of whole latent cells.
    canvas : (T, h, w, C) float32
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
    observed : (T, h, w) bool or None
        None in windows that were kept before provenance was.
    statistics : WindowStatistics
    """

    decoded: F32
    canvas: F32
    coverage: Bool
    depth: F32
    observed: Bool | None
    statistics: WindowStatistics


class Checkpoint:
    """The folder of a run that can be continued.

    Parameters
    ----------
    path : path
        A new or empty folder, or that of a run to continue.
    inputs : mapping, optional
        What else the run depends on, as plain JSON: where its memory came from, say. A run is only continued with the
        same. What is in those files, and in the parts of a pipeline, is not compared.
    """

    def __init__(self, path: str | Path, inputs: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.inputs = dict(inputs or {})
        self._lock: FolderLock | None = None
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"checkpoint: expected a folder, got a file: {self.path}")
        if (
            self.path.exists()
            and not (self.path / RUN).is_file()
            and any(p.name != "lock" and not _is_temporary(p) for p in self.path.iterdir())
        ):
            raise FileExistsError(
                f"checkpoint: expected a new or empty folder, or that of a run, got {self.path}, which has no {RUN}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        if self._lock is not None:
            raise TypeError("cannot copy or pickle a Checkpoint in use: make another one of its path afterwards")
        return type(self), (self.path, self.inputs)

    def __enter__(self) -> Checkpoint:
        """Be the only run that goes on from here, until the block or the process ends.

        Raises
        ------
        StoreLockedError
            Another run does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock.take(self.path)
        except StoreLockedError as error:
            raise StoreLockedError(f"checkpoint: another run goes on in {self.path} ({error})") from None
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def windows(self) -> int | None:
        """How many windows are kept; None if no run has begun here."""
        try:
            label = read_manifest(self.path / STORE).label
        except FileNotFoundError:
            return None
        if not (label.startswith(_WINDOWS) and label.removeprefix(_WINDOWS).isdecimal()):
            raise FormatError(self.path / STORE, f"not the store of a checkpoint: its label is {label!r:.80}")
        return int(label.removeprefix(_WINDOWS))

    def begin(
        self, config: PipelineConfig, trajectory: CameraTrajectory, parts: Mapping[str, str], store: MosaicMemoryStore
    ) -> MosaicMemoryStore:
        """Begin a run with a store, or find that it has begun; the store to go on with.

        Raises
        ------
        ValueError
            Another run was begun here; the message names what differs.
        """
        run = {
            "config": config.model_dump(mode="json"),
            "parts": dict(parts),
            "inputs": self.inputs,
            "trajectory": trajectory.to_dict(),
        }
        run = json.loads(json.dumps(run))  # tuples are lists from here on
        begun = (self.path / RUN).is_file()
        if begun:
            before = read_json_object(self.path / RUN)
            if not all(isinstance(before.get(group), dict) for group in run):
                raise FileExistsError(f"checkpoint: {self.path / RUN} is no run of mosaicmem: it is left alone")
            differences = _differences(before, run)
            if differences:
                raise ValueError(f"checkpoint: {self.path} is of another run: {'; '.join(differences)}")
        for leftover in filter(_is_temporary, self.path.iterdir()):
            leftover.unlink()
        if self.windows is not None:
            return MosaicMemoryStore.open(self.path / STORE, num_threads=store.num_threads)
        write_json(self.path / RUN, run)
        return self._keep_store(store.fork(), 0)

    def keep(self, index: int, window: KeptWindow, store: MosaicMemoryStore) -> MosaicMemoryStore:
        """Keep a window and the memory after it; the store to go on with."""
        from safetensors.numpy import save

        arrays = {"decoded": window.decoded, "canvas": window.canvas, "depth": window.depth}
        masks = {"coverage": window.coverage, "observed": window.observed}
        content = save(
            {**arrays, **{name: mask.astype(np.uint8) for name, mask in masks.items() if mask is not None}},
            {"statistics": json.dumps(asdict(window.statistics))},
        )
        with atomic_write(self._file(index)) as file:
            file.write(content)
        return self._keep_store(store, index + 1)

    def load(self, index: int) -> KeptWindow:
        """A window that is kept.

        Raises
        ------
        FormatError
            Its file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self._file(index)
        try:
            with safe_open(path, framework="np") as file:
                decoded, canvas, depth, coverage = (
                    file.get_tensor(name) for name in ("decoded", "canvas", "depth", "coverage")
                )
                observed = file.get_tensor("observed") != 0 if "observed" in set(file.keys()) else None
                statistics = WindowStatistics(**json.loads(file.metadata()["statistics"]))
        except FileNotFoundError:
            raise FormatError(path, "is missing: a window that the store has seen") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(path, f"damaged: {str(error)[:200]}") from None
        masks = coverage.shape if observed is None else observed.shape
        if not (masks == coverage.shape == depth.shape == canvas.shape[:3]) or decoded.ndim != 4:
            raise FormatError(path, "damaged: its arrays do not fit each other")
        return KeptWindow(decoded, canvas, coverage != 0, depth, observed, statistics)

    def _keep_store(self, store: MosaicMemoryStore, windows: int) -> MosaicMemoryStore:
        store.save(self.path / STORE, label=f"{_WINDOWS}{windows}")
        store.close()
        return MosaicMemoryStore.open(self.path / STORE, num_threads=store.num_threads)

    def _file(self, index: int) -> Path:
        return self.path / f"window-{index:06d}.safetensors"


def _is_temporary(path: Path) -> bool:
    """A file of ours that was being written when the run was killed."""
    return path.name.startswith((f".{RUN}.", ".window-"))


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, by name: fields of the configuration, parts, inputs, and the trajectory."""
    found = []
    for group in ("config", "parts", "inputs"):
        old, new = before.get(group, {}), now[group]
        for name in sorted({*old, *new} - _FREE_FIELDS):
            if old.get(name) != new.get(name):
                found.append(_difference(name, old.get(name), new.get(name)))
    if before.get("trajectory") != now["trajectory"]:
        found.append("the trajectory was another")
    return found


def _difference(name: str, old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        common = zip(old, new, strict=False)
        at = next((i for i, (a, b) in enumerate(common) if a != b), min(len(old), len(new)))
        pair = [_short(each[at]) if at < len(each) else "nothing" for each in (old, new)]
        return f"{name} had {len(old)} entries, now {len(new)}; entry {at} was {pair[0]}, now it is {pair[1]}"
    return f"{name} was {_short(old)}, now it is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
