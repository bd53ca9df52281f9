"""Which features of a head PRoPE's matrices multiply: the three layouts, in the one form that the core takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, F64, check_integer
from mosaicmem._border import DeviceCopies

Runs = list[tuple[int, int, int]]


@dataclass(frozen=True, eq=False)
class MatrixTable:
    """Matrices in the form that the core takes.

    Attributes
    ----------
    runs : list of (begin, end, group)
        Features [begin, end) are multiplied by the matrices of ``group``.
    spread : int
        Stride, in features, between the components of a four-vector.
    coefficients, adjoint : (cameras, groups, 4, period) float64
        Feature e of a run becomes the sum over j of coefficients[camera, group, j, e % period] times component j of its
        four-vector; ``adjoint`` is the same with transposed matrices.
    single : (coefficients, adjoint) as float32
    """

    runs: Runs
    spread: int
    coefficients: F64
    adjoint: F64
    single: tuple[F32, F32] = field(init=False, repr=False)
    copies: DeviceCopies = field(init=False, repr=False, default_factory=DeviceCopies)

    def __post_init__(self) -> None:
        single = self.coefficients.astype(np.float32), self.adjoint.astype(np.float32)
        object.__setattr__(self, "single", single)


@dataclass(frozen=True)
class HeadLayout:
    """How four-vectors are laid out in a head.

    ``slots`` are the sub-frames that own the runs, or, with ``alternate``, that alternate over the whole head.
    """

    runs: tuple[tuple[int, int, int], ...]
    slots: tuple[int, ...]
    spread: int = 1
    alternate: bool = False

    @classmethod
    def of(
        cls, layout: str, head_dim: int, count: int, subframes: Sequence[int] | None, dims_per_camera: int
    ) -> HeadLayout:
        """The layout called ``layout`` for cameras of ``count`` sub-frames."""
        if layout == "contiguous":
            return cls._contiguous(head_dim, count, subframes, dims_per_camera)
        if subframes is not None:
            raise ValueError(f'subframes: expected only with layout "contiguous", got layout {layout!r}')
        if layout == "full":
            if head_dim % 64:
                raise ValueError(f'head_dim: expected a multiple of 64 for layout "full", got {head_dim}')
            # A camera without sub-frames stands for all four.
            slots = tuple(range(4)) if count == 4 else (0, 0, 0, 0)
            return cls(((0, head_dim, 0),), slots, head_dim // 64, alternate=True)
        if head_dim % (8 * count):
            of = "" if count == 1 else " of four sub-frames"
            raise ValueError(f'head_dim: expected a multiple of {8 * count} for layout "half"{of}, got {head_dim}')
        run = head_dim // 2 // count
        return cls(tuple((i * run, (i + 1) * run, i) for i in range(count)), tuple(range(count)))

    @classmethod
    def _contiguous(
        cls, head_dim: int, count: int, subframes: Sequence[int] | None, dims_per_camera: int
    ) -> HeadLayout:
        chosen = range(count) if subframes is None else subframes
        slots = tuple(check_integer(f"subframes[{i}]", c, minimum=0, maximum=count - 1) for i, c in enumerate(chosen))
        run = check_integer("dims_per_camera", dims_per_camera, minimum=4)
        if run % 4:
            raise ValueError(f"dims_per_camera: expected a multiple of 4, got {run}")
        if not slots or run * len(slots) > head_dim:
            raise ValueError(f"head_dim: expected at least {run} for each of {len(slots)} sub-frames, got {head_dim}")
        return cls(tuple((i * run, (i + 1) * run, i) for i in range(len(slots))), slots)

    def table(self, matrices: F64, transposed: F64) -> MatrixTable:
        """The table of ``matrices`` (cameras, S, 4, 4) and their transposes, for the core."""
        return MatrixTable(list(self.runs), self.spread, self._coefficients(matrices), self._coefficients(transposed))

    def _coefficients(self, matrices: F64) -> F64:
        columns: Any = matrices[:, list(self.slots)].transpose(0, 1, 3, 2)  # (cameras, slots, j, i)
        if not self.alternate:
            return np.tile(columns, 4)  # the core's vectors hold up to four four-vectors
        joined = columns.transpose(0, 2, 1, 3).reshape(len(matrices), 1, 4, 16)  # (cameras, 1, j, slot and i)
        return np.repeat(joined, self.spread, axis=3)
