"""``mosaicmem splice``: two saved stores joined into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import (
    MANIFEST,
    AsJson,
    Debug,
    Force,
    Seed,
    Threads,
    check_apart,
    check_output_file,
    check_output_folder,
    finite,
    print_json,
    save_store,
)
from mosaicmem.cli._errors import check_choice, check_useful, reports_errors
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._synthetic_memory import open_or_walk
from mosaicmem.cli._tables import say
from mosaicmem.cli._trajectories import Intrinsics, Size


@reports_errors
def splice(
    first: Annotated[Path, typer.Argument(help="Folder of a saved store, or a camera path, which stays where it is.")],
    second: Annotated[Path, typer.Argument(help="Folder or camera path of the memory that is joined to it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the store to write.")],
    layout: Annotated[
        str, typer.Option(help="horizontal: the second beside the first (+x); vertical: above it (-y).")
    ] = "horizontal",
    offset: Annotated[
        float, typer.Option(help="Metres between the two; negative where they shall overlap.", callback=finite)
    ] = 0.0,
    picture: Annotated[
        Path | None, typer.Option(help="PNG or SVG of both from above. Default: OUTPUT.png where matplotlib is.")
    ] = None,
    intrinsics: Intrinsics = None,
    size: Size = None,
    seed: Seed = None,
    as_json: AsJson = False,
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Join two saved stores into a third, side by side or one above the other, and draw it from above.

    A camera path stands for what a synthetic flat (of --seed) shows along it.

    Example: mosaicmem splice flat-a flat-b --layout horizontal --offset 1.0 --output both
    """
    import importlib.util

    from mosaicmem.memory import SpatialManipulation

    check_choice("--layout", layout, ("horizontal", "vertical"))
    drawn = picture is not None or importlib.util.find_spec("matplotlib") is not None
    sheet = picture or output.with_name(f"{output.name}.png")
    check_apart({"--output": output, "--picture": sheet if drawn else None}, {"FIRST": first, "SECOND": second})
    check_output_folder(output, force, "splice", mark=MANIFEST)
    if drawn:
        from mosaicmem.plots import require_matplotlib

        require_matplotlib("--picture")
        sheet = check_output_file(sheet, force, (".png", ".svg"), name="--picture")
    if first.is_dir() and second.is_dir():
        given = {"--intrinsics": intrinsics, "--size": size, "--seed": seed}
        check_useful(given, "expected a camera path, whose camera or flat they describe")
    settings = read_settings(None, None, {"seed": seed, "num_threads": threads})
    (one, _), (other, _) = (open_or_walk(place, intrinsics, size, settings) for place in (first, second))
    both = one.fork()  # not tied to the folder of the first
    SpatialManipulation(both).splice(other, layout=layout, offset=offset)
    save_store(both, output, force, "splice", name="--output")
    if drawn and len(both):
        from mosaicmem.cli._figures import save_figure
        from mosaicmem.plots import plot_top_down

        sheet.parent.mkdir(parents=True, exist_ok=True)
        save_figure(sheet, plot_top_down(both))
    bounds = both.bounds
    figures = {
        "store": str(output),
        "patches": len(both),
        "of_first": len(one),
        "of_second": len(other),
        "bounds": None if bounds is None else bounds.tolist(),
        "picture": str(sheet) if drawn and len(both) else None,
    }
    if as_json:
        print_json(figures)
        return
    say(f"{len(one)} + {len(other)} patches in {output}")
    if figures["picture"]:
        say(f"{sheet} shows them from above")
