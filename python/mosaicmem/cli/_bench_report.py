"""Throughput tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosaicmem.cli._tables import print_figures, say

if TYPE_CHECKING:
    from mosaicmem.evaluation.throughput import CaseResult, MemoryResult

STAGES = ("retrieve", "denoise", "decode", "remember")
_BINS = 8
_BARS = "·▁▂▃▄▅▆▇█"  # for none, and for one eighth of the most to all of it


def print_bench(runs: Sequence[CaseResult], memory: MemoryResult, step_seconds: float) -> None:
    """Print whole calls with their stages, then the cost of memory relative to a model's step."""
    rows = [
        [
            f"{run.case.width}x{run.case.height}",
            str(run.case.frames),
            str(run.case.steps),
            f"{run.seconds:.3f}",
            f"{run.case.frames / run.seconds:.0f}",
            *(f"{1000 * run.stages[stage]:.1f}" for stage in STAGES),
        ]
        for run in runs
    ]
    headings = ["images", "frames", "steps", "seconds", "frames/s", *STAGES]
    print_figures("generate, synthetic backends (medians; stages in ms)", headings, rows)
    say("")
    _print_spread(runs)
    for run in runs:
        if run.profile:
            say("")
            _print_profile(run)
    say("")
    _print_memory(memory, step_seconds)


def _print_spread(runs: Sequence[CaseResult]) -> None:
    """Print how the runs of each case differ."""
    rows = [
        [
            f"{run.case.width}x{run.case.height}, {run.case.steps} steps",
            *(f"{seconds:.3f}" for seconds in (run.runs[0], run.seconds, run.runs[-1])),
            histogram(run.runs),
        ]
        for run in runs
    ]
    title = f"Seconds of {len(runs[0].runs)} runs, and how they spread from least to most"
    print_figures(title, ["", "least", "median", "most", "spread"], rows, left=1)


def histogram(values: Sequence[float]) -> str:
    """How values spread from the least to the most, as a row of bars."""
    low, high = min(values), max(values)
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(_BINS * (value - low) / ((high - low) or 1.0)))] += 1
    return "".join(_BARS[-(-(len(_BARS) - 1) * count // max(counts))] for count in counts)


def _print_profile(run: CaseResult) -> None:
    """Print the slowest functions of a case."""
    rows = [
        [entry.function, f"{1000 * entry.seconds:.1f}", f"{100 * entry.part:.0f} %", str(entry.calls)]
        for entry in run.profile or ()
    ]
    title = f"Where it goes: {run.case.width}x{run.case.height}, {run.case.steps} steps"
    print_figures(title, ["function", "own, ms", "part", "calls"], rows, left=1)


def _print_memory(memory: MemoryResult, step_seconds: float) -> None:
    """Print the cost of memory, part by part, relative to a step of the model."""
    costs = [*memory.parts.items(), ("together", memory.seconds)]
    rows = [[name, f"{1000 * seconds:.2f}", f"{100 * seconds / step_seconds:.2f} %"] for name, seconds in costs]
    size = f"{memory.width}x{memory.height}, {memory.latents} latents of {memory.channels} channels"
    title = f"Memory at {size}, beside a step; part: of a step of {step_seconds:g} s"
    print_figures(title, ["", "ms", "part"], rows[:-1], last=rows[-1], left=1)
