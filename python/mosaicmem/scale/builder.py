"""Makes one group of sequences: opens and encodes them, and writes their samples and stores."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mosaicmem.datasets import RgbdSequence, is_sequence, open_sequence
from mosaicmem.diffusion import VAE
from mosaicmem.errors import SuspiciousInput
from mosaicmem.memory import MosaicMemoryStore
from mosaicmem.memory.storage import plain_names
from mosaicmem.models.training import EncodedSequence, RevisitDataset
from mosaicmem.scale.config import BuildConfig
from mosaicmem.scale.places import Place, open_place
from mosaicmem.scale.samples import members_of
from mosaicmem.scale.shard_writer import SHARDS, STORES, ShardWriter, fragment_of, shard_name, write_folder

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_MOST_WARNINGS = 20  # that a record keeps of a sequence


@dataclass(frozen=True)
class Task:
    """A group of sequences, whose samples share shards.

    Attributes
    ----------
    number : int
        Of the group.
    sources : tuple of (int, str)
        Of each sequence, its number in the build and where it is.
    given_up : tuple of (int, str)
        Sequences that are not tried again, and why.
    """

    number: int
    sources: tuple[tuple[int, str], ...]
    given_up: tuple[tuple[int, str], ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number:06d}"

    @property
    def record(self) -> str:
        """The file that says that the group is done, and what it is made of. It is written last."""
        return f"{SHARDS}/{self.name}.json"


class OutputError(OSError):
    """The place of a build cannot be written to: not the fault of a sequence, so the build stops."""


@dataclass
class Outcome:
    """What became of one sequence.

    Attributes
    ----------
    error : str or None
        Why it failed.
    """

    number: int
    source: str
    frames: int = 0
    samples: int = 0
    keyframes: int = 0
    store: dict[str, Any] | None = None
    error: str | None = None
    warnings: list[str] = field(default_factory=list)


Encoded: TypeAlias = "tuple[Outcome, EncodedSequence | None]"


class Builder:
    """Makes groups of sequences, one after the other. Pickled, it makes its VAE anew.

    Parameters
    ----------
    config : BuildConfig
    output : str
        Path or URI.
    work : path
        A local folder for temporary files; it is created where it is missing.
    """

    def __init__(self, config: BuildConfig, output: str, work: Path) -> None:
        self.config, self._output, self._work = config, output, work
        self._vae: VAE | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_vae": None}

    def prepare(self) -> None:
        """Make the VAE; see `BuildConfig.make_vae`."""
        self.vae()

    def vae(self) -> VAE:
        """The VAE of this process."""
        if self._vae is None:
            self._vae = self.config.make_vae()
        return self._vae

    def __call__(self, task: Task, at: Callable[[int], None] = lambda number: None) -> dict[str, Any]:
        """Make a group; returns its record, which is then written. ``at`` is told which sequence is next."""
        return self._write(task, self._encoded_one_by_one(task, at))

    def encode(self, task: Task) -> list[Encoded]:
        """All that the samples of a group need, without frames and VAE: for `write` in another process."""
        made = []
        for outcome, one in self._encoded_one_by_one(task):
            with _reported(outcome):
                if one is not None:
                    self._encode(outcome, one)
            made.append((outcome, None if one is None or outcome.error else one.detached()))
        return made

    def write(self, task: Task, encoded: list[Encoded]) -> dict[str, Any]:
        """Write the group that `encode` has encoded; returns its record."""
        return self._write(task, iter(encoded))

    def sequence(self, source: str) -> RgbdSequence:
        """Open a source; with ``imports``, one that is no data set is imported to a temporary one."""
        if not self.config.imports or is_sequence(source):
            return open_sequence(source)
        from mosaicmem.importing import import_footage

        import_footage(source, self._imported(source), replace=True)
        return open_sequence(self._imported(source))

    def samples(self, outcome: Outcome, one: EncodedSequence) -> Iterator[tuple[str, bytes]]:
        """The samples of a sequence as parts of a tar file, by key."""
        c = self.config
        dataset = self._dataset(outcome, one)
        for index, (_, frames) in enumerate(dataset.windows):
            for epoch in range(c.epochs):
                dataset.epoch = epoch
                about = {"source": outcome.source, "sequence": outcome.number, "window": index, "epoch": epoch}
                key = f"{outcome.number:07d}-{index:04d}-{epoch:02d}"
                yield key, fragment_of(key, members_of(dataset[index], c.dtype, about))
            one.forget_window(frames)

    def _encoded_one_by_one(self, task: Task, at: Callable[[int], None] = lambda number: None) -> Iterator[Encoded]:
        given_up = dict(task.given_up)
        self._work.mkdir(parents=True, exist_ok=True)
        for number, source in task.sources:
            outcome, one = Outcome(number, source, error=given_up.get(number)), None
            if outcome.error is not None:
                yield outcome, None
                continue
            at(number)
            with _reported(outcome):
                one = EncodedSequence(self.sequence(source), self.vae(), size=self.config.size, name=source)
                outcome.frames = len(one)
                keyframes = self.config.policy().keyframes(one.path)
                outcome.keyframes = len(keyframes)
                one.check_poses(keyframes)
            yield outcome, None if outcome.error else one
            shutil.rmtree(self._imported(source), ignore_errors=True)

    def _encode(self, outcome: Outcome, one: EncodedSequence) -> None:
        self._dataset(outcome, one).encode()
        if self.config.stores:
            for i in self.config.policy().keyframes(one.path):
                one.keyframe(i)
                one.subcell_depth(i)

    def _imported(self, source: str) -> Path:
        return self._work / f"imported-{hashlib.sha256(source.encode()).hexdigest()[:16]}"

    def _dataset(self, outcome: Outcome, one: EncodedSequence) -> RevisitDataset:
        c = self.config
        digest = hashlib.sha256(f"{c.seed} {outcome.number}".encode()).digest()
        return RevisitDataset(
            {"sequence": one},
            one.vae,
            window=c.window,
            rope=c.rope(),
            patch=c.patch,
            policy=c.policy(),
            step=c.step,
            min_coverage=c.min_coverage,
            seed=int.from_bytes(digest[:7], "little"),
            **c.batch_options(),
        )

    # --- Writing.

    def _write(self, task: Task, encoded: Iterator[Encoded]) -> dict[str, Any]:
        self._work.mkdir(parents=True, exist_ok=True)
        place = open_place(self._output, self._work)
        outcomes = []
        with _output_errors(), ShardWriter(place, task.name, self.config.shard_bytes) as writer:
            for outcome, one in encoded:
                if one is not None:
                    self._write_sequence(place, writer, outcome, one)
                outcomes.append(vars(outcome))
        record = {"group": task.number, "sequences": outcomes, "shards": writer.shards}
        with _output_errors():
            forget_shards(place, task, len(writer.shards))
        write_record(place, task, record)
        return record

    def _write_sequence(self, place: Place, writer: ShardWriter, outcome: Outcome, one: EncodedSequence) -> None:
        """Its samples, all or none; and its store."""
        lengths: list[tuple[str, int]] = []
        with tempfile.TemporaryFile(dir=self._work) as spool:
            with _reported(outcome):
                for key, fragment in self.samples(outcome, one):
                    spool.write(fragment)
                    lengths.append((key, len(fragment)))
                if self.config.stores:
                    outcome.store = self._write_store(place, outcome, one)
            if outcome.error is not None:
                return
            spool.seek(0)
            with _output_errors():
                for key, length in lengths:
                    writer.add(key, spool.read(length))
            outcome.samples = len(lengths)

    def _write_store(self, place: Place, outcome: Outcome, one: EncodedSequence) -> dict[str, Any]:
        c = self.config
        store = MosaicMemoryStore(max(c.patch[1:]), latent_dtype=c.latent_dtype)
        for i in c.policy().keyframes(one.path):
            latents, depth = one.keyframe(i)
            fine = one.subcell_depth(i)
            store.insert_keyframe(latents, depth, one.path.intrinsics, one.path[i], frame_id=i, subcell_depth=fine)
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            saved = Path(folder, f"{outcome.number:07d}")
            store.save(saved)
            store.close()
            (saved / "lock").unlink()
            plain_names(saved)
            with _output_errors():
                return write_folder(place, f"{STORES}/{saved.name}.tar", saved)


def write_record(place: Place, task: Task, record: dict[str, Any]) -> None:
    """Write the file that makes a group count as done."""
    with _output_errors():
        place.write(task.record, json.dumps(record, sort_keys=True, allow_nan=False).encode())


def forget_shards(place: Place, task: Task, kept: int = 0) -> None:
    """Remove what an earlier attempt has left of a group's shards beyond the first ``kept``."""
    part = kept
    while place.remove(shard_name(task.name, part)):
        part += 1


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(error.errno, f"the output cannot be written: {error.strerror or error}") from error


@contextmanager
def _reported(outcome: Outcome) -> Iterator[None]:
    """An error in the block is the sequence's own, and is kept with its warnings; the others go on."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SuspiciousInput)
        try:
            yield
        except OutputError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise OutputError(error.errno, f"no room to work: {error.strerror}") from error
            said_why = isinstance(error, (ValueError, OSError)) and str(error)
            outcome.error = str(error) if said_why else f"{type(error).__name__}: {error}"
    heard = dict.fromkeys([*outcome.warnings, *(str(each.message) for each in said)])
    outcome.warnings = list(heard)[:_MOST_WARNINGS]
