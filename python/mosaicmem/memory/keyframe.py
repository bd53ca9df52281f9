"""Input of a new keyframe: checked once, here, and converted for the core."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mosaicmem import _core
from mosaicmem._arrays import (
    F32,
    U8,
    ArrayLike,
    as_array,
    as_depth,
    as_pixels,
    check_choice,
    check_instance,
    check_integer,
    suspect_depth,
    to_numpy,
)
from mosaicmem.camera import CameraIntrinsics, CameraPose
from mosaicmem.memory.storage import MAX_CELLS, MOST_PIXELS

PROVENANCES = ("observed", "generated")
SUBCELLS = (2, 4, 8)
"""How many subcells a cell may have along its edge."""
_MOST_PATCH_BYTES = 512  # of index and redundancy map
_OBJECT_BYTES = 4096  # of a keyframe object, about


def as_keyframe(
    latents: ArrayLike,
    depth: ArrayLike,
    subcell_depth: ArrayLike | None,
    intrinsics: CameraIntrinsics,
    pose: CameraPose,
    valid: ArrayLike | None,
    dynamic: ArrayLike | None,
    confidence: ArrayLike | None,
    image: ArrayLike | None,
    image_pixels: int,
    provenance: str,
    channels: int | None,
    dtype: str,
    *,
    own: bool,
) -> dict[str, Any]:
    """The core's arguments for a keyframe, in the core's order, without the frame id.

    ``channels`` is the channel count of earlier keyframes, None for any; ``dtype`` is the storage dtype of latents.
    With ``own``, the caller cannot write to any of the arrays.
    """
    check_instance("intrinsics", intrinsics, CameraIntrinsics)
    _refuse_other_axes(to_numpy("latents", latents, values=True).shape, to_numpy("depth", depth).shape, intrinsics)
    own_latents = own and dtype == "float32"  # narrower dtypes are copies anyway
    grid = as_array("latents", latents, np.float32, ("h", "w", "C"), finite=True, values=True, own=own_latents)
    rows, columns, depth_of_grid = grid.shape
    if min(grid.shape) == 0 or rows * columns > MAX_CELLS:
        raise ValueError(f"latents: expected 1 to {MAX_CELLS} cells and a channel, got shape {grid.shape}")
    if channels not in (None, depth_of_grid):
        raise ValueError(f"latents: expected {channels} channels as before, got {depth_of_grid}")
    stride = _stride_of(intrinsics, rows, columns)
    check_instance("pose", pose, CameraPose)
    own_depth = own and valid is None and dynamic is None
    z = as_depth("depth", depth, (rows, columns), own=own_depth)
    suspect_depth("depth", z)
    kept = None
    if valid is not None:
        kept = as_array("valid", valid, np.bool_, (rows, columns))
    if dynamic is not None:
        still = ~as_array("dynamic", dynamic, np.bool_, (rows, columns))
        kept = still if kept is None else kept & still
    if kept is not None:
        z = np.where(kept, z, np.float32(0))
    parts = None if subcell_depth is None else _depth_of_subcells(subcell_depth, z, own=own_depth)
    if confidence is not None:
        confidence = as_array("confidence", confidence, np.float32, (rows, columns), finite=True, values=True, own=own)
        if confidence.min() < 0 or confidence.max() > 1:
            raise ValueError(f"confidence: expected values in [0, 1], got {confidence.min()} to {confidence.max()}")
    return {
        "latents": _narrow(grid, dtype),
        "latent_type": getattr(_core.LatentType, dtype),
        "depth": z,
        "confidence": confidence,
        "image": None if image is None else _reduced(image, intrinsics, rows, columns, image_pixels),
        "subcell_depth": parts,
        "stride": stride,
        "intrinsics": intrinsics.params,
        "world_from_camera": pose.world_from_camera,
        "timestamp": pose.timestamp,
        "provenance": getattr(_core.Provenance, check_choice("provenance", provenance, PROVENANCES)),
    }


def _depth_of_subcells(subcell_depth: ArrayLike, depth: F32, *, own: bool) -> F32:
    """Depth (n h, n w), 0 in cells without depth (h, w)."""
    rows, columns = depth.shape
    shape = to_numpy("subcell_depth", subcell_depth).shape
    parts = shape[0] // rows if len(shape) == 2 else 0
    if parts not in SUBCELLS or shape != (parts * rows, parts * columns):
        raise ValueError(
            f"subcell_depth: expected 2, 4 or 8 times the {rows}x{columns} cells along both axes, got shape {shape}; "
            "depth_to_grid(depth, stride // 2) is that of 2x2 subcells"
        )
    fine = as_depth("subcell_depth", subcell_depth, shape, own=own)
    known = np.kron(np.isfinite(depth) & (depth > 0), np.ones((parts, parts), np.bool_))
    return fine if known.all() else np.where(known, fine, np.float32(0))


def _reduced(image: ArrayLike, intrinsics: CameraIntrinsics, rows: int, columns: int, pixels_of_cell: int) -> U8:
    """A frame's image, with ``pixels_of_cell`` along the edge of a cell, by averaging areas."""
    check_integer("image_pixels", pixels_of_cell, minimum=1, maximum=MOST_PIXELS)
    shape = (intrinsics.height, intrinsics.width, 3)
    if to_numpy("image", image, values=True).dtype == np.uint8:
        pixels = as_array("image", image, np.uint8, shape)
    else:
        pixels = np.rint(255 * as_pixels("image", image, shape)).astype(np.uint8)
    size = (pixels_of_cell * columns, pixels_of_cell * rows)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _refuse_other_axes(shape: tuple[int, ...], depth: tuple[int, ...], intrinsics: CameraIntrinsics) -> None:
    """Reject latents as a VAE returns them: their grid would fit the image, or the depth, with permuted axes."""
    if len(shape) == 5:
        raise ValueError(
            f"latents: expected shape (h, w, C) of one frame, got {shape}; if that is (B, C, T, h, w), take frame t of "
            "video b as latents[b, :, t], and put channels last: .transpose(1, 2, 0) in NumPy, .permute(1, 2, 0) in "
            "torch"
        )
    if len(shape) != 3 or shape[:2] == depth:
        return
    image = f"the image of {intrinsics.width}x{intrinsics.height} pixels"
    if _is_grid(shape[1:], intrinsics) and (shape[1:] == depth or not _is_grid(shape[:2], intrinsics)):
        raise ValueError(
            f"latents: expected shape (h, w, C), channel last, got {shape}, which fits {image} as (C, h, w); use "
            ".transpose(1, 2, 0) in NumPy, .permute(1, 2, 0) in torch"
        )
    if _is_grid(shape[1::-1], intrinsics) and not _is_grid(shape[:2], intrinsics):
        raise ValueError(
            f"latents: expected shape (h, w, C), got {shape}, which fits {image} as (w, h, C); transposed?"
        )


