"""Sizes that follow from a configuration: grids, patches, bytes, windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mosaicmem._arrays import check_integer
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.diffusion import TemporalLayout
from mosaicmem.pipeline.config import PipelineConfig
from mosaicmem.pipeline.windows import WindowPlan

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def derived_sizes(config: PipelineConfig, size: tuple[int, int], frames: int | None = None) -> dict[str, Any]:
    """What follows from a configuration for images of one size.

    Parameters
    ----------
    config : PipelineConfig
    size : (int, int)
        (width, height) of the images, pixels.
    frames : int, optional
        Of a path, whose windows are then counted.

    Returns
    -------
    dict
        Plain JSON: the padded image, the latent grid, patches and bytes of a keyframe, frames and latents of a window.
    """
    width, height = (check_integer("size", each, minimum=1, maximum=2**20) for each in size)
    padded = CameraIntrinsics.from_fov(width, height, fov_x=1.0).padded(config.vae_stride)
    grid = padded.latent_grid(config.vae_stride)
    cells, patch = grid.width * grid.height, config.latent_patch_size
    rows, columns = -(-grid.height // patch), -(-grid.width // patch)
    temporal = TemporalLayout(config.temporal_kind, config.temporal_factor)
    latents = temporal.num_latents(config.window_size)
    parts = math.gcd(config.vae_stride, config.depth_subcells)
    nbytes = {
        "latents": cells * config.latent_channels * _BYTES[config.latent_dtype],
        "depth": 4 * cells * (1 if parts == 1 else 1 + parts**2),
        "confidence": 4 * cells,
        "image": 3 * config.image_pixels**2 * cells if config.thumbnails else 0,
    }
    sizes: dict[str, Any] = {
        "image": {"width": width, "height": height},
        "padded_image": {"width": padded.width, "height": padded.height},
        "latent_grid": {"columns": grid.width, "rows": grid.height, "cells": cells, "channels": config.latent_channels},
        "keyframe": {
            "patches": rows * columns,
            "tokens_per_patch": patch * patch,
            "bytes": {**nbytes, "total": sum(nbytes.values())},
            "keyframes_per_gigabyte": 2**30 // sum(nbytes.values()),
        },
        "window": {
            "frames": config.window_size,
            "latent_frames": latents,
            "cells": latents * cells,
            "memory_patches": latents * config.top_k,
            "memory_tokens": latents * config.top_k * patch * patch,
        },
    }
    if frames is not None:
        still = CameraTrajectory([CameraPose(np.eye(4), float(i)) for i in range(frames)], padded)
        plan = WindowPlan(config, temporal, still)
        sizes["path"] = {"frames": frames, "windows": len(plan), "last_window_frames": len(plan.ranges[-1])}
    return sizes
