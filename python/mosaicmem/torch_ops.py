"""The linear operators as torch custom operators: gradients, torch.compile, torch tensors in and out.

``WarpedRoPE``, ``PRoPE``, ``WarpedLatent`` and ``bilinear_sample`` come here with torch tensors; nothing else imports
this module. Each operator is linear in its features, so its backward is its adjoint, which is itself an operator:

=========================  ============================================
operator                   adjoint
=========================  ============================================
``mosaicmem::rope``        the same with the opposite angle
``mosaicmem::prope``       the same with transposed matrices
``mosaicmem::splat``       ``mosaicmem::splat_adjoint``
``mosaicmem::sample``      ``mosaicmem::sample_adjoint``
=========================  ============================================

Gradients flow to features only, never to positions, depths or cameras.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem import _core
from mosaicmem._arrays import I32, as_array, check_shape, check_threads, float_dtype, to_numpy
from mosaicmem._foreign import refuse_bfloat16
from mosaicmem.attention._features import as_heads
from mosaicmem.attention._head_layout import MatrixTable
from mosaicmem.attention._tokens import camera_indices
from mosaicmem.attention.warped_latent import sample_arguments, splat_arguments
from mosaicmem.attention.warped_rope import RotaryTable
from mosaicmem.device import latents as device_latents
from mosaicmem.device import positions as device_positions
from mosaicmem.device.arrays import Call, DeviceCopies, is_on_device
from mosaicmem.device.positions import DeviceRotaryTable

AnyTable = RotaryTable | DeviceRotaryTable


def rope(x: Any, table: AnyTable, pairing: str, inverse: bool, num_threads: int) -> Any:
    """``WarpedRoPE.apply`` on a tensor (..., N, head_dim)."""
    x = _computable("x", x)
    if isinstance(table, RotaryTable):
        tables = _on_device_of(x, table.copies, table.of_dtype(x.dtype == torch.float64), "table")
    else:
        tables = table.on_device(Call("x", x.detach()), str(x.dtype).removeprefix("torch."))
    return torch.ops.mosaicmem.rope(x, *tables, pairing == "interleaved", inverse, num_threads)


def prope(
    x: Any, matrices: MatrixTable, camera: I32, angles: RotaryTable | None, inverse: bool, num_threads: int
) -> Any:
    """One of PRoPE's products on a tensor (..., N, head_dim)."""
    x = _computable("x", x)
    double = x.dtype == torch.float64
    products = (matrices.coefficients, matrices.adjoint) if double else matrices.single
    tables: tuple[Any, ...] = (None, None)
    if angles is not None:
        tables = _on_device_of(x, angles.copies, angles.of_dtype(double), "table")
    return torch.ops.mosaicmem.prope(
        x,
        *_on_device_of(x, matrices.copies, products, "products"),
        *_on_device_of(x, matrices.copies, (camera,), "camera"),
        *tables,
        [number for run in matrices.runs for number in run],
        matrices.spread,
        inverse,
        num_threads,
    )


def splat(
    tokens: Any, positions: Any, depth: Any, weights: Any, rows: int, columns: int, mode: str, depth_tolerance: float
) -> tuple[Any, Any, Any, Any]:
    """``WarpedLatent.splat`` on a tensor (N, C): canvas, coverage, depth, source."""
    places = _constant("positions", positions), _constant("depth", depth), _constant("weights", weights, values=True)
    features = _computable("tokens", tokens, half=False)
    return tuple(torch.ops.mosaicmem.splat(features, *places, rows, columns, mode, depth_tolerance))


def bilinear_sample(grid: Any, positions: Any, num_threads: int) -> tuple[Any, Any]:
    """``bilinear_sample`` on a tensor (h, w, C): values and inside."""
    features = _computable("grid", grid, half=False)
    values, inside = torch.ops.mosaicmem.sample(features, _constant("positions", positions), num_threads)
    return values, inside


def _on_device_of(x: Any, copies: DeviceCopies, arrays: tuple[NDArray[Any], ...], key: str) -> tuple[Any, ...]:
    """Small arrays as tensors where ``x`` is: on a GPU, copies that are kept."""
    if not is_on_device(x):
        return tuple(torch.from_numpy(array) for array in arrays)
    call = Call("x", x.detach())
    return tuple(copies.of(call, f"{key} {i} {array.dtype}", array) for i, array in enumerate(arrays))


