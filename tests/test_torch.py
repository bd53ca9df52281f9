"""torch tensors in, torch tensors out: the kind, the memory, gradients, the compiler. Skipped where torch is absent."""

import numpy as np
import pytest

import mosaicmem
from conftest import random_pose
from device_helpers import EmulatedDevice
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    MemoryCrossAttention,
    PRoPE,
    WarpedLatent,
    WarpedRoPE,
    depth_to_grid,
    grid_positions,
    reproject_depth_grid,
    unproject_depth,
)
from mosaicmem._border import device as border_device
from mosaicmem._border import frameworks, operators
from mosaicmem.attention import attention, bilinear_sample, merge_attention, warped_latent, warped_rope
from mosaicmem.attention import prope as prope_module

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

K = CameraIntrinsics(10, 10, 8, 4, 16, 8)
TOKENS, ROWS, COLUMNS = 9, 3, 4


def random(rng, *shape, dtype=None):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype or torch.float32)


def prope(rng, layout="half", subframes=None):
    shape = (1,) if subframes is None else (1, subframes)
    views = np.stack([random_pose(rng).camera_from_world for _ in range(int(np.prod(shape)))])
    return PRoPE(64, views.reshape(*shape, 4, 4), patches_x=3, patches_y=3, layout=layout)


def splat_arguments(rng):
    """Tokens that share cells, hide each other, miss the grid and have no depth."""
    positions = rng.uniform(-1, 4, (TOKENS, 2)).astype(np.float32)
    depth = rng.uniform(1, 1.1, TOKENS).astype(np.float32)
    depth[0], positions[1] = 0, 50
    return positions, depth, ROWS, COLUMNS


def linear_operators(rng):
    """For each operator: its name, a function of the features alone, and their shape."""
    table = WarpedRoPE(64).table(rng.uniform(0, 9, (TOKENS, 3)))
    rope, split = WarpedRoPE(64), WarpedRoPE(64, pairing="split_half")
    yield "rope", lambda x: rope.apply(x, table), (2, 2, TOKENS, 64)
    yield "rope inverse", lambda x: rope.apply(x, table, inverse=True), (TOKENS, 64)
    yield "rope split", lambda x: split.apply(x, table), (2, TOKENS, 64)
    for layout, subframes in (("half", None), ("full", 4), ("contiguous", 4)):
        encoding = prope(rng, layout, subframes)
        for method in ("apply_to_q", "apply_to_kv", "apply_to_o"):
            yield f"prope {layout} {method}", getattr(encoding, method), (1, 2, TOKENS, 64)
    arguments = splat_arguments(rng)
    weights = rng.uniform(0.5, 2, TOKENS)
    for mode in ("nearest", "block", "bilinear"):
        warp = WarpedLatent(mode, depth_tolerance=0.04)
        yield f"splat {mode}", lambda x, warp=warp: warp.splat(x, *arguments, weights=weights).latents, (TOKENS, 5)
    places = rng.uniform(-1, 4, (TOKENS, 2))
    yield "sample", lambda x: bilinear_sample(x, places)[0], (ROWS, COLUMNS, 5)


OPERATORS = [name for name, _, _ in linear_operators(np.random.default_rng(0))]


@pytest.fixture(params=OPERATORS)
def operator(request, rng):
    return next((function, shape) for name, function, shape in linear_operators(rng) if name == request.param)


