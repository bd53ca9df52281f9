"""Tiles of a large world: the answers are those of one store with everything, whatever is open."""

import json
import math
import shutil

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import CHANNELS, COLUMNS, ROWS, K
from mosaicmem import (
    CameraPose,
    CameraTrajectory,
    FormatError,
    KeyframeRetrieval,
    MemoryRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
    StoreLockedError,
    SuspiciousInput,
)
from mosaicmem.memory.tiles import TiledStore

SIZE = 7.0  # metres


def keyframes(rng, count, spread=9.0):
    """Cameras all over some tiles, and what they see."""
    for i in range(count):
        pose = random_pose(rng, spread, float(i))
        depth = rng.uniform(0.5, 6, (ROWS, COLUMNS)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.2] = 0
        yield rng.standard_normal((ROWS, COLUMNS, CHANNELS)).astype(np.float32), depth, K, pose


def filled(rng, folder, count=40, parts=None, **options):
    """A tiled store and one store with the same keyframes."""
    tiled = TiledStore(folder, tile_size=SIZE, latent_dtype="float32", **options)
    whole = MosaicMemoryStore()
    for i, keyframe in enumerate(keyframes(rng, count)):
        fine = None
        if parts is not None:
            fine = np.kron(keyframe[1], np.ones((parts, parts), np.float32))
            fine *= rng.uniform(0.5, 2, fine.shape).astype(np.float32)
        for store in (tiled, whole):
            store.insert_keyframe(*keyframe, frame_id=i, subcell_depth=fine)
    return tiled, whole


def place_of(store, ids):
    """Which patches they are, whatever their ids."""
    told = store.describe_patches(ids)
    return np.stack([told["frame_id"], told["row"], told["column"]], axis=1)


def check_retrieval(rng, tiled, whole, **options):
    for _ in range(10):
        pose = random_pose(rng, 9.0, 100.0)
        found, expected = tiled.retrieve(K, pose, **options), whole.retrieve(K, pose, **options)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.depth, expected.depth)
        near = tiled.near(CameraTrajectory([pose], K), **options)
        inside = near.retrieve(K, pose, **options).ids
        np.testing.assert_array_equal(place_of(near, inside), place_of(whole, expected.ids))


OPTIONS = [
    {"top_k": 5},
    {"top_k": 64, "half_life": 10.0},
    {"top_k": 20, "diversity_radius": 12.0},
    {"top_k": 20, "diversity_radius": 30.0, "diversity_penalty": 0.0, "far": 5.0},
    {"top_k": 100_000, "min_visibility": 0.05},
]


