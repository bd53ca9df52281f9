"""Thumbnails: kept with keyframes, counted, saved, and what pictures take the colours of the scene from."""

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import random_pose
from memory_helpers import COLUMNS, ROWS, K, random_keyframe
from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    PipelineConfig,
    PointCloud,
    SpatialManipulation,
    _core,
)
from mosaicmem.memory.canvas_colors import canvas_colors
from mosaicmem.memory.contents import observed_keyframes
from mosaicmem.memory.scene_colors import SceneColors
from mosaicmem.memory.storage import read_manifest
from mosaicmem.memory.storage.tensors import write_tensors
from mosaicmem.memory.target_grids import target_grids
from reference import canvas_colors as reference

HERE = CameraPose(np.eye(4))
IMAGE = (2 * ROWS, 2 * COLUMNS, 3)


def picture(rng):
    return rng.integers(0, 256, (K.height, K.width, 3), dtype=np.uint8)


def store_with(rng, images, **options):
    store = MosaicMemoryStore(**options)
    for i, image in enumerate(images):
        latents, depth, pose = random_keyframe(rng, float(i))
        store.insert_keyframe(latents, depth, K, pose, image=image)
    return store


def rename_array(folder, old, new):
    """Give the array of each keyframe another name, and the manifest version 3."""
    manifest = read_manifest(folder)
    (entry,) = manifest.keyframes
    tensors = load_file(folder / entry.name)
    renamed = {name.replace(f".{old}", f".{new}"): array for name, array in tensors.items()}
    (folder / entry.name).unlink()
    entry = write_tensors(folder / entry.name, renamed, {}, rows=entry.rows)
    manifest.model_copy(update={"keyframes": [entry], "version": 3}).write(folder)


def thumbnails(store):
    return [k.image for k in observed_keyframes(store)]


class TestKept:
    def test_four_by_four_pixels_become_one(self, rng):
        image = picture(rng)
        (kept,) = thumbnails(store_with(rng, [image]))
        means = image.reshape(2 * ROWS, 4, 2 * COLUMNS, 4, 3).mean(axis=(1, 3))
        assert kept.shape == IMAGE
        assert kept.dtype == np.uint8
        assert np.abs(kept - means).max() <= 1  # each of two passes rounds

    def test_floats_are_as_bytes(self, rng):
        image = picture(rng)
        as_bytes, as_floats = thumbnails(store_with(rng, [image, (image / 255).astype(np.float32)]))
        np.testing.assert_array_equal(as_bytes, as_floats)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((K.height, K.width), np.uint8), r"image: expected shape \(48, 80, 3\), got \(48, 80\)"),
            (np.zeros((*IMAGE,), np.uint8), r"image: expected shape \(48, 80, 3\), got \(12, 20, 3\)"),
            (np.full((K.height, K.width, 3), 200.0), r"image: expected values in \[0, 1\].*divide by 255"),
        ],
    )
    def test_wrong_images(self, rng, image, message):
        store = MosaicMemoryStore()
        latents, depth, pose = random_keyframe(rng, 0.0)
        with pytest.raises(ValueError, match=message):
            store.insert_keyframe(latents, depth, K, pose, image=image)
        assert not len(store)

    def test_they_stay_through_forks_edits_and_splices(self, rng):
        store = store_with(rng, [picture(rng), None])
        edited = store.fork()
        SpatialManipulation(edited).duplicate(np.diag([2.0, 2, 2, 1]))
        SpatialManipulation(edited).splice(store, np.eye(4))
        originals = thumbnails(store)
        assert originals[1] is None
        assert [np.shares_memory(each, originals[0]) for each in thumbnails(edited) if each is not None] == [True] * 3

    def test_their_bytes_count(self, rng):
        with_them, without = (store_with(rng, [image, image]) for image in (picture(rng), None))
        assert with_them.statistics().image_bytes == 2 * np.prod(IMAGE)
        assert without.statistics().image_bytes == 0
        more = with_them.nbytes - without.nbytes
        assert 2 * np.prod(IMAGE) <= more <= 2 * np.prod(IMAGE) + 1000
        limited = store_with(rng, [picture(rng)] * 9, max_bytes=with_them.nbytes)
        assert limited.nbytes <= with_them.nbytes
        assert 0 < limited.statistics().keyframes < 9

    def test_a_thumbnail_may_be_too_much(self, rng):
        fits = store_with(rng, [None]).nbytes + 100
        with pytest.raises(ValueError, match="expected a keyframe that fits into max_bytes"):
            store_with(rng, [picture(rng)], max_bytes=fits)


