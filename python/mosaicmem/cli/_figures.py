"""Pictures, plots and HTML pages that commands write."""

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
from mosaicmem.cli._captions import captioned_sheet
from mosaicmem.memory.summary import COVERAGE

if TYPE_CHECKING:
    from mosaicmem.evaluation import Evaluation, ForgettingBin, GridFrame

_ROWS = 6  # targets in a picture
_LEAST_WIDTH = 320  # of one panel, pixels
_UNCOVERED = np.array([0.9, 0.0, 0.9], np.float32)


def side_by_side(label: str, evaluation: Evaluation, targets: Sequence[GridFrame], names: Sequence[str]) -> F32:
    """A few targets, one per row: what was seen, what memory shows, what it covers, and three times the error.

    ``names`` labels the frame of each target.
    """
    shown = np.unique(np.linspace(0, len(targets) - 1, _ROWS).round().astype(int))
    pictures, rows = [], []
    for i in shown:
        truth, covered = targets[i].colors, evaluation.coverage[i, ..., None]
        mosaic = np.where(covered, evaluation.colors[i], _UNCOVERED)
        error = np.where(covered, np.minimum(3 * np.abs(evaluation.colors[i] - truth), 1), 0)
        pictures.append([_enlarge(part) for part in (truth, mosaic, np.repeat(covered, 3, -1), error)])
        rows.append(f"{names[i]} at {targets[i].pose.timestamp:.2f} s: {100 * covered.mean():.0f} % covered")
    return captioned_sheet(
        f"What memory ({label}) shows to cameras that come back; each square is a cell of the latent grid",
        ["seen by the camera", "shown by memory", "covered by memory", "error, three times"],
        rows,
        pictures,
        [
            "Magenta: cells that memory does not cover, and leaves empty.",
            "Covered: white where memory has something, black where not.",
            "Error: difference of the colours, three times; black where there is none, or nothing to compare.",
        ],
    )


def _enlarge(picture: np.ndarray) -> F32:
    """Scale by a whole factor, so that cells are visible."""
    scale = -(-_LEAST_WIDTH // picture.shape[1])
    return np.asarray(np.kron(picture.astype(np.float32), np.ones((scale, scale, 1), np.float32)), np.float32)


def plot_targets(
    path: Path,
    labels: Sequence[str],
    evaluations: Sequence[Evaluation],
    frames: Sequence[int],
    numbers: Sequence[int] | None,
) -> None:
    """Plot PSNR and coverage per target by position in the sequence; ``numbers`` are file numbers, if they differ."""
    figure, (upper, lower) = _axes(2, 1)
    for label, evaluation in zip(labels, evaluations, strict=True):
        upper.plot(frames, [score.psnr for score in evaluation.scores], marker=".", label=label)
        lower.plot(frames, [100 * score.coverage for score in evaluation.scores], marker=".")
    upper.set_title("Colours that memory shows against what the camera saw")
    upper.set_ylabel("PSNR of covered cells, dB")
    lower.set_title("Part of the view that memory covers")
    lower.set_ylabel("covered, %")
    files = "" if numbers is None else f"; {frames[0]} to {frames[-1]} are files {numbers[0]} to {numbers[-1]}"
    lower.set_xlabel(f"frame, by position in the sequence{files}")
    lower.set_ylim(0, 105)
    lower.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(title="strategy + composition", loc="outside upper center", ncols=min(3, len(labels)))
    save_figure(path, figure)


def plot_forgetting(path: Path, labels: Sequence[str], curves: Sequence[Sequence[ForgettingBin]]) -> None:
    """Plot coverage and PSNR by the time since a cell was last seen."""
    figure, (left, right) = _axes(1, 2)
    for label, curve in zip(labels, curves, strict=True):
        parts = [part for part in curve if part.cells]
        names = [
            f"{part.since:g}-{part.until:g}" if math.isfinite(part.until) else f"{part.since:g}+" for part in parts
        ]
        left.plot(names, [100 * part.coverage for part in parts], marker="o", label=label)
        right.plot(names, [part.psnr for part in parts], marker="o")
    left.set_title("What memory still covers")
    right.set_title("Colours against what the camera saw")
    left.set_ylabel("covered, %")
    left.set_ylim(0, 105)
    right.set_ylabel("PSNR of covered cells, dB")
    for axes in (left, right):
        axes.set_xlabel("seconds since the cell was last seen")
    figure.legend(title="strategy + composition, memory's limit", loc="outside upper center", ncols=min(3, len(labels)))
    save_figure(path, figure)


def _axes(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns + 2, 3.2 * rows + 1), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=rows > 1)
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def save_figure(path: Path, figure: Any) -> None:
    """Atomically write a figure as PNG or SVG, by the suffix, with reproducible bytes."""
    import matplotlib

    kind = path.suffix.removeprefix(".")
    with matplotlib.rc_context({"svg.hashsalt": "mosaicmem"}), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})


