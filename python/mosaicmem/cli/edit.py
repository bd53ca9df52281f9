"""``mosaicmem edit``: moves, copies or erases the patches of a saved memory in a region."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    MANIFEST,
    AsJson,
    Debug,
    Force,
    Threads,
    check_apart,
    check_output_file,
    check_output_folder,
    finite,
    print_json,
    same_place,
    save_store,
)
from mosaicmem.cli._errors import UsageError, check_choice, check_useful, reports_errors
from mosaicmem.cli._tables import say

if TYPE_CHECKING:
    from mosaicmem._arrays import F64
    from mosaicmem.memory import Box, MosaicMemoryStore, SpatialManipulation, Sphere

OPERATIONS = ("translate", "rotate", "scale", "flip", "erase", "crop", "duplicate")
_NEEDS = {
    "--by": ("translate", "duplicate"),
    "--axis": ("rotate", "flip"),
    "--degrees": ("rotate",),
    "--factor": ("scale",),
}
_MAY = {**_NEEDS, "--about": ("rotate", "scale", "flip")}

Store = Annotated[Path, typer.Argument(help="Folder of a saved store.")]
Operation = Annotated[
    str, typer.Argument(metavar="|".join(OPERATIONS), help="What to do; crop erases all outside the region.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to write; that of STORE itself is changed in place with --force."),
]
InSphere = Annotated[str | None, typer.Option("--sphere", metavar="X,Y,Z,RADIUS", help="Only patches in it, metres.")]
InBox = Annotated[
    str | None, typer.Option("--box", metavar="X0,Y0,Z0,X1,Y1,Z1", help="Only patches between two corners, metres.")
]
By = Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Metres, of translate and duplicate.")]
Axis = Annotated[
    str | None, typer.Option(metavar="X,Y,Z", help="Of rotate, and the normal of flip's mirror; or x, y, z.")
]
Degrees = Annotated[float | None, typer.Option(help="Of rotate, right-handed.", callback=finite)]
Factor = Annotated[float | None, typer.Option(help="Of scale.", callback=finite)]
About = Annotated[
    str | None,
    typer.Option(metavar="X,Y,Z", help="Point that rotate, scale and flip keep. Default: the region's middle."),
]
Preview = Annotated[Path | None, typer.Option(help="PNG or SVG of the memory from above, before and after.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write no store: say how many patches, and draw --preview.")]


@reports_errors
def edit(
    store: Store,
    operation: Operation,
    output: Output = None,
    sphere: InSphere = None,
    box: InBox = None,
    by: By = None,
    axis: Axis = None,
    degrees: Degrees = None,
    factor: Factor = None,
    about: About = None,
    preview: Preview = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Edit a saved store: all of it, or the patches in a sphere or a box. No tensor is copied or changed.

    Example: mosaicmem edit memory erase --sphere 1.5,-0.5,-2,0.6 --output without-the-chair
    """
    from mosaicmem.memory import MosaicMemoryStore, SpatialManipulation
    from mosaicmem.memory.regions import choose

    check_choice("OPERATION", operation, OPERATIONS)
    _check_options(operation, {"--by": by, "--axis": axis, "--degrees": degrees, "--factor": factor, "--about": about})
    region = _region(sphere, box)
    if region is None and operation in ("erase", "crop"):
        raise UsageError(f"--sphere, --box: expected one of the two for {operation}")
    if (output is None) != dry_run:
        raise UsageError("--output, --dry-run: expected exactly one of the two")
    in_place = _check_places(store, output, preview, force)
    opened = MosaicMemoryStore.open(store, num_threads=threads or 0)
    before = opened.fork()
    centre = _centre(opened, region) if about is None else _numbers("--about", about, 3)
    values = {
        "by": None if by is None else _numbers("--by", by, 3),
        "axis": None if axis is None else _axis(axis),
        "degrees": degrees,
        "factor": factor,
    }
    edited = opened if in_place else before.fork()
    if region is not None and not len(choose(opened, region)):
        name = "--box" if sphere is None else "--sphere"
        raise ValueError(f"{name}: no patch is in it; those of {store} are within {_bounds(before)}")
    count = _apply(SpatialManipulation(edited), operation, region, centre, values)
    if preview is not None:
        _draw(preview, force, before, edited, operation)
    if output is not None:
        _save(edited, output, in_place, force)
    figures = {"patches": count, "before": len(before), "after": len(edited), "store": None if dry_run else str(output)}
    if as_json:
        print_json(figures)
        return
    done = f"{_DONE[operation]} {count} patches: {len(before)} before, {len(edited)} after"
    say(f"{done}; nothing was written" if dry_run else f"{done}, in {output}")


_DONE = {
    "translate": "Moved",
    "rotate": "Rotated",
    "scale": "Scaled",
    "flip": "Flipped",
    "erase": "Erased",
    "crop": "Erased",
    "duplicate": "Copied",
}