def _constant(name: str, value: Any, *, values: bool = False) -> Any:
    """A tensor that no gradient flows to. bfloat16 is refused unless these are ``values``."""
    if value is None:
        return None
    # A compiler traces NumPy's arrays by itself, and could not trace how they are read.
    if not isinstance(value, torch.Tensor) and not torch.compiler.is_compiling() and not is_on_device(value):
        array = to_numpy(name, value, values=values)
        value = torch.from_numpy(np.require(array, requirements=("C", "A", "W")))
    tensor = torch.as_tensor(value)
    if tensor.requires_grad:
        raise ValueError(f"{name}: expected a tensor without gradient, since this has no backward; use .detach()")
    if tensor.dtype == torch.bfloat16:
        return tensor.float() if values else refuse_bfloat16(name)
    return tensor


def _computable(name: str, x: Any, *, half: bool = True) -> Any:
    """The tensor in a dtype that its kernel has."""
    on_device = is_on_device(x)
    if x.device.type != "cpu" and not on_device:
        raise ValueError(f"{name}: expected a CPU or CUDA tensor, got one on {x.device}; move it with .cpu()")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")
    halves = (torch.bfloat16, *([torch.float16] if on_device else [])) if half else ()
    return x if x.dtype in (torch.float32, torch.float64, *halves) else x.float()


def _array(x: Any) -> Any:
    return None if x is None else np.ascontiguousarray(x.detach().resolve_neg().numpy())


def _heads(x: Any) -> NDArray[Any]:
    return as_heads("x", x.detach(), tuple(x.shape))


def _result_like(x: Any) -> tuple[Any, NDArray[Any]]:
    """A tensor like ``x``, and the same memory as the core takes it."""
    out = _fake_like(x)
    heads = _heads(out)
    assert heads.size == 0 or heads.ctypes.data == out.data_ptr(), "the core would write to a copy"
    return out, heads


def _table_dtype(heads: NDArray[Any]) -> Any:
    return np.float64 if heads.dtype == np.float64 else np.float32


def _pairing(interleaved: bool) -> _core.Pairing:
    return _core.Pairing.interleaved if interleaved else _core.Pairing.split_half


# The kernels check all that they are given, since torch.ops lets anyone call them.


