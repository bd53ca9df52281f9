"""``mosaicmem visualize``: pictures of a saved memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    SUMMARY,
    AsJson,
    Config,
    Debug,
    Force,
    Set,
    Threads,
    check_apart,
    check_output_folder,
    output_folder,
    print_json,
)
from mosaicmem.cli._errors import check_choice, check_useful, reports_errors
from mosaicmem.cli._frames import parse_list
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.cli._trajectories import Fps, Intrinsics, Size, TimeUnit, read_trajectory

if TYPE_CHECKING:
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.memory import KeyframeRetrieval, MosaicMemoryStore
    from mosaicmem.pipeline import PipelineConfig

_VIEWS = 4  # target views to draw
_USED = (  # settings that compose a canvas
    *("max_keyframes", "max_window_keyframes", "composition", "depth_tolerance", "near", "far", "half_life"),
    *("window_size", "window_overlap", "num_threads"),
)


Store = Annotated[Path, typer.Argument(help="Folder of a saved store.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Trajectory = Annotated[
    Path | None, typer.Option(help="Camera path, of any format that convert reads: what memory shows to it.")
]
Frames = Annotated[
    str | None,
    typer.Option(
        help="Frames of the path to draw, by position from 0: 0,5,9 or A:B or A:B:STEP. Default: four, evenly."
    ),
]
Stride = Annotated[int | None, typer.Option(help="Pixels per latent cell; the store's if left out.", min=1)]
Format = Annotated[str, typer.Option("--format", help="png or svg.")]
Html = Annotated[bool, typer.Option("--html", help="Also one page that needs no other file.")]
TopK = Annotated[int | None, typer.Option(help="Patches to draw on a view. Default: 256.", min=1, max=2**31 - 1)]


@reports_errors
def visualize(
    store: Store,
    output: Output,
    trajectory: Trajectory = None,
    frames: Frames = None,
    stride: Stride = None,
    image_format: Format = "png",
    html: Html = False,
    top_k: TopK = None,
    intrinsics: Intrinsics = None,
    size: Size = None,
    fps: Fps = None,
    time_unit: TimeUnit = None,
    config: Config = None,
    changes: Set = None,
    as_json: AsJson = False,
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Draw a saved store: patches and cameras from above, coverage over time, retrieved patches on target views.

    Colours are those of the scene, or principal components of the latents of keyframes without a thumbnail. Of the
    settings, those that compose a canvas count.

    Example: mosaicmem visualize memory --trajectory path.json --output pictures --html
    """
    from mosaicmem.cli._settings import read_settings
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.memory.summary import stride_of
    from mosaicmem.plots import require_matplotlib

    check_choice("--format", image_format, ("png", "svg"))
    if trajectory is None:
        idle: dict[str, object] = {"--frames": frames, "--stride": stride, "--top-k": top_k, "--fps": fps}
        idle |= {"--intrinsics": intrinsics, "--size": size, "--time-unit": time_unit}
        check_useful(idle | {"--config": config, "--set": changes}, "expected --trajectory, whose views are drawn")
    settings = read_settings(config, changes, {"num_threads": threads}, command="visualize", used=_USED)
    require_matplotlib("visualize")
    check_apart({"--output": output}, {"STORE": store, "--trajectory": trajectory, "--config": config})
    check_output_folder(output, force, "visualize")
    opened = MosaicMemoryStore.open(store, num_threads=settings.num_threads)
    if not len(opened):
        raise ValueError(f"{store}: the store is empty")
    views = None
    if trajectory is not None:
        path = read_trajectory(trajectory, intrinsics, size, fps, time_unit)
        shown, cells = _frames(frames, len(path)), stride or stride_of(opened)
        views = _Views(_padded(path, cells), cells, shown, top_k or 256)
    with output_folder(output, force, "visualize") as folder:
        summary, files = _draw(folder, opened, store, views, settings, image_format, html)
    if as_json:
        print_json({**summary, "files": [str(output / name) for name in files]})
    else:
        say(f"{', '.join([*files, *(['index.html'] if html else [])])} in {output}")


@dataclass(frozen=True, eq=False)
class _Views:
    """A path, and the frames of it that are drawn."""

    path: CameraTrajectory
    stride: int
    shown: list[int]
    top_k: int


def _draw(
    folder: Path,
    opened: MosaicMemoryStore,
    store: Path,
    views: _Views | None,
    settings: PipelineConfig,
    image_format: str,
    html: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Figures into a folder; the summary beside them, and their names."""
    from mosaicmem._files import write_json
    from mosaicmem.cli._figures import explain, save_figure, write_page
    from mosaicmem.memory.summary import summarize
    from mosaicmem.plots import plot_top_down

    summary: dict[str, Any] = {"store": str(store), **summarize(opened)}
    figures = {"top-down": plot_top_down(opened, None if views is None else views.path)}
    if views is not None:
        more, coverage = _draw_views(opened, views, settings)
        figures.update(more)
        summary.update(coverage)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.{image_format}")
        save_figure(files[-1], figure)
    if html:
        captions = {file: explain(file.stem, views is not None) for file in files}
        write_page(folder / "index.html", f"Memory in {store}", summary, captions)
    write_json(folder / SUMMARY, summary)
    return summary, [file.name for file in files]


def _padded(path: CameraTrajectory, stride: int) -> CameraTrajectory:
    return path.padded(stride)


def _draw_views(
    store: MosaicMemoryStore, views: _Views, settings: PipelineConfig
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Figures of coverage and of single views, and the coverage of each frame, by the names of `COVERAGE`."""
    import numpy as np

    from mosaicmem.memory import KeyframeRetrieval
    from mosaicmem.memory.summary import COVERAGE, coverage_figures
    from mosaicmem.plots import plot_coverage, plot_retrieved

    path, stride, top_k = views.path, views.stride, views.top_k
    retrieval = KeyframeRetrieval(**settings.keyframe_options())
    coverage, observed = _coverage(store, path, stride, retrieval, settings.window_size)
    times = np.array([pose.timestamp for pose in path])
    figures = {"coverage": plot_coverage(coverage, times, observed)}
    with progress_bar() as progress:
        for frame in progress.track(views.shown, description="Drawing"):
            figures[f"view-{frame:06d}"] = plot_retrieved(store, path, frame, stride, top_k=top_k, retrieval=retrieval)
    parts = [coverage_figures(*masks) for masks in zip(coverage, observed, strict=True)]
    return figures, {name: [part[name] for part in parts] for name in COVERAGE}


def _coverage(
    store: MosaicMemoryStore, path: CameraTrajectory, stride: int, retrieval: KeyframeRetrieval, window: int
) -> Any:
    """Which cells of each view are covered, and which by what was observed, each (T, h, w), a window at a time."""
    import numpy as np

    parts = []
    with progress_bar() as progress:
        for frames in progress.track(path.windows(window), description="Composing"):
            canvas = retrieval.retrieve(store, path[frames.start : frames.stop], stride)
            parts.append((canvas.coverage, canvas.observed))
    return tuple(np.concatenate(masks) for masks in zip(*parts, strict=True))


def _frames(text: str | None, count: int) -> list[int]:
    if text is None:
        return sorted({round(i * (count - 1) / max(1, _VIEWS - 1)) for i in range(_VIEWS)})
    return parse_list("--frames", text, count)
