"""``mosaicmem path``: makes a camera path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.camera.returns import RETURNS
from mosaicmem.cli._common import AsJson, Debug, Force, check_output_file, finite, print_json
from mosaicmem.cli._errors import UsageError, blames, check_choice, check_useful, reports_errors
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._tables import say
from mosaicmem.cli._trajectories import parse_camera, read_trajectory

if TYPE_CHECKING:
    from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory

_NEEDS = {  # options by shape; the first one is required
    "orbit": ("--radius", "--frames", "--height", "--target", "--turns"),
    "dolly": ("--distance", "--frames", "--start"),
    "look-around": ("--angle", "--frames", "--start"),
    "spline": ("--through", "--speed", "--turn-speed"),
    "return": ("--template", "--distance", "--angle", "--frames", "--start"),
    "keys": ("--keys", "--start", "--speed", "--turn-speed"),
}


@reports_errors
def path(
    shape: Annotated[str, typer.Argument(metavar="|".join(_NEEDS), help="What the camera does.")],
    output: Annotated[Path, typer.Option("--output", help="File to write, .json.")],
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="How many. Default: 90.")] = None,
    fps: Annotated[float, typer.Option("--fps", min=0.001, callback=finite, help="Frames a second.")] = 30.0,
    radius: Annotated[float | None, typer.Option("--radius", help="Of an orbit, metres.")] = None,
    height: Annotated[float | None, typer.Option("--height", help="Of an orbit above its target, metres.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="X,Y,Z", help="Of an orbit. Default: the origin.")
    ] = None,
    turns: Annotated[float | None, typer.Option("--turns", help="Of an orbit. Default: 1.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="|".join(RETURNS),
            help="Of a return, which ends where it begins and, but for orbit, goes back as it came.",
        ),
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option("--distance", help="Of a dolly (negative: back) or a return, metres. Of a return by default: 1."),
    ] = None,
    angle: Annotated[
        float | None,
        typer.Option("--angle", help="Of looking around, or of a return (default: 90), degrees to the right."),
    ] = None,
    through: Annotated[Path | None, typer.Option("--through", help="Camera path whose poses a spline takes.")] = None,
    keys: Annotated[str | None, typer.Option("--keys", help="And for how many frames: 'w-31, wa-8, w+left-4'.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Camera path whose last pose is the first. Default: the origin.")
    ] = None,
    speed: Annotated[float | None, typer.Option("--speed", help="Metres a second. Default: 1.")] = None,
    turn_speed: Annotated[float | None, typer.Option("--turn-speed", help="Degrees a second. Default: 60.")] = None,
    fov: Annotated[float | None, typer.Option("--fov", help="Horizontal, degrees. Default: 75.")] = None,
    intrinsics: Annotated[
        str | None, typer.Option("--intrinsics", metavar="FX,FY,CX,CY", help="Pixels, in place of --fov.")
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="Of the images, pixels.")] = "832x480",
    as_json: AsJson = False,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Make a camera path: around a point, ahead, on the spot, there and back, through given poses, or by a game's keys.

    The world's up is -y, and a camera at the origin looks along +z. w, a, s and d move, left, right, up and down turn.
    The length, the time and the largest speeds are printed.

    Example: mosaicmem path keys --keys "w-60, w+left-30, w-60" --output walk.json --force
    """
    check_choice("SHAPE", shape, tuple(_NEEDS))
    given: dict[str, Any] = {
        **{"--radius": radius, "--frames": frames, "--height": height, "--target": target, "--turns": turns},
        **{
            "--template": template,
            "--distance": distance,
            "--angle": angle,
            "--through": through,
            "--keys": keys,
            "--start": start,
        },
        **{"--speed": speed, "--turn-speed": turn_speed},
    }
    idle = {name: value for name, value in given.items() if name not in _NEEDS[shape] and value is not None}
    if idle:
        raise UsageError(f"{min(idle)}: expected none, as the shape {shape} has {', '.join(_NEEDS[shape])}")
    if given[_NEEDS[shape][0]] is None:
        raise UsageError(f"{_NEEDS[shape][0]}: expected it for the shape {shape}")
    file = check_output_file(output, force, (".json",))
    made = _made(shape, given, _camera(fov, intrinsics, size), fps)
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save(file)
    figures = _figures(made)
    if as_json:
        print_json({"shape": shape, "output": str(output), **figures})
    else:
        say(
            f"{figures['frames']} frames, {figures['metres']:.2f} m in {figures['seconds']:.2f} s, at most "
            f"{figures['metres_per_second']:.2f} m and {figures['degrees_per_second']:.1f} degrees a second: {output}"
        )


