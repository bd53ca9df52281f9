"""Plots of a memory: patch positions, view coverage and retrieved patches. Needs matplotlib.

Each function returns a ``matplotlib.figure.Figure``, which notebooks display and ``savefig`` writes to a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F32, F64, check_instance, check_integer
from mosaicmem.camera import CameraTrajectory
from mosaicmem.memory import KeyframeRetrieval, MosaicMemoryStore
from mosaicmem.memory.canvas_colors import canvas_colors
from mosaicmem.memory.contents import ObservedKeyframe, observed_keyframes
from mosaicmem.memory.scene_colors import SceneColors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 60_000
_PIXELS = 4  # along the edge of a cell, in views
_MOST_CAMERAS = 100  # per kind; more would hide each other
_FRUSTUM = 0.04  # fraction of the plot's size
_INK, _PATH, _GENERATED = "#333333", "#d62728", "#1f77b4"


def require_matplotlib(what: str) -> None:
    """Raise an error that says what to install if matplotlib is missing."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{what} needs matplotlib: pip install matplotlib (mosaicmem's extra [plot])")


def plot_top_down(store: MosaicMemoryStore, trajectory: CameraTrajectory | None = None) -> Figure:
    """Plot patches from above, with the cameras of their keyframes and, in red, a trajectory with its frusta.

    Cameras of observed keyframes are dark, those of generated ones blue.

    Up is the mean of the cameras' own up directions. Patches have the colours of the scene, or, of keyframes without a
    thumbnail, those of the principal components of their latents.

    Parameters
    ----------
    store : MosaicMemoryStore
        With at least one patch.
    trajectory : CameraTrajectory, optional
    """
    keyframes = list(observed_keyframes(check_instance("store", store, MosaicMemoryStore)))
    if not keyframes:
        raise ValueError("store: expected at least one patch, the store is empty")
    color_of = SceneColors(keyframes)
    cameras = np.stack([k.world_from_camera for k in keyframes])
    path = None if trajectory is None else trajectory.world_from_camera
    plane, up = _ground_plane(cameras if path is None else np.concatenate([cameras, path]))
    points, colors = _cells(keyframes, color_of, up)
    flat = points @ plane.T
    width, height = np.maximum(np.ptp(flat, axis=0), 1e-9)
    figure, axes = _figure(8.0, float(np.clip(7.0 * height / width + 1.2, 3.0, 10.0)))
    size = float(np.ptp(flat, axis=0).max()) or 1.0
    _draw_from_above(axes, keyframes, flat, colors, plane, size)
    if trajectory is not None and path is not None:
        eyes = path[:, :3, 3] @ plane.T
        axes.plot(*eyes.T, color=_PATH, linewidth=1.2, label="path, and some of its cameras")
        step = max(1, len(path) // 24)
        tans = [0.5 * camera.width / camera.fx for camera in trajectory.cameras[::step]]
        _draw_cameras(axes, path[::step], plane, tans, 1.5 * _FRUSTUM * size, _PATH, None)
    axes.set_title(
        f"{len(store):,} patches of {len(keyframes)} keyframes, from above\nColours: {color_of.description}",
        fontsize="medium",
    )
    axes.legend(loc="best")
    return figure


def plot_edit(before: MosaicMemoryStore, after: MosaicMemoryStore, what: str) -> Figure:
    """Plot a store from above before and after an edit, on the same scale.

    Parameters
    ----------
    before, after : MosaicMemoryStore
        ``before`` has at least one patch.
    what : str
        The edit, for the title.
    """
    old, new = (
        list(observed_keyframes(check_instance("store", store, MosaicMemoryStore))) for store in (before, after)
    )
    if not old:
        raise ValueError("before: expected at least one patch, the store is empty")
    plane, up = _ground_plane(np.stack([k.world_from_camera for k in old]))
    color_of = SceneColors(old)
    drawn = [(k, *_cells(k, color_of, up)) for k in (old, new)]
    flats = [points @ plane.T for _, points, _ in drawn]
    both = np.concatenate(flats)
    (left, bottom), (right, top) = both.min(axis=0), both.max(axis=0)
    size = float(max(right - left, top - bottom)) or 1.0
    figure, panels = _figure(13.0, float(np.clip(6.0 * (top - bottom) / max(right - left, 1e-9) + 1.2, 3.0, 9.0)), 1, 2)
    for axes, (keyframes, _, colors), flat, store, name in zip(
        panels, drawn, flats, (before, after), ("before", f"after {what}"), strict=True
    ):
        _draw_from_above(axes, keyframes, flat, colors, plane, size)
        axes.set_xlim(left - 0.05 * size, right + 0.05 * size)
        axes.set_ylim(bottom - 0.05 * size, top + 0.05 * size)
        axes.set_title(f"{name}: {len(store):,} patches", fontsize="medium")
    return figure


def _cells(keyframes: list[ObservedKeyframe], color_of: SceneColors, up: F64) -> tuple[F64, F32]:
    """World points and colours of cells, low ones first, so that high ones are drawn over them."""
    points = np.concatenate([np.zeros((0, 3)), *(k.points for k in keyframes)])
    colors = np.concatenate([np.zeros((0, 3), np.float32), *(color_of(k)[k.depth > 0] for k in keyframes)])
    if len(points) > _MOST_POINTS:
        keep = np.linspace(0, len(points) - 1, _MOST_POINTS).astype(np.int64)
        points, colors = points[keep], colors[keep]
    order = np.argsort(points @ up)
    return points[order], colors[order]


def _draw_from_above(
    axes: Any, keyframes: list[ObservedKeyframe], flat: F64, colors: F32, plane: F64, size: float
) -> None:
    """Cells at ``flat`` (N, 2), and the cameras of keyframes."""
    axes.scatter(*flat.T, s=3, c=colors, linewidths=0, rasterized=True)
    for kind, color in (("observed", _INK), ("generated", _GENERATED)):
        own = [k for k in keyframes if k.provenance == kind]
        if own:
            some = own[:: max(1, len(own) // _MOST_CAMERAS)]
            tans = [0.5 * k.intrinsics.width / k.intrinsics.fx for k in some]
            cameras = np.stack([k.world_from_camera for k in some])
            _draw_cameras(axes, cameras, plane, tans, _FRUSTUM * size, color, f"cameras of {kind} keyframes")
    axes.set_aspect("equal")
    for direction, set_label in zip(plane, (axes.set_xlabel, axes.set_ylabel), strict=True):
        set_label(_axis_name(direction))


def plot_coverage(
    coverage: np.ndarray[Any, Any], times: np.ndarray[Any, Any], observed: np.ndarray[Any, Any] | None = None
) -> Figure:
    """Plot how much of each view memory covers: over time, over time by image column, and over the image.

    Parameters
    ----------
    coverage : (T, h, w) bool
        As in a `ComposedMosaic`.
    times : (T,) array
        Seconds.
    observed : (T, h, w) bool, optional
        As in a `ComposedMosaic`: the covered cells that show observed content. The other covered cells count as
        generated; if not given, all count as observed.
    """
    figure, axes = _figure(10, 6.0, 2, 2, gridspec_kw={"width_ratios": [2.4, 1]}, squeeze=False)
    (line, corner), (heat, mean) = axes
    total = 100 * coverage.mean(axis=(1, 2))
    seen = total if observed is None else 100 * observed.mean(axis=(1, 2))
    line.fill_between(times, 0, seen, color=_INK, alpha=0.55, linewidth=0, label="observed")
    line.fill_between(times, seen, total, color=_GENERATED, alpha=0.35, linewidth=0, label="generated")
    line.plot(times, total, color=_INK, label="covered")
    line.legend(loc="lower left")
    line.set_ylim(0, 104)
    line.set_ylabel("covered, %")
    line.set_xlabel("time, s")
    line.grid(alpha=0.3)
    line.set_title(
        f"What memory covers of {len(times)} views: {total.mean():.1f} % on average, "
        f"{seen.mean():.1f} % observed, {(total - seen).mean():.1f} % generated",
        fontsize="medium",
    )
    columns = 100 * coverage.mean(axis=1).T  # (w, T)
    spread = (times[0], times[-1] if times[-1] > times[0] else times[0] + 1, coverage.shape[2], 0)
    shown = {"vmin": 0, "vmax": 100, "cmap": "viridis"}
    heat.imshow(columns, aspect="auto", extent=spread, interpolation="nearest", **shown)
    heat.set_title("Covered by either, by column of the image")
    heat.set_ylabel("column of the latent grid\n(0: left edge of the image)")
    heat.set_xlabel("time, s")
    line.sharex(heat)
    image = mean.imshow(100 * coverage.mean(axis=0), interpolation="nearest", **shown)
    mean.set_title("By cell, all views")
    mean.set_xlabel("column of the latent grid")
    mean.set_ylabel("row")
    figure.colorbar(image, ax=mean, label="covered, %", location="bottom")
    corner.axis("off")
    return figure


def plot_retrieved(
    store: MosaicMemoryStore,
    trajectory: CameraTrajectory,
    frame: int,
    stride: int,
    *,
    top_k: int = 256,
    retrieval: KeyframeRetrieval | None = None,
) -> Figure:
    """Plot one target view as composed from memory, and the patches retrieved for it where they project.

    Parameters
    ----------
    store, trajectory
    frame : int
        Index of the view.
    stride : int
        Pixels per latent cell.
    top_k : int
        Patches to draw, spread over the image.
    retrieval : KeyframeRetrieval, optional
        Strategy that composes the view; `KeyframeRetrieval` by default.
    """
    check_integer("frame", frame, minimum=0, maximum=len(trajectory) - 1)
    view = trajectory[frame : frame + 1]
    composed = (retrieval or KeyframeRetrieval()).retrieve(store, view, stride)
    found = store.retrieve(view.intrinsics, view[0], top_k=top_k, diversity_radius=2.0 * stride)
    projected = store.project_tokens(found.ids, view.intrinsics, view[0])
    color_of = SceneColors.of_store(store)
    picture = canvas_colors(store, composed, view, stride, scale=_PIXELS, of_latents=color_of.components)[0]
    picture[~composed.coverage[0].repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)] = 1
    camera = view.intrinsics
    figure, axes = _figure(13, 0.5 * 13 * camera.height / camera.width + 1.3, 1, 2)
    for each in axes:
        each.imshow(picture, extent=(0, camera.width, camera.height, 0), interpolation="nearest")
        each.set_xlim(0, camera.width)
        each.set_ylim(camera.height, 0)
        each.set_xlabel("u, pixels")
        each.set_ylabel("v, pixels")
    time = trajectory[frame].timestamp
    figure.suptitle(
        f"Frame {frame} of the path, at {time:.2f} s. Colours: {color_of.description}; white: not in memory"
    )
    observed, generated = composed.observed[0], composed.coverage[0] & ~composed.observed[0]
    axes[0].set_title(
        f"Shown by memory: {100 * observed.mean():.1f} % observed, {100 * generated.mean():.1f} % generated (hatched)"
    )
    _hatch(axes[0], generated, stride)
    _draw_patches(figure, axes[1], projected["projected"], projected["patch"], len(found), stride)
    axes[1].set_title(f"{len(found)} patches retrieved, outlined where they land")
    return figure


def _hatch(axes: Any, cells: np.ndarray[Any, Any], stride: int) -> None:
    """Hatch the given cells of the latent grid on axes in pixels."""
    from matplotlib.collections import PolyCollection

    corners = stride * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    squares = [corners + stride * np.array([column, row]) for row, column in np.argwhere(cells)]
    axes.add_collection(PolyCollection(squares, facecolors="none", edgecolors=_INK, linewidths=0, hatch="////"))


def _draw_patches(
    figure: Figure, axes: Any, projected: F32, patch: np.ndarray[Any, Any], count: int, stride: int
) -> None:
    """Draw the outline of each patch's tokens, coloured by depth."""
    from matplotlib.collections import LineCollection

    boxes, depths = [], []
    for i in range(count):
        tokens = projected[patch == i]
        if len(tokens):
            (left, top), (right, bottom) = tokens[:, :2].min(axis=0), tokens[:, :2].max(axis=0)
            h = 0.5 * stride
            x0, x1, y0, y1 = left - h, right + h, top - h, bottom + h
            boxes.append([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
            depths.append(float(tokens[:, 2].mean()))
    if not boxes:
        return
    drawn = LineCollection(boxes, array=np.array(depths), cmap="plasma", linewidths=0.9)
    axes.add_collection(drawn)
    figure.colorbar(drawn, ax=axes, label="depth, metres")


def _ground_plane(world_from_camera: F64) -> tuple[F64, F64]:
    """Two axes that span the ground plane, (2, 3), and the up direction: the mean of the cameras' own."""
    up = -world_from_camera[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 1e-6:
        up = np.array([0.0, -1.0, 0.0])
    up /= np.linalg.norm(up)
    right = np.array([1.0, 0, 0]) - up[0] * up
    if np.linalg.norm(right) < 0.1:
        right = np.array([0, 0, 1.0]) - up[2] * up
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right)]), up


def _axis_name(direction: F64) -> str:
    """Label of the world axis closest to a direction, with the tilt between them."""
    axis = int(np.abs(direction).argmax())
    sign = "-" if direction[axis] < 0 else ""
    degrees = float(np.degrees(np.arccos(min(abs(direction[axis]), 1.0))))
    tilt = f" (tilted by {degrees:.0f} degrees)" if degrees > 0.5 else ""
    return f"{sign}{'xyz'[axis]}, metres{tilt}"


def _draw_cameras(
    axes: Any,
    world_from_camera: F64,
    plane: F64,
    tans: Sequence[float],
    length: float,
    color: str,
    label: str | None,
) -> None:
    """Draw each camera's horizontal field of view as a wedge from its centre."""
    from matplotlib.collections import PolyCollection

    wedges = []
    for matrix, tan in zip(world_from_camera, tans, strict=True):
        local = np.array([[0, 0, 0], [-tan, 0, 1], [tan, 0, 1]])
        directions = local @ matrix[:3, :3].T
        scale = np.linalg.norm(matrix[:3, 2]) or 1.0
        wedges.append((matrix[:3, 3] + length * directions / scale) @ plane.T)
    axes.add_collection(
        PolyCollection(wedges, facecolors="none", edgecolors=color, linewidths=0.8, label=label, zorder=3)
    )


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)
