"""Throughput tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosaicmem.cli._tables import print_figures, say

if TYPE_CHECKING:
    from mosaicmem.evaluation.throughput import CaseResult, MemoryResult

STAGES = ("retrieve", "denoise", "decode", "remember")


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
    for run in runs:
        if run.profile:
            say("")
            _print_profile(run)
    say("")
    _print_memory(memory, step_seconds)


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