class TestLinearOperators:
    def test_equals_numpy(self, rng, operator):
        function, shape = operator
        for dtype in (torch.float32, torch.float64):
            x = random(rng, *shape, dtype=dtype)
            out = function(x)
            assert out.dtype == dtype
            np.testing.assert_array_equal(out.numpy(), function(x.numpy()))

    def test_backward_is_the_adjoint(self, rng, operator):
        """<A x, y> = <x, A^T y>, and A^T y is what autograd gives; exactly linear, so any x serves."""
        function, shape = operator
        x = random(rng, *shape, dtype=torch.float64).requires_grad_()
        out = function(x)
        y = random(rng, *out.shape, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(out, x, y)
        direction = random(rng, *shape, dtype=torch.float64)
        forward = (function(direction) * y).sum()
        assert float(forward) == pytest.approx(float((direction * gradient).sum()), rel=1e-10)
        assert float(gradient.abs().max()) > 0.01

    def test_gradcheck(self, rng, operator):
        function, shape = operator
        small = (*shape[:-2], *shape[-2:]) if len(shape) < 4 else (1, 1, *shape[-2:])
        x = random(rng, *small, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(function, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x,), fast_mode=True)

    def test_gradients_reach_float32_and_bfloat16(self, rng, operator):
        function, shape = operator
        exact = random(rng, *shape, dtype=torch.float64).requires_grad_()
        y = torch.ones_like(function(exact))
        (expected,) = torch.autograd.grad(function(exact), exact, y)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
            x = exact.detach().to(dtype).requires_grad_()
            function(x).float().sum().backward()
            assert x.grad.dtype == dtype
            torch.testing.assert_close(x.grad.double(), expected, atol=tolerance * float(expected.abs().max()), rtol=0)

    def test_compiles_whole(self, rng, operator):
        function, shape = operator
        torch.compiler.reset()
        x = random(rng, *shape).requires_grad_()
        compiled = torch.compile(lambda x: function(x * 2) + 1, backend="aot_eager", fullgraph=True)
        out = compiled(x)
        torch.testing.assert_close(out, function(x * 2) + 1)
        out.sum().backward()
        gradient = x.grad.clone()
        x.grad = None
        (function(x * 2) + 1).sum().backward()
        torch.testing.assert_close(gradient, x.grad)

    def test_strided_and_empty_tensors(self, rng, operator):
        function, shape = operator
        wide = random(rng, *shape[:-1], 2 * shape[-1])
        part = wide[..., : shape[-1]]
        torch.testing.assert_close(function(part), function(part.contiguous()), rtol=0, atol=0)
        across = part.transpose(-1, -2).contiguous().transpose(-1, -2)
        torch.testing.assert_close(function(across), function(part.contiguous()), rtol=0, atol=0)
        if len(shape) == 4:
            swapped = part.transpose(1, 2).contiguous().transpose(1, 2)
            out = function(swapped)
            assert out.stride() == swapped.stride()
            torch.testing.assert_close(out, function(part), rtol=0, atol=0)
            assert function(part[:0]).shape == (0, *shape[1:])

    def test_gradients_of_any_strides(self, rng, operator):
        """The gradient of q @ k.transpose(-1, -2), say, does not have features side by side."""
        function, shape = operator
        x = random(rng, *shape).requires_grad_()
        out = function(x)
        cotangent = random(rng, *out.shape, dtype=out.dtype)
        across = cotangent.transpose(-1, -2).contiguous().transpose(-1, -2)
        gradients = [torch.autograd.grad(out, x, g, retain_graph=True)[0] for g in (cotangent, across)]
        torch.testing.assert_close(*gradients, rtol=0, atol=0)


def op_samples(rng):
    """Arguments of every registered operator."""
    double = torch.float64
    table = WarpedRoPE(64).table(rng.uniform(0, 9, (TOKENS, 3)))
    tables = torch.from_numpy(table.cos), torch.from_numpy(table.sin)
    x = random(rng, 1, 2, TOKENS, 64, dtype=double).requires_grad_()
    yield "rope", (x, *tables, True, False, 1)
    matrices = random(rng, 1, 1, 4, 16, dtype=double)
    camera = torch.zeros(TOKENS, dtype=torch.int32)
    quarter = tuple(t[:, :16].contiguous() for t in tables)
    yield "prope", (x, matrices, matrices, camera, *quarter, [0, 32, 0], 1, False, 1)
    yield "prope", (x, matrices, matrices, camera, None, None, [0, 16, 0], 1, True, 1)
    positions, depth, rows, columns = splat_arguments(rng)
    places = torch.from_numpy(positions), torch.from_numpy(depth)
    tokens = random(rng, TOKENS, 5, dtype=double).requires_grad_()
    yield "splat", (tokens, *places, None, rows, columns, "bilinear", 0.1)
    _, _, front, source = torch.ops.mosaicmem.splat(tokens.detach(), *places, None, rows, columns, "bilinear", 0.1)
    canvas = random(rng, rows, columns, 5, dtype=double).requires_grad_()
    yield "splat_adjoint", (canvas, *places, None, front, source, "bilinear", 0.1)
    yield "sample", (canvas, places[0], 1)
    yield "sample_adjoint", (tokens, places[0], rows, columns, 1)


@pytest.mark.parametrize("index", range(7))
def test_opcheck(rng, index):
    import mosaicmem._border.torch_operators  # noqa: F401 - registers the operators

    name, arguments = list(op_samples(rng))[index]
    torch.library.opcheck(getattr(torch.ops.mosaicmem, name).default, arguments)


class TestArraysAtTheBorder:
    def test_torch_in_torch_out(self, rng):
        x = random(rng, 2, 3, 5, 12)
        for result in (
            WarpedRoPE(12).apply(x, torch.zeros(5, 3)),
            attention(x, x, x),
            depth_to_grid(torch.ones(8, 16), 4),
            unproject_depth(torch.ones(8, 16), K)[0],
            reproject_depth_grid(torch.ones(2, 4), 4, K, CameraPose(), K, CameraPose())[0],
            WarpedLatent().splat(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1), 2, 2).latents,
            bilinear_sample(torch.ones(2, 2, 3), torch.zeros(4, 2))[1],
            MemoryCrossAttention(4, 4, 1, 8)(
                torch.ones(1, 4, 4), torch.ones(1, 2, 4), grid_positions(1, 2, 2), torch.zeros(2, 3)
            ),
        ):
            assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(attention(x, x, x).numpy(), attention(x.numpy(), x.numpy(), x.numpy()))

    def test_bfloat16_stays_bfloat16(self, rng):
        q, k, v = (random(rng, 1, 2, n, 16, dtype=torch.bfloat16) for n in (30, 50, 50))
        out, lse = attention(q, k, v, return_lse=True)
        assert out.dtype == torch.bfloat16
        expected = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
        torch.testing.assert_close(out.double(), expected, atol=2**-8, rtol=0)
        merged, _ = merge_attention(out, lse, out, lse)
        assert merged.dtype == torch.bfloat16
        torch.testing.assert_close(merged, out)
        rope = WarpedRoPE(16)
        turned = rope.apply(q, grid_positions(1, 5, 6))
        torch.testing.assert_close(turned, rope.apply(q.double(), grid_positions(1, 5, 6)).bfloat16())

    def test_nothing_is_copied(self, rng):
        """The kernels read tensors in place, without a copy."""
        from mosaicmem._border.heads import as_heads

        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = random(rng, 2, 5, 3, 8, dtype=dtype).transpose(1, 2)
            assert as_heads("x", x, tuple(x.shape)).ctypes.data == x.data_ptr()
        assert as_heads("x", x.half(), tuple(x.shape)).dtype == np.float32

    def test_what_has_no_backward_says_so(self, rng):
        x = random(rng, 1, 1, 5, 8).requires_grad_()
        with pytest.raises(ValueError, match=r"query_time: .*without gradient.*\.detach\(\)"):
            attention(x, x, x, query_time=x[0, 0, :, 0], key_time=np.zeros(5), half_life=1.0)
        with pytest.raises(ValueError, match=r"positions: .*without gradient"):
            WarpedRoPE(8).apply(x, torch.zeros(5, 3, requires_grad=True))
        with pytest.raises(ValueError, match=r"depth: .*without gradient"):
            WarpedLatent().splat(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, requires_grad=True), 2, 2)

    def test_wrong_kinds_are_named(self, rng):
        with pytest.raises(TypeError, match=r"x: expected real numbers, got torch\.complex64"):
            WarpedRoPE(8).apply(torch.zeros(5, 8, dtype=torch.complex64), np.zeros((5, 3)))
        x = random(rng, 1, 1, 5, 8)
        with pytest.raises(TypeError, match="q, k, v: expected one dtype, got bfloat16 for k, v only"):
            attention(x, x.bfloat16(), x.bfloat16())
        with pytest.raises(ValueError, match="x: expected a CPU or CUDA tensor, got one on meta"):
            WarpedRoPE(8).apply(torch.zeros(5, 8, device="meta"), np.zeros((5, 3)))


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("rope", 1, torch.zeros(8, 32, dtype=torch.float64), r"cos: expected shape \(9, 32\), got \(8, 32\)"),
        ("prope", 1, torch.zeros(1, 1, 4, 8, dtype=torch.float64), r"coefficients: expected shape"),
        ("prope", 3, torch.full((TOKENS,), 7, dtype=torch.int32), r"camera: expected indices within \[0, 1\)"),
        ("prope", 6, [0, 128, 0], "runs: expected whole four-vectors"),
        ("prope", 6, [0, 32, 1], "runs: expected whole four-vectors"),
        ("splat", 1, torch.zeros(3, 2), r"positions: expected shape \(9, 2\)"),
        ("splat", 6, "cubic", "mode: expected one of nearest, block, bilinear"),
        (
            "splat_adjoint",
            5,
            torch.full((ROWS, COLUMNS), 9, dtype=torch.int32),
            r"source: expected values in \[-1, 9\)",
        ),
        ("sample", 1, torch.zeros(3, 3), r"positions: expected shape \(N, 2\)"),
        ("sample_adjoint", 1, torch.zeros(3, 2), r"positions: expected shape \(9, 2\), got \(3, 2\)"),
        ("sample_adjoint", 2, 0, "rows: expected at least 1, got 0"),
    ],
)
def test_operators_called_by_hand_check_what_they_get(rng, name, index, value, message):
    import mosaicmem._border.torch_operators  # noqa: F401

    arguments = list(next(sample for op, sample in op_samples(rng) if op == name))
    arguments[index] = value
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.mosaicmem, name)(*arguments)