_EXPLAINED = {
    "top-down": (
        "The memory from above. Each point is a latent cell, in the colour of the scene; or, if its keyframe has no "
        "thumbnail, in false colours: the three main components of its latent, so that places of similar content have "
        "similar colours. Wedges are the cameras that memory holds, and "
        "open the way they look: dark for observed keyframes, blue for generated ones."
    ),
    "coverage": (
        "How much of each view of the path memory covers. At the top, over time: dark for what shows mostly what "
        "cameras observed, light for what a model generated. Below, over time for each column of the image, from left "
        "to right, and for each cell of the image, over all views: blue is nothing, yellow is all."
    ),
    "view": (
        "{frame} of the path. Left: what memory shows to it, white where it has nothing, hatched "
        "where it shows what a model generated. Right: the same with an outline around each patch that is retrieved, "
        "in the colour of its depth."
    ),
}
_PATH = " The red line is the path, with wedges for some of its cameras."


def explain(name: str, has_path: bool) -> str:
    """The caption of a picture of ``visualize``, by its name."""
    kind, _, number = name.partition("-")
    if kind == "view":
        return _EXPLAINED["view"].format(frame=f"Frame {int(number)}")
    return _EXPLAINED[name] + (_PATH if name == "top-down" and has_path else "")


def write_page(path: Path, title: str, figures: Mapping[str, Any], captions: Mapping[Path, str]) -> None:
    """Write a self-contained HTML page of figures and pictures; ``captions`` are by picture file."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for name, value in _rows(figures)
    )
    images = "".join(_embedded(picture, caption) for picture, caption in captions.items())
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem 1rem 3rem;
  max-width: 70rem; color: #222; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.1rem 1.5rem 0.1rem 0; overflow-wrap: anywhere; }}
th {{ font-weight: normal; color: #555; }}
figure {{ margin: 2rem 0; }} img {{ display: block; max-width: 100%; height: auto; }}
figcaption {{ color: #555; max-width: 45rem; margin-top: 0.5rem; }}
</style></head><body><h1>{html.escape(title)}</h1><table>{rows}</table>{images}</body></html>
"""
    with atomic_write(path) as file:
        file.write(page.encode())


def _rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The table of a page: single figures, with their units."""
    rows = []
    for name, value in figures.items():
        if value is None or isinstance(value, (list, dict)):
            continue
        unit = " s" if name in ("first_time", "last_time") else ""
        text = f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        rows.append((name.replace("_", " "), f"{text}{unit}"))
    if figures.get("bounds"):
        low, high = figures["bounds"]
        rows += [(f"{axis}, metres", f"{a:.2f} to {b:.2f}") for axis, a, b in zip("xyz", low, high, strict=True)]
    if figures.get("coverage"):
        names = ("covered of the path's views", "of it observed", "of it generated")
        for name, key in zip(names, COVERAGE, strict=True):
            rows.append((name, f"{100 * float(np.mean(figures[key])):.1f} %, mean of {len(figures[key])} frames"))
    return rows


def _embedded(picture: Path, caption: str) -> str:
    """A picture embedded in a page as a data URI."""
    kind = "svg+xml" if picture.suffix == ".svg" else "png"
    data = base64.b64encode(picture.read_bytes()).decode()
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/{kind};base64,{data}"><figcaption>{words}</figcaption></figure>'
