"""What a `MemoryBatch` is built from: stores, and the cameras of latent frames and of their sub-frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from mosaicmem._arrays import check_instance, check_integer
from mosaicmem.camera import CameraTrajectory
from mosaicmem.diffusion import TemporalLayout
from mosaicmem.errors import suspect
from mosaicmem.memory import Mosaic, MosaicMemoryStore
from mosaicmem.models.dit_tokens import DiTTokens
from mosaicmem.models.prope_cameras import PRoPECameras, relative_sources, subframes_of


def samples_of(
    stores: Any, targets: Any, temporal: TemporalLayout | None
) -> list[tuple[MosaicMemoryStore, CameraTrajectory, CameraTrajectory]]:
    """Each sample's store, its cameras as given, and the camera of each of its latent frames."""
    for name, given in (("stores", stores), ("targets", targets)):
        if not isinstance(given, (MosaicMemoryStore, CameraTrajectory, list, tuple)):
            kind = "MosaicMemoryStore" if name == "stores" else "CameraTrajectory"
            raise TypeError(f"{name}: expected {kind} or a list of them, got {type(given).__name__}")
    some = [stores] if isinstance(stores, MosaicMemoryStore) else list(stores)
    paths = [targets] * len(some) if isinstance(targets, CameraTrajectory) else list(targets)
    for i, store in enumerate(some):
        check_instance(f"stores[{i}]", store, MosaicMemoryStore)
    for i, path in enumerate(paths):
        check_instance(f"targets[{i}]", path, CameraTrajectory)
    if not some or len(some) != len(paths):
        raise ValueError(f"targets: expected one trajectory per store, got {len(paths)} for {len(some)} stores")
    if temporal is None:
        return [(store, path, path) for store, path in zip(some, paths, strict=True)]
    check_instance("temporal", temporal, TemporalLayout)
    for i, path in enumerate(paths):
        latents = temporal.num_latents(len(path))
        last = temporal.frames_of(latents - 1, 1 + temporal.factor * latents)
        if len(path) != last.stop:
            raise ValueError(
                f"targets[{i}]: expected a camera for each frame of whole latent frames, such as {last.start} or "
                f"{last.stop}, since a latent frame covers {temporal.factor}, got {len(path)}"
            )
    return [(store, path, latent_cameras(path, temporal)) for store, path in zip(some, paths, strict=True)]


def latent_cameras(frames: CameraTrajectory, temporal: TemporalLayout) -> CameraTrajectory:
    """The camera that stands for each latent frame of a video whose frames have these cameras."""
    return frames.taken(temporal.reference_frames(len(frames)))


def check_patch(patch: Any) -> tuple[int, int]:
    """Rows and columns of latent cells in a transformer's patch."""
    if len(patch) != 3 or patch[0] != 1:
        raise ValueError(
            f"patch: expected (1, rows, columns) latent cells, got {tuple(patch)}: memory shows single latent frames"
        )
    return check_integer("patch[1]", patch[1], minimum=1), check_integer("patch[2]", patch[2], minimum=1)


def cameras_of(
    frames: CameraTrajectory,
    cameras: CameraTrajectory,
    temporal: TemporalLayout | None,
    mosaic: Mosaic | None,
    tokens: DiTTokens,
    grid: tuple[int, int],
    options: dict[str, Any],
) -> PRoPECameras:
    """The cameras of one sample. ``frames`` are its targets as given, ``cameras`` those of its latent frames."""
    layout = options.get("layout", "half")
    subframes = 4 if layout == "full" or (temporal is not None and layout == "contiguous") else 1
    reference, rows = cameras[0], subframes_of(len(frames), temporal, subframes)
    sources, matrices = relative_sources(
        None if mosaic is None else mosaic.sources, reference, np.asarray(cameras.cameras[0].matrix)
    )
    likely = 2 * matrices[:, :2, 2] / cameras.size  # the middle is at half
    if (likely < 2 / 3).any() or (likely > 1.5).any():
        suspect(
            "prope: keyframes seem to be of images of another size than the targets', by which PRoPE normalizes all "
            "intrinsics; resize one or the other, or scale the stored intrinsics"
        )
    of_token = tokens.source.flatten().cpu().numpy()
    return PRoPECameras(
        targets=(frames.camera_from_world[rows] @ reference.world_from_camera)[None],
        target_matrices=np.array([camera.matrix for camera in frames.cameras])[rows][None],
        sources=sources[None],
        source_matrices=matrices[None],
        source=of_token[None],
        source_positions=tokens.source_positions.reshape(1, -1, 2).cpu().numpy(),
        grid=grid,
        size=cameras.size[::-1],
        options=options,
    )