@pytest.mark.kernel
class TestEvicted:
    """Under max_bytes, images that hold more than half of it go before keyframes do."""

    @staticmethod
    def store(rng, count, **options):
        store = MosaicMemoryStore(**options)
        for i in range(count):
            latents, depth, pose = random_keyframe(rng, float(i), holes=0.0)
            store.insert_keyframe(latents, depth, K, pose, image=picture(rng), image_pixels=8)
        return store

    @pytest.mark.parametrize("policy", ["oldest", "redundant"])
    def test_old_keyframes_lose_their_images_first(self, rng, policy):
        whole = self.store(rng, 6, eviction=policy)
        limit = whole.nbytes - 2 * K.height * K.width * 3
        limited = self.store(rng, 6, max_bytes=limit, eviction=policy)
        assert limited.nbytes <= limit
        assert len(limited) == len(whole)
        assert [each is not None for each in thumbnails(limited)] == [False] * 2 + [True] * 4
        assert limited.statistics().image_bytes == 4 * K.height * K.width * 3

    def test_images_keep_half_of_the_bytes(self, rng):
        image = K.height * K.width * 3
        limit = 20 * image
        store = self.store(rng, 100, max_bytes=limit)
        found = thumbnails(store)
        kept = sum(each is not None for each in found)
        assert limit / 2 - image < store.statistics().image_bytes <= limit / 2
        assert [each is not None for each in found] == [False] * (len(found) - kept) + [True] * kept
        assert len(found) > 1.2 * limit / (self.store(rng, 10).nbytes / 10)  # than with all of their images

    def test_what_shares_a_keyframe_loses_the_same_image(self, rng):
        whole = self.store(rng, 3)
        store = self.store(rng, 3, max_bytes=whole.nbytes + 1500)
        SpatialManipulation(store).duplicate(np.diag([1.0, 1, 1, 1]), store.patch_ids[:5])
        snapshot = store.fork()
        latents, depth, pose = random_keyframe(rng, 3.0, holes=0.0)
        store.insert_keyframe(latents, depth, K, pose)
        images = thumbnails(store)
        assert [each is not None for each in images[:3]] == [False, True, True]
        assert images[3] is None  # the duplicate of the first
        assert [each is not None for each in thumbnails(snapshot)] == [True] * 4
        statistics = store.statistics()
        assert statistics.image_bytes == 2 * K.height * K.width * 3
        store.delete_frame(0)
        one = statistics.latent_bytes // 4
        assert store.statistics().latent_bytes == 3 * one  # both users of the first keyframe are gone

    def test_images_are_let_go(self, rng):
        gone = []
        store = MosaicMemoryStore(max_bytes=self.store(rng, 2).nbytes + 100)
        for i in range(3):
            latents, depth, pose = random_keyframe(rng, float(i), holes=0.0)
            store.insert_keyframe(latents, depth, K, pose, image=picture(rng), image_pixels=8)
            gone.append(weakref.ref(thumbnails(store)[-1]))
        gc.collect()
        assert gone[0]() is None
        assert gone[-1]() is not None

    def test_a_saved_store_has_those_that_are_left(self, rng, tmp_path):
        store = self.store(rng, 6, max_bytes=int(0.8 * self.store(rng, 6).nbytes))
        store.save(tmp_path / "store")
        latents, depth, pose = random_keyframe(rng, 6.0)
        store.insert_keyframe(latents, depth, K, pose, image=picture(rng), image_pixels=8)
        store.save(tmp_path / "store")
        opened = MosaicMemoryStore.open(tmp_path / "store")
        for expected, found in zip(thumbnails(store), thumbnails(opened), strict=True):
            assert (expected is None) == (found is None)
            if expected is not None:
                np.testing.assert_array_equal(expected, found)
        np.testing.assert_array_equal(opened.patch_ids, store.patch_ids)