class TestAnswers:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_retrieval_is_that_of_one_store(self, rng, tmp_path, options):
        tiled, whole = filled(rng, tmp_path, open_patches=1)
        assert tiled.statistics().tiles > 10
        check_retrieval(rng, tiled, whole, **options)
        tiled.save()
        tiled.close()
        again = TiledStore(tmp_path, open_patches=1)
        assert len(again) == len(whole)
        check_retrieval(rng, again, whole, **options)

    def test_few_tiles_are_opened_for_few_patches(self, rng, tmp_path):
        tiled, _ = filled(rng, tmp_path, 60, open_patches=1)
        tiled.save()
        tiled.close()
        opened = []
        for _ in range(10):
            again = TiledStore(tmp_path, open_patches=1)
            pose = random_pose(rng, 9.0, 100.0)
            again.retrieve(K, pose, top_k=3)
            before = again.statistics().opened
            again.retrieve(K, pose, top_k=3)
            assert again.statistics().opened == before  # they were left open
            opened.append(again.statistics().opened)
        assert np.median(opened) < 0.5 * again.statistics().tiles

    @pytest.mark.kernel
    def test_mosaics_are_those_of_one_store(self, rng, tmp_path):
        tiled, whole = filled(rng, tmp_path, open_patches=1)
        for _ in range(5):
            targets = CameraTrajectory([random_pose(rng, 9.0, 100.0 + i) for i in range(3)], K)
            options = {"top_k": 20, "diversity_radius": 12.0}
            near = tiled.near(targets, **options)
            found, expected = (MemoryRetrieval(**options).retrieve(store, targets, 8) for store in (near, whole))
            for name in ("tokens", "positions", "patch_scores", "valid"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))

    @pytest.mark.filterwarnings("ignore:targets. nothing is found")
    @pytest.mark.parametrize("parts", [None, 2])
    def test_canvases_are_those_of_one_store(self, rng, tmp_path, parts):
        tiled, whole = filled(rng, tmp_path, 60, open_patches=1, parts=parts)
        tiled.save()
        covered = opened = 0
        for _ in range(60):
            targets = CameraTrajectory([random_pose(rng, 9.0, 100.0)], K)
            view = tiled.in_view(targets, 8, far=5.0)
            shown, other = (KeyframeRetrieval(far=5.0).retrieve(store, targets, 8) for store in (view, whole))
            np.testing.assert_array_equal(shown.coverage, other.coverage)
            np.testing.assert_array_equal(shown.latents, other.latents)
            covered += shown.coverage.mean()
            opened += tiled.statistics().open_tiles
        assert covered > 3
        assert opened < 0.8 * 60 * tiled.statistics().tiles

    @pytest.mark.parametrize("most", [1, 10**6])
    def test_ids_are_for_life(self, rng, tmp_path, most):
        tiled, _ = filled(rng, tmp_path, open_patches=most)
        views = [random_pose(rng, 9.0, 100.0) for _ in range(5)]
        before = [tiled.retrieve(K, pose, top_k=10).ids for pose in views]
        for _ in range(3):
            for pose in reversed(views):
                tiled.retrieve(K, pose, top_k=100)
        tiled.save()
        for pose, ids in zip(views, before, strict=True):
            np.testing.assert_array_equal(tiled.retrieve(K, pose, top_k=10).ids, ids)
        tiled.close()
        again = TiledStore(tmp_path, open_patches=1)
        for pose, ids in zip(views, before, strict=True):
            np.testing.assert_array_equal(again.retrieve(K, pose, top_k=10).ids, ids)

    @pytest.mark.kernel
    def test_far_from_the_origin(self, rng, tmp_path):
        far = np.eye(4)
        far[:3, 3] = [4e5, -2e5, 3e5]
        tiled = TiledStore(tmp_path, tile_size=SIZE, latent_dtype="float32", open_patches=1)
        whole = MosaicMemoryStore()
        for latents, depth, camera, pose in keyframes(rng, 20):
            moved = CameraPose(far @ pose.world_from_camera, pose.timestamp)
            tiled.insert_keyframe(latents, depth, camera, moved)
            whole.insert_keyframe(latents, depth, camera, moved)
        for _ in range(5):
            pose = CameraPose(far @ random_pose(rng, 9.0, 0.0).world_from_camera, 50.0)
            found, expected = (store.retrieve(K, pose, top_k=30) for store in (tiled, whole))
            np.testing.assert_array_equal(found.scores, expected.scores)

    def test_an_empty_one_finds_nothing(self, tmp_path):
        tiled = TiledStore(tmp_path / "new", tile_size=SIZE)
        assert len(tiled.retrieve(K, CameraPose(np.eye(4)), top_k=3)) == len(tiled) == 0
        tiled.save()
        assert not (tmp_path / "new").exists()