def _is_grid(grid: tuple[int, ...], intrinsics: CameraIntrinsics) -> bool:
    """Whether the image is (rows, columns) times one whole stride, the same along both axes."""
    rows, columns = grid
    if min(rows, columns) < 1:
        return False
    stride = intrinsics.width // columns
    return (columns * stride, rows * stride) == (intrinsics.width, intrinsics.height)


def _stride_of(intrinsics: CameraIntrinsics, rows: int, columns: int) -> int:
    if not _is_grid((rows, columns), intrinsics):
        raise ValueError(
            f"intrinsics: expected an image that is a whole multiple of the {rows}x{columns} grid (rows x columns), "
            f"got {intrinsics.width}x{intrinsics.height} pixels (width x height); intrinsics of another resolution? "
            "use CameraIntrinsics.scaled"
        )
    return intrinsics.width // columns


def _narrow(latents: F32, dtype: str) -> np.ndarray:
    """Latents in their storage dtype: float32 as is, bfloat16 as uint16 bits rounded to nearest even."""
    if dtype == "float32":
        return latents
    if dtype == "float16":
        if np.abs(latents).max() > np.finfo(np.float16).max:
            raise ValueError(f"latents: expected values within float16, got {np.abs(latents).max():.6g}")
        return latents.astype(np.float16)
    bits = latents.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if ((rounded & 0x7FFF) == 0x7F80).any():
        raise ValueError(f"latents: expected values within bfloat16, got {np.abs(latents).max():.6g}")
    return rounded


def check_fits(
    keyframe: dict[str, Any],
    patch_size: int,
    max_patches: int | None,
    max_bytes: int | None,
    eviction: str,
    num_threads: int,
) -> None:
    """Reject a keyframe that would not fit even into an empty store."""
    rows, columns, _ = keyframe["latents"].shape
    patches = -(-rows // patch_size) * -(-columns // patch_size)
    if max_patches is not None and patches > max_patches:
        raise ValueError(f"latents: expected at most max_patches = {max_patches} patches in a keyframe, got {patches}")
    arrays = (keyframe[name] for name in ("latents", "depth", "confidence", "image", "subcell_depth"))
    nbytes = sum(array.nbytes for array in arrays if array is not None)
    if max_bytes is None or nbytes + _OBJECT_BYTES + _MOST_PATCH_BYTES * patches <= max_bytes:
        return
    alone = _core.MemoryStore(patch_size, None, None, getattr(_core.Eviction, eviction))
    alone.insert(*[*keyframe.values(), 0, num_threads])
    if alone.nbytes > max_bytes:
        raise ValueError(
            f"latents: expected a keyframe that fits into max_bytes = {max_bytes}, "
            f"got one of {alone.nbytes} bytes with its index"
        )
