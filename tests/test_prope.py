import ml_dtypes
import numpy as np
import pytest

from conftest import assert_within_twice, random_pose
from mosaicmem import PRoPE
from mosaicmem.attention import attention, prope_attention
from mosaicmem.attention._cameras import projection_matrices, scale_translation
from reference.attention import attention as reference_attention
from reference.attention import contiguous_prope, full_prope
from reference.attention import prope as half_prope

pytestmark = pytest.mark.kernel

CAMERAS, COLUMNS, ROWS, DIM = 3, 4, 2, 32
TOKENS = CAMERAS * COLUMNS * ROWS


def cameras(rng, count=CAMERAS, subframes=None):
    shape = (count,) if subframes is None else (count, subframes)
    total = int(np.prod(shape))
    views = np.stack([random_pose(rng).camera_from_world for _ in range(total)]).reshape(*shape, 4, 4)
    k = np.zeros((*shape, 3, 3))
    k[..., 0, 0], k[..., 1, 1] = rng.uniform(300, 500, (2, *shape))
    k[..., 0, 2], k[..., 1, 2], k[..., 2, 2] = rng.uniform(200, 300, shape), rng.uniform(150, 200, shape), 1
    return views, k


def prope(rng, head_dim=DIM, **changes):
    views, k = cameras(rng)
    options = {
        "viewmats": views,
        "Ks": k,
        "patches_x": COLUMNS,
        "patches_y": ROWS,
        "image_width": 512,
        "image_height": 384,
        **changes,
    }
    return PRoPE(head_dim, **options)


