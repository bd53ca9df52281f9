"""``mosaicmem inspect``: what is in a saved store or along a camera path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import AsJson, Config, Debug, Set, Threads, print_json
from mosaicmem.cli._errors import check_useful, reports_errors
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._tables import print_figures, print_pairs, say
from mosaicmem.cli._trajectories import Fps, Intrinsics, Size, TimeUnit, read_trajectory

if TYPE_CHECKING:
    from typing import TypeAlias

    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.pipeline import PipelineConfig

    _Given: TypeAlias = tuple[Path, str | None, str | None, float | None, str | None]  # what read_trajectory takes

_OF_STORES = (  # settings that decide what a store covers of a path's views
    *("top_k", "near", "far", "half_life", "min_visibility", "diversity_radius", "diversity_penalty"),
    *("generated_weight", "max_keyframes", "max_window_keyframes", "composition", "depth_tolerance", "num_threads"),
)
_OF_SYNTHETIC = ("seed", "vae_stride", "latent_channels", "latent_patch_size", "latent_dtype")
_OF_PATHS = ("keyframe_translation", "keyframe_angle", "keyframe_interval", "window_size", "window_overlap")


@reports_errors
def inspect(
    target: Annotated[Path, typer.Argument(help="Folder of a saved store, or a camera path of any format.")],
    trajectory: Annotated[
        Path | None, typer.Option(help="Of a store: a camera path, whose views it covers so far.")
    ] = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="A line for each frame of the path.")] = False,
    stride: Annotated[
        int | None,
        typer.Option(help="Pixels per latent cell of the path's images; the store's if left out.", min=1),
    ] = None,
    synthetic: Annotated[
        bool,
        typer.Option("--synthetic", help="Of a camera path: also the memory of a synthetic flat seen along it."),
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Of a store: compare every byte with its checksum.")] = False,
    intrinsics: Intrinsics = None,
    size: Size = None,
    fps: Fps = None,
    time_unit: TimeUnit = None,
    config: Config = None,
    changes: Set = None,
    as_json: AsJson = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Summarize a saved store, and how much of a path's views it covers, or summarize a camera path.

    A damaged store is an error that names the file. Only the settings of retrieval apply or, for a camera path, those
    of keyframes and windows.

    Example: mosaicmem inspect memory --verify --trajectory path.json --coverage
    """
    from mosaicmem.memory.storage.manifest import MANIFEST

    if not target.exists():
        raise FileNotFoundError(f"{target}: no folder of a store, and no file of a camera path")
    given = {"num_threads": threads}
    if (target / MANIFEST).is_file() or (target.is_dir() and not _is_colmap(target)):
        if trajectory is None:
            idle: dict[str, object] = {"--coverage": coverage, "--stride": stride, "--intrinsics": intrinsics}
            idle |= {"--size": size, "--fps": fps, "--time-unit": time_unit, "--config": config, "--set": changes}
            check_useful(idle, "expected --trajectory, whose views the store is asked for")
        check_useful({"--synthetic": synthetic}, f"expected a camera path, got {target}")
        settings = read_settings(config, changes, given, command="inspect", used=_OF_STORES)
        source = None if trajectory is None else (trajectory, intrinsics, size, fps, time_unit)
        report = _inspect_store(target, source, coverage, stride, verify, settings)
    else:
        idle = {"--trajectory": trajectory, "--verify": verify, "--stride": stride}
        check_useful(idle, f"expected a store with them, got {target}")
        if not synthetic:
            check_useful({"--coverage": coverage}, f"expected a store or --synthetic with it, got {target}")
        used = {*_OF_PATHS, *(_OF_STORES + _OF_SYNTHETIC if synthetic else ())}
        settings = read_settings(config, changes, given, command="inspect", used=used)
        path = read_trajectory(target, intrinsics, size, fps, time_unit)
        report = _inspect_path(target, path, settings)
        if synthetic:
            report |= _inspect_synthetic(path, coverage, settings)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _is_colmap(folder: Path) -> bool:
    from mosaicmem.camera.formats.colmap_model import find_model

    return find_model(folder) is not None


def _inspect_store(
    folder: Path,
    given: _Given | None,
    coverage: bool,
    stride: int | None,
    verify: bool,
    settings: PipelineConfig,
) -> dict[str, Any]:
    from mosaicmem.memory import MosaicMemoryStore
    from mosaicmem.memory.storage import verify as verify_folder
    from mosaicmem.memory.summary import stride_of, summarize, summarize_files

    if verify:
        verify_folder(folder)
    opened = MosaicMemoryStore.open(folder, num_threads=settings.num_threads)
    report: dict[str, Any] = {"store": str(folder), "verified": verify, **summarize(opened)}
    report["files"] = summarize_files(folder)
    if given is not None:
        report |= _covered(opened, read_trajectory(*given), stride or stride_of(opened), coverage, settings)
    return report


def _inspect_synthetic(path: CameraTrajectory, coverage: bool, settings: PipelineConfig) -> dict[str, Any]:
    """The memory of a synthetic flat seen along a path, and what it covers of the path's own views."""
    from mosaicmem.cli._synthetic_memory import synthetic_memory
    from mosaicmem.memory.summary import summarize

    store = synthetic_memory(path, settings)
    report: dict[str, Any] = {"memory": summarize(store)}
    return report | _covered(store, path, settings.vae_stride, coverage, settings)


