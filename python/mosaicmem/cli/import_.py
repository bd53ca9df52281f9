"""``mosaicmem import``: a data set from a video, photos, or what another tool has left."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.camera.formats import format_names
from mosaicmem.cli._common import (
    AsJson,
    Debug,
    Force,
    check_apart,
    check_output_folder,
    finite,
    keeps_work,
    print_json,
)
from mosaicmem.cli._errors import UsageError, blames, check_choice, check_useful, reports_errors
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._scenes import ColorFocal, parse_focal
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.cli._trajectories import parse_camera

if TYPE_CHECKING:
    from mosaicmem.importing import ImportOptions, ImportReport

_DEPTH_OUTPUTS = ("metric", "depth", "inverse")
_EVERY_PIXEL = 0.9995

_Frames = Annotated[
    int | None, typer.Option("--every", min=1, help="Keep each N-th frame. Default: all, of videos those that move.")
]
_Motion = Annotated[
    float | None,
    typer.Option("--least-motion", min=0.0, max=1.0, help="Of a video's keyframes, part of the width. Default: 0.03."),
]
_Scale = Annotated[
    str | None,
    typer.Option(
        "--scale", metavar="A,B=METRES", help="Distance between the cameras of two frames, or metres for each unit."
    ),
]
_Poses = Annotated[
    str | None, typer.Option("--poses", metavar="given|estimate", help="A data set's own poses, or new ones.")
]
_Mapper = Annotated[
    str | None,
    typer.Option("--mapper", metavar="incremental|global", help="Structure from motion. Default: incremental."),
]
_Model = Annotated[
    str | None, typer.Option("--camera-model", help="COLMAP's model of the lens. Default: SIMPLE_RADIAL.")
]
_Units = Annotated[
    float | None,
    typer.Option("--depth-units", min=1e-6, callback=finite, help="A metre in integer depth files. Default: 1000."),
]
_Source = Annotated[Path, typer.Argument(help="Video, folder of photos, data set of another tool, or .npz file.")]
_Output = Annotated[Path, typer.Option("--output", help="Folder to write: the data set.")]
_Trajectory = Annotated[
    Path | None, typer.Option("--trajectory", help="Camera path, a pose for each frame. Default: estimated.")
]
_TrajectoryFormat = Annotated[
    str | None, typer.Option("--from", help="Format of --trajectory, as convert names them. Default: found out.")
]
_Camera = Annotated[
    str | None, typer.Option("--camera", metavar="NAME", help="Which one, in a --trajectory of several.")
]
_Intrinsics = Annotated[
    str | None,
    typer.Option("--intrinsics", metavar="FX,FY,CX,CY", help="Pixels. Default: estimated. Needs --size."),
]
_Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Of the frames, for --intrinsics.")]
_MaxFrames = Annotated[int | None, typer.Option("--max-frames", min=2, help="Default: 300.")]
_MaxSide = Annotated[
    int | None, typer.Option("--max-side", min=32, max=8192, help="Pixels; larger are reduced. Default: 1280.")
]
_Depth = Annotated[Path | None, typer.Option("--depth", help="Folder of depth files, one a frame.")]
_DepthModel = Annotated[Path | None, typer.Option("--depth-model", help="ONNX network that estimates depth.")]
_DepthOutput = Annotated[
    str | None, typer.Option("--depth-output", metavar="metric|depth|inverse", help="Of it. Default: inverse.")
]
_DepthSize = Annotated[str | None, typer.Option("--depth-size", metavar="WxH", help="Of its input.")]
_Masks = Annotated[Path | None, typer.Option("--masks", help="Folder of masks; white is what moves.")]
_MaskModel = Annotated[Path | None, typer.Option("--mask-model", help="ONNX network that finds what moves.")]
_MaskClasses = Annotated[
    str | None, typer.Option("--mask-classes", metavar="N,N,...", help="The classes of it that move.")
]
_MovingByDepth = Annotated[bool, typer.Option("--moving-by-depth", help="Leave out what other frames see through.")]
_StartOver = Annotated[bool, typer.Option("--start-over", help="Discard the work of an interrupted run.")]
_Threads = Annotated[int | None, typer.Option("--threads", help="0: all cores.", min=0, max=1024)]


@reports_errors
def import_(
    source: _Source,
    output: _Output,
    trajectory: _Trajectory = None,
    trajectory_format: _TrajectoryFormat = None,
    camera: _Camera = None,
    poses: _Poses = None,
    mapper: _Mapper = None,
    camera_model: _Model = None,
    intrinsics: _Intrinsics = None,
    size: _Size = None,
    scale: _Scale = None,
    every: _Frames = None,
    least_motion: _Motion = None,
    max_frames: _MaxFrames = None,
    max_side: _MaxSide = None,
    depth: _Depth = None,
    depth_units: _Units = None,
    depth_model: _DepthModel = None,
    depth_output: _DepthOutput = None,
    depth_size: _DepthSize = None,
    color_focal: ColorFocal = None,
    masks: _Masks = None,
    mask_model: _MaskModel = None,
    mask_classes: _MaskClasses = None,
    moving_by_depth: _MovingByDepth = False,
    start_over: _StartOver = False,
    threads: _Threads = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Make a data set from a video, a folder of photos, or what another tool has left.

    Frames are chosen by motion; poses are given or estimated by structure from motion; depth comes from files, from a
    network aligned to the points of the structure, or, coarsely, from these points alone. An interrupted run is resumed
    by the same command. All other commands take the result as --scene. Needs the extra [import].

    Example: mosaicmem import walk.mp4 --output walk --depth-model depth_anything.onnx
    """
    from mosaicmem.importing import import_footage

    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    read = {"SOURCE": source, "--trajectory": trajectory, "--depth": depth, "--masks": masks}
    check_apart({"--output": output}, read | {"--depth-model": depth_model, "--mask-model": mask_model})
    if output.exists():
        check_output_folder(output, force, "import", mark="dataset.json")
    if trajectory is None:
        check_useful({"--from": trajectory_format, "--camera": camera}, "expected --trajectory, which they describe")
    elif trajectory_format is not None:
        check_choice("--from", trajectory_format, format_names())
    given: dict[str, Any] = {
        **{"trajectory_format": trajectory_format, "trajectory_camera": camera},
        **{"trajectory": trajectory, "poses": poses, "mapper": mapper, "camera_model": camera_model, "scale": scale},
        **{"every": every, "least_motion": least_motion, "max_frames": max_frames, "max_side": max_side},
        **{"depth": depth, "depth_units_per_metre": depth_units, "masks": masks, "num_threads": threads},
        **{"color_focal": parse_focal(color_focal)},
    }
    check_useful({"--depth-units": depth_units}, "expected --depth, whose unit it is") if depth is None else None
    options = _options(
        given, (intrinsics, size), (depth_model, depth_output, depth_size), (mask_model, mask_classes), moving_by_depth
    )
    keeps_work(output)
    with progress_bar() as bar, blames({"color_focal": "--color-focal"}):
        report = import_footage(
            source, output, options, start_over=start_over, replace=force, track=partial(_track, bar)
        )
    print_json(report.to_dict()) if as_json else _print(report)


