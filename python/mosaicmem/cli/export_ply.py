"""``mosaicmem export-ply``: a real sequence as one fused cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import (
    Debug,
    Force,
    Threads,
    check_output,
    console,
    parse_range,
    progress_bar,
    reports_errors,
)


@reports_errors
def export_ply(
    scene: Annotated[
        Path, typer.Option(help="Folder of a posed RGB-D sequence (7-Scenes, TUM RGB-D, Replica or ScanNet).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="PLY file to write.")],
    frames: Annotated[str, typer.Option(help="Frames of the sequence, A:B or A:B:STEP.")] = ":",
    voxel_size: Annotated[float, typer.Option(help="Metres.", min=1e-4)] = 0.02,
    min_count: Annotated[int, typer.Option(help="Least points a voxel.", min=1)] = 1,
    ascii: Annotated[bool, typer.Option("--ascii", help="Text instead of binary.")] = False,
    threads: Threads = 0,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Fuse a posed RGB-D sequence into a cloud with colours and normals.

    Example: mosaicmem export-ply --scene rgbd_scene --frames 0:60 --output scene.ply
    """
    from mosaicmem.datasets import open_sequence
    from mosaicmem.geometry import StreamingFusion

    output = check_output(output, force, folder=False)
    sequence = open_sequence(scene)
    wanted = parse_range("--frames", frames, len(sequence))
    fusion = StreamingFusion(voxel_size, num_threads=threads)
    dropped = 0
    with progress_bar() as progress:
        for i in progress.track(wanted, description="Fusing"):
            seen = sequence[i]
            dropped += fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image).out_of_range
    cloud = fusion.point_cloud(min_count)
    if not len(cloud):
        raise ValueError(
            f"--min-count, --voxel-size: no voxel of {voxel_size} m holds {min_count} points; "
            f"{dropped} points were out of range"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    cloud.save_ply(output, binary=not ascii)
    console.print(f"{len(cloud)} points of {len(wanted)} frames in {output}", highlight=False)
    if dropped:
        console.print(f"{dropped} points were out of range and left out; a larger --voxel-size reaches further")
