"""Filled stores, and their patches in the form that the reference takes."""

import threading

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


def four_saves():
    """Yields one store before each of four saves: it grows, then loses patches, then all keyframes of one save."""
    rng = np.random.default_rng(1)
    store = MosaicMemoryStore()
    for step in range(4):
        for _ in range(3):
            latents, depth, pose = random_keyframe(rng, float(step))
            store.insert_keyframe(latents, depth, K, pose)
        if step:
            store.delete_patches(store.patch_ids[::7])
        if step == 2:
            for frame in range(3):
                store.delete_frame(frame)
        yield store


def filled_store(rng, count, **options):
    store = MosaicMemoryStore(**{"latent_patch_size": 2, **options})
    keyframes = [random_keyframe(rng, float(i)) for i in range(count)]
    for latents, depth, pose in keyframes:
        store.insert_keyframe(latents, depth, K, pose)
    return store, keyframes


def reference_patches(keyframes, size=2):
    """All patches with a valid cell, as dicts, with the ids that a store gives them if filled with these keyframes."""
    patches, first = [], 0
    origin = keyframes[0][2].position  # the index stores centres as float32 offsets from here
    for _latents, depth, pose in keyframes:
        rows, columns = depth.shape
        tiles = [(r, c) for r in range(0, rows, size) for c in range(0, columns, size)]
        for index, (r0, c0) in enumerate(tiles):
            cells = [
                (r, c, float(depth[r, c]))
                for r in range(r0, min(r0 + size, rows))
                for c in range(c0, min(c0 + size, columns))
            ]
            if any(np.isfinite(cell[2]) and cell[2] > 0 for cell in cells):
                patch = {
                    "id": first + index,
                    "timestamp": pose.timestamp,
                    "k": K.params,
                    "world_from_camera": pose.world_from_camera,
                    "cells": cells,
                }
                patches.append({**patch, "centre": indexed_centre(patch, origin)})
        first += len(tiles)
    return patches


def exact_centre(patch):
    """The median depth of the valid cells, on the ray through their mean pixel; world, float64."""
    valid = [cell for cell in patch["cells"] if np.isfinite(cell[2]) and cell[2] > 0]
    z = sorted(cell[2] for cell in valid)[(len(valid) - 1) // 2]
    v, u = np.mean([[(r + 0.5) * STRIDE, (c + 0.5) * STRIDE] for r, c, _ in valid], axis=0)
    camera = z * np.array([(u - K.cx) / K.fx, (v - K.cy) / K.fy, 1])
    return patch["world_from_camera"][:3, :3] @ camera + patch["world_from_camera"][:3, 3]


def indexed_centre(patch, origin):
    """The centre as the index stores it: a float32 offset from the origin."""
    return (exact_centre(patch) - origin).astype(np.float32).astype(np.float64) + origin


def edited(patch, matrix, **changes):
    """A patch moved by ``matrix``; the caller still has to update its indexed centre."""
    return {**patch, "world_from_camera": matrix @ patch["world_from_camera"], **changes}


def fingerprint(store, pose):
    """Every answer of a store, as bytes."""
    ids = store.patch_ids
    parts = [ids, *store.describe_patches(ids).values()]
    parts += store.project_tokens(ids, K, pose).values()
    found = store.retrieve(K, pose, top_k=10**6, min_visibility=0.0)
    parts += [found.ids, found.scores, found.pixels, found.depth]
    parts += store.query_nearest(np.zeros((1, 3)), 10**6)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def run_at_once(*works, times=1):
    """Run each some times on a thread of its own, all from the same moment on. Raises the first failure."""
    gate = threading.Barrier(len(works))
    failures = []

    def run(work):
        try:
            gate.wait()
            for _ in range(times):
                work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
