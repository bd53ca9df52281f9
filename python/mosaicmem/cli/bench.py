"""``mosaicmem bench``: how fast the pipeline is here, and each of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    AsJson,
    Config,
    Debug,
    Force,
    Seed,
    Set,
    check_apart,
    check_output_file,
    finite,
    print_json,
)
from mosaicmem.cli._errors import UsageError, check_useful, reports_errors
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar

if TYPE_CHECKING:
    from mosaicmem.evaluation.throughput import Case


Cases = Annotated[
    list[str] | None,
    typer.Option(
        "--case",
        metavar="WxH,FRAMES,STEPS",
        help="Images, frames and denoising steps of a run; may be repeated. Default: 64x64,32,5 128x128,32,5 and "
        "256x256,16,50.",
    ),
]
MemorySize = Annotated[str, typer.Option(metavar="WxH", help="Images of the model whose step memory is compared with.")]
StepSeconds = Annotated[
    float,
    typer.Option(
        help="Seconds that one step of that model takes; about 1 for 5 billion parameters.", min=1e-3, callback=finite
    ),
]
Repeats = Annotated[int, typer.Option(help="Runs of each case; the median counts.", min=1)]
Profile = Annotated[bool, typer.Option("--profile", help="Where the time of each case goes, by function.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write too.")]
OneThread = Annotated[
    int | None, typer.Option("--threads", help="0: all cores. Default: that of --config, or 1.", min=0, max=1024)
]


@reports_errors
def bench(
    cases: Cases = None,
    memory_size: MemorySize = "1280x704",
    step_seconds: StepSeconds = 1.0,
    repeats: Repeats = 5,
    profile: Profile = False,
    output: Output = None,
    config: Config = None,
    changes: Set = None,
    seed: Seed = None,
    threads: OneThread = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Measure whole generate calls with synthetic backends, stage by stage, and memory at the size of a real model.

    A run remembers a few frames first; measured is the call of generate alone. --threads is that of mosaicmem; set
    OPENBLAS_NUM_THREADS to hold NumPy to as many.

    Example: mosaicmem bench --case 128x128,32,5 --profile
    """
    from mosaicmem._files import read_json_object, write_json
    from mosaicmem.cli._bench_report import print_bench
    from mosaicmem.evaluation.throughput import measure_case, measure_memory
    from mosaicmem.pipeline import PipelineConfig

    if output is None:
        check_useful({"--force": force}, "expected --output, the file that it replaces")
    else:
        check_apart({"--output": output}, {"--config": config})
        output = check_output_file(output, force, (".json",))
        if output.exists() and "part_of_step" not in read_json_object(output).get("memory", {}):
            raise FileExistsError(f"--output: {output} is there and no output of bench: it is left alone")
    given = {"num_threads": threads, "seed": seed}
    used = set(PipelineConfig.model_fields) - {"num_inference_steps"}  # that is part of --case
    settings = read_settings(config, changes, given, command="bench", used=used)
    pixels = parse_size("--memory-size", memory_size)
    wanted = [_case(text) for text in cases or ("64x64,32,5", "128x128,32,5", "256x256,16,50")]
    with progress_bar() as progress:
        runs = [
            measure_case(settings, case, seed=settings.seed, repeats=repeats, profile=profile)
            for case in progress.track(wanted, description="Generating")
        ]
        progress.add_task("Memory at full size", total=None)
        memory = measure_memory(settings, pixels, seed=settings.seed, repeats=repeats)
    report: dict[str, Any] = {
        "threads": settings.num_threads,
        "cases": [run.to_dict() for run in runs],
        "memory": {**memory.to_dict(), "step_seconds": step_seconds, "part_of_step": memory.seconds / step_seconds},
    }
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, report)
    if as_json:
        print_json(report)
        return
    print_bench(runs, memory, step_seconds)
    if output is not None:
        say(f"Figures in {output}")


def _case(text: str) -> Case:
    from mosaicmem.evaluation.throughput import Case

    parts = text.split(",")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts[1:]):
        raise UsageError(f"--case: expected WxH,FRAMES,STEPS, 128x128,32,5 say, got {text!r}")
    width, height = parse_size("--case", parts[0])
    return Case(width, height, int(parts[1]), int(parts[2]))