def _track(bar: Any, items: Any, description: str, length: int) -> Iterator[Any]:
    """A line of the progress bar for a stage of the import."""
    task = bar.add_task(description, total=length or None)
    for item in items:
        yield item
        bar.advance(task)
    bar.remove_task(task)


def _options(
    given: dict[str, Any],
    camera: tuple[str | None, str | None],
    depth: tuple[Path | None, str | None, str | None],
    mask: tuple[Path | None, str | None],
    moving_by_depth: bool,
) -> ImportOptions:
    from mosaicmem.geometry import OnnxDepthEstimator
    from mosaicmem.importing import ImportOptions, OnnxSegmenter

    threads = given["num_threads"] or 0
    chosen = {name: value for name, value in given.items() if value is not None}
    chosen["moving_by_depth"] = moving_by_depth
    check_useful({"--size": camera[1] if camera[0] is None else None}, "expected --intrinsics with it")
    chosen["intrinsics"] = parse_camera(*camera)
    network, output, pixels = depth
    if network is None:
        check_useful({"--depth-output": output, "--depth-size": pixels}, "expected --depth-model, which they describe")
    else:
        output = "inverse" if output is None else output
        check_choice("--depth-output", output, _DEPTH_OUTPUTS)
        side = None if pixels is None else parse_size("--depth-size", pixels)[::-1]
        with blames({"model": "--depth-model", "input_size": "--depth-size"}):
            chosen["depth_estimator"] = OnnxDepthEstimator(network, output=output, input_size=side, num_threads=threads)
        chosen["depth_is_metric"] = output == "metric"
    segmenter, classes = mask
    if segmenter is None:
        check_useful({"--mask-classes": classes}, "expected --mask-model, whose classes they are")
    else:
        with blames({"model": "--mask-model", "classes": "--mask-classes"}):
            chosen["moving"] = OnnxSegmenter(segmenter, classes=_numbers(classes), num_threads=threads)
    names = {name: f"--{name.replace('_', '-')}" for name in ImportOptions.__dataclass_fields__}
    with blames({**names, "depth_units_per_metre": "--depth-units", "moving": "--mask-model"}):
        return ImportOptions(**chosen)


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--mask-classes: expected numbers with commas between, got {text!r}") from None


def _print(report: ImportReport) -> None:
    say(
        f"{report.footage} frames of the {report.kind}, {report.extracted} chosen, {report.frames} placed, "
        f"{_of(report.intrinsics)}: {report.output}"
    )
    error = report.reprojection_error
    off = "" if error is None else f", off by {error:.2f} pixels in the mean over {report.points} points"
    say(f"Poses: {report.poses}{off}. Unit: {report.unit}, by {report.scale}.")
    placed = set(report.components[0]["frames"]) if report.components else set()
    others = [each for each in report.components if not set(each["frames"]) <= placed]
    if others:
        sizes = ", ".join(str(len(each["frames"])) for each in (report.components[0], *others))
        say(f"Structure from motion found {len(others) + 1} scenes, of {sizes} frames; the first is used.")
    kinds = {
        "points": "interpolated between the points of the structure, which is coarse",
        "network": "estimated by the network, aligned to the points of the structure",
        "files": "of the files",
        "data set": "of the data set",
    }
    covers = "" if report.coverage > _EVERY_PIXEL else f", {100 * report.coverage:.1f} % of the pixels"
    say(f"Depth: {kinds[report.depth]}{covers}.")
    if report.moving:
        say(f"Moving, and left out: {100 * report.moving:.1f} % of the pixels.")


def _of(camera: dict[str, Any]) -> str:
    return f"{camera['width']}x{camera['height']} pixels, focal length {camera['fx']:.1f}"