def _covered(
    store: MosaicMemoryStore, path: CameraTrajectory, stride: int, each: bool, settings: PipelineConfig
) -> dict[str, Any]:
    """What a store covers of a path's views, on average, and of each view."""
    from mosaicmem.memory.summary import COVERAGE, coverage_along

    padded = path.padded(stride)
    frames = coverage_along(store, padded, stride, settings.patch_options(), settings.keyframe_options())
    means = {f"mean_{name}": sum(row[name] for row in frames) / len(frames) for name in COVERAGE}
    return {**means, "coverage": frames} if each else means


def _inspect_path(file: Path, path: CameraTrajectory, settings: PipelineConfig) -> dict[str, Any]:
    from mosaicmem.camera.formats import detect_format
    from mosaicmem.camera.summary import summarize_trajectory
    from mosaicmem.diffusion import TemporalLayout
    from mosaicmem.pipeline.windows import WindowPlan

    temporal = TemporalLayout(settings.temporal_kind, settings.temporal_factor)
    keyframes = path.select_keyframes(
        settings.keyframe_translation, settings.keyframe_angle, settings.keyframe_interval
    )
    return {
        "trajectory": str(file),
        "format": detect_format(file),
        **summarize_trajectory(path),
        "keyframes": len(keyframes),
        "windows": len(WindowPlan(settings, temporal, path)),
    }


def _print(report: dict[str, Any]) -> None:
    is_store = "store" in report
    title = f"{report['store']}{', verified' if report['verified'] else ''}" if is_store else report["trajectory"]
    print_pairs(title, _lines(report) if is_store else _path_lines(report))
    if "memory" in report:
        covered = {name: value for name, value in report.items() if name.startswith("mean_")}
        say("")
        print_pairs("Memory of a synthetic flat, seen by the path's keyframes", _lines(report["memory"] | covered))
    if "coverage" not in report:
        return
    from mosaicmem.memory.summary import COVERAGE

    rows = [
        [str(row["frame"]), f"{row['time']:.3f} s", str(row["patches"]), *(f"{100 * row[n]:.1f} %" for n in COVERAGE)]
        for row in report["coverage"]
    ]
    say("")
    title = "What memory covers of each frame of the path (by position, from 0)"
    headings = ["frame", "time", "patches", "covered", "of it\nobserved", "of it\ngenerated"]
    print_figures(title, headings, rows)


def _path_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    k = report["intrinsics"]
    low, high = report["bounds"]
    degrees = report["degrees"]
    return [
        ("format", report["format"]),
        ("frames", f"{report['frames']:,}"),
        ("image", f"{k['width']}x{k['height']} pixels"),
        ("field of view", f"{report['fov_degrees'][0]:.1f} by {report['fov_degrees'][1]:.1f} degrees"),
        ("duration", f"{report['seconds']:.3f} s"),
        ("way", f"{report['metres']:.2f} m, {report['metres_a_frame']:.3f} m a frame"),
        ("turns", f"{degrees['total']:.1f} degrees, {degrees['frame']:.2f} a frame, {degrees['most']:.2f} at most"),
        *((f"{axis}, metres", f"{a:.2f} to {b:.2f}") for axis, a, b in zip("xyz", low, high, strict=True)),
        ("from start to end", f"{report['metres_from_start']:.2f} m, {degrees['from_start']:.1f} degrees"),
        ("keyframes by motion", f"{report['keyframes']:,}"),
        ("windows", f"{report['windows']:,}"),
    ]


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    settings, files = report["settings"], report.get("files")
    lines = [
        ("patches", f"{report['patches']:,}"),
        ("keyframes", f"{report['keyframes']:,} ({report['observations']:,} placed in the world)"),
        *(
            (f"  {kind}", f"{count['observations']:,} in the world, of {count['patches']:,} patches")
            for kind, count in report["provenance"].items()
        ),
    ]
    if report["patches_a_keyframe"]:
        spread = report["patches_a_keyframe"]
        lines.append(("patches per keyframe", f"{spread['least']} to {spread['most']}, median {spread['median']:.0f}"))
        low, high = report["bounds"]
        lines.append(("time", f"{report['first_time']:.3f} to {report['last_time']:.3f} s"))
        lines += [(f"{axis}, metres", f"{a:.2f} to {b:.2f}") for axis, a, b in zip("xyz", low, high, strict=True)]
    for kind in report["kinds"]:
        grid = f"{kind['rows']}x{kind['columns']} cells of {kind['stride']} pixels"
        lines.append((grid, f"{kind['keyframes']:,} keyframes, {report['channels']} channels, {kind['latent_dtype']}"))
    lines += [(f"{name}, bytes", f"{count:,}") for name, count in report["bytes"].items()]
    if files is not None:
        disk = files["keyframe_bytes"] + files["state_bytes"]
        lines.append(("on disk, bytes", f"{disk:,} in {files['keyframe_files']} + {files['state_files']} files"))
    limits = [f"{name} {settings[name]:,}" for name in ("max_patches", "max_bytes") if settings[name] is not None]
    lines.append(("limits", ", ".join([*limits, f"eviction {settings['eviction']}"] if limits else ["none"])))
    lines.append(("patch size", f"{settings['latent_patch_size']} cells"))
    if "mean_coverage" in report:
        lines += [
            ("covered of the path's views", f"{100 * report['mean_coverage']:.1f} %"),
            ("  by what was observed", f"{100 * report['mean_coverage_observed']:.1f} %"),
            ("  by what was generated", f"{100 * report['mean_coverage_generated']:.1f} %"),
        ]
    return lines
