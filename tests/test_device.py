"""Operators on the GPU against the CPU, and what only the GPU has: frameworks, streams, arrays in the wrong place.

The tests of the CPU compare operators with their formulas; the fixture `anywhere` runs those on the GPU too.
"""

import ctypes
import gc
import subprocess
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest

import mosaicmem
from conftest import assert_within_twice, random_pose
from device_helpers import EmulatedDevice, TorchDevice
from mosaicmem import CameraIntrinsics, PRoPE, WarpedLatent, WarpedRoPE, _core, unproject_to_image
from mosaicmem._border.device import DeviceCall as Call
from mosaicmem.attention import bilinear_sample
from mosaicmem.attention.warped_latent import _sample_adjoint, _splat_adjoint
from test_sampling import places
from test_warped_latent import random_tokens

pytestmark = pytest.mark.kernel

HALVES = (np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("size", [(7, 5), (12, 16), (1, 1), (33, 640)])
def test_a_batch_of_images_has_a_pose_each(device, rng, size):
    k = CameraIntrinsics.from_fov(size[1], size[0], fov_x=1.2)
    depth = rng.uniform(-0.5, 5, (40, *size)).astype(np.float32)  # more than one launch takes
    depth[0, 0, 0], depth[1, 0, 0] = np.nan, np.inf
    poses = [random_pose(rng) for _ in depth]
    expected = unproject_to_image(depth, k, poses)
    points, valid = map(device.get, unproject_to_image(device.put(depth), k, poses))
    np.testing.assert_array_equal(valid, expected[1])
    np.testing.assert_allclose(points, expected[0], rtol=1e-5, atol=1e-5)
    for i in (0, 39):
        np.testing.assert_array_equal(unproject_to_image(depth[i], k, poses[i])[0], expected[0][i])
    assert device.get(unproject_to_image(device.put(depth[:0]), k, [])[0]).shape == (0, *size, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "block", "bilinear"])
@pytest.mark.parametrize("count", [0, 1, 400])
def test_splats_and_their_adjoints_are_the_cpu_s_to_the_bit(device, rng, mode, dtype, count):
    tokens, positions, depth = random_tokens(rng, count, 9, 7)
    weights = rng.uniform(0.1, 3, count).astype(np.float32)
    arguments = (tokens.astype(dtype), positions, depth)
    expected = WarpedLatent(mode).splat(*arguments, 9, 7, weights=weights)
    on_device = [*map(device.put, arguments)]
    gradient = rng.standard_normal((9, 7, 5)).astype(dtype)
    back = _splat_adjoint(gradient, *arguments[1:], weights, expected.depth, expected.source, mode, 0.05)
    for _ in range(10 if count > 1 else 1):
        canvas = WarpedLatent(mode).splat(*on_device, 9, 7, weights=device.put(weights))
        for name in ("latents", "coverage", "depth", "source"):
            np.testing.assert_array_equal(device.get(getattr(canvas, name)), getattr(expected, name))
        tokens_back = _splat_adjoint(
            device.put(gradient), *on_device[1:], device.put(weights), canvas.depth, canvas.source, mode, 0.05
        )
        np.testing.assert_array_equal(device.get(tokens_back), back)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "channels"), [(0, 3), (1, 1), (500, 8), (500, 3), (2000, 4)])
def test_samples_and_their_adjoint_are_the_cpu_s(device, rng, dtype, count, channels):
    grid = rng.standard_normal((6, 5, channels)).astype(dtype)
    positions = places(rng, count, 6, 5)
    values, inside = map(device.get, bilinear_sample(device.put(grid), device.put(positions)))
    expected = bilinear_sample(grid, positions)
    np.testing.assert_array_equal(inside, expected[1])
    np.testing.assert_allclose(values, expected[0], rtol=1e-6, atol=1e-6)
    gradient = rng.standard_normal((count, channels)).astype(dtype)
    back = _sample_adjoint(gradient, positions, 6, 5, 0)
    results = [device.get(_sample_adjoint(device.put(gradient), device.put(positions), 6, 5, 0)) for _ in range(10)]
    np.testing.assert_allclose(results[0], back, rtol=1e-5, atol=1e-5)
    for again in results[1:]:
        np.testing.assert_array_equal(again, results[0])


def test_more_cells_than_are_counted_at_once(device, rng):
    gradient, positions = rng.standard_normal((3000, 2)), places(rng, 3000, 150, 130)
    back = _sample_adjoint(device.put(gradient), device.put(positions), 150, 130, 0)
    np.testing.assert_allclose(device.get(back), _sample_adjoint(gradient, positions, 150, 130, 0), atol=1e-12)


