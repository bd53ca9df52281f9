"""Alignment of one view: reprojection of a 60x80 grid, and the splat of its tokens."""

import numpy as np
import pytest

from mosaicmem import CameraPose, WarpedLatent, depth_to_grid, reproject_depth_grid

STRIDE = 8
TARGET = CameraPose.look_at([0.1, 0, 0], [0, 0.1, 3])


@pytest.fixture
def grid(rgbd_frames):
    depth, _, intrinsics, _ = rgbd_frames[0]
    return depth_to_grid(depth, STRIDE), intrinsics


@pytest.mark.benchmark(group="depth 640x480 to a 60x80 grid (median)")
class TestDepthGrid:
    def test_mosaicmem(self, benchmark, rgbd_frames, threads):
        benchmark(depth_to_grid, rgbd_frames[0][0], STRIDE, num_threads=threads)

    def test_numpy(self, benchmark, rgbd_frames):
        depth = rgbd_frames[0][0]

        def run():
            cells = np.where(depth > 0, depth, np.nan).reshape(60, 8, 80, 8).transpose(0, 2, 1, 3).reshape(60, 80, 64)
            cells = np.sort(cells, axis=-1)
            count = np.isfinite(cells).sum(axis=-1)
            middle = np.take_along_axis(cells, np.maximum(count - 1, 0)[..., None] // 2, axis=-1)[..., 0]
            return np.where(count >= 16, middle, 0)

        np.testing.assert_array_equal(benchmark(run), depth_to_grid(depth, STRIDE))


@pytest.mark.benchmark(group="reproject 60x80 cells")
class TestReproject:
    def test_mosaicmem(self, benchmark, grid):
        depth, k = grid
        projected, valid = benchmark(reproject_depth_grid, depth, STRIDE, k, CameraPose(), k, TARGET)
        expected = numpy_reproject(depth, k)
        np.testing.assert_allclose(projected[valid], expected[valid], atol=1e-2)

    def test_numpy(self, benchmark, grid):
        benchmark(numpy_reproject, *grid)


def numpy_reproject(depth, k):
    v, u = (np.mgrid[:60, :80] + 0.5) * STRIDE
    points = np.stack([(u - k.cx) / k.fx * depth, (v - k.cy) / k.fy * depth, depth], axis=-1)
    p = points @ TARGET.camera_from_world[:3, :3].T + TARGET.camera_from_world[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([k.fx * p[..., 0] / p[..., 2] + k.cx, k.fy * p[..., 1] / p[..., 2] + k.cy, p[..., 2]], axis=-1)


@pytest.mark.benchmark(group="splat 20 000 tokens of 16 channels into 60x80")
class TestSplat:
    @pytest.fixture
    def tokens(self, rng):
        return (
            rng.standard_normal((20_000, 16)).astype(np.float32),
            rng.uniform([0, 0], [59, 79], (20_000, 2)).astype(np.float32),
            rng.uniform(1, 4, 20_000).astype(np.float32),
        )

    def test_mosaicmem_nearest(self, benchmark, tokens):
        canvas = benchmark(WarpedLatent("nearest").splat, *tokens, 60, 80)
        np.testing.assert_array_equal(canvas.latents, numpy_splat(*tokens))

    def test_mosaicmem_bilinear(self, benchmark, tokens):
        benchmark(WarpedLatent("bilinear").splat, *tokens, 60, 80)

    def test_numpy_nearest(self, benchmark, tokens):
        benchmark(numpy_splat, *tokens)


def numpy_splat(latents, positions, depth):
    cell = np.floor(positions + np.float32(0.5)).astype(np.int64) @ [80, 1]
    order = np.lexsort((np.arange(len(depth)), depth))[::-1]  # nearest last, so that it wins
    canvas = np.zeros((60 * 80, latents.shape[1]), np.float32)
    canvas[cell[order]] = latents[order]
    return canvas.reshape(60, 80, -1)