@pytest.mark.kernel
class TestCudaKernels:
    """The kernels that torch calls for CUDA tensors, given CPU tensors: an emulated device uses host memory."""

    @pytest.fixture
    def on_cuda(self, monkeypatch):
        if (missing := EmulatedDevice.missing()) is not None:
            pytest.skip(missing)

        def run(kernel, *arguments):
            with monkeypatch.context() as patch:
                for module in (mosaicmem._border, border_device, frameworks, operators):
                    patch.setattr(module, "is_on_device", lambda value: isinstance(value, torch.Tensor))
                patch.setattr(frameworks.TorchFramework, "stream", lambda self: (1, None))
                return kernel(*arguments)

        return run

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_rope_and_prope(self, rng, dtype, on_cuda):
        x = random(rng, 2, 3, 12, 64).to(dtype).transpose(0, 1)
        double = dtype == torch.float64
        angles = [
            torch.from_numpy(t) for t in WarpedRoPE(64).table(rng.uniform(0, 9, (12, 3))).beside("x", x, double=True)
        ]
        kernel = warped_rope._rope
        for inverse in (False, True):
            arguments = (x, *angles, True, inverse, 0)
            assert_same(on_cuda(kernel, *arguments), kernel(*arguments), dtype)
        table = torch.float64 if double else torch.float32
        products = torch.from_numpy(rng.standard_normal((3, 1, 4, 16))).to(table)
        camera = torch.from_numpy(np.arange(12, dtype=np.int32) % 3)
        turns = [angle[:, :16].contiguous() for angle in angles]
        kernel = prope_module._prope
        for cos, sin, end in ((None, None, 64), (None, None, 16), (*turns, 32)):
            arguments = (x, products, products, camera, cos, sin, [0, end, 0], 1, False, 0)
            assert_same(on_cuda(kernel, *arguments), kernel(*arguments), dtype)
        arguments = (x, products, products, camera, *turns, [0, 16, 0], 1, False, 0)
        with pytest.raises(ValueError, match="runs: expected whole four-vectors, one run behind the other, up to 32"):
            kernel(*arguments)  # the rotary part must begin where the matrices end

    @pytest.mark.parametrize("mode", ["nearest", "block", "bilinear"])
    def test_splat_and_sample(self, rng, mode, on_cuda):
        tokens, gradient = random(rng, 30, 4).double(), random(rng, 5, 6, 4).double()
        at, far = rng.uniform(0, 5, (30, 2)).astype(np.float32), rng.uniform(1, 2, 30).astype(np.float32)
        places = torch.from_numpy(at), torch.from_numpy(far)
        arguments = (tokens, *places, None, 5, 6, mode, 0.05)
        canvas = on_cuda(warped_latent._splat, *arguments)
        for part, expected in zip(canvas, warped_latent._splat(*arguments), strict=True):
            assert torch.equal(part, expected)
        kernel, back = warped_latent._splat_adjoint, (gradient, *places, None, canvas[2], canvas[3], mode, 0.05)
        assert torch.equal(on_cuda(kernel, *back), kernel(*back))
        kernel = warped_latent._sample
        for part, expected in zip(on_cuda(kernel, gradient, places[0], 0), kernel(gradient, places[0], 0), strict=True):
            assert torch.allclose(part.double(), expected.double(), atol=1e-12)
        kernel, back = warped_latent._sample_adjoint, (tokens, places[0], 5, 6, 0)
        assert torch.allclose(on_cuda(kernel, *back), kernel(*back), atol=1e-12)

    def test_attention(self, rng, on_cuda):
        q, k, v = (random(rng, 1, 2, n, 64).bfloat16() for n in (20, 30, 30))
        out, lse = on_cuda(lambda: attention(q, k, v, return_lse=True))
        expected = attention(q, k, v, return_lse=True)
        assert_same(out, expected[0], torch.bfloat16)
        assert torch.allclose(lse, expected[1], atol=1e-5)


