"""Tables of throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mosaicmem.cli._common import console

if TYPE_CHECKING:
    from mosaicmem.evaluation.throughput import CaseResult, MemoryResult

STAGES = ("retrieve", "denoise", "decode", "remember")


def print_bench(runs: Sequence[CaseResult], memory: MemoryResult, step_seconds: float) -> None:
    """Whole calls with their stages; then memory beside a model's step."""
    table = _table("generate, synthetic backends (medians; stages in ms)")
    for heading in ("images", "frames", "steps", "seconds", "frames/s", *STAGES):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            f"{run.case.width}x{run.case.height}",
            str(run.case.frames),
            str(run.case.steps),
            f"{run.seconds:.3f}",
            f"{run.case.frames / run.seconds:.0f}",
            *(f"{1000 * run.stages[stage]:.1f}" for stage in STAGES),
        )
    console.print(table)
    for run in runs:
        if run.profile:
            table = _table(f"Where it goes: {run.case.width}x{run.case.height}, {run.case.steps} steps")
            table.add_column("own, ms", justify="right")
            table.add_column("part", justify="right")
            table.add_column("calls", justify="right")
            table.add_column("function")
            for entry in run.profile:
                table.add_row(
                    f"{1000 * entry.seconds:.1f}", f"{100 * entry.part:.0f} %", str(entry.calls), entry.function
                )
            console.print(table)
    size = f"{memory.width}x{memory.height}, {memory.latents} latents of {memory.channels} channels"
    table = _table(f"Memory at {size}")
    table.add_column("")
    table.add_column("ms", justify="right")
    table.add_column(f"of a step of {step_seconds:g} s", justify="right")
    for name, seconds in memory.parts.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{100 * seconds / step_seconds:.2f} %")
    table.add_section()
    table.add_row("together", f"{1000 * memory.seconds:.2f}", f"{100 * memory.seconds / step_seconds:.2f} %")
    console.print(table)


def _table(title: str) -> Table:
    return Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
