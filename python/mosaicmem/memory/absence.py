"""Explains why memory shows nothing to some cameras: what hides patches, or why they may lie elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import F64, Bool
from mosaicmem.camera import CameraIntrinsics, CameraTrajectory
from mosaicmem.errors import suspect
from mosaicmem.memory.options import RetrievalOptions
from mosaicmem.memory.store import MosaicMemoryStore

_MOST_PATCHES = 20_000
_MOST_TARGETS = 8
_APART = 10.0  # neighbouring cameras this many typical depths apart suggest different units
_MOSTLY = 0.9


@dataclass(frozen=True)
class Absence:
    """Why memory shows nothing.

    Attributes
    ----------
    cause : str
        The cause in numbers, and what to do.
    is_mistake : bool
        Settings or units are the likely cause. False: the cameras may simply look where nothing was seen.
    """

    cause: str
    is_mistake: bool


def explain_absence(store: MosaicMemoryStore, targets: CameraTrajectory, options: RetrievalOptions) -> Absence | None:
    """Why ``targets`` see no patch, or none that counts; None for an empty store.

    Parameters
    ----------
    store : MosaicMemoryStore
    targets : CameraTrajectory
        The first 8 are examined.
    options : RetrievalOptions
        The options with which nothing was found.
    """
    store = store.fork()  # other threads may write to the store meanwhile
    ids = store.patch_ids
    if not len(ids):
        return None
    some = ids[np.linspace(0, len(ids) - 1, min(len(ids), _MOST_PATCHES)).astype(np.int64)]
    described = store.describe_patches(some)
    origins = described["world_from_camera"][:, :, 3]
    depth = float(np.median(np.linalg.norm(described["centre"] - origins, axis=1)))
    behind = []
    for pose, camera in zip(targets[:_MOST_TARGETS], targets.cameras, strict=False):
        local = described["centre"] @ pose.camera_from_world[:3, :3].T + pose.camera_from_world[:3, 3]
        pixels, z = camera.project(local)
        inside = (z > 0) & (pixels >= 0).all(axis=1)
        inside &= (pixels < [camera.width, camera.height]).all(axis=1)
        if inside.any():
            ages = pose.timestamp - described["timestamp"][inside]
            generated = described["generated"][inside]
            if options.generated_weight == 0 and generated.mean() >= _MOSTLY:
                count = f"{int(generated.sum())} of {len(generated)} patches in view"
                return Absence(f"{count} were generated, and generated_weight = 0 leaves those out", False)
            hidden = _hidden(camera, pixels[inside], z[inside], ages, generated, options)
            if hidden is not None:
                return Absence(f"{hidden}; typical depth in memory is {depth:.4g}", True)
        behind.append(float((z <= 0).mean()))
    return _elsewhere(origins, targets, depth, behind)


def suspect_mistake(store: MosaicMemoryStore, targets: CameraTrajectory, options: RetrievalOptions) -> bool:
    """Warn, and return True, if settings or units are the likely cause of finding nothing."""
    absence = explain_absence(store, targets, options)
    if absence is None or not absence.is_mistake:
        return False
    suspect(f"targets: nothing is found for them in a memory of {len(store)} patches; {absence.cause}")
    return True


def _hidden(
    camera: CameraIntrinsics, pixels: F64, z: F64, ages: F64, generated: Bool, options: RetrievalOptions
) -> str | None:
    """Which setting hides most of the patches in view."""

    def told(those: Bool, what: str) -> str:
        span = f"at depth {z[those].min():.4g} to {z[those].max():.4g}"
        return f"{int(those.sum())} of {len(z)} patches in view {what}, {span}"

    near, far = z < options.near, z > options.far
    if near.mean() >= _MOSTLY:
        return told(near, f"are nearer than near = {options.near:g}") + "; near is in units of the scene: set it lower"
    if far.mean() >= _MOSTLY:
        return told(far, f"are farther than far = {options.far:g}") + "; far is in units of the scene: set it higher"
    off = np.hypot((pixels[:, 0] - camera.cx) / camera.width, (pixels[:, 1] - camera.cy) / camera.height)
    score = np.maximum(0, 1 - off) / (1 + 0.1 * z) * np.where(generated, options.generated_weight, 1.0)
    low = (score < options.min_visibility) & ~near & ~far
    if low.mean() + near.mean() + far.mean() >= _MOSTLY and low.any():
        return told(low, f"score below min_visibility = {options.min_visibility:g}") + (
            "; the score falls with depth as 1 / (1 + 0.1 depth), which takes depth for metres: "
            "lower min_visibility (0 turns it off), or scale the scene to metres"
        )
    if options.half_life > 0:
        recent = score * 0.5 ** (np.maximum(ages, 0) / options.half_life)
        old = recent < options.min_visibility
        if old.mean() >= _MOSTLY:
            return told(old, f"are {np.median(ages):.3g} s old (median) at half_life = {options.half_life:g} s") + (
                f"; they score below min_visibility = {options.min_visibility:g}; times in another unit?"
            )
    return None


def _elsewhere(origins: F64, targets: CameraTrajectory, depth: float, behind: list[float]) -> Absence:
    """The cause where no setting hides patches in view: different units, wrong axes, or another place."""
    cameras = np.unique(origins, axis=0)
    step = _typical_step(cameras)
    away = float(np.linalg.norm(cameras - targets[0].position, axis=1).min())
    apart = f"its neighbouring cameras are {step:.3g} apart, " if step else ""
    numbers = f"typical depth in memory is {depth:.4g}, {apart}and the first target is {away:.3g} from the nearest one"
    if max(step, away if len(cameras) == 1 else 0.0) > _APART * depth:
        factor = max(step, away) / depth
        unit = "poses in millimetres and depth in metres" if factor < 1e5 else "poses and depth in different units"
        return Absence(f"{numbers}; {unit}? bring them to one unit", True)
    if float(np.mean(behind)) >= _MOSTLY:
        cause = f"{100 * np.mean(behind):.0f} % of the patches lie behind the targets; targets with OpenGL axes, or "
        return Absence(f"{cause}camera_from_world given for world_from_camera? {numbers}", False)
    return Absence(f"{numbers}; another scene or world frame, another unit of length, or a place not seen?", False)


def _typical_step(cameras: F64) -> float:
    """The median distance from a camera to its nearest other one; 0 for a single camera."""
    if len(cameras) < 2:
        return 0.0
    some = cameras[np.linspace(0, len(cameras) - 1, min(len(cameras), 256)).astype(np.int64)]
    distances = np.linalg.norm(some[:, None] - some[None], axis=2)
    np.fill_diagonal(distances, math.inf)
    return float(np.median(distances.min(axis=1)))


def without_score(near: float, far: float, generated_weight: float) -> RetrievalOptions:
    """Options with which only these settings hide a patch, as in the retrieval of whole keyframes."""
    return RetrievalOptions(near=near, far=far, min_visibility=0.0, generated_weight=generated_weight)
