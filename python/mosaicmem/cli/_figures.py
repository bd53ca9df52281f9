"""Pictures and plots of an evaluation."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F32
from mosaicmem._files import atomic_write
from mosaicmem.cli._report import comparison_picture

if TYPE_CHECKING:
    from mosaicmem.evaluation import Evaluation, ForgettingBin, GridFrame

_ROWS = 6  # targets in a picture
_LEAST_WIDTH = 320  # pixels of one panel
_UNCOVERED = np.array([0.9, 0.0, 0.9], np.float32)


def require_matplotlib() -> None:
    """Say what to install where matplotlib is not."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("--plot needs matplotlib: pip install 'mosaicmem[evaluate]'")


def side_by_side(evaluation: Evaluation, targets: Sequence[GridFrame]) -> F32:
    """A few targets, one a row: the truth, the mosaic (magenta where uncovered), coverage, and the error threefold."""
    rows = []
    for i in np.unique(np.linspace(0, len(targets) - 1, _ROWS).round().astype(int)):
        truth, covered = targets[i].colors, evaluation.coverage[i, ..., None]
        shown = np.where(covered, evaluation.colors[i], _UNCOVERED)
        error = np.where(covered, np.minimum(3 * np.abs(evaluation.colors[i] - truth), 1), 0)
        rows.append([_enlarge(part) for part in (truth, np.clip(shown, 0, 1), np.repeat(covered, 3, -1), error)])
    return comparison_picture(rows)


def _enlarge(picture: np.ndarray) -> F32:
    """By whole pixels, so that cells show."""
    scale = -(-_LEAST_WIDTH // picture.shape[1])
    return np.asarray(np.kron(picture.astype(np.float32), np.ones((scale, scale, 1), np.float32)), np.float32)


def plot_targets(path: Path, labels: Sequence[str], evaluations: Sequence[Evaluation]) -> None:
    """PSNR and coverage of each target."""
    figure, (upper, lower) = _axes(2, 1)
    for label, evaluation in zip(labels, evaluations, strict=True):
        numbers = [score.number for score in evaluation.scores]
        upper.plot(numbers, [score.psnr for score in evaluation.scores], marker=".", label=label)
        lower.plot(numbers, [100 * score.coverage for score in evaluation.scores], marker=".")
    upper.set_ylabel("PSNR on covered cells, dB")
    lower.set_ylabel("coverage, %")
    lower.set_xlabel("frame")
    lower.set_ylim(0, 105)
    figure.legend(loc="outside upper center", ncols=3)
    _save(figure, path)


def plot_forgetting(path: Path, labels: Sequence[str], curves: Sequence[Sequence[ForgettingBin]]) -> None:
    """Coverage and PSNR by the time since a cell was last seen."""
    figure, (left, right) = _axes(1, 2)
    for label, curve in zip(labels, curves, strict=True):
        parts = [part for part in curve if part.cells]
        names = [
            f"{part.since:g}-{part.until:g}" if math.isfinite(part.until) else f"{part.since:g}+" for part in parts
        ]
        left.plot(names, [100 * part.coverage for part in parts], marker="o", label=label)
        right.plot(names, [part.psnr for part in parts], marker="o")
    left.set_ylabel("coverage, %")
    left.set_ylim(0, 105)
    right.set_ylabel("PSNR on covered cells, dB")
    for axes in (left, right):
        axes.set_xlabel("seconds since the cell was last seen")
    figure.legend(loc="outside upper center", ncols=3)
    _save(figure, path)


def _axes(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns + 2, 3.2 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=rows > 1)
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
