"""``mosaicmem convert``: a camera path from one file format to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicmem.camera.formats import format_names
from mosaicmem.camera.formats.options import INTRINSICS_MODES
from mosaicmem.cli._common import (
    AsJson,
    Debug,
    Force,
    check_apart,
    check_output_file,
    check_output_folder,
    output_folder,
    print_json,
)
from mosaicmem.cli._errors import UsageError, check_choice, check_useful, reports_errors
from mosaicmem.cli._tables import say
from mosaicmem.cli._trajectories import (
    CameraName,
    Fps,
    Intrinsics,
    IntrinsicsMode,
    Size,
    TimeUnit,
    parse_camera,
    read_trajectory,
)

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory

_FORMATS, _WRITTEN = ", ".join(format_names()), ", ".join(format_names(written=True))
_GUESSED = {".json": "mosaicmem", ".npz": "matrixgame"}
_SUFFIXES = {  # of files that are written
    **{"mosaicmem": (".json",), "nerfstudio": (".json",), "worldplay": (".json",), "matrixgame": (".npz",)},
    **{"tum": (".txt", ".tum"), "kitti": (".txt",), "re10k": (".txt",)},
}
_Source = Annotated[Path, typer.Argument(help="File of a camera path, folder of a COLMAP model, or a scene.")]
_Target = Annotated[Path, typer.Argument(help="File to write, or folder for COLMAP.")]
_SourceFormat = Annotated[
    str | None, typer.Option("--from", help=f"One of {_FORMATS}. Default: found out from the file.")
]
_TargetFormat = Annotated[
    str | None, typer.Option("--to", help=f"One of {_WRITTEN}. Default: mosaicmem for .json, matrixgame for .npz.")
]


@reports_errors
def convert(
    source: _Source,
    target: _Target,
    source_format: _SourceFormat = None,
    target_format: _TargetFormat = None,
    intrinsics: Intrinsics = None,
    size: Size = None,
    fps: Fps = None,
    time_unit: TimeUnit = None,
    intrinsics_mode: IntrinsicsMode = "per_frame",
    camera: CameraName = None,
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Convert a camera path from one file format and its conventions to another.

    Paths are read with OpenCV axes, world_from_camera transforms and pixel centres at half-integers, then written in
    the conventions of the target format. A format drops what it cannot hold: tum and kitti have no intrinsics; kitti,
    colmap and others have no times.

    Example: mosaicmem convert traj.txt transforms.json --to nerfstudio --intrinsics 525,525,320,240 --size 640x480
    """
    from mosaicmem.camera.formats import detect_format, save_trajectory

    if source_format is not None:
        check_choice("--from", source_format, format_names())
    kind = target_format or _GUESSED.get(target.suffix.lower())
    if kind is None:
        raise UsageError(f"--to: expected one of {_WRITTEN}, as {target.name} does not tell")
    check_choice("--to", kind, format_names(written=True))
    check_choice("--intrinsics-mode", intrinsics_mode, INTRINSICS_MODES)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    check_apart({"TARGET": target}, {"SOURCE": source})
    suffixes = _SUFFIXES.get(kind)
    mark = "cameras.bin" if kind == "colmap-binary" else "cameras.txt"
    if suffixes is None:
        check_output_folder(target, force, "convert", name="TARGET", mark=mark)
    else:
        output = check_output_file(target, force, suffixes, name="TARGET")
    found, path, unit = _read_source(
        source, source_format, (intrinsics, size), (fps, time_unit), intrinsics_mode, camera
    )
    if suffixes is None:
        with output_folder(target, force, "convert", name="TARGET", mark=mark) as folder:
            save_trajectory(folder, path, kind)
    else:
        if output.exists():
            detect_format(output)  # raises if the file to replace is not a trajectory
        output.parent.mkdir(parents=True, exist_ok=True)
        save_trajectory(output, path, kind)
    figures = {
        "source": str(source),
        "from": found,
        "target": str(target),
        "to": kind,
        "frames": len(path),
        "metres": path.length,
        "unit": unit,
        "seconds": path.duration,
        "intrinsics": path.cameras[0].to_dict(),
        "zooms": path.zooms,
    }
    if as_json:
        print_json(figures)
    else:
        length = f"{path.length:.2f} {'m' if unit == 'metres' else unit}"
        say(f"{len(path)} frames, {length} in {path.duration:.2f} s: {found} to {kind} in {target}")


def _read_source(
    source: Path,
    source_format: str | None,
    camera: tuple[str | None, str | None],
    times: tuple[float | None, str | None],
    mode: str,
    name: str | None,
) -> tuple[str, CameraTrajectory, str]:
    """The format of the source, its path, and the unit of lengths."""
    from mosaicmem.camera.formats import detect_format
    from mosaicmem.camera.formats.colmap_model import find_model
    from mosaicmem.datasets import is_sequence, open_sequence

    if source_format is None and is_sequence(source) and find_model(source) is None:
        given: dict[str, object] = dict(zip(("--fps", "--time-unit"), times, strict=True))
        given["--intrinsics-mode"] = None if mode == "per_frame" else mode
        given["--camera"] = name
        check_useful(given, "expected the file of a camera path: a scene has times, and the same intrinsics throughout")
        check_useful({"--size": camera[1] if camera[0] is None else None}, "expected --intrinsics with it")
        sequence = open_sequence(source, intrinsics=parse_camera(*camera))
        return "scene", sequence.trajectory(range(len(sequence))), sequence.unit
    found = source_format or detect_format(source)
    return found, read_trajectory(source, *camera, *times, format=found, mode=mode, name=name), "metres"
