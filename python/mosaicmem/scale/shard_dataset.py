"""The samples of a build, for training: shuffled, split by rank and worker, resumable."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mosaicmem._arrays import check_integer
from mosaicmem.errors import FormatError
from mosaicmem.scale.building import INDEX, read_object
from mosaicmem.scale.config import BuildConfig
from mosaicmem.scale.places import Place, open_place
from mosaicmem.scale.samples import sample_of

_MOST_RECORDS = 64  # groups whose lists of samples are kept
_MOST_BYTES = 1 << 33  # of a sample
_MOST_SAMPLES = 1 << 31  # of a shard
_NAME = re.compile(r"shards/[0-9]{6,12}-[0-9]{3,9}\.tar")


class _Shard(NamedTuple):
    name: str
    samples: int
    nbytes: int


class ShardDataset(IterableDataset[dict[str, Any]]):
    """The samples of a build, as `RevisitDataset` makes them.

    An epoch visits each sample once, over all ranks and workers. Shards come in random order; samples are drawn from
    ``mixed`` shards at a time, by reading just their bytes: no buffer of samples is held. The order depends on the seed
    and the epoch alone, so any rank can begin anywhere in it without reading what comes before.

    Parameters
    ----------
    output : path or URI
        Of a build.
    shuffle : bool
    mixed : int
        Shards whose samples are mixed.
    seed : int
    rank, world_size : int, optional
        Of this process; those of torch.distributed if it is initialized, else 0 and 1.
    even : bool
        Leave out the last samples of an epoch if ranks would get different numbers of them, which hangs collective
        operations.
    batch_size : int
        Of the DataLoader with several workers, so that its batches come in the order of the epoch; `ShardLoader` sets
        it.

    Raises
    ------
    FileNotFoundError
        There is no build, or it is not finished.
    FormatError
        Its index is damaged.

    Attributes
    ----------
    config : BuildConfig
    """

    def __init__(
        self,
        output: str | Path,
        *,
        shuffle: bool = True,
        mixed: int = 16,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        even: bool = False,
        batch_size: int = 1,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("rank, world_size: expected both or none")
        if rank is None or world_size is None:
            rank, world_size = _of_torch()
        self._world = check_integer("world_size", world_size, minimum=1)
        self._rank = check_integer("rank", rank, minimum=0, maximum=self._world - 1)
        self._place = open_place(output)
        self.config, self._shards = _read_index(self._place)
        self._rope = self.config.rope()
        self._shuffle, self._mixed = shuffle, check_integer("mixed", mixed, minimum=1)
        self._seed = check_integer("seed", seed, minimum=0)
        self._even = even
        self._batch = check_integer("batch_size", batch_size, minimum=1)
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, samples; workers that persist see it
        self._records: OrderedDict[str, dict[str, list[Any]]] = OrderedDict()  # by group, then by shard

    def __len__(self) -> int:
        """Samples of this rank in an epoch."""
        total = sum(shard.samples for shard in self._shards)
        return total // self._world if self._even else len(range(self._rank, total, self._world))

    @property
    def epoch(self) -> int:
        """Which order samples come in."""
        return int(self._start[0])

    def begin(self, epoch: int, samples: int = 0) -> None:
        """Set what iterators visit from now on: an epoch, from some sample of this rank on."""
        self._start[0] = check_integer("epoch", epoch, minimum=0)
        self._start[1] = check_integer("samples", samples, minimum=0, maximum=len(self))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        count, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        epoch, begin = self._start.tolist()
        for position, (shard, index) in enumerate(self._order(epoch, begin)):
            if position // self._batch % count == own:
                yield self._sample(self._shards[shard], index)

    def _order(self, epoch: int, begin: int) -> Iterator[tuple[int, int]]:
        """The samples of this rank from the one at ``begin`` on, as shards and places in them."""
        rng = np.random.default_rng([self._seed, epoch])
        shards = np.arange(len(self._shards))
        if self._shuffle:
            rng.shuffle(shards)
        first, end = self._rank + begin * self._world, self._rank + len(self) * self._world
        before = 0  # samples of all ranks in the shards before
        for at in range(0, len(shards), self._mixed):
            group = shards[at : at + self._mixed]
            counts = np.array([self._shards[i].samples for i in group])
            total = int(counts.sum())
            mixed = np.random.default_rng([self._seed, epoch, at]).permutation(total) if self._shuffle else None
            ends = np.cumsum(counts)
            start = first if first >= before else first + -(-(before - first) // self._world) * self._world
            for position in range(start, min(before + total, end), self._world):
                drawn = position - before if mixed is None else int(mixed[position - before])
                which = int(np.searchsorted(ends, drawn, side="right"))
                yield int(group[which]), drawn - int(ends[which] - counts[which])
            before += total

    def _sample(self, shard: _Shard, index: int) -> dict[str, Any]:
        where = f"{self._place.uri}/{shard.name}"
        try:
            key, begin, end = self._samples_of(shard)[index]
            whole = type(begin) is int and type(end) is int and 0 <= begin <= end <= shard.nbytes
            if not whole or end - begin > _MOST_BYTES:
                raise ValueError(f"sample {key!r:.80} at {begin!r:.40} to {end!r:.40}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise FormatError(where, f"damaged: its list of samples does not fit the index: {error}") from None
        content = bytearray(self._place.read(shard.name, begin, end))
        if len(content) != end - begin:
            raise FormatError(where, f"cut off: expected {shard.nbytes} bytes, got {begin + len(content)}")
        return sample_of(f"{where}: {key}", content, self._rope)

    def _samples_of(self, shard: _Shard) -> list[Any]:
        group = shard.name.rpartition("-")[0]
        if group not in self._records:
            record = read_object(self._place, f"{group}.json")
            self._records[group] = {each["name"]: each["samples"] for each in record["shards"]}
            while len(self._records) > max(_MOST_RECORDS, 2 * self._mixed):
                self._records.popitem(last=False)
        self._records.move_to_end(group)
        return self._records[group][shard.name]


class ShardLoader:
    """A DataLoader over a `ShardDataset` that remembers where it is.

    Each iteration is the rest of an epoch; the next one begins the next epoch. Batches come in the order of the epoch
    for any number of workers.

    Parameters
    ----------
    dataset : ShardDataset
        Only this loader may use it.
    batch_size : int
    num_workers : int
    **options
        Of `torch.utils.data.DataLoader`: ``pin_memory``, ``drop_last``, ``prefetch_factor``, ...
    """

    def __init__(self, dataset: ShardDataset, *, batch_size: int = 1, num_workers: int = 0, **options: Any) -> None:
        self.dataset, self._batch = dataset, check_integer("batch_size", batch_size, minimum=1)
        dataset._batch = batch_size
        self._loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, **options)
        self._epoch, self._samples = 0, 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        samples, rest = divmod(len(self.dataset), self._batch)
        return samples + bool(rest and not self._loader.drop_last)

    def __iter__(self) -> Iterator[Any]:
        self.dataset.begin(self._epoch, self._samples)
        for batch in self._loader:
            self._samples = min(self._samples + self._batch, len(self.dataset))
            yield batch
        self._epoch, self._samples = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where it is: the epoch, and the samples of this rank that were loaded. Save it with the model."""
        return {"epoch": self._epoch, "samples": self._samples}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a loader of the same data set, world size and seed was."""
        samples = check_integer("state: samples", state["samples"], minimum=0, maximum=len(self.dataset))
        self._epoch, self._samples = check_integer("state: epoch", state["epoch"], minimum=0), samples


def _of_torch() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _read_index(place: Place) -> tuple[BuildConfig, list[_Shard]]:
    where = f"{place.uri}/{INDEX}"
    try:
        index = read_object(place, INDEX)
    except FileNotFoundError:
        raise FileNotFoundError(f"{where}: no such file; is the build finished? The same command resumes it") from None
    try:
        if (index["format"], index["version"]) != ("mosaicmem shards", 1):
            raise ValueError(f"format {index['format']!r:.40}, version {index['version']!r:.40}")
        shards = [_Shard(*each) for each in index["shards"]]
        for name, count, nbytes in shards:
            if not (_NAME.fullmatch(name) and type(count) is type(nbytes) is int and 0 < count < _MOST_SAMPLES):
                raise ValueError(f"shard {name!r:.80} of {count!r:.40} samples")
            if not 0 <= nbytes < 1 << 50:
                raise ValueError(f"shard {name!r:.80} of {nbytes!r:.40} bytes")
        return BuildConfig(**index["config"]), shards
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(where, f"damaged, or of another version of mosaicmem: {str(error)[:300]}") from None
