"""Pictures and plots that commands write, and pages of them."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
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
    save_figure(path, figure)


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
    save_figure(path, figure)


def _axes(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns + 2, 3.2 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=rows > 1)
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def save_figure(path: Path, figure: Any) -> None:
    """Write a figure as the PNG or SVG that the name says, atomically, the same bytes each time."""
    import matplotlib

    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context({"svg.hashsalt": "mosaicmem"}), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})


def write_page(path: Path, title: str, figures: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """A page with figures and pictures that needs no other file and no network."""
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(_text(value))}</td></tr>"
        for name, value in figures.items()
        if value is not None and not isinstance(value, (list, dict))
    )
    images = "".join(_embedded(picture) for picture in pictures)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>
body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222; }}
th {{ text-align: left; padding-right: 2em; font-weight: normal; color: #666; }}
figure {{ margin: 2em 0; }} img, svg {{ max-width: 100%; height: auto; }} figcaption {{ color: #666; }}
</style></head><body><h1>{html.escape(title)}</h1><table>{rows}</table>{images}</body></html>
"""
    with atomic_write(path) as file:
        file.write(page.encode())


def _embedded(picture: Path) -> str:
    """A picture within a page, as data."""
    kind = "svg+xml" if picture.suffix == ".svg" else "png"
    data = base64.b64encode(picture.read_bytes()).decode()
    name = html.escape(picture.stem)
    return f'<figure><img alt="{name}" src="data:image/{kind};base64,{data}"><figcaption>{name}</figcaption></figure>'


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
