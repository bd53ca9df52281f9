"""Camera paths that a command reads: in any known format, with options for what the format lacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicmem.camera.formats.options import INTRINSICS_MODES
from mosaicmem.cli._common import finite
from mosaicmem.cli._errors import UsageError, blames, check_choice
from mosaicmem.cli._frames import parse_size

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics, CameraTrajectory

Intrinsics = Annotated[
    str | None,
    typer.Option(
        "--intrinsics",
        metavar="FX,FY,CX,CY",
        help="Pixels; for files without (tum, kitti), or in place of theirs. Needs --size.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Of the images, for files that do not say (re10k, matrixgame)."),
]
Fps = Annotated[
    float | None,
    typer.Option("--fps", help="Frames a second, for files without times. Default: 30.", min=0.001, callback=finite),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        "--time-unit",
        metavar="s|ms|us|ns|frames",
        help="Of the times in the file, where it is not that of its format. frames: numbers of frames.",
    ),
]
IntrinsicsMode = Annotated[
    str,
    typer.Option(
        "--intrinsics-mode",
        metavar="|".join(INTRINSICS_MODES),
        help="If frames have different intrinsics: keep them, or give all those of the first, or the mean.",
    ),
]

CameraName = Annotated[
    str | None, typer.Option("--camera", metavar="NAME", help="Which one, in a file of several (recammaster).")
]

_TIMED = ("mosaicmem", "tum", "re10k", "camera-path", "rust")  # formats with a time for each frame, or a rate
_WITHOUT = (
    "tum",
    "kitti",
    "matrices",
    "motionctrl",
    "recammaster",
    "rust",
    "viewcrafter",
)  # formats without intrinsics


def read_trajectory(
    path: Path,
    intrinsics: str | None = None,
    size: str | None = None,
    fps: float | None = None,
    time_unit: str | None = None,
    *,
    format: str | None = None,
    camera: CameraIntrinsics | None = None,
    mode: str = "per_frame",
    name: str | None = None,
) -> CameraTrajectory:
    """A path from a file of any format.

    ``camera`` is that of a scene, used if the file has none of its own; ``name`` that of a camera in a file of several.
    """
    from mosaicmem.camera.formats import detect_format, load_trajectory
    from mosaicmem.camera.formats.foreign import is_json
    from mosaicmem.camera.times import TIME_UNITS

    if time_unit is not None:
        check_choice("--time-unit", time_unit, TIME_UNITS)
    given = parse_camera(intrinsics, size)
    pixels = None if size is None else parse_size("--size", size)
    kind = format or detect_format(path)
    if given is None and camera is not None and (kind in _WITHOUT or (kind == "open3d" and not is_json(path))):
        given = camera
    if fps is not None and kind in _TIMED and time_unit != "frames":
        raise UsageError(f"--fps: expected none for {path}, as files of the format {kind} have times")
    rate = 30.0 if fps is None else fps
    with blames({"size": "--size", "intrinsics": "--intrinsics", "fps": "--fps", "time_unit": "--time-unit"}):
        return load_trajectory(
            path, kind, intrinsics=given, size=pixels, fps=rate, time_unit=time_unit, intrinsics_mode=mode, camera=name
        )


def parse_camera(intrinsics: str | None, size: str | None) -> CameraIntrinsics | None:
    """The camera from ``--intrinsics`` and ``--size``; None without the first."""
    from mosaicmem.camera import CameraIntrinsics

    if intrinsics is None:
        return None
    if size is None:
        raise UsageError("--intrinsics: expected --size with it")
    try:
        fx, fy, cx, cy = (float(part) for part in intrinsics.split(","))
    except ValueError:
        raise UsageError(f"--intrinsics: expected FX,FY,CX,CY in pixels, got {intrinsics!r}") from None
    pixels = parse_size("--size", size)
    try:
        return CameraIntrinsics(fx, fy, cx, cy, *pixels)
    except ValueError as error:
        raise UsageError(f"--intrinsics: {error}") from None
