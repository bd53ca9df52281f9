"""Arrays of other libraries: their values are read correctly, or refused with the name of the argument."""

import warnings

import ml_dtypes
import numpy as np
import pytest

from memory_helpers import CHANNELS, COLUMNS, ROWS, K, random_keyframe
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    MemoryCrossAttention,
    MosaicMemoryStore,
    PatchMemory,
    PRoPE,
    StreamingFusion,
    SyntheticVAE,
    WarpedLatent,
    WarpedRoPE,
    bilinear_sample,
    depth_to_grid,
    grid_positions,
    merge_attention,
    reproject_depth_grid,
    unproject_depth,
    warped_positions,
)
from mosaicmem._arrays import as_array, as_pixels, float_dtype
from mosaicmem._foreign import is_frozen
from mosaicmem.attention import attention
from mosaicmem.metrics import psnr

SMALL = CameraIntrinsics(5, 5, 3, 2, 6, 4)
DEPTH = np.linspace(1, 3, 24, dtype=np.float32).reshape(4, 6)


class Foreign:
    """An array that speaks the protocols in `speaks`; exporting by DLPack raises `error`, if given."""

    def __init__(self, array, speaks=("array", "dlpack", "device"), error=None):
        self.array, self.error = array, error
        self.shape, self.dtype = array.shape, array.dtype
        self.speaks = speaks

    def __getattribute__(self, name):
        parts = {"__array__": "array", "__dlpack__": "dlpack", "__dlpack_device__": "device"}
        if name in parts and parts[name] not in object.__getattribute__(self, "speaks"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def __array__(self, dtype=None, copy=None):
        if "array" not in self.speaks:
            raise TypeError("not an array")
        return self.array

    def __dlpack__(self, **options):
        if self.error is not None:
            raise self.error
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def only_dlpack(array, error=None):
    class Speaker:
        def __dlpack__(self, **options):
            if error is not None:
                raise error
            return array.__dlpack__(**options)

        def __dlpack_device__(self):
            return (1, 0)

    return Speaker()


class TestProtocols:
    EXPECTED = unproject_depth(DEPTH, SMALL)[0]

    @pytest.mark.parametrize(
        "error", [BufferError("cannot export"), RuntimeError("no such dtype"), ValueError("strides"), TypeError("old")]
    )
    def test_what_dlpack_cannot_carry_is_read_otherwise(self, error):
        np.testing.assert_array_equal(unproject_depth(Foreign(DEPTH, error=error), SMALL)[0], self.EXPECTED)

    @pytest.mark.parametrize(
        "speaks", [("array",), ("array", "dlpack"), ("array", "dlpack", "device"), ("array", "device")]
    )
    def test_whatever_it_speaks(self, speaks):
        np.testing.assert_array_equal(unproject_depth(Foreign(DEPTH, speaks), SMALL)[0], self.EXPECTED)

    def test_dlpack_alone(self):
        np.testing.assert_array_equal(unproject_depth(only_dlpack(DEPTH), SMALL)[0], self.EXPECTED)

    def test_neither(self):
        message = r"depth: expected an array, got Speaker, whose __dlpack__ fails \(cannot export\) and which has no"
        with pytest.raises(TypeError, match=message):
            unproject_depth(only_dlpack(DEPTH, BufferError("cannot export")), SMALL)

    @pytest.mark.parametrize("operator", ["rope", "prope", "attention", "merge", "splat", "sample", "layer"])
    def test_operators_on_features(self, rng, operator):
        """These operators look at shapes before they read values."""
        x = rng.standard_normal((1, 2, 6, 16)).astype(np.float32)
        calls = {
            "rope": lambda wrap: WarpedRoPE(16).apply(wrap(x), grid_positions(1, 2, 3)),
            "prope": lambda wrap: PRoPE(16, np.eye(4)[None], patches_x=3, patches_y=2).apply_to_q(wrap(x)),
            "attention": lambda wrap: attention(wrap(x), wrap(x), wrap(x)),
            "merge": lambda wrap: merge_attention(wrap(x), wrap(x[..., 0]), wrap(x), wrap(x[..., 0]))[0],
            "splat": lambda wrap: WarpedLatent().splat(wrap(x[0, 0]), np.ones((6, 2)), np.ones(6), 3, 3).latents,
            "sample": lambda wrap: bilinear_sample(wrap(x[0]), np.ones((2, 2)))[0],
            "layer": lambda wrap: MemoryCrossAttention(16, 16, 1, 12)(
                wrap(x[0]), wrap(x[0]), grid_positions(1, 2, 3), grid_positions(1, 2, 3)
            ),
        }
        np.testing.assert_array_equal(calls[operator](only_dlpack), calls[operator](lambda array: array))

    def test_bfloat16_of_a_library_without_dlpack_for_it(self, rng):
        """As in JAX: __dlpack__ fails, and __array__ gives ml_dtypes.bfloat16."""
        x = rng.standard_normal((1, 1, 3, 8)).astype(ml_dtypes.bfloat16)
        foreign = Foreign(x, error=BufferError("bfloat16"))
        out = attention(foreign, foreign, foreign)
        assert out.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(out, attention(x, x, x))


class TestLayouts:
    @pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "<f8", "f2", "g"])
    def test_byte_orders_and_widths(self, dtype):
        depth = DEPTH.astype(dtype)
        np.testing.assert_array_equal(unproject_depth(depth, SMALL)[0], unproject_depth(depth.astype("f4"), SMALL)[0])

    def test_foreign_byte_order_keeps_float64(self, rng):
        x = rng.standard_normal((2, 4, 16))
        positions = grid_positions(1, 2, 2)
        swapped = WarpedRoPE(16).apply(x.astype(">f8"), positions)
        assert swapped.dtype == np.float64
        np.testing.assert_array_equal(swapped, WarpedRoPE(16).apply(x, positions))
        assert float_dtype(x.astype(">f8")) is np.float64

    def test_unaligned_memory_is_moved(self):
        raw = np.zeros(DEPTH.nbytes + 1, np.uint8)
        unaligned = raw[1:].view(np.float32).reshape(DEPTH.shape)
        unaligned[:] = DEPTH
        assert not unaligned.flags.aligned
        assert as_array("depth", unaligned, np.float32, (4, 6)).flags.aligned
        np.testing.assert_array_equal(unproject_depth(unaligned, SMALL)[0], unproject_depth(DEPTH, SMALL)[0])

    def test_views(self):
        base = np.zeros((8, 12), np.float32)
        base[::2, ::-2] = DEPTH
        expected = unproject_depth(DEPTH, SMALL)[0]
        np.testing.assert_array_equal(unproject_depth(base[::2, ::-2], SMALL)[0], expected)
        frozen = DEPTH.copy()
        frozen.flags.writeable = False
        np.testing.assert_array_equal(unproject_depth(frozen, SMALL)[0], expected)
        np.testing.assert_array_equal(unproject_depth(np.broadcast_to(np.float32(2), (4, 6)), SMALL)[0][:, 2], 2.0)

    def test_no_dimension(self):
        with pytest.raises(ValueError, match=r"depth: expected shape \(4, 6\), got \(\)"):
            unproject_depth(np.float32(2), SMALL)

    def test_subclasses(self):
        """np.matrix, for example, changes the meaning of * and of indexing."""

        class Odd(np.ndarray):
            def __mul__(self, other):
                raise AssertionError

        assert type(as_array("x", DEPTH.view(Odd), np.float32, (4, 6))) is np.ndarray

    def test_quantities_are_refused(self):
        class Quantity(np.ndarray):
            unit = "mm"

        with pytest.raises(TypeError, match="depth: expected plain numbers, got Quantity in mm; convert it"):
            unproject_depth((1000 * DEPTH).view(Quantity), SMALL)