class TestSaved:
    def test_round_trip(self, rng, tmp_path):
        store = store_with(rng, [picture(rng), None, picture(rng)])
        store.save(tmp_path / "store")
        opened = MosaicMemoryStore.open(tmp_path / "store")
        assert opened.statistics().image_bytes == store.statistics().image_bytes
        for expected, found in zip(thumbnails(store), thumbnails(opened), strict=True):
            np.testing.assert_array_equal(expected, found)
        opened.save(tmp_path / "again")
        assert thumbnails(MosaicMemoryStore.open(tmp_path / "again"))[1] is None

    def test_a_size_that_no_cell_has_is_refused(self, rng, tmp_path, monkeypatch):
        monkeypatch.setattr("mosaicmem.memory.keyframe._reduced", lambda *_: np.zeros((3 * ROWS, 2 * COLUMNS, 3), "u1"))
        store_with(rng, [picture(rng)]).save(tmp_path / "store")
        with pytest.raises(ValueError, match=r"0\.image: expected 1 to 64 times the .* cells, got shape"):
            MosaicMemoryStore.open(tmp_path / "store")

    def test_stores_of_version_3_had_thumbnails_alone(self, rng, tmp_path):
        """Their arrays had another name, and all of them 2x2 pixels per cell."""
        store = store_with(rng, [picture(rng), None])
        store.save(tmp_path)
        store.close()
        rename_array(tmp_path, "image", "thumbnail")
        opened = MosaicMemoryStore.open(tmp_path)
        np.testing.assert_array_equal(thumbnails(opened)[0], thumbnails(store)[0])
        assert thumbnails(opened)[1] is None

    @pytest.mark.parametrize("kept", [True, False])
    def test_the_pipeline_keeps_them_unless_told(self, kept):
        pipeline = AutoregressivePipeline(PipelineConfig(thumbnails=kept, vae_stride=8, latent_channels=4))
        pipeline.observe(np.full((K.height, K.width, 3), 0.4), np.full((K.height, K.width), 2.0), K, HERE)
        (thumbnail,) = thumbnails(pipeline.store)
        assert (thumbnail is not None) is kept
        if kept:
            assert (thumbnail == 102).all()


