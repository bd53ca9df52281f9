"""``mosaicmem view``: a live view of a saved memory in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mosaicmem.cli._common import Debug, Threads
from mosaicmem.cli._errors import check_useful, reports_errors
from mosaicmem.cli._scenes import A_SEQUENCE, ColorFocal, open_scene
from mosaicmem.cli._tables import say
from mosaicmem.cli._trajectories import Fps, Intrinsics, Size, TimeUnit, read_trajectory

Store = Annotated[Path, typer.Argument(help="Folder of a saved store; another process may be filling it.")]
Scene = Annotated[Path | None, typer.Option(help=f"{A_SEQUENCE}: the true frames, to compare with.")]
Trajectory = Annotated[
    Path | None, typer.Option(help="Camera path to scrub, of any format that convert reads. Default: that of --scene.")
]
Host = Annotated[
    str, typer.Option(help="Address to listen on; any but this machine's own 127.0.0.1 asks browsers for a token.")
]
Port = Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)]
Token = Annotated[str | None, typer.Option(help="That browsers must know. Default: a random one, if one is needed.")]
Edit = Annotated[bool, typer.Option("--edit", help="Let the panel change the store itself. Edits go to forks else.")]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")]


@reports_errors
def view(
    store: Store,
    scene: Scene = None,
    trajectory: Trajectory = None,
    host: Host = "127.0.0.1",
    port: Port = 8060,
    token: Token = None,
    edit: Edit = False,
    open_browser: Open = True,
    intrinsics: Intrinsics = None,
    size: Size = None,
    color_focal: ColorFocal = None,
    fps: Fps = None,
    time_unit: TimeUnit = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Look around in a saved memory: its points and cameras, and what it shows to your own camera as that moves.

    Ends with Ctrl-C. Nothing is written unless you save an edited fork, or give --edit and change the store.

    Example: mosaicmem view memory --trajectory path.json
    """
    import webbrowser

    from mosaicmem.viewer import MemoryViewer

    if trajectory is None:
        check_useful({"--fps": fps, "--time-unit": time_unit}, "expected --trajectory, whose times they describe")
        if scene is None:
            check_useful({"--intrinsics": intrinsics, "--size": size}, "expected --scene or --trajectory")
    if scene is None:
        check_useful({"--color-focal": color_focal}, "expected --scene, whose colour camera it is")
    sequence = None if scene is None else open_scene(scene, intrinsics, size, color_focal)
    camera = None if sequence is None else sequence.intrinsics
    path = None
    if trajectory is not None:
        path = read_trajectory(trajectory, intrinsics, size, fps, time_unit, camera=camera)
    told = {"host": host, "port": port, "token": token, "may_write": edit, "num_threads": threads or 0}
    with MemoryViewer(store, trajectory=path, sequence=sequence, **told) as viewer:  # type: ignore[arg-type]
        say(f"{store} is shown at {viewer.url} until Ctrl-C")
        if open_browser:
            webbrowser.open(viewer.url)
        viewer.wait()
