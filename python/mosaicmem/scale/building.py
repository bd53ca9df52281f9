"""`build`: plans, resumes, and reports."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosaicmem._arrays import check_choice, check_instance, check_integer
from mosaicmem._files import make_folder
from mosaicmem._json import decode_json, parse_json
from mosaicmem.errors import FormatError, StoreLockedError
from mosaicmem.memory.storage.lock import FolderLock
from mosaicmem.scale.builder import Builder, Task
from mosaicmem.scale.config import BuildConfig
from mosaicmem.scale.places import LocalFolder, Place, open_place
from mosaicmem.scale.shard_writer import SHARDS, STORES
from mosaicmem.scale.workers import run_in_processes

BUILD, INDEX = "build.json", "index.json"
BACKENDS = ("local", "ray")
_WORK = ".work"
_READERS = 16  # threads


@dataclass(frozen=True)
class BuildReport:
    """What a build holds, and what this run did for it.

    Attributes
    ----------
    output : str
    sequences, samples, nbytes : int
        Built ones; bytes of their shards and stores.
    failed : list of dict
        Of each sequence that failed: number, source, and error.
    suspicious : list of dict
        Of each sequence with warnings: number, source, and warnings.
    done_before : int
        Sequences that an earlier run had done.
    seconds : float
        Of this run.
    """

    output: str
    sequences: int
    samples: int
    nbytes: int
    failed: list[dict[str, Any]] = field(repr=False)
    suspicious: list[dict[str, Any]] = field(repr=False)
    done_before: int
    seconds: float

    @property
    def sequences_per_hour(self) -> float:
        """Of this run."""
        done = self.sequences + len(self.failed) - self.done_before
        return 3600 * done / self.seconds if self.seconds else 0.0


def build(
    sources: Sequence[str | Path],
    output: str | Path,
    config: BuildConfig | None = None,
    *,
    backend: str = "local",
    workers: int = 0,
    threads: int = 1,
    gpus: float = 0.0,
    work: str | Path | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> BuildReport:
    """Build stores and training samples of many sequences, as shards that `ShardDataset` and WebDataset read.

    The bytes depend on sources and configuration alone, neither on workers nor on interruptions: the same call resumes
    a build that was killed, and repeats no group of sequences that was done.

    Parameters
    ----------
    sources : sequence of path
        What `open_sequence` reads; with ``config.imports`` also videos and photos.
    output : path or URI
        A folder, or what fsspec reaches (s3://..., gs://...).
    config : BuildConfig, optional
    backend : {"local", "ray"}
        Processes of this machine; or Ray Data, on the cluster that ``ray.init`` finds, with sources and output that
        every node reaches.
    workers : int
        Processes, or encoders on Ray; 0: one per core or, on Ray with ``gpus``, as many as there are.
    threads : int
        Of each.
    gpus : float
        On Ray, of each encoder.
    work : path, optional
        A local folder for temporary files; in the output or, if it is remote, in the system's folder if not given.
    retry_failed : bool
        Try sequences again that failed in an earlier run.
    on_progress : callable, optional
        Called with how many sequences are done, how many there are, and how many have failed.

    Raises
    ------
    ValueError
        Another build is in ``output``: the message says what differs. ``config.vae`` fails.
    StoreLockedError
        Another process builds there. A remote output is not locked: build there by one process at a time.
    OSError
        The output cannot be written to. What was done is kept.
    """
    began = time.monotonic()
    config = check_instance("config", config or BuildConfig(), BuildConfig)
    config.rope(), config.policy()
    check_choice("backend", backend, BACKENDS)
    count = check_integer("workers", workers, minimum=0, maximum=4096)
    check_integer("threads", threads, minimum=1, maximum=1024)
    paths = checked_sources(sources)
    place = open_place(output, None if work is None else Path(work))
    with _held(place), _work_folder(place, work) as folder:
        _expect_same(place, config, paths)
        tasks = tasks_of(paths, config.sequences_per_shard)
        records = _records(place, tasks)
        if retry_failed:
            records = {number: record for number, record in records.items() if not _has_failed(record)}
        waiting = [task for task in tasks if task.number not in records]
        if waiting:  # what is made anew must not be read meanwhile, nor count as done if it is cut short
            place.remove(INDEX)
        if retry_failed:
            for task in waiting:
                place.remove(task.record)
        before = sum(len(record["sequences"]) for record in records.values())
        builder = Builder(config, str(output), folder)
        tell = _Progress(on_progress, len(paths), records)
        for task, record in _made(builder, waiting, backend, count, threads, gpus):
            records[task.number] = record
            tell(record)
        ordered = [records[task.number] for task in tasks]
        _write_index(place, config, ordered)
    return _report(place, ordered, before, time.monotonic() - began)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_sources(sources: Sequence[str | Path]) -> list[str]:
    """The sources as absolute paths, each once."""
    if isinstance(sources, (str, Path)) or not isinstance(sources, Sequence):
        raise TypeError(f"sources: expected a list of paths, got {type(sources).__name__}")
    if not sources:
        raise ValueError("sources: expected at least one sequence, got none")
    remote = next((source for source in sources if "://" in str(source)), None)
    if remote is not None:
        raise ValueError(f"sources: expected folders that this machine reaches, got {remote}; copy or mount it")
    paths = [str(Path(source).absolute()) for source in sources]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"sources: expected each sequence once, got {twice} twice")
    return paths


def tasks_of(sources: Sequence[str], per_shard: int) -> list[Task]:
    """The groups of a build, in order."""
    numbered = list(enumerate(sources))
    begins = range(0, len(numbered), per_shard)
    return [Task(i, tuple(numbered[begin : begin + per_shard])) for i, begin in enumerate(begins)]


def _made(
    builder: Builder, tasks: list[Task], backend: str, count: int, threads: int, gpus: float
) -> Iterator[tuple[Task, Any]]:
    if not tasks:
        return iter(())
    if backend == "ray":
        from mosaicmem.scale.on_ray import run_on_ray

        return run_on_ray(builder, tasks, count, threads, gpus)
    return run_in_processes(builder, tasks, min(count or cores(), len(tasks)), threads)


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """Keep other builds out of a local folder, and remove what a killed one has left there."""
    if not isinstance(place, LocalFolder):
        yield
        return
    make_folder(place.path)
    names = {name for name in os.listdir(place.path) if name not in ("lock", _WORK, SHARDS, STORES)}
    if names and not names & {BUILD, INDEX}:
        raise FileExistsError(f"output: expected a new or empty folder, or a build, got {place.uri} with {min(names)}")
    try:
        lock = FolderLock.take(place.path)
    except StoreLockedError:
        raise StoreLockedError(
            f"output: another process builds in {place.uri}; wait for it, or use another output"
        ) from None
    try:
        for folder in (SHARDS, STORES, "."):
            place.remove_leftovers(folder)
        yield
    finally:
        lock.release()


@contextmanager
def _work_folder(place: Place, given: str | Path | None) -> Iterator[Path]:
    if given is None and isinstance(place, LocalFolder):
        folder = place.path / _WORK
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        if given is not None:
            make_folder(given)
        with tempfile.TemporaryDirectory(prefix="mosaicmem-build-", dir=given) as name:
            yield Path(name)


def _expect_same(place: Place, config: BuildConfig, sources: Sequence[str]) -> None:
    """Begin a build, or check that the one there has the same configuration and sources."""
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    about = {"format": "mosaicmem build", "version": 1, "config": config.model_dump(mode="json")}
    about |= {"sequences": len(sources), "sources": digest}
    try:
        before = read_object(place, BUILD)
    except FileNotFoundError:
        place.write(BUILD, (json.dumps(about, indent=2) + "\n").encode())
        return
    if before == about:
        return
    if before.get("format") != about["format"] or before.get("version") != 1:
        raise FormatError(f"{place.uri}/{BUILD}", "expected a build of this version of mosaicmem")
    theirs, own = before.get("config", {}), config.model_dump(mode="json")
    differs = [f"{name} was {theirs.get(name)!r}, now {own[name]!r}" for name in own if theirs.get(name) != own[name]]
    if before.get("sources") != digest:
        differs.append(f"its sources were {before.get('sequences')} others, now {len(sources)}, or their order")
    raise ValueError(f"output: {place.uri} holds another build: {'; '.join(differs)}; use another output")


def read_object(place: Place, name: str) -> dict[str, Any]:
    """A JSON object of a build."""
    where = f"{place.uri}/{name}"
    value = parse_json(where, decode_json(where, place.read(name)))
    if not isinstance(value, dict):
        raise FormatError(where, f"expected a JSON object, got {type(value).__name__}")
    return value


def _records(place: Place, tasks: Iterable[Task]) -> dict[int, dict[str, Any]]:
    """The records of the groups that are done; a damaged one counts as missing."""
    there = place.names(SHARDS)
    done = [task for task in tasks if task.record.partition("/")[2] in there]

    def read(task: Task) -> dict[str, Any] | None:
        try:
            return read_object(place, task.record)
        except FormatError:
            return None

    with ThreadPoolExecutor(_READERS) as readers:  # of a remote place, each takes a while
        found = zip(done, readers.map(read, done), strict=True)
        return {task.number: record for task, record in found if record and record.get("group") == task.number}


def _has_failed(record: dict[str, Any]) -> bool:
    return any(outcome["error"] for outcome in record["sequences"])


class _Progress:
    """Counts sequences."""

    def __init__(self, tell: Callable[[int, int, int], None] | None, total: int, done: dict[int, Any]) -> None:
        self._tell, self._total, self._done, self._failed = tell, total, 0, 0
        for record in done.values():
            self._count(record)
        if tell is not None:
            tell(self._done, total, self._failed)

    def __call__(self, record: dict[str, Any]) -> None:
        self._count(record)
        if self._tell is not None:
            self._tell(self._done, self._total, self._failed)

    def _count(self, record: dict[str, Any]) -> None:
        self._done += len(record["sequences"])
        self._failed += sum(outcome["error"] is not None for outcome in record["sequences"])


def _write_index(place: Place, config: BuildConfig, records: list[dict[str, Any]]) -> None:
    shards = [[s["name"], len(s["samples"]), s["nbytes"]] for record in records for s in record["shards"]]
    index = {
        "format": "mosaicmem shards",
        "version": 1,
        "config": config.model_dump(mode="json"),
        "samples": sum(count for _, count, _ in shards),
        "shards": shards,
    }
    place.write(INDEX, json.dumps(index).encode())


def _report(place: Place, records: list[dict[str, Any]], before: int, seconds: float) -> BuildReport:
    outcomes = [outcome for record in records for outcome in record["sequences"]]
    stores = [outcome["store"]["nbytes"] for outcome in outcomes if outcome["store"]]
    shards = [shard["nbytes"] for record in records for shard in record["shards"]]
    return BuildReport(
        output=place.uri,
        sequences=sum(outcome["error"] is None for outcome in outcomes),
        samples=sum(outcome["samples"] for outcome in outcomes),
        nbytes=sum(stores) + sum(shards),
        failed=[_of(outcome, "error") for outcome in outcomes if outcome["error"] is not None],
        suspicious=[_of(outcome, "warnings") for outcome in outcomes if outcome["warnings"]],
        done_before=before,
        seconds=seconds,
    )


def _of(outcome: dict[str, Any], what: str) -> dict[str, Any]:
    return {name: outcome[name] for name in ("number", "source", what)}
