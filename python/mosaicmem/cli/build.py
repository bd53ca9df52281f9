"""``mosaicmem build``: stores and training samples of many sequences, as shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import AsJson, Debug, finite, keeps_build, print_json
from mosaicmem.cli._errors import UsageError, blames, check_choice, check_useful, reports_errors
from mosaicmem.cli._settings import read_build_settings
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar

if TYPE_CHECKING:
    from mosaicmem.scale import BuildConfig, BuildReport, Estimate

_BACKENDS = ("local", "ray")
_MOST_LIST_BYTES, _MOST_SOURCES = 1 << 30, 10**7
_MOST_NAMED = 10  # failed sequences that are printed

_Sources = Annotated[
    list[Path] | None, typer.Argument(help="Sequences: folders that --scene of other commands takes, or .npz files.")
]
_List = Annotated[Path | None, typer.Option("--list", help="File with more of them, one in each line.")]
_Output = Annotated[str, typer.Option("--output", metavar="URI", help="Folder, or s3://... and others by fsspec.")]
_Config = Annotated[Path | None, typer.Option("--config", help="JSON file of settings; see show-config --for build.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change one setting, window=81 say; may be repeated."),
]
_Vae = Annotated[
    str | None, typer.Option("--vae", metavar="MODULE:NAME", help="Callable that makes the VAE. Default: synthetic.")
]
_Backend = Annotated[str, typer.Option("--backend", metavar="local|ray", help="Processes here, or Ray Data.")]
_Workers = Annotated[int, typer.Option("--workers", min=0, max=4096, help="Processes; 0: one per core.")]
_Threads = Annotated[int, typer.Option("--threads", min=1, max=1024, help="Of each process.")]
_Gpus = Annotated[float, typer.Option("--gpus", min=0.0, callback=finite, help="On Ray, of each encoder.")]
_Work = Annotated[Path | None, typer.Option("--work", help="Local folder for temporary files.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how long it takes and how large it becomes.")]
_Retry = Annotated[bool, typer.Option("--retry-failed", help="Try sequences again that failed in an earlier run.")]


@reports_errors
def build(
    sources: _Sources = None,
    output: _Output = "",
    listed: _List = None,
    vae: _Vae = None,
    config: _Config = None,
    changes: _Set = None,
    backend: _Backend = "local",
    workers: _Workers = 0,
    threads: _Threads = 1,
    gpus: _Gpus = 0.0,
    work: _Work = None,
    dry_run: _DryRun = False,
    retry_failed: _Retry = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build stores and training samples of many sequences, as WebDataset shards.

    A sequence that fails is reported and does not stop the others; the command fails if all do. The same command
    resumes a build that was interrupted. No byte depends on how many processes build. Needs the extra [torch]; Ray and
    remote outputs need [ray].

    Example: mosaicmem build scenes/* --output shards --set window=81 --dry-run
    """
    check_choice("--backend", backend, _BACKENDS)
    if backend == "local":
        check_useful({"--gpus": gpus or None}, "expected --backend ray with it")
    if dry_run:
        idle = {"--backend": backend == "ray", "--retry-failed": retry_failed, "--work": work}
        check_useful(idle, "expected no --dry-run")
    elif not output:
        raise UsageError("--output: expected a folder or a URI")
    settings = read_build_settings(config, changes, {"vae": vae})
    paths = _all_of(sources or [], listed)
    if dry_run:
        from mosaicmem.scale import estimate

        with blames({"vae": "--vae", "sources": "SOURCES"}):
            made = estimate(paths, settings)
        print_json(_of_estimate(made, workers)) if as_json else _print_estimate(made, workers)
        return
    report = _build(paths, output, settings, backend, workers, threads, gpus, work, retry_failed)
    print_json(_of_report(report)) if as_json else _print(report)
    if not report.sequences:
        raise ValueError(f"all {len(report.failed)} sequences failed, the first with: {report.failed[0]['error']}")


def _build(
    paths: list[Path],
    output: str,
    settings: BuildConfig,
    backend: str,
    workers: int,
    threads: int,
    gpus: float,
    work: Path | None,
    retry_failed: bool,
) -> BuildReport:
    from mosaicmem.scale import build as build_all

    keeps_build(output)
    with progress_bar() as bar, blames({"vae": "--vae", "sources": "SOURCES", "output": "--output"}):
        task = bar.add_task("Sequences", total=len(paths))

        def on_progress(done: int, total: int, failed: int) -> None:
            said = f"Sequences, {failed} failed" if failed else "Sequences"
            bar.update(task, completed=done, description=said)

        return build_all(
            paths,
            output,
            settings,
            backend=backend,
            workers=workers,
            threads=threads,
            gpus=gpus,
            work=work,
            retry_failed=retry_failed,
            on_progress=on_progress,
        )


def _all_of(sources: list[Path], listed: Path | None) -> list[Path]:
    found = list(sources)
    if listed is not None:
        from mosaicmem._reading import read_lines

        found += [Path(line) for _, line in read_lines(listed, _MOST_LIST_BYTES, max_lines=_MOST_SOURCES)]
    if not found:
        raise UsageError("SOURCES: expected sequences, or --list with a file that names them")
    return found


def _of_report(report: BuildReport) -> dict[str, Any]:
    names = ("output", "sequences", "samples", "nbytes", "failed", "suspicious", "done_before", "seconds")
    return {name: getattr(report, name) for name in names} | {"sequences_per_hour": report.sequences_per_hour}


def _print(report: BuildReport) -> None:
    before = f", {report.done_before} by earlier runs" if report.done_before else ""
    say(
        f"{report.sequences} sequences{before}, {report.samples} samples, {report.nbytes / 1e6:.1f} MB: {report.output}"
    )
    if report.done_before < report.sequences + len(report.failed):
        say(f"{report.seconds:.1f} s, {report.sequences_per_hour:.0f} sequences an hour.")
    for kind, what in ((report.suspicious, "warnings"), (report.failed, "error")):
        for each in kind[:_MOST_NAMED]:
            text = each[what] if what == "error" else each[what][0]
            where = "" if text.startswith(each["source"]) else f"{each['source']}: "
            typer.echo(f"mosaicmem: {'failed' if what == 'error' else 'warning'}: {where}{text}", err=True)
        if len(kind) > _MOST_NAMED:
            typer.echo(f"mosaicmem: and {len(kind) - _MOST_NAMED} more; --json lists all", err=True)


def _of_estimate(made: Estimate, workers: int) -> dict[str, Any]:
    return {**vars(made), "workers": _count(workers), "hours": made.seconds / 3600 / _count(workers)}


def _print_estimate(made: Estimate, workers: int) -> None:
    say(f"{made.sequences} sequences of {made.frames} frames; {made.opened} of them were opened.")
    say(f"{made.samples} samples, {made.nbytes / 1e9:.3g} GB.")
    count = _count(workers)
    hours = made.seconds / 3600 / count
    time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    say(f"About {time} with {count} processes ({made.seconds / max(1, made.samples):.3g} s a sample, measured on one).")
    for path, reason in made.unreadable.items():
        where = "" if reason.startswith(path) else f"{path}: "
        typer.echo(f"mosaicmem: cannot be read: {where}{reason}", err=True)


def _count(workers: int) -> int:
    from mosaicmem.scale.building import cores

    return workers or cores()