class TestColours:
    def wall(self, rng, image):
        """A store that has seen a wall 2 m away, which fills its view."""
        store = MosaicMemoryStore()
        latents = rng.standard_normal((ROWS, COLUMNS, 4)).astype(np.float32)
        store.insert_keyframe(latents, np.full((ROWS, COLUMNS), 2.0), K, HERE, image=image)
        return store

    def seen(self, store, target, **options):
        targets = CameraTrajectory([target], K)
        composed = KeyframeRetrieval().retrieve(store, targets, 8)
        return composed, canvas_colors(store, composed, targets, 8, **options)[0]

    def test_from_the_same_place_the_thumbnail_comes_back(self, rng):
        image = picture(rng)
        store = self.wall(rng, image)
        composed, colors = self.seen(store, HERE)
        assert composed.coverage.all()
        assert colors.shape == IMAGE
        np.testing.assert_allclose(255 * colors, thumbnails(store)[0], atol=0.01)

    def test_a_camera_beside_sees_them_moved(self, rng):
        """One pixel of the thumbnail to the right, on a wall at 2 m: 4 of 70 pixels of focal length."""
        store = self.wall(rng, picture(rng))
        beside = np.eye(4)
        beside[0, 3] = 2.0 * 4 / K.fx
        composed, colors = self.seen(store, CameraPose(beside))
        fine = composed.coverage[0].repeat(2, axis=0).repeat(2, axis=1)
        moved = thumbnails(store)[0][:, 1:]
        inside = fine[:, :-1]
        assert inside.mean() > 0.8
        np.testing.assert_allclose(255 * colors[:, :-1][inside], moved[inside], atol=0.5)

    def test_slanted_surfaces_are_interpolated(self, rng):
        """A plane in front of a turned camera: every pixel lies on it, not on steps of a cell."""
        normal, rays = np.array([0.3, -0.2, 1.0]), np.ones((ROWS, COLUMNS, 3))
        v, u = np.mgrid[:ROWS, :COLUMNS] * 8.0 + 4
        rays[..., 0], rays[..., 1] = (u - K.cx) / K.fx, (v - K.cy) / K.fy
        target = (*K.params, HERE.world_from_camera)
        points = reference.surface(target, (3 / (rays @ normal)).astype(np.float32), 8, 4)
        assert np.abs(points[2:-2, 2:-2] @ normal - 3).max() < 1e-5

    @pytest.mark.kernel
    @pytest.mark.parametrize(("rows", "columns", "scale"), [(6, 10, 4), (1, 1, 3), (1, 7, 1), (5, 1, 2), (24, 40, 8)])
    def test_the_kernel_is_its_formula(self, rng, rows, columns, scale):
        stride = 8.0
        camera = CameraIntrinsics(70, 72, 4.1 * columns, 3.9 * rows, 8 * columns, 8 * rows)
        targets = CameraTrajectory([random_pose(rng, 0.2, float(t)) for t in range(3)], camera)
        grids = target_grids(targets, 8, 0.05, math.inf)
        depth = rng.choice([0, 1.0, 1.1, 3.0, 1e-20, 1e20], (3, rows, columns)).astype(np.float32)
        source = np.where(depth > 0, rng.integers(0, 4, depth.shape), -1).astype(np.int32)
        others = rng.random((*depth.shape, 3)).astype(np.float32)
        images, inverses = [], []
        for k in range(4):
            image = rng.integers(0, 256, (2 * rows + k, 2 * columns + 1, 3), dtype=np.uint8)
            images.append((None if k == 2 else image, 2 / stride, (70.0, 71.0, 40.0, 20.0)))
            linear = rng.standard_normal((3, 3))  # an edit may have scaled and mirrored it
            inverses.append(np.concatenate([linear, rng.standard_normal((3, 1))], axis=1))
        inverses = np.stack(inverses)
        out = [np.full((3, scale * rows, scale * columns, 3), np.nan, np.float32) for _ in range(2)]
        for threads, colors in zip((1, 3), out, strict=True):
            _core.color_canvases(grids, depth, source, others, images, inverses, scale, colors, threads)
        np.testing.assert_array_equal(*out)
        for t in range(3):
            sources = [(*image, inverse) for image, inverse in zip(images, inverses, strict=True)]
            target = (*camera.params, targets[t].world_from_camera)
            expected = reference.color_canvas(target, depth[t], source[t], others[t], sources, stride, scale)
            # Depth is rounded to float32, which moves a point, and the colours at its place, a little.
            wrong = np.abs(out[0][t] - expected).max(axis=-1) > 1e-4
            assert wrong.mean() < 0.01, wrong.mean()
            assert np.median(np.abs(out[0][t] - expected)) < 1e-6

    def test_without_thumbnails(self, rng):
        store = self.wall(rng, None)
        _, grey = self.seen(store, HERE)
        assert (grey == 0.5).all()
        composed, colors = self.seen(store, HERE, of_latents=SceneColors.of_store(store).components)
        expected = SceneColors.of_store(store).components(composed.latents[0])
        np.testing.assert_array_equal(colors[::2, ::2], expected)
        np.testing.assert_array_equal(colors[1::2, 1::2], expected)

    def test_other_targets_are_refused(self, rng):
        store = self.wall(rng, picture(rng))
        targets = CameraTrajectory([HERE], K)
        composed = KeyframeRetrieval().retrieve(store, targets, 8)
        with pytest.raises(ValueError, match="expected the 6x10 cells of the canvases, got 12x20"):
            canvas_colors(store, composed, targets, 4)
        with pytest.raises(ValueError, match="expected those of the 1 canvases, got 2"):
            canvas_colors(store, composed, CameraTrajectory([HERE, HERE], K), 8)
        with pytest.raises(ValueError, match="composed: expected sources from -1 to 0"):
            canvas_colors(store, replace(composed, source=composed.source + 1), targets, 8)
        with pytest.raises(ValueError, match="composed: expected depth, source and latents"):
            canvas_colors(store, replace(composed, depth=composed.depth[:, :3]), targets, 8)

    def test_uncovered_cells_are_black(self, rng):
        behind = np.diag([-1.0, 1, -1, 1])
        composed, colors = self.seen(self.wall(rng, picture(rng)), CameraPose(behind))
        assert not composed.coverage.any()
        assert not colors.any()

    def test_keyframes_that_went_meanwhile_are_grey(self, rng):
        store = self.wall(rng, picture(rng))
        targets = CameraTrajectory([HERE], K)
        composed = KeyframeRetrieval().retrieve(store, targets, 8)
        store.delete_frame(0)
        assert (canvas_colors(store, composed, targets, 8) == 0.5).all()

    def test_descriptions(self, rng):
        image = picture(rng)
        assert SceneColors.of_store(store_with(rng, [image])).description == "of the scene"
        assert SceneColors.of_store(store_with(rng, [image, None])).description.startswith("of the scene, or main")
        assert SceneColors.of_store(store_with(rng, [None])).description.startswith("main components")

    def test_export_ply_has_them(self, rng, tmp_path):
        from cli_helpers import run

        image = np.full((K.height, K.width, 3), (200, 100, 50), np.uint8)
        store_with(rng, [image]).save(tmp_path / "store")
        run("export-ply", "--store", tmp_path / "store", "--output", tmp_path / "a.ply")
        assert (PointCloud.load_ply(tmp_path / "a.ply").colors == (200, 100, 50)).all()
        run("export-ply", "--store", tmp_path / "store", "--colors", "components", "--output", tmp_path / "b.ply")
        assert not (PointCloud.load_ply(tmp_path / "b.ply").colors == (200, 100, 50)).all()
