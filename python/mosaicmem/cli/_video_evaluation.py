"""``mosaicmem evaluate --video``: whether a generated video follows its cameras, and shows places again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem.cli._common import SUMMARY, check_apart, check_output_folder, output_folder, print_json
from mosaicmem.cli._errors import UsageError, check_useful
from mosaicmem.cli._frames import parse_range
from mosaicmem.cli._scenes import SYNTHETIC, open_evaluated
from mosaicmem.cli._tables import print_figures, print_pairs
from mosaicmem.cli._terminal import progress_bar
from mosaicmem.cli._trajectories import read_trajectory

if TYPE_CHECKING:
    from mosaicmem._arrays import U8
    from mosaicmem.camera import CameraTrajectory
    from mosaicmem.datasets import RgbdImage
    from mosaicmem.evaluation import CameraErrors
    from mosaicmem.evaluation.frames import RgbdSource

_EDGES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, math.inf)  # seconds away


def run_video_evaluation(
    video: Path,
    scene: str | None,
    trajectory: Path | None,
    frames: str | None,
    intrinsics: str | None,
    size: str | None,
    color_focal: str | None,
    seed: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Do what ``evaluate --video`` asks for: check the options, measure, print and write the figures."""
    from mosaicmem._files import write_json
    from mosaicmem.cli._evaluation_report import without_nan

    if (scene is None) == (trajectory is None):
        raise UsageError("--video: expected either --scene or --trajectory with it, for the cameras of its frames")
    if scene != SYNTHETIC:
        check_useful({"--seed": seed}, f"expected --scene {SYNTHETIC} with it")
    if output is None:
        check_useful({"--force": force}, "expected --output too, the folder to write into")
    else:
        folder_of = None if scene is None or scene == SYNTHETIC else Path(scene)
        check_apart({"--output": output}, {"--video": video, "--trajectory": trajectory, "--scene": folder_of})
        check_output_folder(output, force, "evaluate")
    source, shown = None, range(0)
    if scene is not None:
        source = open_evaluated(scene, intrinsics, size, color_focal, seed or 0)
        everything = f"0:{len(source)}" if frames is None else frames
        shown = parse_range("--frames", everything, len(source), getattr(source, "number", None))
        path = source.trajectory(shown)
    else:
        assert trajectory is not None
        check_useful({"--frames": frames}, "expected --scene with it, of whose frames they are")
        check_useful({"--color-focal": color_focal}, "expected --scene, whose colour camera it is")
        path = read_trajectory(trajectory, intrinsics, size)
    summary = evaluate_video(video, path, source, shown)
    if as_json:
        print_json(without_nan(summary))
    else:
        print_video(summary)
    if output is not None:
        with output_folder(output, force, "evaluate") as folder:
            write_json(folder / SUMMARY, without_nan(summary))


def evaluate_video(
    video: Path, path: CameraTrajectory, scene: RgbdSource | None, frames: Sequence[int]
) -> dict[str, Any]:
    """All figures of a video, as plain values.

    Parameters
    ----------
    video : Path
        With a frame for each pose of ``path``, and of its image size.
    path : CameraTrajectory
    scene : RgbdSource, optional
        What the cameras really saw: ``frames`` of it.
    frames : sequence of int
    """
    from mosaicmem.evaluation import dynamic_degree, find_revisits, is_mirrored, mirror_consistency, score_revisits
    from mosaicmem.evaluation.image_metrics import require_metrics
    from mosaicmem.evaluation.pose_recovery import require_pycolmap
    from mosaicmem.media import read_video

    require_metrics()
    require_pycolmap()
    shown = np.stack(list(read_video(video, len(path), path.size)))
    real: list[RgbdImage] = []
    if scene is not None:
        with progress_bar() as progress:
            real = [scene[i] for i in progress.track(frames, description="Reading the scene")]
    truth = np.stack([frame.image for frame in real]) if real else None
    depth = [frame.depth for frame in real] if real else None
    revisits = score_revisits(shown, path, truth=truth, depth=depth) if find_revisits(path) else []
    mirrored = mirror_consistency(shown, path) if is_mirrored(path) else []
    return {
        "video": str(video),
        "frames": len(path),
        "compared_with": "the scene" if real else "the video itself",
        **({} if truth is None else _likeness(shown, truth)),
        "cameras": _camera_summary(_camera_errors(shown, real, path), located=bool(real)),
        "revisits": [asdict(one) for one in revisits],
        "mirror": [asdict(one) for one in mirrored],
        "dynamic_degree": dynamic_degree(shown),
    }


