"""After any sequence of operations, a store on the GPU answers as one on the host."""

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import STRIDE, K, random_keyframe
from mosaicmem import (
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    _core,
)

pytestmark = pytest.mark.kernel


class History:
    """Pairs of a store on the host and one on the GPU that undergo the same random operations."""

    def __init__(self, seed, device):
        self.rng = np.random.default_rng(seed)
        self.device = device
        options = {"max_patches": int(self.rng.integers(80, 300))} if self.rng.random() < 0.3 else {}
        options["latent_dtype"] = str(self.rng.choice(["float32", "float16", "bfloat16"]))
        budget = int(self.rng.choice([0, 500, 2000, 5000, 100_000]))
        there = MosaicMemoryStore(**options, device=device.for_store, device_bytes=budget)
        self.pairs = [(MosaicMemoryStore(**options), there)]
        self.snapshots = []
        self.still = random_pose(self.rng)

    def run(self, steps):
        for step in range(steps):
            pair = self.pairs[self.rng.integers(len(self.pairs))]
            action = self.rng.choice(
                ["insert", "insert", "insert", "delete", "edit", "fork", "restore", "look", "look"]
            )
            getattr(self, str(action))(pair, float(step))

    def pose(self, time):
        return random_pose(self.rng, 0.5, time) if self.rng.random() < 0.7 else self.still.at(time)

    def some(self, store):
        return self.rng.choice(store.patch_ids, min(len(store), int(self.rng.integers(1, 60))), replace=False)

    def insert(self, pair, time):
        latents, depth, _ = random_keyframe(self.rng, time)
        pose = self.pose(time)
        for store in pair:
            store.insert_keyframe(latents, depth, K, pose)

    def delete(self, pair, _time):
        gone = self.some(pair[0])
        for store in pair:
            store.delete_patches(gone)

    def edit(self, pair, _time):
        which, by, is_copy = self.some(pair[0]), 0.2 * self.rng.standard_normal(3), self.rng.random() < 0.5
        matrix = CameraPose(np.block([[np.eye(3), by[:, None]], [0, 0, 0, 1]])).world_from_camera
        for store in pair:
            edits = SpatialManipulation(store)
            edits.duplicate(matrix, which) if is_copy else edits.rotate([0, 1, 0], by[0], where=which)

    def fork(self, pair, _time):
        if len(self.pairs) < 3:
            self.pairs.append(tuple(store.fork() for store in pair))
        self.snapshots.append((pair, [store.snapshot() for store in pair]))

    def restore(self, _pair, _time):
        if self.snapshots:
            pair, snapshots = self.snapshots[self.rng.integers(len(self.snapshots))]
            for store, snapshot in zip(pair, snapshots, strict=True):
                store.restore(snapshot)

    def look(self, pair, time):
        host, there = pair
        targets = CameraTrajectory([self.pose(time) for _ in range(self.rng.choice([1, 2, 5, 33]))], K)
        options = {
            "top_k": int(self.rng.choice([1, 7, 64, 300])),
            "half_life": float(self.rng.choice([0, 3.3])),
            "diversity_radius": float(self.rng.choice([0, 9, 40])),
            "diversity_penalty": float(self.rng.choice([0, 0.5, 0.9])),
            "min_visibility": float(self.rng.choice([0, 0.01, 0.4])),
        }
        expected, got = (store.retrieve_window(targets, **options) for store in pair)
        for name in ("count", "ids", "scores", "pixels", "depth"):
            np.testing.assert_array_equal(self.device.get(getattr(got, name)), getattr(expected, name), err_msg=name)
        tokens = MemoryRetrieval(top_k=50)
        expected, got = (tokens.retrieve(store, targets, STRIDE) for store in pair)
        valid = self.device.get(got.valid)
        np.testing.assert_array_equal(self.device.get(got.tokens)[valid], expected.tokens[expected.valid])
        chosen = [KeyframeRetrieval().select(store, targets, STRIDE).packed() for store in (host, there)]
        for a, b in zip(*chosen, strict=True):
            np.testing.assert_array_equal(a, b)
        KeyframeRetrieval().prefetch(there, targets, STRIDE)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 24))])
def test_any_history(seed, device, monkeypatch):
    room = (64, 256, 8192)[seed % 3]
    monkeypatch.setattr(_core.cuda, "retrieval_room", (room, room, 4))
    History(seed, device).run(30)