def test_all_places_in_one_cell(device, rng):
    """The list of positions per cell is sorted, and one list may hold all of them."""
    gradient = rng.standard_normal((5000, 1))
    positions = np.full((5000, 2), 1.0)
    back = device.get(_sample_adjoint(device.put(gradient), device.put(positions), 3, 3, 0))
    total = 0.0
    for x in gradient[:, 0]:
        total += x
    assert back[1, 1, 0] == total
    assert np.abs(back).sum() == abs(total)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("pairing", ["interleaved", "split_half"])
@pytest.mark.parametrize("dim", [128, 20])
def test_half_precision_rounds_once(device, rng, dtype, pairing, dim):
    x = rng.standard_normal((2, 11, 50, dim)).astype(dtype)
    positions = rng.uniform(-5, 50, (50, 3))
    rope = WarpedRoPE(dim, pairing=pairing)
    exact = rope.apply(x.astype(np.float64), positions)
    for where in (positions, device.put(positions), rope.table(positions), rope.table(device.put(positions))):
        out = device.get(rope.apply(device.put(x), where))
        assert out.dtype == dtype
        assert_within_twice(out.astype(np.float64), exact.astype(np.float32).astype(dtype).astype(np.float64), exact)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("layout", "dim", "count"), [("half", 128, 1), ("half", 64, 4), ("full", 128, 4), ("full", 256, 1)]
)
def test_prope_in_half_precision(device, rng, dtype, layout, dim, count):
    viewmats = np.stack([random_pose(rng).camera_from_world for _ in range(3 * count)]).reshape(3, count, 4, 4)
    encoding = PRoPE(dim, viewmats, patches_x=4, patches_y=3, layout=layout)
    x = rng.standard_normal((1, 3, 36, dim)).astype(dtype)
    for apply in (encoding.apply_to_q, encoding.apply_to_kv, encoding.apply_to_o):
        exact = apply(x.astype(np.float64))
        out = device.get(apply(device.put(x)))
        assert out.dtype == dtype
        assert_within_twice(out.astype(np.float64), exact.astype(np.float32).astype(dtype).astype(np.float64), exact)


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
def test_prope_far_from_the_origin(device, rng, dtype):
    """Cameras are taken relative to one of them, as on the CPU."""
    near = np.stack([random_pose(rng).camera_from_world for _ in range(3)])
    far = near.copy()
    far[:, :3, 3] += 4e6 * near[:, :3, :3] @ np.array([0.6, 0.0, 0.8])
    x = [rng.standard_normal((1, 2, 36, 64)).astype(dtype) for _ in range(3)]
    ours, exact = (
        PRoPE(64, views, patches_x=4, patches_y=3).attend(*each)
        for views, each in ((far, map(device.put, x)), (near, (part.astype(np.float64) for part in x)))
    )
    tolerance = 2e-5 if dtype == np.float32 else 0.1
    np.testing.assert_allclose(device.get(ours).astype(np.float64), exact, atol=tolerance)


