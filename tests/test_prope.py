import numpy as np
import pytest

from conftest import assert_within_twice, random_pose
from mosaicmem import PRoPE
from mosaicmem.attention import attention
from mosaicmem.attention.prope import projection_matrices
from reference.attention import attention as reference_attention
from reference.attention import prope as reference

pytestmark = pytest.mark.kernel

CAMERAS, COLUMNS, ROWS, DIM = 3, 4, 2, 32
TOKENS = CAMERAS * COLUMNS * ROWS


def cameras(rng, count=CAMERAS):
    views = np.stack([random_pose(rng).camera_from_world for _ in range(count)])
    k = np.zeros((count, 3, 3))
    k[:, 0, 0], k[:, 1, 1] = rng.uniform(300, 500, (2, count))
    k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = rng.uniform(200, 300, count), rng.uniform(150, 200, count), 1
    return views, k


def prope(rng, **changes):
    views, k = cameras(rng)
    options = {
        "camera_from_world": views,
        "patches_x": COLUMNS,
        "patches_y": ROWS,
        "image_width": 512,
        "image_height": 384,
        "intrinsics": k,
        **changes,
    }
    return PRoPE(DIM, **options)


def token_layout():
    camera = np.repeat(np.arange(CAMERAS), ROWS * COLUMNS)
    cell = np.tile(np.arange(ROWS * COLUMNS), CAMERAS)
    return camera, np.stack([cell % COLUMNS, cell // COLUMNS], axis=1).astype(np.float64)


def features(rng, count=TOKENS):
    return rng.standard_normal((2, 3, count, DIM)).astype(np.float32)


def test_projection_and_its_inverse(rng):
    views, k = cameras(rng)
    project, unproject = projection_matrices(views, k, 512, 384)
    np.testing.assert_allclose(project @ unproject, np.tile(np.eye(4), (CAMERAS, 1, 1)), atol=1e-12)
    scale = np.array([[1 / 512, 0, -0.5], [0, 1 / 384, -0.5], [0, 0, 1]])
    scale[:2] = [[1 / 512, 0, 0], [0, 1 / 384, 0]]
    normalised = scale @ k
    normalised[:, :2, 2] -= 0.5
    np.testing.assert_allclose(project[:, :3], normalised @ views[:, :3], atol=1e-12)


@pytest.mark.parametrize("method", ["q", "kv", "o"])
@pytest.mark.parametrize("with_intrinsics", [True, False])
def test_equals_the_formula(rng, method, with_intrinsics):
    views, k = cameras(rng)
    k = k if with_intrinsics else None
    encoding = PRoPE(DIM, views, COLUMNS, ROWS, 512, 384, k)
    project, unproject = projection_matrices(views, k, 512, 384)
    matrices = {"q": project.transpose(0, 2, 1), "kv": unproject, "o": project}[method]
    x = features(rng)
    camera, positions = token_layout()
    arguments = (x, matrices, camera, positions, 100.0, method == "o")
    got = getattr(encoding, f"apply_to_{method}")(x)
    assert_within_twice(got, reference(*arguments, dtype=np.float32), reference(*arguments))
    got = getattr(encoding, f"apply_to_{method}")(x.astype(np.float64))
    np.testing.assert_allclose(got, reference(*arguments), rtol=0, atol=1e-11)


def test_logits_see_only_relative_cameras(rng):
    """q^T k after encoding equals q^T (P_q P_k^-1) k on the camera half, computed explicitly."""
    views, k = cameras(rng)
    encoding = prope(rng, camera_from_world=views, intrinsics=k)
    q, key = rng.standard_normal((2, TOKENS, DIM))
    q[:, DIM // 2 :] = 0
    logits = encoding.apply_to_q(q) @ encoding.apply_to_kv(key).T
    project, unproject = projection_matrices(views, k, 512, 384)
    camera, _ = token_layout()
    for i in (0, 9, TOKENS - 1):
        for j in (0, 5, 17):
            relative = project[camera[i]] @ unproject[camera[j]]
            blocks_q, blocks_k = q[i, : DIM // 2].reshape(-1, 4), key[j, : DIM // 2].reshape(-1, 4)
            assert logits[i, j] == pytest.approx((blocks_q * (blocks_k @ relative.T)).sum(), abs=1e-9)


def test_a_rigid_motion_of_the_world_changes_nothing(rng):
    views, k = cameras(rng)
    move = random_pose(rng).world_from_camera
    q, key, v = (rng.standard_normal((1, 2, TOKENS, DIM)).astype(np.float32) for _ in range(3))
    before = prope(rng, camera_from_world=views, intrinsics=k).attend(q, key, v)
    after = prope(rng, camera_from_world=views @ move, intrinsics=k).attend(q, key, v)
    np.testing.assert_allclose(after, before, atol=2e-4)
    other = views.copy()
    other[0] = other[0] @ move
    assert np.abs(prope(rng, camera_from_world=other, intrinsics=k).attend(q, key, v) - before).max() > 0.05


def test_identity_cameras_leave_plain_attention_with_rope(rng):
    views = np.tile(np.eye(4), (CAMERAS, 1, 1))
    encoding = prope(rng, camera_from_world=views, intrinsics=None)
    q, k, v = features(rng), features(rng), features(rng)
    camera, positions = token_layout()
    identity = np.tile(np.eye(4), (CAMERAS, 1, 1))

    def turn(x, inverse=False):
        return reference(x, identity, camera, positions, inverse=inverse)

    out, _ = reference_attention(turn(q), turn(k), turn(v), DIM**-0.5)
    np.testing.assert_allclose(encoding.attend(q, k, v), turn(out, inverse=True), atol=1e-5)


def test_memory_with_cameras_of_its_own(rng):
    """Tokens of a few cameras at fractional places, as a mosaic holds them."""
    views, k = cameras(rng)
    own_views, own_k = cameras(rng, 2)
    camera = rng.integers(0, 2, 11)
    positions = rng.uniform(0, 4, (11, 2))
    memory = PRoPE(DIM, own_views, None, None, 512, 384, own_k, camera=camera, positions=positions)
    queries = prope(rng, camera_from_world=views, intrinsics=k)
    q, key, v = features(rng), features(rng, 11), features(rng, 11)
    out = queries.attend(q, key, v, memory=memory)
    plain = attention(queries.apply_to_q(q), memory.apply_to_kv(key), memory.apply_to_kv(v))
    np.testing.assert_array_equal(out, queries.apply_to_o(plain))
    again, lse = queries.attend(q, key, v, memory=memory, return_lse=True, num_threads=1)
    np.testing.assert_array_equal(again, out)
    assert lse.shape == (2, 3, TOKENS)


def test_same_bytes_for_any_thread_count(rng):
    encoding = prope(rng)
    x = rng.standard_normal((40, 8, TOKENS, DIM)).astype(np.float32)
    expected = encoding.apply_to_q(x, num_threads=1)
    for threads in (2, 3):
        assert encoding.apply_to_q(x, num_threads=threads).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_from_world": np.diag([2.0, 2, 2, 1])[None]}, r"camera_from_world\[0\]: .*scaled by 2"),
        ({"camera_from_world": np.diag([-1.0, 1, 1, 1])[None]}, r"camera_from_world\[0\]: .*determinant"),
        ({"intrinsics": np.tile(np.diag([0.0, 1, 1]), (CAMERAS, 1, 1))}, r"intrinsics\[0\]: fx: expected more than 0"),
        (
            {"intrinsics": np.tile([[300.0, 0, 0], [0, 300, 0], [200, 150, 1]], (CAMERAS, 1, 1))},
            r"intrinsics\[0\]: .*transposed",
        ),
        ({"intrinsics": np.tile([[300.0, 5, 2], [0, 300, 2], [0, 0, 1]], (CAMERAS, 1, 1))}, "without skew"),
        ({"intrinsics": np.ones((2, 3, 3))}, r"intrinsics: expected shape \(3, 3, 3\), got \(2, 3, 3\)"),
        ({"image_width": None}, "image_width, image_height: expected both"),
        ({"patches_x": None}, "patches_x: expected an integer, got None"),
        ({"camera": [0]}, "camera, positions: expected both or none"),
        ({"camera": [3], "positions": [[0, 0]]}, r"camera: expected indices within \[0, 3\), got 3 to 3"),
        ({"camera": [2**32], "positions": [[0, 0]]}, r"camera: expected values in \[-2147483648, 2147483647\]"),
    ],
)
def test_bad_input_is_named(rng, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        prope(rng, **change)


def test_bad_features_are_named(rng):
    with pytest.raises(ValueError, match=r"q: expected shape \(any, 24, 32\), got \(2, 23, 32\)"):
        prope(rng).apply_to_q(np.zeros((2, 23, 32)))
    with pytest.raises(ValueError, match="head_dim: expected a multiple of 8, got 20"):
        PRoPE(20, np.eye(4)[None], 1, 1)