class TestFrozen:
    def test_what_nobody_can_write_to(self, tmp_path):
        np.save(tmp_path / "x.npy", DEPTH)
        assert is_frozen(np.load(tmp_path / "x.npy", mmap_mode="r")[1:])
        assert is_frozen(np.frombuffer(DEPTH.tobytes(), np.float32))

    def test_what_somebody_can(self, tmp_path):
        np.save(tmp_path / "x.npy", DEPTH)
        view = DEPTH[1:]
        view.flags.writeable = False
        imported = np.from_dlpack(DEPTH.copy())
        imported.flags.writeable = False
        room = bytearray(DEPTH.tobytes())
        over_room = np.frombuffer(room, np.float32)
        over_room.flags.writeable = False
        for array in (DEPTH, view, imported, over_room, np.load(tmp_path / "x.npy", mmap_mode="c")):
            assert not is_frozen(array)


BFLOAT16 = {"ml_dtypes": lambda array: np.asarray(array).astype(ml_dtypes.bfloat16)}
try:
    import torch
except ImportError:
    torch = None
else:
    BFLOAT16["torch"] = lambda array: torch.tensor(np.asarray(array, np.float32)).bfloat16()

TOKENS, PLACES, Z = np.ones((5, 3), np.float32), np.ones((5, 2), np.float32), np.ones(5, np.float32)
FEATURES = [np.ones((1, 1, 2, 8))] * 3
POSE, WIDE = CameraPose(), np.ones((48, 80), np.float32)


