"""PRoPE far from the origin of the world: a move of all cameras together changes nothing, in any dtype."""

import warnings

import ml_dtypes
import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import (
    CameraPose,
    MemoryCrossAttention,
    PRoPE,
    SuspiciousInput,
    grid_positions,
    prope_attention,
)
from mosaicmem.attention import attention

K = np.array([[300.0, 0, 160], [0, 300, 96], [0, 0, 1]])
IMAGE = {"image_width": 320, "image_height": 192}
GRID = {"patches_x": 3, "patches_y": 2}
CAMERAS, TOKENS = 4, 24
FAR = (10.0, 1000.0, 4e6)
DTYPES = (np.float32, ml_dtypes.bfloat16)


def poses(rng, count, subframes=None):
    shape = (count,) if subframes is None else (count, subframes)
    turned = [random_pose(rng, spread=0.5) for _ in range(int(np.prod(shape)))]
    return np.stack([pose.world_from_camera for pose in turned]).reshape(*shape, 4, 4)


def views(world_from_camera, offset):
    """camera_from_world of cameras that were all moved by ``offset``."""
    moved = world_from_camera.copy()
    moved[..., :3, 3] += offset * np.array([0.6, -0.48, 0.64])
    rotation = np.swapaxes(moved[..., :3, :3], -1, -2)
    inverse = np.zeros_like(moved)
    inverse[..., :3, :3], inverse[..., 3, 3] = rotation, 1
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, moved[..., :3, 3])
    return inverse


def features(rng, tokens=TOKENS, dim=64):
    return rng.standard_normal((1, 2, tokens, dim))


def error(of, exact):
    return np.abs(of.astype(np.float64) - exact).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("translation", ["none", 2.5])
@pytest.mark.parametrize(("layout", "subframes"), [("half", None), ("half", 4), ("full", 4), ("contiguous", 4)])
def test_the_error_does_not_grow(rng, layout, subframes, translation, dtype):
    """The error of attention to memory with cameras of its own, against float64 at the origin."""
    own, theirs = poses(rng, CAMERAS, subframes), poses(rng, 3, subframes)
    places = rng.uniform(0, 3, (11, 2))
    q, k, v = features(rng), features(rng, 11), features(rng, 11)
    camera = rng.integers(0, 3, 11)

    def attend(offset, kind):
        options = {**IMAGE, "layout": layout, "translation": translation}
        queries = PRoPE(64, views(own, offset), K, **GRID, **options)
        memory = PRoPE(64, views(theirs, offset), K, camera=camera, positions=places, **options)
        return queries.attend(q.astype(kind), k.astype(kind), v.astype(kind), memory=memory)

    # float64 of inputs that were rounded to dtype, so that only the computation is compared.
    q, k, v = (x.astype(dtype).astype(np.float64) for x in (q, k, v))
    exact = attend(0.0, np.float64)
    floor = 0.02 if dtype is ml_dtypes.bfloat16 else 2e-6
    near = max(error(attend(0.0, dtype), exact), floor * np.abs(exact).max())
    for offset in FAR:
        assert error(attend(offset, dtype), exact) <= 2 * near, offset


@pytest.mark.parametrize("translation", ["none", "log", "logd4", "tanh", 3.0])
def test_a_reference_makes_every_translation_independent_of_the_world(rng, translation):
    own, (q, k, v) = poses(rng, CAMERAS), (features(rng).astype(np.float32) for _ in range(3))

    def attend(offset):
        of_world = views(own, offset)
        first = CameraPose.from_camera_from_world(of_world[0])
        options = {**GRID, **IMAGE, "translation": translation, "world_from_reference": first}
        return prope_attention(q, k, v, of_world, K, **options)

    at_origin = attend(0.0)
    for offset in FAR:
        np.testing.assert_allclose(attend(offset), at_origin, atol=2e-5)


def test_with_products_of_ones_own(rng):
    """``apply_to_...`` of two encodings that share a reference camera."""
    own, theirs = poses(rng, CAMERAS), poses(rng, CAMERAS)
    q, k, v = (features(rng).astype(np.float32) for _ in range(3))

    def attend(offset):
        reference = np.linalg.inv(views(own, offset)[2])
        queries, memory = (PRoPE(64, views(p, offset), **GRID, world_from_reference=reference) for p in (own, theirs))
        return queries.apply_to_o(attention(queries.apply_to_q(q), memory.apply_to_kv(k), memory.apply_to_kv(v)))

    at_origin = attend(0.0)
    for offset in FAR:
        np.testing.assert_allclose(attend(offset), at_origin, atol=2e-5)