class TestBorder:
    def test_bfloat16_is_for_values(self, device, rng):
        tokens, places, z = rng.standard_normal((5, 4)).astype(np.float32), np.ones((5, 2), np.float32), np.ones(5)
        half = tokens.astype(ml_dtypes.bfloat16)
        got = WarpedLatent().splat(device.put(half), device.put(places), device.put(z), 3, 3).latents
        expected = WarpedLatent().splat(half.astype(np.float32), places, z, 3, 3).latents
        np.testing.assert_array_equal(device.get(got), expected)
        coarse = device.put(places.astype(ml_dtypes.bfloat16))
        with pytest.raises(TypeError, match=r"positions: expected float32 or float64, got bfloat16"):
            WarpedLatent().splat(device.put(tokens), coarse, device.put(z), 3, 3)
        with pytest.raises(TypeError, match=r"depth: expected float32 or float64, got bfloat16"):
            WarpedLatent().splat(
                device.put(tokens), device.put(places), device.put(np.ones(5, ml_dtypes.bfloat16)), 3, 3
            )

    def test_a_table_keeps_its_positions(self, device, rng):
        """A table computes its float64 angles on first use, possibly after the caller has overwritten the positions."""
        places = rng.uniform(0, 9, (6, 3))
        buffer = device.put(places.copy())
        table, x = WarpedRoPE(12).table(buffer), rng.standard_normal((6, 12))
        getattr(buffer, "array", buffer)[...] = 0
        np.testing.assert_allclose(
            device.get(WarpedRoPE(12).apply(device.put(x), table)), WarpedRoPE(12).apply(x, places), atol=1e-12
        )

    def test_an_array_elsewhere_is_named(self, device):
        rope = WarpedRoPE(8)
        x = device.put(np.ones((5, 8), np.float32))
        with pytest.raises(ValueError, match=r"positions: expected an array on cuda:0, where tokens is, got ndarray"):
            WarpedLatent().splat(device.put(np.ones((2, 4))), np.zeros((2, 2)), device.put(np.ones(2)), 3, 3)
        with pytest.raises(ValueError, match=r"positions: expected shape \(5, 3\), got \(4, 3\)"):
            rope.apply(x, device.put(np.zeros((4, 3))))
        with pytest.raises(ValueError, match="positions: expected these on the CPU, where x is"):
            rope.apply(np.ones((5, 8)), rope.table(device.put(np.zeros((5, 3)))))
        with pytest.raises(TypeError, match="depth: expected metres as floating-point numbers, got integers"):
            unproject_to_image(device.put(np.ones((5, 7), np.uint16)), CameraIntrinsics.from_fov(7, 5, fov_x=1))

    def test_integers_and_doubles_become_what_the_kernel_takes(self, device, rng):
        grid = rng.integers(0, 9, (4, 4, 2))
        at = np.array([[1, 1], [2, 3]])
        values, _ = bilinear_sample(device.put(grid), device.put(at))
        np.testing.assert_array_equal(device.get(values), grid[at[:, 0], at[:, 1]])

    def test_jax_cannot_be_written_to(self, device):
        class Array:
            shape, dtype = (2, 2), np.dtype(np.float32)
            __cuda_array_interface__ = property(lambda self: {"shape": (2, 2)})

        Array.__module__ = "jaxlib.xla"
        with pytest.raises(TypeError, match=r"x: expected arrays of torch or CuPy.*torch.from_dlpack"):
            Call("x", Array())

    def test_a_failure_of_cuda_names_the_kernel(self, device):
        call = Call("x", device.put(np.zeros(1)))
        nothing = call.empty((1,), "float32")[1]
        wide = (1, 2**50)
        with pytest.raises(_core.cuda.CudaError, match=r"CUDA kernel unproject_dense: .* more than a launch takes"):
            _core.cuda.unproject_dense(nothing, wide, (1, 1, 0, 0), np.eye(4)[None], nothing, nothing, call.stream)
        many = _core.cuda.DeviceArray(nothing.address, (1, 65536 * 8, 1, 8), (8, 8, 8, 8), "float32")
        with pytest.raises(_core.cuda.CudaError, match="CUDA kernel rope_apply: "):
            _core.cuda.rope_apply(many, nothing, nothing, True, False, many, call.stream)


def test_without_cuda_arrays_on_a_gpu_are_refused(monkeypatch):
    monkeypatch.delattr(_core, "cuda", raising=False)
    assert not mosaicmem.has_cuda()
    with pytest.raises(RuntimeError, match="grid: got an array on a GPU, and this mosaicmem was built without CUDA"):
        bilinear_sample(EmulatedDevice.put(np.ones((2, 2, 1))), np.zeros((1, 2)))


def _has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_has_cuda_says_what_is_found():
    if EmulatedDevice.missing() is None or TorchDevice.missing() is None:
        assert mosaicmem.has_cuda()
    elif not hasattr(_core, "cuda") or not _has_driver():  # a GPU counts even without torch to use it
        assert not mosaicmem.has_cuda()
    version = subprocess.run(
        [sys.executable, "-m", "mosaicmem", "--version"], capture_output=True, text=True, check=True
    )
    assert "CUDA: " in version.stdout
    assert ("not built in" in version.stdout) == (not hasattr(_core, "cuda"))


def test_a_batch_beyond_a_launch_is_refused(device):
    x = device.put(np.zeros((70_000, 1, 1, 4), np.float32))
    with pytest.raises(
        RuntimeError, match="rope_apply: a launch takes at most 65535 of a batch or of heads, got 70000"
    ):
        WarpedRoPE(4, (0, 2, 2)).apply(x, np.zeros((1, 3)))


def test_what_a_call_holds_goes_with_it(device):
    """With a reference cycle, scratch and results would stay until the garbage collector runs."""
    gc.disable()
    try:
        call = Call("x", device.put(np.zeros(3)))
        assert call.handle[2] is call
        left = weakref.ref(call)
        del call
        assert left() is None
    finally:
        gc.enable()


def test_tables_on_the_device_are_read_on_the_host(device, rng):
    positions = rng.uniform(0, 20, (5, 3))
    here, there = (WarpedRoPE(12).table(p) for p in (positions, device.put(positions)))
    np.testing.assert_allclose(there.frequencies, here.frequencies, atol=1e-12)
    for one, other in zip(there.per_feature("split_half"), here.per_feature("split_half"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
