"""MOSAICMEM_SIMD: which vector instructions the kernels use, at most."""

from __future__ import annotations

import os

from mosaicmem import _core

LEVELS = ("portable", "avx2", "avx512", "avx512_bf16", "avx512_amx")


def limit_by_environment() -> None:
    """Compute as another machine does: with the instructions that MOSAICMEM_SIMD names, if it is set.

    A run with a checkpoint records the instructions that it began with, since results differ in their last bits.
    """
    name = os.environ.get("MOSAICMEM_SIMD", "")
    if not name:
        return
    if name not in LEVELS:
        raise ValueError(f"MOSAICMEM_SIMD: expected one of {', '.join(LEVELS)}, got {name!r}")
    _core.limit_simd_level(getattr(_core.SimdLevel, name))