class TestTiles:
    def test_writing_goes_on_where_it_was(self, rng, tmp_path):
        tiled, whole = filled(rng, tmp_path, 20, open_patches=1)
        tiled.save()
        tiled.close()
        again = TiledStore(tmp_path, open_patches=300)
        for i, keyframe in enumerate(keyframes(rng, 20)):
            again.insert_keyframe(*keyframe, frame_id=100 + i)
            whole.insert_keyframe(*keyframe, frame_id=100 + i)
            if i % 7 == 0:
                again.save()
        check_retrieval(rng, again, whole, top_k=30)
        again.save()
        check_retrieval(rng, TiledStore(tmp_path), whole, top_k=30)

    def test_frame_ids_go_on(self, rng, tmp_path):
        tiled = TiledStore(tmp_path, tile_size=SIZE)
        for keyframe in keyframes(rng, 3):
            tiled.insert_keyframe(*keyframe)
        tiled.save()
        tiled.close()
        again = TiledStore(tmp_path)
        again.insert_keyframe(*next(keyframes(rng, 1)))
        whole = again.in_view(CameraTrajectory([CameraPose(np.eye(4))], K), 8)
        again.prefetch([0, 0, 0], 1e6)
        assert set(whole.describe_patches(whole.patch_ids)["frame_id"]) == {0, 1, 2, 3}

    def test_those_used_least_are_closed(self, rng, tmp_path):
        tiled, _ = filled(rng, tmp_path, 40, open_patches=400)
        for _ in range(10):
            tiled.retrieve(K, random_pose(rng, 9.0, 100.0), top_k=3)
            stats = tiled.statistics()
            assert stats.open_tiles < stats.tiles
        assert stats.closed > 0
        assert stats.patches == len(tiled)

    def test_prefetching_opens_what_is_near(self, rng, tmp_path):
        tiled, _ = filled(rng, tmp_path, open_patches=10**6)
        tiled.save()
        tiled.close()
        again = TiledStore(tmp_path, open_patches=10**6)
        again.prefetch([0.0, 0.0, 0.0], 3.0)
        some = again.statistics().open_tiles
        again.prefetch([0.0, 0.0, 0.0], 1e6)
        assert 0 < some < again.statistics().open_tiles == again.statistics().tiles
        small = TiledStore(tmp_path, open_patches=200)
        small.prefetch([0.0, 0.0, 0.0], 1e6)
        assert 0 < small.statistics().open_patches <= 200

    def test_one_process_writes_and_others_read(self, rng, tmp_path):
        tiled, whole = filled(rng, tmp_path, 10)
        tiled.save()
        reader = TiledStore(tmp_path)
        check_retrieval(rng, reader, whole, top_k=10)
        with pytest.raises(StoreLockedError):
            reader.insert_keyframe(*next(keyframes(rng, 1)))
        tiled.close()