def fill_patches(latents, w2c=None, k=None, depths=None):
    camera = [[[300.0, 0, 32], [0, 300, 24], [0, 0, 1]]]
    parts = (w2c, np.eye(4)[None]), (k, camera), (depths, np.ones((1, 48, 64), np.float32))
    PatchMemory().append(latents, *(default if given is None else given for given, default in parts))


@pytest.mark.parametrize("library", BFLOAT16)
class TestBfloat16:
    """bfloat16 values are read exactly, but its 8 bits are too few for positions."""

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("positions", lambda b: WarpedLatent().splat(TOKENS, b(PLACES), Z, 4, 4)),
            ("depth", lambda b: WarpedLatent().splat(TOKENS, PLACES, b(Z), 4, 4)),
            ("positions", lambda b: WarpedLatent().splat(b(TOKENS), b(PLACES), Z, 4, 4)),
            ("positions", lambda b: bilinear_sample(np.ones((4, 4, 3), np.float32), b(PLACES))),
            ("positions", lambda b: WarpedRoPE(12).apply(np.ones((5, 12)), b(np.ones((5, 3))))),
            ("positions", lambda b: WarpedRoPE(12).table(b(np.ones((5, 3))))),
            ("projected", lambda b: warped_positions(b(PLACES), 8, 0.0)),
            ("t", lambda b: warped_positions(PLACES, 8, b(Z))),
            ("depth", lambda b: unproject_depth(b(DEPTH), SMALL)),
            ("depth", lambda b: depth_to_grid(b(WIDE), 8)),
            ("depth", lambda b: reproject_depth_grid(b(np.ones((6, 10))), 8, K, POSE, K, POSE)),
            ("depth", lambda b: StreamingFusion().add_frame(b(WIDE), K, POSE)),
            ("depth", lambda b: MosaicMemoryStore().insert_keyframe(np.ones((6, 10, 4)), b(np.ones((6, 10))), K, POSE)),
            ("depths", lambda b: fill_patches(np.ones((2, 1, 3, 4)), depths=b(np.ones((1, 48, 64))))),
            ("w2c", lambda b: fill_patches(np.ones((2, 1, 3, 4)), w2c=b(np.eye(4)[None]))),
            ("viewmats", lambda b: PRoPE(16, b(np.eye(4)[None]), patches_x=1, patches_y=1)),
            ("world_from_camera", lambda b: CameraPose(b(np.eye(4)))),
            (
                "query_time",
                lambda b: attention(*[np.ones((1, 1, 2, 8))] * 3, query_time=b([0, 1]), key_time=[0, 1], half_life=1),
            ),
        ],
    )
    def test_places_are_refused(self, library, name, call):
        message = rf"{name}: expected float32 or float64, got bfloat16, .* use \.float\(\) before .*autocast"
        with pytest.raises(TypeError, match=message):
            call(BFLOAT16[library])

    @pytest.mark.parametrize(
        "call",
        [
            lambda b: WarpedLatent().splat(b(TOKENS), PLACES, Z, 4, 4, weights=b(Z)).latents,
            lambda b: bilinear_sample(b(np.ones((4, 4, 3))), PLACES)[0],
            lambda b: MemoryCrossAttention(3, 3, 1, 12)(
                b(TOKENS[None]), b(TOKENS[None]), grid_positions(1, 1, 5), grid_positions(1, 1, 5)
            ),
            lambda b: attention(*[np.ones((1, 1, 5, 8))] * 3, bias=b(Z[None])),
            lambda b: SyntheticVAE(8, 16).decode(b(np.ones((16, 1, 6, 10))), 1),
            lambda b: np.float64(psnr(b(WIDE), WIDE * np.float32(0.5))),
            lambda b: as_pixels("image", b(WIDE), (48, 80)),
        ],
    )
    def test_values_are_served_exactly(self, library, call):
        single = call(lambda array: np.asarray(array, np.float32))
        np.testing.assert_array_equal(np.asarray(call(BFLOAT16[library])), np.asarray(single))

    def test_keyframes(self, rng, library):
        latents, depth, pose = random_keyframe(rng, 0.0)
        latents = latents.astype(ml_dtypes.bfloat16)
        stores = MosaicMemoryStore(), MosaicMemoryStore()
        for store, given in zip(stores, (BFLOAT16[library](latents.astype("f4")), latents.astype("f4")), strict=True):
            store.insert_keyframe(given, depth, K, pose, confidence=BFLOAT16[library](np.full((ROWS, COLUMNS), 0.5)))
        ours, theirs = (store.project_tokens(store.patch_ids, K, pose)["latents"] for store in stores)
        np.testing.assert_array_equal(ours, theirs)
        fill_patches(BFLOAT16[library](np.ones((CHANNELS, 1, 3, 4))))


