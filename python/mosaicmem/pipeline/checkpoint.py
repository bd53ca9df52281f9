"""Checkpoints: a run may be killed at any moment; each finished window is kept, and not computed again.

The folder holds ``run.json`` (the settings of the run, the version of mosaicmem and its vector instructions) and
``store``: the memory after the last window, with the output of each window attached. So everything has checksums, and
one rename commits a window: the one that replaces the store's manifest. Even a run that is never stopped continues from
the reopened store after each window, so that a resumed run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mosaicmem import _core
from mosaicmem._arrays import F32, Bool
from mosaicmem._files import read_json_object, write_json
from mosaicmem.camera import CameraTrajectory
from mosaicmem.errors import FormatError, StoreLockedError, describe_validation, suspect
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage import Attachment, Manifest, read_attachment, read_manifest
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.memory.storage.tensors import MappedTensors
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.results import WindowStatistics

RUN = "run.json"
STORE = "store"

_RUN = "run, sha256 "
_OF_BEFORE = "windows done: "  # label of older runs, whose windows were separate files
_STATISTICS = TypeAdapter(WindowStatistics)
_FREE_FIELDS = {"num_threads"}  # no result depends on them
_FAR_OF_BEFORE = 100.0  # once the default of ``far``, which has no limit now


@dataclass(frozen=True, eq=False)
class KeptWindow:
    """The parts of a window that are kept.

    Attributes
    ----------
    decoded : (F, H, W, 3) float32
        Before blending with the previous window; padded to whole latent cells.
    canvas : (T, h, w, C) float32
    coverage : (T, h, w) bool
    depth : (T, h, w) float32
    observed : (T, h, w) bool or None
    statistics : WindowStatistics
    latents : (C, T, h, w) float32 or None
        Kept if the backbone continues from them.
    """

    decoded: F32
    canvas: F32
    coverage: Bool
    depth: F32
    observed: Bool | None
    statistics: WindowStatistics
    latents: F32 | None = None


class Checkpoint:
    """The folder of a run that can be resumed.

    Parameters
    ----------
    path : path
        A new or empty folder, or that of a run to resume.
    inputs : mapping, optional
        What else the run depends on, as plain JSON: for example, where its memory came from. A run resumes only with
        the same inputs. The contents of such files, and of the parts of a pipeline, are not compared.
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
        """Lock the folder for this run, until the block or the process ends.

        Raises
        ------
        StoreLockedError
            Another run has locked it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock.take(self.path)
        except StoreLockedError as error:
            raise StoreLockedError(f"checkpoint: another run continues in {self.path} ({error})") from None
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def windows(self) -> int | None:
        """How many windows are kept; None if no run has begun here."""
        manifest = self._manifest()
        return None if manifest is None else len(manifest.attachments)

    def _manifest(self) -> Manifest | None:
        try:
            manifest = read_manifest(self.path / STORE)
        except FileNotFoundError:
            return None
        if manifest.label.startswith(_OF_BEFORE):
            raise FormatError(
                self.path / STORE,
                "of a run whose windows have no checksums, as mosaicmem kept them before: it cannot be resumed; begin "
                "it anew in another folder",
            )
        if not manifest.label.startswith(_RUN):
            raise FormatError(self.path / STORE, f"not the store of a checkpoint: its label is {manifest.label!r:.80}")
        return manifest

    def begin(
        self, config: PipelineConfig, trajectory: CameraTrajectory, parts: Mapping[str, str], store: MosaicMemoryStore
    ) -> MosaicMemoryStore:
        """Begin a run with a store, or resume it. Returns the store to continue with.

        Raises
        ------
        ValueError
            Another run was begun here; the message names the differences.
        """
        run = {
            "config": config.model_dump(mode="json"),
            "parts": dict(parts),
            "inputs": self.inputs,
            "trajectory": trajectory.to_dict(),
        }
        run = json.loads(json.dumps(run))  # turns tuples into lists
        manifest = self._manifest()
        if (self.path / RUN).is_file():
            self._expect_same(run, manifest)
        for leftover in filter(_is_temporary, self.path.iterdir()):
            leftover.unlink()
        if manifest is not None:
            return self._opened_like(store)
        write_json(self.path / RUN, {**run, "begun_by": _this_machine()})
        return self._keep_store(store.fork())

    def _expect_same(self, run: dict[str, Any], manifest: Manifest | None) -> None:
        """Check that the run that began here is this one, and warn if it began with another version or instructions."""
        before = read_json_object(self.path / RUN, follow=False)
        if not all(isinstance(before.get(group), dict) for group in run):
            raise FileExistsError(f"checkpoint: {self.path / RUN} is no run of mosaicmem: it is left alone")
        if manifest is not None and manifest.label != self._label():
            raise FormatError(self.path / RUN, "damaged: it does not match the checksum in the store of the run")
        # Settings added since the version that began the run have their defaults.
        given = before["config"]
        before["config"] = {**PipelineConfig().model_dump(mode="json"), **before["config"]}
        if "depth_subcells" not in given:
            before["config"]["depth_subcells"] = 1
        if "thumbnails" not in given:
            before["config"]["thumbnails"] = run["config"]["thumbnails"]
            if run["config"]["thumbnails"] and run["config"]["max_bytes"] is not None:
                suspect(
                    f"thumbnails: the run in {self.path} was begun before keyframes had any; they count against "
                    "max_bytes, so more may be forgotten; thumbnails=False continues as it began"
                )
        if before["config"]["far"] == _FAR_OF_BEFORE and run["config"]["far"] is None:
            before["config"]["far"] = None
            suspect(
                f"far: the run in {self.path} was begun with far = {_FAR_OF_BEFORE:g}, the default at that time, and "
                f"resumes without a limit; pass far={_FAR_OF_BEFORE:g} if the scene reaches farther"
            )
        differences = _differences(before, run)
        if differences:
            raise ValueError(f"checkpoint: {self.path} is of another run: {'; '.join(differences)}")
        begun_by, here = before.get("begun_by"), _this_machine()
        if manifest is not None and begun_by != here:
            suspect(
                f"checkpoint: the run in {self.path} was begun by {_described(begun_by)}, and resumes with "
                f"{_described(here)}; what is generated from here on may differ in the last bits "
                "(MOSAICMEM_SIMD computes with the instructions of a lesser processor)"
            )

    def keep(self, index: int, window: KeptWindow, store: MosaicMemoryStore) -> MosaicMemoryStore:
        """Keep the next window and the memory after it. Returns the store to continue with."""
        if index != self.windows:
            raise ValueError(f"index: expected {self.windows}, of the window after those that are kept, got {index}")
        arrays = {"decoded": window.decoded, "canvas": window.canvas, "depth": window.depth}
        if window.latents is not None:
            arrays["latents"] = window.latents
        masks = {"coverage": window.coverage, "observed": window.observed}
        arrays |= {name: mask.astype(np.uint8) for name, mask in masks.items() if mask is not None}
        return self._keep_store(
            store, (arrays, {"window": str(index), "statistics": json.dumps(asdict(window.statistics))})
        )

    def load(self, index: int) -> KeptWindow:
        """Load a kept window.

        Raises
        ------
        FormatError
            Its file is missing, damaged, or not what was kept.
        """
        manifest = self._manifest()
        assert manifest is not None
        file = read_attachment(self.path / STORE, manifest, index)
        canvas = file.get("canvas", ("F32",), (None, None, None, None))
        grid = canvas.shape[:3]
        decoded = file.get("decoded", ("F32",), (None, None, None, 3))
        depth = file.get("depth", ("F32",), grid)
        latents = file.get("latents", ("F32",), (canvas.shape[3], *grid)) if "latents" in file else None
        masks = {name: file.get(name, ("U8",), grid) for name in ("coverage", "observed") if name in file}
        statistics = _statistics_in(file, index)
        finite = [array for array in (canvas, decoded, latents) if array is not None]
        if not all(np.isfinite(array).all() for array in finite) or np.isnan(depth).any():
            raise FormatError(file.path, "damaged: expected finite numbers")
        if "coverage" not in masks or any(mask.max(initial=0) > 1 for mask in masks.values()):
            raise FormatError(file.path, "damaged: expected masks of 0 and 1")
        coverage, observed = (masks[name] != 0 if name in masks else None for name in ("coverage", "observed"))
        assert coverage is not None
        return KeptWindow(decoded, canvas, coverage, depth, observed, statistics, latents)

    def _keep_store(self, store: MosaicMemoryStore, attachment: Attachment | None = None) -> MosaicMemoryStore:
        store.save(self.path / STORE, label=self._label(), attachment=attachment)
        store.close()
        return self._opened_like(store)

    def _opened_like(self, store: MosaicMemoryStore) -> MosaicMemoryStore:
        """The kept store, opened with the device and threads of ``store``."""
        return MosaicMemoryStore.open(
            self.path / STORE, num_threads=store.num_threads, device=store.device, device_bytes=store.device_bytes
        )

    def _label(self) -> str:
        """The store's label, which identifies the run by the checksum of its file."""
        return _RUN + hashlib.sha256((self.path / RUN).read_bytes()).hexdigest()