def _made(shape: str, given: dict[str, Any], camera: CameraIntrinsics, fps: float) -> CameraTrajectory:
    from math import radians

    from mosaicmem.camera import CameraTrajectory, return_path

    def or_else(name: str, default: float) -> Any:
        return default if given[name] is None else given[name]

    count, rate = given["--frames"] or 90, {"fps": fps}
    speeds = {"metres_per_second": or_else("--speed", 1.0), "degrees_per_second": or_else("--turn-speed", 60.0)}
    names = {"metres_per_second": "--speed", "degrees_per_second": "--turn-speed", "keys": "--keys"}
    with blames({**names, "radius": "--radius", "distance": "--distance", "poses": "--through"}):
        if shape == "orbit":
            orbit = {"height": or_else("--height", 0.0), "turns": or_else("--turns", 1.0)}
            return CameraTrajectory.orbit(_point(given["--target"]), given["--radius"], count, camera, **orbit, **rate)
        if shape == "spline":
            poses = list(read_trajectory(given["--through"], camera=camera))
            return CameraTrajectory.spline(poses, camera, **speeds, **rate)
        begin = _start(given["--start"], camera)
        if shape == "return":
            check_choice("--template", given["--template"], RETURNS)
            far, turn = or_else("--distance", 1.0), radians(or_else("--angle", 90.0))
            return return_path(given["--template"], camera, count, start=begin, distance=far, angle=turn, **rate)
        if shape == "dolly":
            return CameraTrajectory.dolly(begin, given["--distance"], count, camera, **rate)
        if shape == "look-around":
            return CameraTrajectory.look_around(begin, count, camera, angle=radians(given["--angle"]), **rate)
        return CameraTrajectory.by_keys(given["--keys"], camera, start=begin, **speeds, **rate)


def _start(file: Path | None, camera: CameraIntrinsics) -> CameraPose:
    from mosaicmem.camera import CameraPose

    return CameraPose() if file is None else read_trajectory(file, camera=camera)[-1].at(0.0)


def _point(text: str | None) -> list[float]:
    if text is None:
        return [0.0, 0.0, 0.0]
    try:
        point = [float(part) for part in text.split(",")]
    except ValueError:
        point = []
    if len(point) != 3:
        raise UsageError(f"--target: expected X,Y,Z in metres, got {text!r}")
    return point


def _camera(fov: float | None, intrinsics: str | None, size: str) -> CameraIntrinsics:
    from math import radians

    from mosaicmem.camera import CameraIntrinsics

    if intrinsics is not None:
        check_useful({"--fov": fov}, "expected it or --intrinsics")
        camera = parse_camera(intrinsics, size)
        assert camera is not None
        return camera
    degrees = 75.0 if fov is None else fov
    if not 0 < degrees < 180:
        raise UsageError(f"--fov: expected degrees between 0 and 180, got {degrees:g}")
    return CameraIntrinsics.from_fov(*parse_size("--size", size), fov_x=radians(degrees))


def _figures(path: CameraTrajectory) -> dict[str, Any]:
    from itertools import pairwise
    from math import degrees

    from mosaicmem.camera.summary import summarize_trajectory

    steps = [(b.timestamp - a.timestamp, a.distance_to(b), degrees(a.angle_to(b))) for a, b in pairwise(path)]
    return {
        **summarize_trajectory(path),
        "metres_per_second": max((metres / time for time, metres, _ in steps), default=0.0),
        "degrees_per_second": max((turned / time for time, _, turned in steps), default=0.0),
    }