def _rope(x: Any, cos: Any, sin: Any, interleaved: bool, inverse: bool, num_threads: int) -> Any:
    heads, (out, memory) = _heads(x), _result_like(x)
    dtype = _table_dtype(heads)
    shape = (heads.shape[2], heads.shape[3] // 2)
    if heads.shape[3] % 2:
        raise ValueError(f"x: expected an even head dimension, got shape {tuple(x.shape)}")
    tables = as_array("cos", _array(cos), dtype, shape), as_array("sin", _array(sin), dtype, shape)
    _core.rope_apply(heads, *tables, _pairing(interleaved), inverse, memory, check_threads(num_threads))
    return out


def _prope(
    x: Any,
    coefficients: Any,
    adjoint: Any,
    camera: Any,
    cos: Any,
    sin: Any,
    runs: list[int],
    spread: int,
    inverse: bool,
    num_threads: int,
) -> Any:
    heads, (out, memory) = _heads(x), _result_like(x)
    _, _, tokens, dim = heads.shape
    dtype = _table_dtype(heads)
    products = as_array("coefficients", _array(coefficients), dtype, ("cameras", "groups", 4, 16 * spread))
    triples = list(zip(runs[::3], runs[1::3], runs[2::3], strict=True))
    _check_runs(triples, spread, products.shape[1], dim, cos is not None)
    own = camera_indices(_array(camera), len(products), tokens)
    if cos is not None:
        cos = as_array("cos", _array(cos), dtype, (tokens, dim // 4))
        sin = as_array("sin", _array(sin), dtype, (tokens, dim // 4))
    threads = check_threads(num_threads)
    _core.prope_apply(heads, triples, spread, products, own, cos, sin, inverse, memory, threads)
    return out


def _check_runs(runs: list[tuple[int, int, int]], spread: int, groups: int, dim: int, turns: bool) -> None:
    """Runs cover features from the first on; half of them, exactly, where the other half turns."""
    end = dim // 2 if turns else dim
    position = 0
    fits = True
    for first, last, group in runs:
        whole = spread >= 1 and (last - first) % (4 * spread) == 0
        fits = fits and whole and first == position and first <= last <= end and 0 <= group < groups
        position = last
    if not fits or (turns and position != end):
        raise ValueError(f"runs: expected whole four-vectors, one run behind the other, up to {end}, got {runs}")


def _splat(
    tokens: Any, positions: Any, depth: Any, weights: Any, rows: int, columns: int, mode: str, depth_tolerance: float
) -> tuple[Any, ...]:
    places = _array(positions), _array(depth), _array(weights)
    parts = _core.splat(*splat_arguments(_array(tokens), *places, rows, columns, mode, depth_tolerance))
    return tuple(torch.from_numpy(part) for part in parts)


def _splat_adjoint(
    canvas: Any, positions: Any, depth: Any, weights: Any, front: Any, source: Any, mode: str, depth_tolerance: float
) -> Any:
    gradient = as_array("canvas", _array(canvas), float_dtype(_array(canvas)), ("h", "w", "C"))
    rows, columns, _ = gradient.shape
    count = depth.shape[0]
    nothing = np.empty((count, 0), np.float32)
    _, places, z, weight, _, _, kind, tolerance = splat_arguments(
        nothing, _array(positions), _array(depth), _array(weights), rows, columns, mode, depth_tolerance
    )
    surface = as_array("front", _array(front), np.float32, (rows, columns))
    owner = as_array("source", _array(source), np.int32, (rows, columns))
    if owner.size and not (owner.min() >= -1 and owner.max() < count):
        raise ValueError(f"source: expected values in [-1, {count}), got {owner.min()} to {owner.max()}")
    return torch.from_numpy(_core.splat_adjoint(gradient, places, z, weight, surface, owner, kind, tolerance))


def _sample(grid: Any, positions: Any, num_threads: int) -> tuple[Any, ...]:
    cells, places = sample_arguments(_array(grid), _array(positions))
    return tuple(torch.from_numpy(part) for part in _core.bilinear_sample(cells, places, check_threads(num_threads)))


def _sample_adjoint(values: Any, positions: Any, rows: int, columns: int, num_threads: int) -> Any:
    gradient = as_array("values", _array(values), float_dtype(_array(values)), ("N", "C"))
    _, places = sample_arguments(np.empty((rows, columns, 0), np.float32), _array(positions))
    check_shape("positions", places.shape, (len(gradient), 2))
    return torch.from_numpy(_core.bilinear_sample_adjoint(gradient, places, rows, columns))


# The same on the device, where values cannot be looked at without waiting: cameras that do not exist are not noticed.


def _rope_cuda(x: Any, cos: Any, sin: Any, interleaved: bool, inverse: bool, _threads: int) -> Any:
    out = _fake_like(x)
    device_positions.rope_apply(x.detach(), cos, sin, interleaved, inverse, out)
    return out


def _prope_cuda(
    x: Any,
    coefficients: Any,
    _adjoint: Any,
    camera: Any,
    cos: Any,
    sin: Any,
    runs: list[int],
    spread: int,
    inverse: bool,
    _threads: int,
) -> Any:
    dim = x.shape[-1]
    triples = list(zip(runs[::3], runs[1::3], runs[2::3], strict=True))
    _check_runs(triples, spread, coefficients.shape[1], dim, cos is not None)
    out = _fake_like(x)
    device_positions.prope_apply(x.detach(), coefficients, camera, cos, sin, triples, spread, inverse, out)
    return out


def _splat_cuda(tokens: Any, *others: Any) -> tuple[Any, ...]:
    return device_latents.splat(tokens.detach(), *others)


def _splat_adjoint_cuda(canvas: Any, *others: Any) -> Any:
    return device_latents.splat_adjoint(canvas.detach(), *others)


def _sample_cuda(grid: Any, positions: Any, _threads: int) -> tuple[Any, ...]:
    return device_latents.bilinear_sample(grid.detach(), positions)


def _sample_adjoint_cuda(values: Any, positions: Any, rows: int, columns: int, _threads: int) -> Any:
    return device_latents.bilinear_sample_adjoint(values.detach(), positions, rows, columns)


def _fake_like(x: Any, *_: Any) -> Any:
    """Room for a result whose features lie side by side, as the kernels write them; else with the axes of ``x``."""
    if x.dim() <= 4 and (x.shape[-1] <= 1 or x.stride(-1) == 1):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_splat(tokens: Any, _p: Any, _d: Any, _w: Any, rows: int, columns: int, *_: Any) -> tuple[Any, ...]:
    dtypes = (torch.bool, torch.float32, torch.int32)
    canvas = tokens.new_empty((rows, columns, tokens.shape[1]))
    return canvas, *(tokens.new_empty((rows, columns), dtype=dtype) for dtype in dtypes)


def _fake_splat_adjoint(canvas: Any, _p: Any, depth: Any, *_: Any) -> Any:
    return canvas.new_empty((depth.shape[0], canvas.shape[2]))


def _fake_sample(grid: Any, positions: Any, *_: Any) -> tuple[Any, ...]:
    count = positions.shape[0]
    return grid.new_empty((count, grid.shape[2])), grid.new_empty((count,), dtype=torch.bool)


def _fake_sample_adjoint(values: Any, _p: Any, rows: int, columns: int, *_: Any) -> Any:
    return values.new_empty((rows, columns, values.shape[1]))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Saves all but the features: a backward needs no more, since the operators are linear."""
    tensors = [x if isinstance(x, torch.Tensor) else None for x in inputs[1:]]
    ctx.save_for_backward(*tensors)
    ctx.others = [None if isinstance(x, torch.Tensor) else x for x in inputs[1:]]
    ctx.features = inputs[0].shape


def _kept(ctx: Any) -> list[Any]:
    return [t if t is not None else x for t, x in zip(ctx.saved_tensors, ctx.others, strict=True)]


def _rope_backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
    cos, sin, interleaved, inverse, threads = _kept(ctx)
    return torch.ops.mosaicmem.rope(grad, cos, sin, interleaved, not inverse, threads), *[None] * 5


def _prope_backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
    product, adjoint, camera, cos, sin, runs, spread, inverse, threads = _kept(ctx)
    back = torch.ops.mosaicmem.prope(grad, adjoint, product, camera, cos, sin, runs, spread, not inverse, threads)
    return back, *[None] * 9


def _keep_splat(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, positions, depth, weights, _, _, mode, tolerance = inputs
    _, coverage, front, source = output
    ctx.mark_non_differentiable(coverage, front, source)
    ctx.save_for_backward(positions, depth, weights, front, source)
    ctx.options = mode, tolerance


def _splat_backward(ctx: Any, grad: Any, *_: Any) -> tuple[Any, ...]:
    return torch.ops.mosaicmem.splat_adjoint(grad, *ctx.saved_tensors, *ctx.options), *[None] * 7


def _splat_adjoint_backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
    positions, depth, weights, _, _, mode, tolerance = _kept(ctx)
    rows, columns, _ = ctx.features
    canvas = torch.ops.mosaicmem.splat(grad, positions, depth, weights, rows, columns, mode, tolerance)[0]
    return canvas, *[None] * 7


def _keep_sample(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.mark_non_differentiable(output[1])
    _keep_inputs(ctx, inputs, output)


def _sample_backward(ctx: Any, grad: Any, *_: Any) -> tuple[Any, ...]:
    positions, threads = _kept(ctx)
    rows, columns, _ = ctx.features
    return torch.ops.mosaicmem.sample_adjoint(grad, positions, rows, columns, threads), None, None


def _sample_adjoint_backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
    positions, _, _, threads = _kept(ctx)
    return torch.ops.mosaicmem.sample(grad, positions, threads)[0], *[None] * 4


def _register(name: str, schema: str, kernel: Any, cuda_kernel: Any, fake: Any, keep: Any, backward: Any) -> None:
    op = torch.library.custom_op(f"mosaicmem::{name}", kernel, mutates_args=(), device_types="cpu", schema=schema)
    op.register_kernel("cuda")(cuda_kernel)
    op.register_fake(fake)
    op.register_autograd(backward, setup_context=keep)


_register(
    "rope",
    "(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool inverse, int num_threads) -> Tensor",
    _rope,
    _rope_cuda,
    _fake_like,
    _keep_inputs,
    _rope_backward,
)
_register(
    "prope",
    "(Tensor x, Tensor coefficients, Tensor adjoint, Tensor camera, Tensor? cos, Tensor? sin, int[] runs, int spread, "
    "bool inverse, int num_threads) -> Tensor",
    _prope,
    _prope_cuda,
    _fake_like,
    _keep_inputs,
    _prope_backward,
)
_register(
    "splat",
    "(Tensor tokens, Tensor positions, Tensor depth, Tensor? weights, int rows, int columns, str mode, "
    "float depth_tolerance) -> (Tensor, Tensor, Tensor, Tensor)",
    _splat,
    _splat_cuda,
    _fake_splat,
    _keep_splat,
    _splat_backward,
)
_register(
    "splat_adjoint",
    "(Tensor canvas, Tensor positions, Tensor depth, Tensor? weights, Tensor front, Tensor source, str mode, "
    "float depth_tolerance) -> Tensor",
    _splat_adjoint,
    _splat_adjoint_cuda,
    _fake_splat_adjoint,
    _keep_inputs,
    _splat_adjoint_backward,
)
_register(
    "sample",
    "(Tensor grid, Tensor positions, int num_threads) -> (Tensor, Tensor)",
    _sample,
    _sample_cuda,
    _fake_sample,
    _keep_sample,
    _sample_backward,
)
_register(
    "sample_adjoint",
    "(Tensor values, Tensor positions, int rows, int columns, int num_threads) -> Tensor",
    _sample_adjoint,
    _sample_adjoint_cuda,
    _fake_sample_adjoint,
    _keep_inputs,
    _sample_adjoint_backward,
)
