"""`estimate`: how long a build takes and how large it becomes, from a few of its sequences."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mosaicmem._arrays import check_integer
from mosaicmem.models.training import EncodedSequence
from mosaicmem.scale.builder import Builder, Outcome
from mosaicmem.scale.building import checked_sources
from mosaicmem.scale.config import BuildConfig

_OPENED = 20  # sequences, to see how long they are
_MEASURED = 3  # samples that are made, the first of which also starts what is shared


@dataclass(frozen=True)
class Estimate:
    """What a build will be, extrapolated.

    Attributes
    ----------
    sequences, opened : int
        All; those that were opened to see how long they are.
    frames, samples : int
        Of all sequences, from the mean of the opened ones.
    nbytes : int
        Of all samples, without stores.
    seconds : float
        Of one process. Measured on one sequence, so good to a factor of two or so.
    unreadable : dict of str to str
        Of the opened ones, those that cannot be read, and why.
    """

    sequences: int
    opened: int
    frames: int
    samples: int
    nbytes: int
    seconds: float
    unreadable: dict[str, str]


def estimate(sources: Sequence[str | Path], config: BuildConfig | None = None, *, opened: int = _OPENED) -> Estimate:
    """Open some of the sources, and make some samples of one of them; nothing is kept.

    Raises
    ------
    ValueError
        None of the opened ones can be read, or is as long as a window.
    """
    config = config or BuildConfig()
    paths = checked_sources(sources)
    count = min(check_integer("opened", opened, minimum=1), len(paths))
    picked = [paths[i] for i in np.linspace(0, len(paths) - 1, count).round().astype(int)]
    with tempfile.TemporaryDirectory(prefix="mosaicmem-build-") as work:
        builder = Builder(config, work, Path(work))
        builder.prepare()
        frames, unreadable = {}, {}
        for path in picked:
            try:
                frames[path] = len(builder.sequence(path))
            except (ValueError, OSError) as error:
                unreadable[path] = str(error)
        if not frames:
            raise ValueError(f"sources: expected sequences, got none that can be read: {unreadable[picked[0]]}")
        samples = {path: _samples(n, config) for path, n in frames.items()}
        longest = max(samples, key=lambda path: samples[path])
        if not samples[longest]:
            most = max(frames.values())
            raise ValueError(f"sources: expected at least window = {config.window} frames, got {most} at most")
        seconds, nbytes = _measured(builder, longest)
    share = len(paths) / count
    total = round(sum(samples.values()) * share)
    return Estimate(
        len(paths),
        count,
        round(sum(frames.values()) * share),
        total,
        round(nbytes * total),
        seconds * total,
        unreadable,
    )


def _samples(frames: int, config: BuildConfig) -> int:
    step = config.step or config.window
    return max(0, (frames - config.window) // step + 1) * config.epochs


def _measured(builder: Builder, path: str) -> tuple[float, float]:
    """Seconds and bytes of one sample: the last of a few, as memory holds nothing for the first window."""
    vae = builder.vae()
    one = EncodedSequence(builder.sequence(path), vae, size=builder.config.size, name=path)
    began, sizes = time.monotonic(), []
    for _, fragment in islice(builder.samples(Outcome(0, path), one), _MEASURED):
        sizes.append(len(fragment))
    return (time.monotonic() - began) / len(sizes), float(np.mean(sizes))
