"""Which frames to match: neighbours in time at growing distances, and frames that look alike (loops)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mosaicmem._arrays import F32

_EXHAUSTIVE = 80  # frames, up to which photos are all matched with each other
_NEIGHBOURS = 10
_LOOK_ALIKE = 6  # frames elsewhere that look most like one
_APART = 25  # frames; nearer ones are neighbours
_THUMBNAIL = (16, 12)


def pairs_of(folder: Path, files: list[str], in_order: bool) -> list[tuple[int, int]]:
    """Pairs of positions (a, b), a < b, ascending.

    Up to 80 photos are all matched with each other. Frames that follow one another are matched with their ten
    neighbours and at distances that double; these, and more photos, also with those whose thumbnails look most like
    theirs, as where a camera comes back.
    """
    count = len(files)
    if not in_order and count <= _EXHAUSTIVE:
        return [(a, b) for a in range(count) for b in range(a + 1, count)]
    distances = {*range(1, _NEIGHBOURS + 1), *(1 << k for k in range(count.bit_length()))}
    pairs = {(a, a + d) for d in distances for a in range(count - d)}
    thumbnails = _thumbnails(folder, files)
    for a in range(count):
        others = thumbnails @ thumbnails[a]
        others[max(0, a - (_APART if in_order else 0)) : a + (_APART if in_order else 0) + 1] = -np.inf
        most = _LOOK_ALIKE if in_order else 4 * _LOOK_ALIKE
        for b in np.argsort(-others, kind="stable")[:most].tolist():
            if np.isfinite(others[b]):
                pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)


def _thumbnails(folder: Path, files: list[str]) -> F32:
    """Thumbnails of all frames as rows of unit length without their mean, so that products are correlations."""
    thumbnails = []
    for name in files:
        with Image.open(folder / name) as image:
            image.draft("L", (160, 120))
            small = np.asarray(image.convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.float32).ravel()
        small = small - small.mean()
        thumbnails.append(small / max(float(np.linalg.norm(small)), 1e-6))
    return np.stack(thumbnails)