def token_layout():
    camera = np.repeat(np.arange(CAMERAS), ROWS * COLUMNS)
    cell = np.tile(np.arange(ROWS * COLUMNS), CAMERAS)
    return camera, np.stack([cell % COLUMNS, cell // COLUMNS], axis=1).astype(np.float64)


def features(rng, count=TOKENS, dim=DIM):
    return rng.standard_normal((2, 3, count, dim)).astype(np.float32)


def formula(layout, x, matrices, inverse, dtype=np.float64, subframes=None):
    """The NumPy twin of one product; matrices (V, S, 4, 4)."""
    camera, positions = token_layout()
    if layout == "half":
        return half_prope(x, matrices[:, 0], camera, positions, 100.0, inverse, dtype)
    if layout == "full":
        four = matrices if matrices.shape[1] == 4 else np.repeat(matrices, 4, axis=1)
        return full_prope(x, four, camera, dtype)
    return contiguous_prope(x, matrices, camera, subframes or range(matrices.shape[1]), 16, dtype)


@pytest.mark.parametrize("subframes", [None, 4])
@pytest.mark.parametrize("with_intrinsics", [True, False])
def test_projection_and_its_inverse(rng, subframes, with_intrinsics):
    views, k = cameras(rng, subframes=subframes)
    project, unproject = projection_matrices(views, k if with_intrinsics else None, 512, 384)
    assert project.shape == (CAMERAS, subframes or 1, 4, 4)
    np.testing.assert_allclose(project @ unproject, np.broadcast_to(np.eye(4), project.shape), atol=1e-12)
    normalised = np.diag([1 / 512, 1 / 384, 1]) @ k
    normalised[..., :2, 2] -= 0.5
    expected = normalised @ views[..., :3, :] if with_intrinsics else views[..., :3, :]
    np.testing.assert_allclose(project[..., :3, :], expected.reshape(CAMERAS, -1, 3, 4), atol=1e-12)


LAYOUTS = [  # layout, head_dim, sub-frame cameras, chosen sub-frames
    ("half", 32, None, None),
    ("half", 64, None, None),
    ("half", 128, None, None),
    ("half", 24, None, None),
    ("full", 64, None, None),
    ("full", 128, 4, None),
    ("full", 192, 4, None),
    ("full", 256, 4, None),
    ("contiguous", 40, None, None),
    ("contiguous", 64, 4, None),
    ("contiguous", 128, 4, (1, 3)),
]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("method", ["q", "kv", "o"])
@pytest.mark.parametrize(("layout", "dim", "subframes", "chosen"), LAYOUTS)
def test_equals_the_formula(rng, simd, layout, dim, subframes, chosen, method):
    views, k = cameras(rng, subframes=subframes)
    encoding = prope(rng, dim, viewmats=views, Ks=k, layout=layout, subframes=chosen)
    project, unproject = projection_matrices(views, k, 512, 384)
    matrices = {"q": project.transpose(0, 1, 3, 2), "kv": unproject, "o": project}[method]
    apply = getattr(encoding, f"apply_to_{method}")
    x = features(rng, dim=dim)
    arguments = (layout, x, matrices, method == "o")
    exact = formula(*arguments, subframes=chosen)
    assert_within_twice(apply(x), formula(*arguments, np.float32, chosen), exact)
    np.testing.assert_allclose(apply(x.astype(np.float64)), exact, rtol=0, atol=1e-11)
    half = x.astype(ml_dtypes.bfloat16)
    arguments = (layout, half, matrices, method == "o")
    rounded = formula(*arguments, np.float32, chosen).astype(ml_dtypes.bfloat16).astype(np.float64)
    assert_within_twice(apply(half).astype(np.float64), rounded, formula(*arguments, subframes=chosen))


@pytest.mark.usefixtures("anywhere")
def test_four_subframes_share_the_first_half(rng):
    """Layout "half": a quarter of the camera features per sub-frame; the rotary part does not change."""
    dim = 64
    views, k = cameras(rng, subframes=4)
    together = prope(rng, dim, viewmats=views, Ks=k)
    x = features(rng, dim=dim)
    for subframe in range(4):
        alone = prope(rng, dim, viewmats=views[:, subframe], Ks=k[:, subframe])
        run = slice(8 * subframe, 8 * (subframe + 1))
        for method in ("apply_to_q", "apply_to_kv", "apply_to_o"):
            got, expected = getattr(together, method)(x), getattr(alone, method)(x)
            np.testing.assert_array_equal(got[..., run], expected[..., run])
            np.testing.assert_array_equal(got[..., dim // 2 :], expected[..., dim // 2 :])


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("layout", "dim", "subframes", "chosen"), LAYOUTS)
def test_logits_see_only_relative_cameras(rng, layout, dim, subframes, chosen):
    """q^T k after encoding equals, summed over four-vectors, q^T (P_q P_k^-1) k computed explicitly."""
    views, k = cameras(rng, subframes=subframes)
    encoding = prope(rng, dim, viewmats=views, Ks=k, layout=layout, subframes=chosen)
    q, key = rng.standard_normal((2, TOKENS, dim))
    if layout == "half":
        q[:, dim // 2 :] = 0
    logits = encoding.apply_to_q(q) @ encoding.apply_to_kv(key).T
    project, unproject = projection_matrices(views, k, 512, 384)
    camera, _ = token_layout()
    rest = {"half": dim // 2, "full": dim, "contiguous": 16 * len(chosen or project[0])}[layout]
    for i in (0, 9, TOKENS - 1):
        for j in (0, 5, 17):
            expected = q[i, rest:] @ key[j, rest:]
            for components, subframe in four_vectors(layout, dim, project.shape[1], chosen):
                relative = project[camera[i], subframe] @ unproject[camera[j], subframe]
                expected += q[i, components] @ relative @ key[j, components]
            assert logits[i, j] == pytest.approx(expected, abs=1e-9)


def four_vectors(layout, dim, count, chosen):
    """(features of the four components, sub-frame) of every four-vector of a head, by the definition."""
    if layout == "full":
        spread = dim // 64
        for p, c, r in np.ndindex(4, 4, spread):
            yield [((p * 4 + c) * 4 + j) * spread + r for j in range(4)], c if count == 4 else 0
    else:
        run = 16 if layout == "contiguous" else dim // 2
        for i, subframe in enumerate(chosen or range(count)):
            for first in range(i * run, (i + 1) * run, 4):
                yield list(range(first, first + 4)), subframe


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("layout", "subframes"), [("half", None), ("full", 4), ("contiguous", 4)])
@pytest.mark.parametrize("translation", ["none", 2.5])
def test_a_rigid_motion_of_the_world_changes_nothing(rng, layout, subframes, translation):
    views, k = cameras(rng, subframes=subframes)
    move = random_pose(rng).world_from_camera
    q, key, v = (rng.standard_normal((1, 2, TOKENS, 64)).astype(np.float32) for _ in range(3))

    def attend(views):
        return prope(rng, 64, viewmats=views, Ks=k, layout=layout, translation=translation).attend(q, key, v)

    before = attend(views)
    np.testing.assert_allclose(attend(views @ move), before, atol=3e-4)
    other = views.copy()
    other[0] = other[0] @ move
    assert np.abs(attend(other) - before).max() > 0.05


@pytest.mark.usefixtures("anywhere")
def test_identity_cameras_leave_plain_attention_with_rope(rng):
    views = np.tile(np.eye(4), (CAMERAS, 1, 1))
    encoding = prope(rng, viewmats=views, Ks=None)
    q, k, v = features(rng), features(rng), features(rng)

    def turn(x, inverse=False):
        return formula("half", x, views[:, None], inverse)

    out, _ = reference_attention(turn(q), turn(k), turn(v), DIM**-0.5)
    np.testing.assert_allclose(encoding.attend(q, k, v), turn(out, inverse=True), atol=1e-5)
    plain = prope(rng, 64, viewmats=views, Ks=None, layout="full")
    x = features(rng, dim=64)
    np.testing.assert_array_equal(plain.apply_to_q(x), x)


@pytest.mark.usefixtures("anywhere")
def test_one_call_does_it_all(rng):
    views, k = cameras(rng)
    q, key, v = features(rng), features(rng), features(rng)
    got = prope_attention(q, key, v, views, k, COLUMNS, ROWS, 512, 384, num_threads=1)
    np.testing.assert_array_equal(got, prope(rng, viewmats=views, Ks=k).attend(q, key, v))


def test_temporal_decay_rides_on_attention(rng):
    encoding = prope(rng)
    q, k, v = features(rng), features(rng), features(rng)
    times = np.repeat(np.arange(CAMERAS, dtype=np.float64), ROWS * COLUMNS)
    decay = {"query_time": times, "key_time": times, "half_life": 0.7}
    plain = attention(encoding.apply_to_q(q), encoding.apply_to_kv(k), encoding.apply_to_kv(v), **decay)
    np.testing.assert_array_equal(encoding.attend(q, k, v, **decay), encoding.apply_to_o(plain))
    assert np.abs(encoding.attend(q, k, v) - encoding.attend(q, k, v, **decay)).max() > 0.05


def test_places_are_rows_and_columns(rng):
    """A token grid gives the same as explicit (y, x) positions."""
    views, k = cameras(np.random.default_rng(3), CAMERAS)
    image = {"image_width": 512, "image_height": 384}
    y, x = np.divmod(np.tile(np.arange(ROWS * COLUMNS), CAMERAS), COLUMNS)
    camera = np.repeat(np.arange(CAMERAS), ROWS * COLUMNS)
    by_grid = PRoPE(DIM, views, k, **image, patches_x=COLUMNS, patches_y=ROWS)
    by_place = PRoPE(DIM, views, k, **image, camera=camera, positions=np.stack([y, x], axis=1))
    q = features(rng)
    np.testing.assert_array_equal(by_place.apply_to_q(q), by_grid.apply_to_q(q))


def test_memory_with_cameras_of_its_own(rng):
    """Tokens of a few cameras at fractional positions, as in a mosaic."""
    own_views, own_k = cameras(rng, 2)
    camera = rng.integers(0, 2, 11)
    positions = rng.uniform(0, 4, (11, 2))
    image = {"image_width": 512, "image_height": 384}
    memory = PRoPE(DIM, own_views, own_k, **image, camera=camera, positions=positions)
    queries = prope(rng)
    q, key, v = features(rng), features(rng, 11), features(rng, 11)
    out = queries.attend(q, key, v, memory=memory)
    plain = attention(queries.apply_to_q(q), memory.apply_to_kv(key), memory.apply_to_kv(v))
    np.testing.assert_array_equal(out, queries.apply_to_o(plain))
    again, lse = queries.attend(q, key, v, memory=memory, return_lse=True, num_threads=1)
    np.testing.assert_array_equal(again, out)
    assert lse.shape == (2, 3, TOKENS)
    # The same with a camera for every token.
    per_token = PRoPE(DIM, own_views[camera], own_k[camera], **image, positions=positions)
    np.testing.assert_array_equal(per_token.apply_to_kv(key), memory.apply_to_kv(key))


@pytest.mark.usefixtures("anywhere")
def test_one_matrix_of_intrinsics_serves_all_cameras(rng):
    views, k = cameras(rng)
    x = features(rng)
    shared = prope(rng, viewmats=views, Ks=k[0]).apply_to_q(x)
    np.testing.assert_array_equal(shared, prope(rng, viewmats=views, Ks=np.tile(k[0], (CAMERAS, 1, 1))).apply_to_q(x))


@pytest.mark.usefixtures("anywhere")
def test_translations_are_tamed():
    t = np.array([[0.0, 0, 0], [3, 0, 4], [-30, 0, 40], [1e-9, 0, 0]])
    direction = t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-300)
    length = np.linalg.norm(t, axis=1, keepdims=True)
    np.testing.assert_array_equal(scale_translation(t, "none"), t)
    np.testing.assert_allclose(scale_translation(t, 2.0), t / 2)
    np.testing.assert_allclose(scale_translation(t, "log"), direction * np.log1p(length))
    np.testing.assert_allclose(scale_translation(t, "logd4"), direction * np.log1p(length) / 4)
    np.testing.assert_allclose(scale_translation(t, "tanh"), direction * np.tanh(length))


@pytest.mark.usefixtures("anywhere")
def test_tamed_translations_reach_the_matrices(rng):
    views, k = cameras(rng)
    tamed = views.copy()
    tamed[:, :3, 3] = scale_translation(views[:, :3, 3], "logd4")
    x = features(rng)
    expected = prope(rng, viewmats=tamed, Ks=k).apply_to_kv(x)
    np.testing.assert_array_equal(prope(rng, viewmats=views, Ks=k, translation="logd4").apply_to_kv(x), expected)


@pytest.mark.usefixtures("anywhere")
def test_layouts_in_memory_threads_and_in_place_order(rng):
    encoding = prope(rng)
    x = rng.standard_normal((40, 8, TOKENS, DIM)).astype(np.float32)
    expected = encoding.apply_to_q(x, num_threads=1)
    strided = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    for threads in (1, 2, 3):
        assert encoding.apply_to_q(x, num_threads=threads).tobytes() == expected.tobytes()
        got = encoding.apply_to_q(strided, num_threads=threads)
        assert got.tobytes() == expected.tobytes()
        assert got.strides == strided.strides


@pytest.mark.usefixtures("anywhere")
def test_bfloat16_rounds_ties_to_even(simd):
    """x0 + x3 through a translation: 1 + 2^-8 and 1 + 3 * 2^-8 lie halfway between two bfloat16."""
    view = np.eye(4)
    view[0, 3] = 1
    encoding = PRoPE(16, view[None], camera=np.zeros(4, int), layout="contiguous", dims_per_camera=16)
    x = np.zeros((4, 16), ml_dtypes.bfloat16)
    x[:, 0] = 1
    x[:, 3] = [2.0**-8, 3 * 2.0**-8, 2.0**-8 + 2.0**-14, np.nan]
    expected = [1, 1 + 2.0**-6, 1 + 2.0**-7, np.nan]
    np.testing.assert_array_equal(encoding.apply_to_o(x)[:, 0].astype(np.float64), expected)


@pytest.mark.parametrize(
    ("layout", "dim", "options"),
    [
        ("half", 64, {}),
        ("half", 96, {}),
        ("half", 128, {}),
        ("half", 192, {}),
        ("half", 160, {"subframes": 4}),
        ("full", 128, {"subframes": 4}),
        ("full", 192, {}),
        ("contiguous", 64, {"subframes": 4, "dims_per_camera": 16}),
        ("contiguous", 80, {"subframes": 4, "dims_per_camera": 20}),
        ("contiguous", 48, {"dims_per_camera": 20}),
    ],
)
def test_results_beyond_the_caches_are_the_same(rng, simd, layout, dim, options):
    """Large results are written with non-temporal stores, in whole vectors at any offset."""
    tokens = 3 * 2**20 // dim
    views, _ = cameras(rng, 5, options.pop("subframes", None))
    camera, positions = rng.integers(0, 5, tokens), rng.uniform(0, 9, (tokens, 2))
    step = tokens // 16
    for dtype in (np.float32, ml_dtypes.bfloat16):
        x = rng.standard_normal((1, tokens, dim)).astype(dtype)
        parts = [slice(None), *(slice(s, s + step) for s in range(0, tokens, step))]
        whole, *pieces = (
            PRoPE(dim, views, camera=camera[p], positions=positions[p], layout=layout, **options).apply_to_o(x[:, p])
            for p in parts
        )
        np.testing.assert_array_equal(whole, np.concatenate(pieces, axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"viewmats": np.diag([2.0, 2, 2, 1])[None]}, r"viewmats\[0\]: .*scaled by 2"),
        ({"viewmats": np.diag([-1.0, 1, 1, 1])[None]}, r"viewmats\[0\]: .*determinant"),
        ({"viewmats": np.diag([-1.0, 1, 1, 1])[None, None]}, r"viewmats\[0, 0\]: .*determinant"),
        ({"viewmats": np.tile(np.eye(4), (3, 2, 1, 1))}, r"viewmats: expected 1 or 4 sub-frame .*\(3, 2, 4, 4\)"),
        ({"viewmats": np.eye(4)}, r"viewmats: expected shape \(V, 4, 4\), got \(4, 4\)"),
        ({"Ks": np.tile(np.diag([0.0, 1, 1]), (CAMERAS, 1, 1))}, r"Ks\[0\]: fx: expected more than 0"),
        ({"Ks": np.tile([[300.0, 0, 0], [0, 300, 0], [200, 150, 1]], (CAMERAS, 1, 1))}, r"Ks\[0\]: .*transposed"),
        ({"Ks": np.tile([[300.0, 5, 2], [0, 300, 2], [0, 0, 1]], (CAMERAS, 1, 1))}, "without skew"),
        ({"Ks": np.ones((2, 3, 3))}, r"Ks: expected shape \(3, 3, 3\), got \(2, 3, 3\)"),
        ({"image_width": None}, "image_width, image_height: expected both"),
        ({"patches_x": None}, "patches_x: expected an integer, got None"),
        ({"patches_x": None, "patches_y": None}, 'positions: layout "half" needs them'),
        ({"camera": [0]}, "camera, positions: expected these, or patches_x and patches_y, not both"),
        ({"patches_x": None, "patches_y": None, "camera": [3]}, r"camera: expected indices within \[0, 3\), got 3"),
        ({"patches_x": None, "patches_y": None, "camera": [2**32]}, r"camera: expected values in \[-2147483648, "),
        ({"layout": "quarter"}, "layout: expected one of half, full, contiguous, got 'quarter'"),
        ({"layout": "full"}, 'head_dim: expected a multiple of 64 for layout "full", got 32'),
        ({"subframes": (1, 3)}, 'subframes: expected only with layout "contiguous"'),
        ({"layout": "contiguous", "subframes": (1,)}, r"subframes\[0\]: expected at most 0, got 1"),
        ({"layout": "contiguous", "dims_per_camera": 6}, "dims_per_camera: expected a multiple of 4, got 6"),
        ({"layout": "contiguous", "dims_per_camera": 36}, "head_dim: expected at least 36 for each of 1 sub-frames"),
        ({"translation": "sqrt"}, "translation: expected one of none, log, logd4, tanh, got 'sqrt'"),
        ({"translation": 0}, "translation: expected more than 0"),
    ],
)
def test_bad_input_is_named(rng, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        prope(rng, **change)


@pytest.mark.usefixtures("anywhere")
def test_bad_features_are_named(rng):
    with pytest.raises(ValueError, match=r"q: expected shape \(any, 24, 32\), got \(2, 23, 32\)"):
        prope(rng).apply_to_q(np.zeros((2, 23, 32)))
    with pytest.raises(ValueError, match='head_dim: expected a multiple of 8 for layout "half", got 20'):
        PRoPE(20, np.eye(4)[None], patches_x=1, patches_y=1)
    with pytest.raises(ValueError, match='multiple of 32 for layout "half" of four sub-frames, got 40'):
        PRoPE(40, np.tile(np.eye(4), (1, 4, 1, 1)), patches_x=1, patches_y=1)
