"""What memory shows to a camera, as pictures: colour, coverage, depth, and which keyframe each cell is from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaicmem._arrays import F32, U8
from mosaicmem._border import to_host
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.memory import KeyframeRetrieval, MosaicMemoryStore
from mosaicmem.memory.canvas_colors import canvas_colors
from mosaicmem.memory.scene_colors import SceneColors
from mosaicmem.memory.selection import ComposedMosaic
from mosaicmem.viewer.palettes import GENERATED, OBSERVED, hues, ramp

_NOTHING = (24, 24, 28)  # of cells that memory does not show
_WIDTH = 320  # pixels of the picture, about
_MOST_CELLS = 20_000  # of a view; larger grids are shown by coarser ones


@dataclass(frozen=True, eq=False)
class Preview:
    """Pictures of one view, each (h, w, 3) uint8, and figures.

    Attributes
    ----------
    color
        Of the scene.
    coverage
        Dark where memory shows what was observed, blue where what was generated.
    depth
        Dark for near, bright for far.
    source
        A hue for each keyframe.
    covered, observed : float
        Fractions of the view.
    keyframes : int
        That cells are taken from.
    seconds : float
        To compose and colour.
    """

    color: U8
    coverage: U8
    depth: U8
    source: U8
    covered: float
    observed: float
    keyframes: int
    seconds: float

    @property
    def maps(self) -> U8:
        """Coverage, depth and source side by side, of equal heights."""
        gap = np.full((len(self.coverage), 2, 3), 255, np.uint8)
        return np.concatenate([self.coverage, gap, self.depth, gap, self.source], axis=1)


class Previewer:
    """Composes views of a store.

    Parameters
    ----------
    options
        Fields of `KeyframeOptions`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._retrievals: dict[bool, KeyframeRetrieval] = {}
        self._colors: tuple[tuple[int, int], SceneColors] | None = None
        self._grid: tuple[tuple[int, int], tuple[int, int]] | None = None

    def camera(self, store: MosaicMemoryStore, fov: float, aspect: float) -> tuple[CameraIntrinsics, int]:
        """A camera with a vertical field of view ``fov`` (radians), sized like the store's keyframes, and its stride.

        Its image has ``aspect`` = width / height, in whole cells.
        """
        if self._grid is None or self._grid[0] != (id(store._core), store._revision):
            self._grid = (id(store._core), store._revision), _grid_of(store)
        cells, stride = self._grid[1]
        coarser = math.ceil(math.sqrt(cells / _MOST_CELLS))
        cells, stride = max(1, cells // coarser**2), stride * coarser
        rows = max(1, round(math.sqrt(cells / aspect)))
        columns = max(1, round(rows * aspect))
        height = rows * stride
        focal = 0.5 * height / math.tan(0.5 * fov)
        return CameraIntrinsics(focal, focal, 0.5 * columns * stride, 0.5 * height, columns * stride, height), stride

    def compose(
        self,
        store: MosaicMemoryStore,
        intrinsics: CameraIntrinsics,
        stride: int,
        pose: CameraPose,
        *,
        observed: bool = True,
        generated: bool = True,
    ) -> Preview:
        """What memory shows to a camera; ``observed`` and ``generated`` say which of it."""
        begun = time.perf_counter()
        targets = CameraTrajectory([pose], intrinsics)
        canvas = _on_host(self._retrieval(generated).retrieve(store, targets, stride))
        shown = canvas.coverage[0] & (canvas.observed[0] | generated) & (~canvas.observed[0] | observed)
        scale = max(1, round(_WIDTH * stride / intrinsics.width))
        colors = canvas_colors(store, canvas, targets, stride, scale=scale, of_latents=self._components(store))[0]
        color = np.where(_fine(shown, scale)[..., None], np.rint(255 * colors), _NOTHING).astype(np.uint8)
        small = -(-scale // 3)
        coverage, depth, source = _maps(canvas, shown, small)
        return Preview(
            color,
            coverage,
            depth,
            source,
            float(shown.mean()),
            float((shown & canvas.observed[0]).mean()),
            len(np.unique(canvas.source[0][shown])),
            time.perf_counter() - begun,
        )

    def _retrieval(self, generated: bool) -> KeyframeRetrieval:
        if generated not in self._retrievals:
            hidden = {} if generated else {"generated_weight": 0.0}
            retrieval = KeyframeRetrieval(**{**self._options, **hidden})
            retrieval._has_warned = True  # a user who looks around sees emptiness, and needs no warning of it
            self._retrievals[generated] = retrieval
        return self._retrievals[generated]

    def _components(self, store: MosaicMemoryStore) -> Callable[[F32], F32]:
        """False colours for keyframes without thumbnails, fitted again when the store has twice as many patches."""
        now = store.channels or 0, len(store)
        if self._colors is None or self._colors[0][0] != now[0] or now[1] > 2 * self._colors[0][1]:
            self._colors = now, SceneColors.of_store(store)
        return self._colors[1].components


def _on_host(canvas: ComposedMosaic) -> ComposedMosaic:
    names = ("latents", "coverage", "depth", "source", "weight", "observed")
    return replace(canvas, **{name: to_host(name, getattr(canvas, name)) for name in names})


def _maps(canvas: ComposedMosaic, shown: np.ndarray, scale: int) -> tuple[U8, U8, U8]:
    """Pictures of coverage, depth and source."""
    nothing = np.array(_NOTHING, np.uint8)
    where = shown[..., None]
    by_provenance = np.where(canvas.observed[0][..., None], np.array(OBSERVED) + 60, np.array(GENERATED))
    coverage = np.where(where, by_provenance, nothing)
    depth: F32 = canvas.depth[0]
    inverse = np.where(shown, 1 / np.maximum(depth, 1e-9), 0)
    low, high = np.percentile(inverse[shown], (2, 98)) if shown.any() else (0.0, 1.0)
    far = np.where(where, ramp(1 - (inverse - low) / max(high - low, 1e-9)), nothing)
    numbers = np.concatenate([canvas.observations, np.zeros(1, canvas.observations.dtype)])[canvas.source[0]]
    source = np.where(where, hues(numbers), nothing)
    enlarged = [_fine(each.astype(np.uint8), scale) for each in (coverage, far, source)]
    return enlarged[0], enlarged[1], enlarged[2]


def _fine(cells: np.ndarray, scale: int) -> np.ndarray:
    return np.asarray(cells.repeat(scale, axis=0).repeat(scale, axis=1))


def _grid_of(store: MosaicMemoryStore) -> tuple[int, int]:
    """Cells and stride of the store's latest keyframe."""
    exported = store._exported()
    if not len(exported):
        return 40 * 24, 8
    rows, columns = exported.arrays[-1][0].shape[:2]
    return rows * columns, int(exported.camera[-1, 4])
