"""Edits share tensors, splice stores, and respect limits."""

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import K, filled_store, fingerprint, random_keyframe
from mosaicmem import (
    CameraPose,
    MosaicMemoryStore,
    SpatialManipulation,
)
from test_edit import affine, tensors_of

pytestmark = pytest.mark.kernel


class TestSharing:
    def test_no_tensor_is_copied(self, rng):
        store, _ = filled_store(rng, 5)
        other, _ = filled_store(rng, 5)
        tensors, bytes_before = tensors_of(store), store.statistics().keyframe_bytes
        edit = SpatialManipulation(store)
        edit.scale(2.0)
        edit.rotate([1, 0, 0], 0.3, where=store.patch_ids[::2])
        edit.duplicate(affine(translation=[1, 1, 1]), store.patch_ids[::3])
        assert tensors_of(store) == tensors
        assert store.statistics().keyframe_bytes == bytes_before
        edit.splice(other, np.eye(4))
        assert tensors_of(store) == tensors | tensors_of(other)
        assert store.statistics().keyframe_bytes == bytes_before + other.statistics().keyframe_bytes
        edit.splice(store.fork(), affine(translation=[9, 0, 0]))
        assert store.statistics().keyframe_bytes == bytes_before + other.statistics().keyframe_bytes
        store.delete_patches(store.patch_ids)
        assert store.statistics().keyframe_bytes == 0
        assert store.nbytes < 2000

    def test_a_fork_never_shows_in_the_other(self, rng):
        store, _ = filled_store(rng, 50)
        pose = random_pose(rng, 0.5)
        fork = store.fork()
        before = fingerprint(store, pose)
        assert fingerprint(fork, pose) == before
        SpatialManipulation(fork).translate([1, 0, 0], fork.patch_ids[::2])
        fork.delete_patches(fork.patch_ids[:100])
        for i in range(80):
            latents, depth, place = random_keyframe(rng, 60.0 + i)
            fork.insert_keyframe(latents, depth, K, place)
        assert fingerprint(store, pose) == before
        changed = fingerprint(fork, pose)
        SpatialManipulation(store).flip([0, 1, 0])
        store.delete_patches(store.patch_ids[::3])
        store.insert_keyframe(*random_keyframe(rng, 99.0)[:2], K, pose)
        assert fingerprint(fork, pose) == changed

    def test_snapshot_and_restore(self, rng):
        store, _ = filled_store(rng, 20)
        pose = random_pose(rng, 0.5)
        before = fingerprint(store, pose)
        snapshot = store.snapshot()
        SpatialManipulation(store).scale(3.0)
        store.delete_patches(store.patch_ids[::2])
        store.restore(snapshot)
        assert fingerprint(store, pose) == before
        store.delete_frame(0)
        store.restore(snapshot)  # as often as one likes
        assert fingerprint(store, pose) == before
        with pytest.raises(ValueError, match="latent_patch_size 3, got 2"):
            MosaicMemoryStore(3).restore(snapshot)
        with pytest.raises(TypeError, match="snapshot: expected StoreSnapshot, got MosaicMemoryStore"):
            store.restore(store)


class TestSplice:
    def test_ids_are_offset(self, rng):
        store, _ = filled_store(rng, 3)
        other, _ = filled_store(rng, 4)
        SpatialManipulation(other).translate([0, 0, 1], other.patch_ids[::2])
        own, theirs = store.patch_ids, other.patch_ids
        centres = other.describe_patches(theirs)["centre"]
        matrix = affine(translation=[4, 0, 0])
        offset = SpatialManipulation(store).splice(other, matrix)
        np.testing.assert_array_equal(store.patch_ids, np.concatenate([own, theirs + np.uint64(offset)]))
        spliced = store.describe_patches(theirs + np.uint64(offset))["centre"]
        np.testing.assert_allclose(spliced, centres + np.array([4, 0, 0]))

    def test_ids_of_what_was_dead_in_the_other_are_not_given(self, rng):
        store, _ = filled_store(rng, 1)
        other, _ = filled_store(rng, 2)
        last = other.patch_ids.max()
        other.delete_frame(1)
        offset = SpatialManipulation(store).splice(other, np.eye(4))
        assert store.insert_keyframe(*random_keyframe(rng, 0.0)[:2], K, random_pose(rng)) > offset + last

    @pytest.mark.parametrize(("layout", "axis"), [("horizontal", 0), ("vertical", 1)])
    def test_layouts(self, rng, layout, axis):
        store, _ = filled_store(rng, 3)
        other, _ = filled_store(rng, 3)
        own = store.bounds
        offset = SpatialManipulation(store).splice(other, layout=layout, offset=0.5)
        spliced = store.describe_patches(store.patch_ids[store.patch_ids >= offset])["centre"]
        if layout == "horizontal":
            assert spliced[:, 0].min() == pytest.approx(own[1, 0] + 0.5)
        else:  # -y is up
            assert spliced[:, 1].max() == pytest.approx(own[0, 1] - 0.5)
        others = [i for i in range(3) if i != axis]
        np.testing.assert_allclose(spliced[:, others].min(axis=0), other.bounds[0, others])

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_latents_of_another_dtype(self, rng, dtype):
        store, _ = filled_store(rng, 2)
        other, _ = filled_store(rng, 2, latent_dtype=dtype)
        pose = random_pose(rng)
        expected = other.project_tokens(other.patch_ids, K, pose)["latents"]
        offset = SpatialManipulation(store).splice(other, np.eye(4))
        np.testing.assert_array_equal(
            store.project_tokens(other.patch_ids + np.uint64(offset), K, pose)["latents"], expected
        )

    def test_into_an_empty_store_and_of_one(self, rng):
        store, keyframes = filled_store(rng, 4)
        empty = MosaicMemoryStore()
        assert SpatialManipulation(empty).splice(store, np.eye(4)) == 0
        pose = random_pose(rng, 0.5)
        assert fingerprint(empty, pose) == fingerprint(store, pose)
        SpatialManipulation(store).splice(MosaicMemoryStore(), layout="vertical")
        assert fingerprint(empty, pose) == fingerprint(store, pose)
        assert len(keyframes) == store.statistics().keyframes

    def test_what_does_not_fit_is_named(self, rng):
        store, _ = filled_store(rng, 1)
        edit = SpatialManipulation(store)
        with pytest.raises(ValueError, match="other: expected latent_patch_size 2, got 1"):
            edit.splice(MosaicMemoryStore(1), np.eye(4))
        other = MosaicMemoryStore()
        other.insert_keyframe(np.zeros((6, 10, 7)), np.ones((6, 10)), K, CameraPose())
        with pytest.raises(ValueError, match="other: expected latents of 4 channels, got 7"):
            edit.splice(other, np.eye(4))
        with pytest.raises(ValueError, match="matrix, layout: expected one of the two"):
            edit.splice(other)


class TestLimits:
    def test_copies_push_out_the_oldest(self, rng):
        store, _ = filled_store(rng, 10, max_patches=120)
        edit = SpatialManipulation(store)
        copies = edit.duplicate(affine(translation=[1, 0, 0]), store.patch_ids[-50:])
        assert len(store) == 120
        assert np.isin(copies, store.patch_ids).all()
