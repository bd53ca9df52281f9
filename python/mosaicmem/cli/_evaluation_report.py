"""Tables, JSON and figures of evaluated memories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mosaicmem.cli._frames import caption_of
from mosaicmem.cli._tables import print_figures, say
from mosaicmem.evaluation import Evaluation, ForgettingBin, GridFrame

EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, math.inf)
"""Bin edges of a forgetting curve, seconds."""


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluated memory: its strategy, composition and byte limit, with its results."""

    strategy: str
    composition: str
    max_bytes: int | None
    result: Evaluation
    curve: list[ForgettingBin] | None = None
    common: float = math.nan  # PSNR over the cells that all runs cover, dB

    @property
    def name(self) -> str:
        """Strategy and composition."""
        return f"{self.strategy} + {self.composition}" if self.strategy else self.composition

    @property
    def label(self) -> str:
        """Display name."""
        limit = "" if self.max_bytes is None else f", {self.max_bytes / 1e6:g} MB"
        return f"{self.name}{limit}"


def print_runs(runs: Sequence[Run]) -> None:
    """Print a line per memory, then the forgetting curves, if any."""
    figures = {
        "all\nPSNR": [_figure(run.result.psnr_all, 2) for run in runs],
        "all\nSSIM": [_figure(run.result.mean("ssim_all"), 3) for run in runs],
        "same\nPSNR": [_figure(run.common, 2) for run in runs],
        "cover\n%": [_figure(100 * run.result.mean("coverage"), 1) for run in runs],
        "own\nPSNR": [_figure(run.result.psnr, 2) for run in runs],
        "LPIPS": [_figure(run.result.mean("lpips"), 3) for run in runs],
        "edges\n%": [_figure(100 * run.result.mean("edges"), 0) for run in runs],
        "hid\n%": [_figure(100 * run.result.mean("occlusion_error"), 1) for run in runs],
        "keys": [_figure(run.result.keyframes, 1) for run in runs],
        "ms": [_figure(run.result.choose_milliseconds + run.result.compose_milliseconds, 0) for run in runs],
    }
    known = {heading: column for heading, column in figures.items() if set(column) != {"-"}}
    _print_table("Against what was seen (all that memory holds was observed)", runs, known)
    say("all: every cell, uncovered ones in memory's mean colour; same: cells that")
    say("every row covers; own: those that this one covers; edges: of the truth's")
    say("contrast; hid: shows what is hidden; keys: keyframes used; ms: for a window")
    curves = [run for run in runs if run.curve]
    if not curves:
        return
    ages = {}
    for i, (since, until) in enumerate(pairwise(EDGES)):
        parts = [run.curve[i] for run in curves if run.curve]
        if any(part.cells for part in parts):
            ages[f"{since:g}-{until:g} s" if until < math.inf else f"{since:g}+ s"] = [
                f"{_figure(100 * part.coverage, 1)} {_figure(part.psnr, 1)}" for part in parts
            ]
    say("")
    _print_table("Coverage % and PSNR dB by time since last seen", curves, ages)


def _print_table(title: str, runs: Sequence[Run], columns: dict[str, list[str]]) -> None:
    """Print one line per run."""
    if any(run.max_bytes for run in runs):
        columns = {"MB": [f"{run.max_bytes / 1e6:g}" if run.max_bytes else "-" for run in runs], **columns}
    rows = [[run.name, *figures] for run, *figures in zip(runs, *columns.values(), strict=True)]
    print_figures(title, ["memory", *columns], rows, left=1)


def run_summary(run: Run, targets: Sequence[int], numbers: Sequence[int] | None) -> dict[str, Any]:
    """Figures as plain JSON; None for NaN and infinity.

    ``targets`` are positions in the sequence; ``numbers`` are their file numbers, if they differ.
    """
    result = run.result
    return {
        "strategy": run.strategy,
        "composition": run.composition,
        "max_bytes": run.max_bytes,
        "psnr_all": without_nan(result.psnr_all),
        "psnr_common": without_nan(run.common),
        "psnr": without_nan(result.psnr),
        **{
            name: without_nan(result.mean(name))
            for name in ("coverage", "ssim_all", "ssim", "lpips", "edges", "occlusion_error")
        },
        "keyframes": result.keyframes,
        "choose_milliseconds": result.choose_milliseconds,
        "compose_milliseconds": result.compose_milliseconds,
        "targets": [
            {"frame": frame, **_plain(score), "number": number}
            for frame, number, score in zip(targets, numbers or targets, result.scores, strict=True)
        ],
        "forgetting": [_plain(part) for part in run.curve] if run.curve else None,
    }


def write_figures(
    folder: Path,
    runs: Sequence[Run],
    truth: Sequence[GridFrame],
    targets: Sequence[int],
    numbers: Sequence[int] | None,
) -> None:
    """Write a picture of each memory, and plots of all of them."""
    from mosaicmem.cli._figures import plot_forgetting, plot_targets, side_by_side
    from mosaicmem.media import save_png

    names = [caption_of(frame, number) for frame, number in zip(targets, numbers or targets, strict=True)]
    for run in runs:
        name = run.label.replace(" + ", "-").replace(", ", "-").replace(" ", "")
        save_png(folder / f"{name}.png", side_by_side(run.label, run.result, truth, names))
    labels = [run.label for run in runs]
    plot_targets(folder / "targets.png", labels, [run.result for run in runs], targets, numbers)
    curves = [run.curve for run in runs if run.curve]
    if curves:
        plot_forgetting(folder / "forgetting.png", labels, curves)


def _figure(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _plain(record: Any) -> dict[str, Any]:
    return {name: without_nan(value) for name, value in asdict(record).items()}


def without_nan(value: Any) -> Any:
    """Plain values with None in place of NaN and infinity, for which JSON has no numbers."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
