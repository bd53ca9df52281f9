"""The sequence that ``--scene`` names, and the options for its camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosaicmem.cli._errors import UsageError
from mosaicmem.cli._frames import parse_size
from mosaicmem.cli._trajectories import parse_camera
from mosaicmem.datasets import layout_names

if TYPE_CHECKING:
    from mosaicmem.datasets import RgbdSequence

SYNTHETIC = "synthetic"
A_SEQUENCE = f"Posed RGB-D sequence: what import makes, or a folder in the layout of {', '.join(layout_names())}"

SceneIntrinsics = Annotated[
    str | None,
    typer.Option(
        "--intrinsics",
        metavar="FX,FY,CX,CY",
        help="Pixels; in place of those of the scene, and of a camera path. Needs --size.",
    ),
]
SceneSize = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Of the images; a scene's must be of this size.")
]


ColorFocal = Annotated[
    str | None,
    typer.Option(
        metavar="F|FX,FY|estimate",
        help="Focal length of the colour camera, pixels, if the intrinsics are those of a depth camera beside it; "
        "estimate: find out from the frames.",
    ),
]


def open_scene(
    scene: str | Path, intrinsics: str | None, size: str | None, color_focal: str | None = None
) -> RgbdSequence:
    """The sequence in a folder, with the given cameras, if any.

    Raises
    ------
    FileNotFoundError, FormatError
        The folder does not exist, or holds no sequence.
    UsageError
        Its images do not have the given size.
    """
    from mosaicmem.datasets import open_sequence

    given = parse_camera(intrinsics, size)
    try:
        sequence = open_sequence(scene, intrinsics=given, color_focal=parse_focal(color_focal))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--scene: {error}") from None
    if size is not None:
        camera = sequence.intrinsics
        if parse_size("--size", size) != (camera.width, camera.height):
            raise UsageError(
                f"--size: expected {camera.width}x{camera.height}, as the images of --scene are, got {size}; for a "
                "camera path of another size, convert it to .json with that --size first"
            )
    return sequence


def open_evaluated(
    scene: str, intrinsics: str | None, size: str | None, color_focal: str | None, seed: int
) -> RgbdSequence:
    """`open_scene`, or the synthetic walk of a seed, which has its own camera."""
    from mosaicmem.datasets import SyntheticWalk

    if scene != SYNTHETIC:
        return open_scene(scene, intrinsics, size, color_focal)
    if intrinsics is not None or size is not None or color_focal is not None:
        raise UsageError(f"--intrinsics, --size, --color-focal: expected a folder as --scene, got {SYNTHETIC}")
    return SyntheticWalk(seed=seed)


def parse_focal(text: str | None) -> float | tuple[float, float] | str | None:
    """The value of --color-focal: None, "estimate", or (fx, fy)."""
    if text is None or text == "estimate":
        return text
    try:
        numbers = tuple(float(part) for part in text.split(","))
        if not 1 <= len(numbers) <= 2 or not all(1e-3 <= number <= 1e9 for number in numbers):
            raise ValueError
    except ValueError:
        raise UsageError(f"--color-focal: expected F, FX,FY or estimate, got {text!r}") from None
    return (numbers[0], numbers[-1])