def _check_options(operation: str, given: dict[str, Any]) -> None:
    """Require the options of an operation, and refuse those that it does not use."""
    for name, operations in _NEEDS.items():
        if operation in operations and given[name] is None:
            raise UsageError(f"{name}: expected one for {operation}")
    idle = {name: value for name, value in given.items() if operation not in _MAY[name]}
    for name, value in idle.items():
        check_useful({name: value}, f"expected {' or '.join(_MAY[name])}, which it describes")


def _check_places(store: Path, output: Path | None, preview: Path | None, force: bool) -> bool:
    """Refuse places that cannot be written. Returns whether the store is changed in place."""
    in_place = same_place(store, output)
    check_apart({"--output": None if in_place else output, "--preview": preview}, {"STORE": store})
    if in_place and not force:
        raise FileExistsError(f"--output: {output} is the store itself; --force changes it in place")
    if output is not None and not in_place:
        check_output_folder(output, force, "edit", mark=MANIFEST)
    if preview is not None:
        from mosaicmem.plots import require_matplotlib

        require_matplotlib("--preview")
        check_output_file(preview, force, (".png", ".svg"), name="--preview")
    return in_place


def _region(sphere: str | None, box: str | None) -> Sphere | Box | None:
    from mosaicmem.memory import Box, Sphere

    if sphere is not None and box is not None:
        raise UsageError("--sphere, --box: expected at most one of the two")
    try:
        if sphere is not None:
            numbers = _numbers("--sphere", sphere, 4)
            return Sphere(numbers[:3], float(numbers[3]))
        if box is not None:
            numbers = _numbers("--box", box, 6)
            return Box(numbers[:3], numbers[3:])
    except ValueError as error:
        raise UsageError(f"{'--box' if sphere is None else '--sphere'}: {error}") from None
    return None


def _numbers(name: str, text: str, count: int) -> F64:
    import numpy as np

    parts = text.split(",")
    try:
        numbers = np.array([float(part) for part in parts])
    except ValueError:
        numbers = np.full(1, np.nan)
    if len(parts) != count or not np.isfinite(numbers).all():
        raise UsageError(f"{name}: expected {count} numbers with commas between them, got {text!r}")
    return numbers


def _axis(text: str) -> F64:
    import numpy as np

    if text in ("x", "y", "z"):
        return np.array([float(text == name) for name in ("x", "y", "z")])
    direction = _numbers("--axis", text, 3)
    if not direction.any():
        raise UsageError(f"--axis: expected a direction, got {text!r}")
    return direction


def _centre(store: MosaicMemoryStore, region: Sphere | Box | None) -> F64:
    """The middle of a region, or of a store."""
    import numpy as np

    from mosaicmem.memory import Sphere

    if isinstance(region, Sphere):
        return np.asarray(region.centre)
    if region is not None:
        return np.asarray(0.5 * (np.asarray(region.low) + np.asarray(region.high)))
    bounds = store.bounds
    return np.zeros(3) if bounds is None else np.asarray(bounds.mean(axis=0))


def _apply(
    edit: SpatialManipulation, operation: str, region: Sphere | Box | None, centre: F64, values: dict[str, Any]
) -> int:
    """Do it; returns how many patches it concerned."""
    import numpy as np

    if operation in ("erase", "crop"):
        assert region is not None
        return edit.erase(region) if operation == "erase" else edit.crop(region)
    if operation == "translate":
        return edit.translate(values["by"], where=region)
    if operation == "duplicate":
        shift = np.eye(4)
        shift[:3, 3] = values["by"]
        return len(edit.duplicate(shift, where=region))
    if operation == "rotate":
        return edit.rotate(values["axis"], float(np.radians(values["degrees"])), about=centre, where=region)
    if operation == "scale":
        return edit.scale(values["factor"], about=centre, where=region)
    return edit.flip(values["axis"], about=centre, where=region)


def _save(edited: MosaicMemoryStore, output: Path, in_place: bool, force: bool) -> None:
    if in_place:
        edited.save(output)
        edited.close()
        return
    save_store(edited, output, force, "edit", name="--output")


def _draw(preview: Path, force: bool, before: MosaicMemoryStore, after: MosaicMemoryStore, operation: str) -> None:
    """Both from above, one below the other, on the same scale."""
    from mosaicmem.cli._figures import save_figure
    from mosaicmem.plots import plot_edit

    preview.parent.mkdir(parents=True, exist_ok=True)
    place = check_output_file(preview, force, (".png", ".svg"), name="--preview")
    save_figure(place, plot_edit(before, after, operation))


def _bounds(store: MosaicMemoryStore) -> str:
    bounds = store.bounds
    if bounds is None:
        return "nothing: it is empty"
    low, high = ("(" + ", ".join(f"{x:.2f}" for x in corner) + ")" for corner in bounds.tolist())
    return f"{low} and {high}"
