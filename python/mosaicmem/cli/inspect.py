"""``mosaicmem inspect``: what is in a saved store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mosaicmem.cli._common import Debug, Threads, console, reports_errors


@reports_errors
def inspect(
    store: Annotated[Path, typer.Argument(help="Folder that MosaicMemoryStore.save wrote.")],
    trajectory: Annotated[
        Path | None, typer.Option(help="JSON file of cameras (CameraTrajectory.save): coverage is shown for each.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Pixels a latent cell of the trajectory; the store's if left out.", min=1),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Patches to retrieve for each camera.", min=1)] = 4096,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte with its checksum.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
    threads: Threads = 0,
    debug: Debug = False,
) -> None:
    """Show what a saved store holds; with a trajectory, how much of its views the store covers.

    A store that is damaged is an error that names the file.

    Example: mosaicmem inspect memory --verify --trajectory path.json
    """
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.memory.storage import verify as verify_folder
    from mosaicmem.memory.summary import coverage_along, summarize, summarize_files

    if trajectory is None and stride is not None:
        raise ValueError("--stride: expected --trajectory with it")
    if verify:
        verify_folder(store)
    opened = MosaicMemoryStore.open(store, num_threads=threads)
    report: dict[str, Any] = {"store": str(store), "verified": verify, **summarize(opened)}
    report["files"] = summarize_files(store)
    if trajectory is not None:
        cameras = CameraTrajectory.load(trajectory)
        pixels = stride or _stride_of(report)
        size = (cameras.intrinsics.width, cameras.intrinsics.height)
        if size[0] % pixels or size[1] % pixels:
            whose = "" if stride else ", the store's"
            raise ValueError(
                f"--trajectory: expected images of a whole multiple of {pixels} pixels{whose}, "
                f"got {size[0]}x{size[1]}; --stride sets another"
            )
        report["coverage"] = coverage_along(opened, cameras, pixels, top_k)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report)


def _stride_of(report: dict[str, Any]) -> int:
    strides = {kind["stride"] for kind in report["kinds"]}
    if not strides:
        raise ValueError("--stride: expected one, as the store is empty")
    if len(strides) != 1:
        raise ValueError(f"--stride: expected one, as the store's keyframes have strides {sorted(strides)}")
    return int(strides.pop())


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{report['store']}{', verified' if report['verified'] else ''}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _lines(report):
        table.add_row(name, value)
    console.print(table)
    if "coverage" not in report:
        return
    frames = report["coverage"]
    table = Table(title="Coverage")
    for heading in ("frame", "time", "patches", "coverage"):
        table.add_column(heading, justify="right")
    for row in frames:
        table.add_row(str(row["frame"]), f"{row['time']:.3f} s", str(row["patches"]), f"{100 * row['coverage']:.1f} %")
    table.add_section()
    mean = sum(row["coverage"] for row in frames) / len(frames)
    table.add_row("mean", "", "", f"{100 * mean:.1f} %")
    console.print(table)


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    settings, files = report["settings"], report["files"]
    lines = [
        ("patches", f"{report['patches']:,}"),
        ("keyframes", f"{report['keyframes']:,} ({report['observations']:,} placed in the world)"),
    ]
    if report["patches_a_keyframe"]:
        spread = report["patches_a_keyframe"]
        lines.append(("patches a keyframe", f"{spread['least']} to {spread['most']}, median {spread['median']:.0f}"))
        low, high = report["bounds"]
        lines.append(("time", f"{report['first_time']:.3f} to {report['last_time']:.3f} s"))
        lines += [(f"{axis}, metres", f"{a:.2f} to {b:.2f}") for axis, a, b in zip("xyz", low, high, strict=True)]
    for kind in report["kinds"]:
        grid = f"{kind['rows']}x{kind['columns']} cells of {kind['stride']} pixels"
        lines.append((grid, f"{kind['keyframes']:,} keyframes, {report['channels']} channels, {kind['latent_dtype']}"))
    lines += [(f"{name}, bytes", f"{count:,}") for name, count in report["bytes"].items()]
    disk = files["keyframe_bytes"] + files["state_bytes"]
    lines.append(("on disk, bytes", f"{disk:,} in {files['keyframe_files']} + {files['state_files']} files"))
    limits = [f"{name} {settings[name]:,}" for name in ("max_patches", "max_bytes") if settings[name] is not None]
    lines.append(("limits", ", ".join([*limits, f"eviction {settings['eviction']}"] if limits else ["none"])))
    lines.append(("patch size", f"{settings['latent_patch_size']} cells"))
    return lines
