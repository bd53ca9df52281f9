"""Stores with something in them, and their patches as the reference sees them."""

import numpy as np

from conftest import random_pose
from mosaicmem import CameraIntrinsics, MosaicMemoryStore

STRIDE = 8
K = CameraIntrinsics(70.0, 72.0, 41.0, 23.0, 80, 48)  # 10 x 6 cells
ROWS, COLUMNS, CHANNELS = 6, 10, 4


def random_keyframe(rng, timestamp, spread=0.5, holes=0.2):
    latents = rng.standard_normal((ROWS, COLUMNS, CHANNELS)).astype(np.float32)
    depth = rng.uniform(1, 4, (ROWS, COLUMNS)).astype(np.float32)
    depth[rng.random(depth.shape) < holes] = 0
    return latents, depth, random_pose(rng, spread, timestamp)


def filled_store(rng, count, **options):
    store = MosaicMemoryStore(**{"latent_patch_size": 2, **options})
    keyframes = [random_keyframe(rng, float(i)) for i in range(count)]
    for latents, depth, pose in keyframes:
        store.insert_keyframe(latents, depth, K, pose)
    return store, keyframes


def reference_patches(keyframes, size=2):
    """All patches with a valid cell, as dicts; ids as a store gives them that was filled with these keyframes."""
    patches, first = [], 0
    origin = keyframes[0][2].position  # the index keeps centres as float32 from here
    for _latents, depth, pose in keyframes:
        rows, columns = depth.shape
        tiles = [(r, c) for r in range(0, rows, size) for c in range(0, columns, size)]
        for index, (r0, c0) in enumerate(tiles):
            cells = [
                (r, c, float(depth[r, c]))
                for r in range(r0, min(r0 + size, rows))
                for c in range(c0, min(c0 + size, columns))
            ]
            valid = [cell for cell in cells if np.isfinite(cell[2]) and cell[2] > 0]
            if not valid:
                continue
            z = sorted(cell[2] for cell in valid)[(len(valid) - 1) // 2]
            v, u = np.mean([[(r + 0.5) * STRIDE, (c + 0.5) * STRIDE] for r, c, _ in valid], axis=0)
            camera = z * np.array([(u - K.cx) / K.fx, (v - K.cy) / K.fy, 1])
            centre = pose.world_from_camera[:3, :3] @ camera + pose.position
            patches.append(
                {
                    "id": first + index,
                    "centre": (centre - origin).astype(np.float32).astype(np.float64) + origin,
                    "timestamp": pose.timestamp,
                    "k": K.params,
                    "world_from_camera": pose.world_from_camera,
                    "cells": cells,
                }
            )
        first += len(tiles)
    return patches