def print_video(summary: dict[str, Any]) -> None:
    """Print the figures of `evaluate_video`."""
    cameras = summary["cameras"]
    pairs = [("frames", str(summary["frames"]))]
    if "psnr" in summary:
        pairs += [("PSNR", f"{summary['psnr']:.2f} dB"), ("SSIM", f"{summary['ssim']:.3f}")]
    pairs += [
        ("cameras recovered", f"{cameras['recovered']} of {cameras['asked']} frames, {cameras['method']}"),
        (
            "RotErr",
            f"{cameras['rot_err']:.3f} radians in all, {cameras['mean_rotation_degrees']:.2f} degrees per frame",
        ),
        ("TransErr", f"{cameras['trans_err']:.3f} in all, {cameras['mean_translation']:.3f} per frame"),
        ("dynamic degree", f"{summary['dynamic_degree']:.4f} of the diagonal per frame"),
    ]
    if summary["mirror"]:
        psnr, ssim = (float(np.mean([each[name] for each in summary["mirror"]])) for name in ("psnr", "ssim"))
        pairs.append(("way back", f"{psnr:.2f} dB, SSIM {ssim:.3f}, beside the way there"))
    print_pairs(f"{summary['video']}", pairs)
    rows = _revisit_rows(summary["revisits"])
    if rows:
        headings = ("seconds\naway", "revisits", "degrees\nturned", "in view\n%", "PSNR\ndB", "SSIM", "LPIPS")
        print_figures(f"\nReturns, compared with {summary['compared_with']}", headings, rows)


def _likeness(shown: U8, truth: U8) -> dict[str, float]:
    from mosaicmem.evaluation.image_metrics import psnr_where, ssim_where

    everywhere = np.ones(truth.shape[1:3], bool)
    scores = []
    for one, other in zip(shown, truth, strict=True):
        pair = one.astype(np.float32) / 255, other.astype(np.float32) / 255
        scores.append((psnr_where(*pair, everywhere), ssim_where(*pair, everywhere)))
    psnr, ssim = np.mean(scores, axis=0)
    return {"psnr": float(psnr), "ssim": float(ssim)}


def _camera_errors(shown: U8, real: list[RgbdImage], path: CameraTrajectory) -> CameraErrors:
    from mosaicmem.evaluation import camera_errors, locate_frames, recover_path

    if not real:
        return camera_errors(recover_path(shown, path.intrinsics), path)
    images = {i: frame.image for i, frame in enumerate(real)}
    depth = {i: frame.depth for i, frame in enumerate(real)}
    return camera_errors(locate_frames(shown, images, depth, path), path, align="none")


def _camera_summary(errors: CameraErrors, *, located: bool) -> dict[str, Any]:
    return {
        "method": "located in the scene" if located else "by structure from motion, scaled to the path",
        "recovered": len(errors.frames),
        "asked": errors.asked,
        "rot_err": errors.rot_err,
        "trans_err": errors.trans_err,
        "mean_rotation_degrees": math.degrees(errors.mean_rotation),
        "mean_translation": errors.mean_translation,
        "scale": errors.scale,
    }


def _revisit_rows(revisits: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    from mosaicmem.evaluation import Revisit, revisits_by

    ours = [Revisit(**one) for one in revisits]
    rows: list[tuple[str, ...]] = []
    for each in revisits_by(ours, "seconds_away", _EDGES):
        if each.revisits:
            turned = [one.angle_away for one in ours if each.since <= one.seconds_away < each.until]
            span = f"{each.since:g}-{each.until:g}" if math.isfinite(each.until) else f"{each.since:g}-"
            kept = [one.least_in_view for one in ours if each.since <= one.seconds_away < each.until]
            share = "-" if np.isnan(kept).all() else f"{100 * np.nanmean(kept):.0f}"
            figures = (f"{math.degrees(np.mean(turned)):.0f}", share, f"{each.psnr:.2f}", f"{each.ssim:.3f}")
            rows.append((span, str(each.revisits), *figures, "-" if math.isnan(each.lpips) else f"{each.lpips:.3f}"))
    return rows