@pytest.mark.skipif(torch is None, reason="needs torch")
class TestTensors:
    def test_autocast(self):
        """Under autocast, positions that are the result of a product become bfloat16."""
        places = torch.rand(5, 2)
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(TypeError, match=r"positions: .*outside of torch.autocast"),
        ):
            WarpedLatent().splat(torch.ones(5, 3), places @ torch.eye(2), torch.ones(5), 4, 4)

    def test_read_only_places_are_taken_in_silence(self):
        """torch warns about tensors over read-only memory."""
        places = PLACES.copy()
        places.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            canvas = WarpedLatent().splat(torch.ones(5, 3), places, np.broadcast_to(Z, 5), 4, 4)
            bilinear_sample(torch.ones(4, 4, 3), places[::-1])
        assert canvas.coverage.any()

    def test_negative_bits_are_written_out(self):
        imaginary = torch.complex(torch.zeros(4, 6), -torch.tensor(DEPTH)).conj().imag
        assert imaginary.is_neg()
        np.testing.assert_array_equal(unproject_depth(imaginary, SMALL)[0], unproject_depth(DEPTH, SMALL)[0])
        tokens = torch.complex(torch.zeros(5, 3), -torch.ones(5, 3)).conj().imag
        np.testing.assert_array_equal(WarpedLatent().splat(tokens, PLACES, Z, 4, 4).latents[1, 1], np.ones(3))

    @pytest.mark.parametrize("make", ["to_sparse", "conj", "to_mkldnn"])
    def test_what_numpy_cannot_read_is_named(self, make):
        tensor = torch.tensor(DEPTH)
        tensor = torch.complex(tensor, tensor).conj() if make == "conj" else getattr(tensor, make)()
        with pytest.raises(TypeError, match=r"depth: expected (a dense tensor|dtype float32)"):
            unproject_depth(tensor, SMALL)

    def test_gradients_are_refused_alike(self):
        for name, call in (
            ("depth", lambda x: unproject_depth(x, SMALL)),
            ("positions", lambda x: WarpedRoPE(18).table(x[:, :3])),
            ("latents", lambda x: MosaicMemoryStore().insert_keyframe(x, DEPTH, SMALL, POSE)),
        ):
            with pytest.raises(ValueError, match=rf"{name}: expected a tensor without gradient.*use \.detach\(\)"):
                call(torch.ones(4, 6, requires_grad=True))
