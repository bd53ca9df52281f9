"""The contents of a store, keyframe by keyframe, and the colours and pictures made from them."""

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    KeyframeRetrieval,
    MosaicMemoryStore,
    SpatialManipulation,
)
from mosaicmem.latent_colors import LatentColors
from mosaicmem.memory import Box
from mosaicmem.memory.contents import observed_keyframes

CAMERA = CameraIntrinsics(60, 60, 36, 20, 72, 40)  # 9 x 5 cells of 8 pixels: patches of 2 do not fit evenly


@pytest.fixture
def store(rng):
    store = MosaicMemoryStore(2, latent_dtype="bfloat16")
    for i in range(3):
        depth = rng.uniform(1, 4, (5, 9)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.2] = 0
        store.insert_keyframe(
            rng.standard_normal((5, 9, 4)), depth, CAMERA, random_pose(rng, 2.0, float(i)), frame_id=i
        )
    return store


class TestObservedKeyframes:
    def test_only_cells_of_living_patches(self, rng, store):
        store.delete_patches(rng.choice(store.patch_ids, 17, replace=False))
        keyframes = {k.frame_id: k for k in observed_keyframes(store)}
        assert sorted(keyframes) == [0, 1, 2]
        known = store.describe_patches(store.patch_ids)
        expected = {
            (int(f), int(r), int(c)) for f, r, c in zip(known["frame_id"], known["row"], known["column"], strict=True)
        }
        found = set()
        for frame, keyframe in keyframes.items():
            rows, columns = np.nonzero(keyframe.depth)
            found |= {(frame, int(r) // 2, int(c) // 2) for r, c in zip(rows, columns, strict=True)}
        assert found == expected

    def test_points_are_where_the_patches_are(self, rng):
        """On a plane parallel to the image, a patch's centre is the mean of its points."""
        store = MosaicMemoryStore(2)
        for i in range(3):
            latents, pose = np.zeros((5, 9, 1)), random_pose(rng, 2.0)
            store.insert_keyframe(latents, np.full((5, 9), 1.5 + i), CAMERA, pose, frame_id=i)
        known = store.describe_patches(store.patch_ids)
        rows, columns = np.divmod(np.arange(45), 9)
        for keyframe in observed_keyframes(store):
            of_frame = known["frame_id"] == keyframe.frame_id
            for centre, row, column in zip(
                *(known[name][of_frame] for name in ("centre", "row", "column")), strict=True
            ):
                inside = (rows // 2 == row) & (columns // 2 == column)
                np.testing.assert_allclose(keyframe.points[inside].mean(axis=0), centre, atol=1e-5)

    def test_edits_are_seen(self, store):
        before = np.concatenate([k.points for k in observed_keyframes(store)])
        edit = SpatialManipulation(store)
        edit.scale(2.0)
        edit.translate([1.0, 0, 0])
        after = np.concatenate([k.points for k in observed_keyframes(store)])
        np.testing.assert_allclose(after, 2 * before + [1, 0, 0], atol=1e-5)
        edit.erase(Box([-100, -100, -100], [100, 100, 100]))
        assert not list(observed_keyframes(store))

    def test_latents_are_widened(self, rng):
        latents = rng.standard_normal((5, 9, 4)).astype(np.float32)
        for dtype, tolerance in (("float32", 0), ("float16", 2e-3), ("bfloat16", 2e-2)):
            store = MosaicMemoryStore(latent_dtype=dtype)
            store.insert_keyframe(latents, np.ones((5, 9)), CAMERA, CameraPose())
            (keyframe,) = observed_keyframes(store)
            assert keyframe.latents.dtype == np.float32
            np.testing.assert_allclose(keyframe.latents, latents, atol=tolerance)
            assert keyframe.stride == 8
            assert keyframe.intrinsics == CAMERA.latent_grid(8)


class TestLatentColors:
    def test_structure_shows(self, rng):
        """Two kinds of latents get two colours; noise does not change which."""
        kind = rng.integers(0, 2, 500)
        latents = rng.standard_normal((2, 8))[kind] * 3 + rng.normal(0, 0.1, (500, 8))
        colors = LatentColors(latents)(latents)
        assert colors.shape == (500, 3)
        assert colors.dtype == np.float32
        assert 0 <= colors.min() <= colors.max() <= 1
        apart = np.abs(colors[kind == 0].mean(axis=0) - colors[kind == 1].mean(axis=0)).max()
        assert apart > 0.5

    def test_deterministic_and_of_any_shape(self, rng):
        latents = rng.standard_normal((30, 5))
        a, b = LatentColors(latents), LatentColors(latents.copy())
        grid = latents.reshape(5, 6, 5)
        np.testing.assert_array_equal(a(grid), b(latents).reshape(5, 6, 3))

    @pytest.mark.parametrize("shape", [(0, 4), (1, 4), (9, 1), (9, 2)])
    def test_little_to_go_by(self, rng, shape):
        colors = LatentColors(rng.standard_normal(shape))(rng.standard_normal((4, shape[1])))
        assert colors.shape == (4, 3)
        assert np.isfinite(colors).all()


class TestPlots:
    plots = staticmethod(lambda: pytest.importorskip("mosaicmem.plots"))

    def test_figures(self, store, tmp_path):
        pytest.importorskip("matplotlib")
        plots = self.plots()
        path = CameraTrajectory([CameraPose(timestamp=float(i)) for i in range(3)], CAMERA)
        coverage = KeyframeRetrieval().retrieve(store, path, 8).coverage
        figures = (
            plots.plot_top_down(store),
            plots.plot_top_down(store, path),
            plots.plot_coverage(coverage, np.arange(3.0)),
            plots.plot_coverage(coverage[:1], np.arange(1.0)),
            plots.plot_retrieved(store, path, 1, 8),
        )
        for i, figure in enumerate(figures):
            figure.savefig(tmp_path / f"{i}.png")
            assert (tmp_path / f"{i}.png").stat().st_size > 3000

    def test_bad_input(self, store):
        pytest.importorskip("matplotlib")
        plots = self.plots()
        with pytest.raises(ValueError, match="store: expected at least one patch, the store is empty"):
            plots.plot_top_down(MosaicMemoryStore())
        with pytest.raises(TypeError, match="store: expected MosaicMemoryStore, got list"):
            plots.plot_top_down([])
        path = CameraTrajectory([CameraPose()], CAMERA)
        with pytest.raises(ValueError, match="frame: expected at most 0, got 1"):
            plots.plot_retrieved(store, path, 1, 8)