def _is_temporary(path: Path) -> bool:
    """Whether a file is an unfinished write of ``run.json`` by a killed run."""
    return path.name.startswith(f".{RUN}.") and path.is_file()


def _this_machine() -> dict[str, str]:
    """What results depend on in their last bits, besides the settings of the run."""
    from mosaicmem import __version__

    return {"mosaicmem": __version__, "simd": _core.simd_level().name}


def _described(machine: Any) -> str:
    if not isinstance(machine, dict):
        return "another mosaicmem"
    return f"mosaicmem {machine.get('mosaicmem')!s:.40} with {machine.get('simd')!s:.40} instructions"


def _statistics_in(file: MappedTensors, index: int) -> WindowStatistics:
    """The kept statistics, checked for plausibility as those of this window."""
    try:
        statistics = _STATISTICS.validate_json(str(file.metadata["statistics"]), strict=True)
    except KeyError:
        raise FormatError(file.path, "damaged: no statistics") from None
    except ValidationError as error:
        raise FormatError(file.path, f"damaged: statistics: {describe_validation(error)[:300]}") from None
    parts = [statistics.coverage, statistics.coverage_observed, statistics.coverage_generated]
    parts.append(statistics.warp_valid_ratio)
    counts = [statistics.patches, statistics.tokens, statistics.keyframes, statistics.store_patches]
    counts += [statistics.fused_points, statistics.fused_voxels]
    possible = all(0 <= part <= 1 for part in parts) and all(0 <= count < 2**62 for count in counts)
    times = all(0 <= seconds < math.inf for seconds in statistics.seconds.values())
    if statistics.window != index or not (possible and times and 0 <= statistics.first_frame <= statistics.last_frame):
        raise FormatError(file.path, f"damaged: impossible statistics of window {index}")
    return statistics


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
