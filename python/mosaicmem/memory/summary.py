"""Figures about the contents of a store."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._arrays import Bool
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory.keyframe_retrieval import KeyframeRetrieval
from mosaicmem.memory.storage import read_manifest
from mosaicmem.memory.store import MosaicMemoryStore

_BYTES = ("latent", "depth", "confidence", "image", "index", "bookkeeping")
_DTYPES = ("float32", "float16", "bfloat16")  # indexed by the core's LatentType


def summarize(store: MosaicMemoryStore) -> dict[str, Any]:
    """Counts, bytes by kind, time span, bounds, patches per keyframe, provenance, kinds of keyframes; plain JSON."""
    exported = store._exported()
    living = [int(np.unpackbits(words.view(np.uint8)).sum()) for words in exported.alive_words]
    distinct = dict(zip(exported.keyframe.tolist(), range(len(living)), strict=True))
    kinds = Counter(
        (*exported.arrays[i][0].shape[:2], int(exported.camera[i, 4]), _DTYPES[exported.latent_type[i]])
        for i in distinct.values()
    )
    statistics = asdict(store.statistics())
    bounds = store.bounds
    return {
        "settings": store._settings().model_dump(),
        "patches": statistics["patches"],
        "observations": statistics["keyframes"],
        "keyframes": len(distinct),
        "provenance": {
            "observed": {
                "observations": statistics["keyframes"] - statistics["generated_keyframes"],
                "patches": statistics["patches"] - statistics["generated_patches"],
            },
            "generated": {
                "observations": statistics["generated_keyframes"],
                "patches": statistics["generated_patches"],
            },
        },
        "channels": statistics["channels"],
        "patches_a_keyframe": None
        if not living
        else {"least": min(living), "median": float(np.median(living)), "most": max(living)},
        "bytes": {
            **{
                name: statistics[f"{name}_bytes"]
                for name in ("latent", "depth", "confidence", "image", "index", "bookkeeping")
            },
            "total": store.nbytes,
        },
        "first_time": statistics["first_time"],
        "last_time": statistics["last_time"],
        "bounds": None if bounds is None else bounds.tolist(),
        "kinds": [
            {"rows": rows, "columns": columns, "stride": stride, "latent_dtype": dtype, "keyframes": count}
            for (rows, columns, stride, dtype), count in sorted(kinds.items())
        ],
    }


def summarize_files(path: Path) -> dict[str, Any]:
    """Files of a saved store and their bytes."""
    manifest = read_manifest(path)
    return {
        "format_version": manifest.version,
        "keyframe_files": len(manifest.keyframes),
        "keyframe_bytes": sum(entry.nbytes for entry in manifest.keyframes),
        "state_files": len(manifest.states),
        "state_bytes": sum(entry.nbytes for entry in manifest.states),
    }


def stride_of(store: MosaicMemoryStore) -> int:
    """Pixels per latent cell, the same for all keyframes.

    Raises
    ------
    ValueError
        The store is empty, or its keyframes have several strides.
    """
    strides = {kind["stride"] for kind in summarize(store)["kinds"]}
    if not strides:
        raise ValueError("stride: expected one, as the store is empty")
    if len(strides) != 1:
        raise ValueError(f"stride: expected one, as the store's keyframes have strides {sorted(strides)}")
    return int(strides.pop())


COVERAGE = ("coverage", "coverage_observed", "coverage_generated")
"""Names of the fractions of a view that memory covers: in total, by observed and by generated keyframes."""


def coverage_figures(coverage: Bool, observed: Bool) -> dict[str, float]:
    """The fractions of all cells that are covered: in total, by observed keyframes, and by generated ones only.

    The masks have one shape; ``observed`` is a subset of ``coverage``.
    """
    return dict(
        zip(COVERAGE, map(float, (coverage.mean(), observed.mean(), (coverage & ~observed).mean())), strict=True)
    )


def coverage_along(
    store: MosaicMemoryStore,
    trajectory: CameraTrajectory,
    stride: int,
    patches: dict[str, Any],
    keyframes: dict[str, Any],
) -> list[dict[str, Any]]:
    """For each camera: how many patches it retrieves, and the fraction of its latent cells that a canvas covers.

    ``coverage`` is the sum of ``coverage_observed`` and ``coverage_generated``.
    ``patches`` are fields of `RetrievalOptions`, ``keyframes`` of `KeyframeOptions`.
    """
    retrieval = KeyframeRetrieval(**keyframes)
    frames = []
    for i, pose in enumerate(trajectory):
        one = trajectory[i : i + 1]
        found = store.retrieve(one.intrinsics, pose, **patches)
        canvas = retrieval.retrieve(store, one, stride)
        frames.append(
            {
                "frame": i,
                "time": pose.timestamp,
                "patches": len(found),
                **coverage_figures(canvas.coverage, canvas.observed),
            }
        )
    return frames