def test_a_layer_attends_alike(rng):
    layer = MemoryCrossAttention(12, 6, 2, 24, seed=3)
    own, theirs = poses(rng, CAMERAS), poses(rng, 3)
    hidden, memory = rng.standard_normal((1, TOKENS, 12)), rng.standard_normal((1, 11, 6))
    landed, camera = rng.uniform(0, 3, (11, 3)), rng.integers(0, 3, 11)

    def attend(offset):
        queries = PRoPE(24, views(own, offset), **GRID)
        keys = PRoPE(24, views(theirs, offset), camera=camera, positions=landed[:, 1:])
        ready = layer.project_memory(memory, landed, prope=keys)
        return layer.attend(hidden, ready, grid_positions(CAMERAS, 2, 3), prope=queries)

    at_origin = attend(0.0)
    for offset in FAR:
        np.testing.assert_allclose(attend(offset), at_origin, atol=2e-5)


def test_gradients_are_those_at_the_origin(rng):
    torch = pytest.importorskip("torch")
    own, (q, k, v) = poses(rng, CAMERAS), (features(rng) for _ in range(3))

    def gradient(offset, dtype):
        encoding = PRoPE(64, views(own, offset), K, **GRID, **IMAGE)
        frame = encoding.products.shared_frame
        products = encoding.products.seen_from(frame, "viewmats")
        x = torch.tensor(q, dtype=dtype, requires_grad=True)
        other = torch.tensor(encoding.multiply("k", k, products.kv, False, 1), dtype=dtype)
        ((encoding.multiply("q", x, products.q, False, 1) @ other.mT) ** 2).sum().backward()
        return x.grad.double().numpy()

    exact = gradient(0.0, torch.float64)
    for offset in FAR:
        np.testing.assert_allclose(gradient(offset, torch.float32), exact, atol=2e-5 * np.abs(exact).max())
    with torch.no_grad():
        attended = PRoPE(64, views(own, FAR[-1]), K, **GRID, **IMAGE).attend(
            *(torch.tensor(x).float() for x in (q, k, v))
        )
        near = PRoPE(64, views(own, 0.0), K, **GRID, **IMAGE).attend(*(torch.tensor(x).float() for x in (q, k, v)))
    np.testing.assert_allclose(attended.numpy(), near.numpy(), atol=2e-5)


def test_products_are_made_once_a_frame(rng):
    """A layer asks for the products at every step, and on the GPU each would cost a blocking copy."""
    encoding = PRoPE(64, views(poses(rng, CAMERAS), 100.0), **GRID)
    frame = encoding.products.shared_frame
    assert encoding.products.seen_from(frame, "x") is encoding.products.seen_from(frame, "x")


def test_near_the_origin_nothing_changes(rng):
    """There, ``attend`` equals the three methods bit for bit."""
    encoding, (q, k, v) = PRoPE(64, views(poses(rng, CAMERAS), 0.0), **GRID), (features(rng) for _ in range(3))
    by_hand = encoding.apply_to_o(attention(encoding.apply_to_q(q), encoding.apply_to_kv(k), encoding.apply_to_kv(v)))
    np.testing.assert_array_equal(encoding.attend(q, k, v), by_hand)


class TestSuspicions:
    @pytest.mark.parametrize(("dtype", "offset"), [(np.float32, 4e6), (ml_dtypes.bfloat16, 100.0)])
    def test_methods_that_lose_digits_say_so_once(self, rng, dtype, offset):
        encoding = PRoPE(64, views(poses(rng, CAMERAS), offset), **GRID)
        x = features(rng).astype(dtype)
        with pytest.warns(SuspiciousInput, match=f"viewmats: all cameras are .* {np.dtype(dtype).name} features lose"):
            encoding.apply_to_q(x)
        encoding.apply_to_kv(x)

    def test_those_that_do_not_are_silent(self, rng):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoding = PRoPE(64, views(poses(rng, CAMERAS), 1000.0), **GRID)
            encoding.apply_to_q(features(rng).astype(np.float32))
            PRoPE(64, views(poses(rng, CAMERAS), 4e6), **GRID).apply_to_q(features(rng))
            wide = views(poses(rng, CAMERAS), 0.0)
            wide[:, :3, 3] *= 1e4
            PRoPE(64, wide, **GRID).apply_to_q(features(rng).astype(ml_dtypes.bfloat16))
            PRoPE(64, views(poses(rng, CAMERAS), 20.0), **GRID, translation="log")

    def test_a_translation_that_depends_on_the_world(self, rng):
        with pytest.warns(SuspiciousInput, match="translation: 'log' depends on the frame of the world"):
            PRoPE(64, views(poses(rng, CAMERAS), 1000.0), **GRID, translation="log")

    def test_cameras_of_a_coarse_dtype(self, rng):
        with pytest.warns(SuspiciousInput, match=r"viewmats: float32 tells translations of .* apart by 0\.25 only"):
            PRoPE(64, views(poses(rng, CAMERAS), 4e6).astype(np.float32), **GRID)


@pytest.mark.parametrize("change", [{"translation": 2.0}, {"world_from_reference": np.eye(4)}])
def test_cameras_that_cannot_be_compared_are_refused(rng, change):
    own = views(poses(rng, CAMERAS), 0.0)
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"memory: expected the {name} of the cameras that these meet"):
        PRoPE(64, own, **GRID).attend(*(features(rng) for _ in range(3)), memory=PRoPE(64, own, **GRID, **change))