def assert_same(actual, expected, dtype):
    assert actual.dtype == expected.dtype == dtype
    assert actual.shape == expected.shape
    assert actual.stride() == expected.stride()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
    assert torch.allclose(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


class TestLayoutsOfResults:
    @pytest.mark.parametrize("dtypes", [(torch.float64,) * 3, (torch.float64, torch.float32, torch.float32)])
    def test_attention_computes_other_dtypes_in_float32(self, dtypes):
        q, k, v = (torch.randn(1, 2, 16, 64).to(dtype) for dtype in dtypes)
        out, lse = attention(q, k, v, return_lse=True)
        assert out.dtype == torch.float32
        assert torch.equal(out, attention(q.float(), k.float(), v.float()))
        merged, _ = merge_attention(out.double(), lse, out.double(), lse)
        assert torch.allclose(merged.float(), out, atol=1e-6)

    def test_tokens_that_overlap_in_memory(self):
        x = torch.randn(100).unfold(0, 64, 1)[:16]  # strides (1, 1)
        positions = np.arange(48.0).reshape(16, 3)
        rope = WarpedRoPE(64)
        assert torch.equal(rope.apply(x, positions), rope.apply(x.contiguous(), positions))
        q = x[None, None]
        assert torch.equal(attention(q, q, q), attention(*[q.contiguous()] * 3))


class TestDispatch:
    """A plain tensor goes straight to the kernel; modes, transforms and compilers see an operator."""

    @pytest.fixture
    def rope(self):
        return WarpedRoPE(16), torch.randn(1, 2, 5, 16), np.arange(15.0).reshape(5, 3)

    def test_both_ways_give_the_same(self, rope):
        from torch.utils._python_dispatch import TorchDispatchMode

        seen = []

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                seen.append(str(function))
                return function(*args, **(kwargs or {}))

        encoding, x, positions = rope
        straight = encoding.apply(x, positions)
        with Record():
            through = encoding.apply(x, positions)
        assert "mosaicmem.rope.default" in seen
        assert torch.equal(straight, through)

    def test_fake_tensors_stay_fake(self, rope):
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        encoding, x, positions = rope
        table = encoding.table(positions)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            out = encoding.apply(mode.from_tensor(x), table)
        assert isinstance(out, FakeTensor)
        assert out.shape == x.shape

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
    def test_tracing_records_it(self, rope):
        encoding, x, positions = rope
        table = encoding.table(positions)
        traced = torch.jit.trace(lambda y: encoding.apply(y, table), x)
        other = torch.randn_like(x)
        assert torch.equal(traced(other), encoding.apply(other, table))

    def test_transforms_are_refused_by_torch_rather_than_ignored(self, rope):
        encoding, x, positions = rope
        table = encoding.table(positions)
        with pytest.raises(RuntimeError, match="functorch transforms"):
            torch.func.grad(lambda y: encoding.apply(y, table).sum())(x)