class TestInterruptions:
    """Whatever fails in the middle of a save, what was saved before is there, and saving again saves the rest."""

    def pair(self, rng, folder, count):
        return filled(rng, folder, count, open_patches=10**6)

    @pytest.mark.filterwarnings("ignore:.*no store is there")
    @pytest.mark.parametrize("written", [0, 1, 3, 7])
    def test_a_kill_between_tiles(self, rng, tmp_path, monkeypatch, written):
        tiled, whole = self.pair(rng, tmp_path, 20)
        tiled.save()
        for i, keyframe in enumerate(keyframes(rng, 20)):
            tiled.insert_keyframe(*keyframe, frame_id=100 + i)
            whole.insert_keyframe(*keyframe, frame_id=100 + i)
        save, saved = MosaicMemoryStore.save, []

        def killed(self, *args, **options):
            if len(saved) == written:
                raise KeyboardInterrupt
            saved.append(self)
            save(self, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(MosaicMemoryStore, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                tiled.save()
        tiled.close()
        again = TiledStore(tmp_path, open_patches=10**6)
        again.prefetch([0, 0, 0], 1e6)
        kept = set(again._world.describe_patches(again._world.patch_ids)["frame_id"].tolist())
        part = MosaicMemoryStore()
        for number in sorted(kept):
            one = whole.fork()
            ids = whole.patch_ids
            one.delete_patches(ids[whole.describe_patches(ids)["frame_id"] != number])
            SpatialManipulation(part).splice(one, np.eye(4))
        assert set(range(20)) <= kept | set(empty_frames(whole))
        fresh = TiledStore(tmp_path, open_patches=1)
        for _ in range(10):
            pose = random_pose(rng, 9.0, 200.0)
            found, expected = fresh.retrieve(K, pose, top_k=30), part.retrieve(K, pose, top_k=30)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
        again.insert_keyframe(*next(keyframes(rng, 1)))
        again.save()

    def test_a_list_that_could_not_be_written(self, rng, tmp_path, monkeypatch):
        tiled, whole = self.pair(rng, tmp_path, 20)

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("mosaicmem.memory.tiles.tile_file.write_json", full)
            with pytest.raises(OSError, match="No space"):
                tiled.save()
        tiled.save()
        tiled.close()
        check_retrieval(rng, TiledStore(tmp_path), whole, top_k=30)

    def test_a_keyframe_without_depth_is_no_obstacle(self, rng, tmp_path):
        tiled, whole = self.pair(rng, tmp_path, 5)
        latents, depth, camera, _ = next(keyframes(rng, 1))
        far = np.eye(4)
        far[:3, 3] = 1000.0
        tiled.insert_keyframe(latents, np.zeros_like(depth), camera, CameraPose(far))
        tiled.save()
        tiled.close()
        again = TiledStore(tmp_path)
        check_retrieval(rng, again, whole, top_k=30)
        again.insert_keyframe(latents, depth, camera, CameraPose(far))
        again.save()
        assert len(again.retrieve(camera, CameraPose(far), top_k=3)) == 3

    def test_a_writer_that_has_missed_something_is_refused(self, rng, tmp_path):
        first, _ = self.pair(rng, tmp_path, 5)
        first.save()
        first.close()
        stale, writer = TiledStore(tmp_path), TiledStore(tmp_path)
        writer.insert_keyframe(*next(keyframes(rng, 1)))
        writer.save()
        writer.close()
        with pytest.raises(StoreLockedError, match="another process has written here since"):
            stale.insert_keyframe(*next(keyframes(rng, 1)))

    def test_a_closed_one_says_so(self, rng, tmp_path):
        tiled, _ = self.pair(rng, tmp_path, 3)
        tiled.close()
        for call in (tiled.save, tiled.statistics, lambda: tiled.insert_keyframe(*next(keyframes(rng, 1)))):
            with pytest.raises(ValueError, match="is closed: make another TiledStore"):
                call()


def empty_frames(store):
    """Frames that have left no patch."""
    return set(range(40)) - set(store.describe_patches(store.patch_ids)["frame_id"].tolist())


class TestErrors:
    def test_arguments(self, rng, tmp_path):
        with pytest.raises(ValueError, match="tile_size: expected metres"):
            TiledStore(tmp_path)
        tiled, _ = filled(rng, tmp_path / "there", 3)
        tiled.save()
        with pytest.raises(ValueError, match="tile_size: expected 7, as"):
            TiledStore(tmp_path / "there", tile_size=5.0)
        latents, depth, camera, pose = next(keyframes(rng, 1))
        with pytest.raises(TypeError, match="unexpected argument 'colour'"):
            tiled.insert_keyframe(latents, depth, camera, pose, colour=3)
        with pytest.raises(ValueError, match="position: expected three finite numbers"):
            tiled.prefetch([0, math.nan, 0], 1.0)
        with pytest.raises(ValueError, match="channels as before, got 3"):
            tiled.insert_keyframe(latents[..., :3], depth, camera, pose)

    @pytest.mark.parametrize(
        "change",
        [
            lambda c: c.update(version=2),
            lambda c: c.pop("origin"),
            lambda c: c["tiles"].append(c["tiles"][0]),
            lambda c: c["tiles"][0].update(centres=[[1e9, 0, 0], [0, 0, 0]]),
            lambda c: c["tiles"][0].update(surface=None),
            lambda c: c["tiles"][0].update(cell=[0, 0, 2**70]),
        ],
    )
    def test_a_damaged_list_of_tiles(self, rng, tmp_path, change):
        tiled, _ = filled(rng, tmp_path, 3)
        tiled.save()
        tiled.close()
        content = json.loads((tmp_path / "tiles.json").read_text())
        change(content)
        (tmp_path / "tiles.json").write_text(json.dumps(content))
        with pytest.raises(FormatError, match=r"tiles\.json"):
            TiledStore(tmp_path)

    def test_a_missing_tile(self, rng, tmp_path):
        tiled, _ = filled(rng, tmp_path, 10)
        tiled.save()
        tiled.close()
        shutil.rmtree(tmp_path / "tiles")
        with pytest.warns(SuspiciousInput, match="no store is there, though tiles.json lists"):
            TiledStore(tmp_path).prefetch([0, 0, 0], 1e6)
