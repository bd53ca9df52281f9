"""PRoPE: cameras as relative positional encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from mosaicmem._arrays import (
    ArrayLike,
    ArrayT,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_shape,
    check_threads,
)
from mosaicmem._border import Call, readable
from mosaicmem._border.heads import room_like
from mosaicmem._border.operators import declare, keep_inputs, kept, on_tensors
from mosaicmem.attention._cameras import ProjectedCameras
from mosaicmem.attention._head_layout import HeadLayout, MatrixTable
from mosaicmem.attention._products import CameraProducts
from mosaicmem.attention._tokens import token_places
from mosaicmem.attention.kernel import AttentionOptions, attention
from mosaicmem.attention.rotary_table import RotaryTable
from mosaicmem.camera import CameraPose
from mosaicmem.errors import suspect

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SPACING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float64": 0.0}  # relative; others as float32
_MOST_ERROR = 0.1


class PRoPE:
    """Projective positional encoding of tokens that belong to cameras.

    Four-vectors within each head are multiplied by 4x4 matrices of the token's camera, so that logits depend only on
    P_q P_k^-1:  q <- P^T q;  k, v <- P^-1 k, P^-1 v;  o <- P o.  P = lift4(Kn) * camera_from_world with
    Kn = [[fx/W, 0, cx/W - 0.5], [0, fy/H, cy/H - 0.5], [0, 0, 1]], or camera_from_world alone without intrinsics.

    Parameters
    ----------
    head_dim : int
        A multiple of 8 (``half``), 64 (``full``) or 4 (``contiguous``).
    viewmats : (V, 4, 4) or (V, S, 4, 4) array
        camera_from_world, rigid; one per camera, or S = 1 or 4 sub-frame cameras for each of V latent frames.
    Ks : (V, 3, 3), (V, S, 3, 3) or (3, 3) array, optional
        Intrinsics in pixels.
    patches_x, patches_y : int, optional
        Token grid of each camera: tokens are ordered camera by camera, rows, then columns.
    image_width, image_height : int, optional
        Pixels; needed with ``Ks``.
    camera : (N,) int array, optional
        Instead of a grid: the camera of each token. Without it and without a grid, each token has its own, V = N.
    positions : (N, 2) array, optional
        Instead of a grid: (y, x) of each token in patches, fractions allowed. ``half`` needs one or the other.
    layout : {"half", "full", "contiguous"}
        ``half``: the camera multiplies the first half of each head; RoPE rotates the next quarter by the token's x and
        the last by its y, in q, k, v and, inverted, in o. Sub-frames share the first half in four equal runs
        (``head_dim`` is then a multiple of 32).
        ``full``: the camera multiplies the whole head: feature ((p*4 + c)*4 + j)*(head_dim/64) + r is component j of a
        four-vector of sub-frame c.
        ``contiguous``: sub-frames own ``dims_per_camera`` features each, from the front; the rest is untouched.
    subframes : sequence of int, optional
        ``contiguous``: which sub-frames, in order, such as (1, 3). Default: all.
    dims_per_camera : int
        ``contiguous``: a multiple of 4.
    translation : {"none", "log", "logd4", "tanh"} or float
        Compresses the translations of large scenes: t of camera_from_world becomes t * log1p(|t|) / |t|, that / 4,
        t * tanh(|t|) / |t|, or t divided by a number. All but ``none`` and a divisor depend on the world frame, so pass
        cameras relative to one of them, or ``world_from_reference``.
    base : float
        ``half``: base of the rotary frequencies base^(-i / n), n = head_dim / 8.
    world_from_reference : CameraPose or (4, 4) array, optional
        Cameras are expressed relative to this one, before ``translation`` applies. Pass the same one to every `PRoPE`
        in an attention.

    Notes
    -----
    Only P_q P_k^-1 matters, so the world origin is arbitrary; but P^T q and P^-1 k grow with the distance from it, and
    so do the rounding errors of float32 and bfloat16. `attend`, `prope_attention` and `MemoryCrossAttention` therefore
    express cameras far from the origin relative to one of them, which keeps the error from growing. The
    ``apply_to_...`` methods cannot know which other cameras theirs will meet, so they use the frame of ``viewmats``. If
    you call them yourself far from the origin, pass ``world_from_reference``.

    Warns
    -----
    SuspiciousInput
        The cameras are so far from the origin that ``apply_to_...`` loses significant digits in the dtype of the
        features; ``translation`` depends on the world frame, and the cameras are far from its origin; or the dtype of
        ``viewmats`` is too coarse for their translations.

    References
    ----------
    Cameras as Relative Positional Encoding, arXiv 2507.10496.
    """

    def __init__(
        self,
        head_dim: int,
        viewmats: ArrayLike,
        Ks: ArrayLike | None = None,
        *,
        patches_x: int | None = None,
        patches_y: int | None = None,
        image_width: int | None = None,
        image_height: int | None = None,
        camera: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        layout: str = "half",
        subframes: Sequence[int] | None = None,
        dims_per_camera: int = 16,
        translation: str | float = "none",
        base: float = 100.0,
        world_from_reference: CameraPose | ArrayLike | None = None,
    ) -> None:
        self.head_dim = check_integer("head_dim", head_dim, minimum=4)
        self.layout = check_choice("layout", layout, ("half", "full", "contiguous"))
        cameras = ProjectedCameras(viewmats, Ks, image_width, image_height, translation, world_from_reference)
        head = HeadLayout.of(self.layout, self.head_dim, cameras.subframes, subframes, dims_per_camera)
        self.products = CameraProducts(cameras, head)
        self._suspected = False
        self._camera, place = token_places(len(cameras), patches_x, patches_y, camera, positions)
        self._angles: RotaryTable | None = None
        if self.layout == "half":
            if place is None:
                raise ValueError('positions: layout "half" needs them, or patches_x and patches_y')
            # n pairs per axis, x first, at frequencies base^(-i/n): the table of an axis of 2n dimensions.
            quarter = head_dim // 4
            frequencies = check_number("base", base, above=0.0)
            self._angles = RotaryTable.of_positions(place[:, ::-1], (quarter, quarter), frequencies)

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self._camera)

    def apply_to_q(self, q: ArrayT, *, num_threads: int = 0) -> ArrayT:
        """P^T q with the rotary part; q is (..., N, head_dim).

        This and the other ``apply_to_...`` methods keep float64 and bfloat16; other dtypes are computed in float32.
        Transposed views of (B, N, heads, d) are read in place. A torch tensor may require a gradient.
        """
        self._suspect_distance(q)
        product: ArrayT = self.multiply("q", q, self.products.as_given.q, False, num_threads)
        return product

    def apply_to_kv(self, x: ArrayT, *, num_threads: int = 0) -> ArrayT:
        """P^-1 x with the rotary part; x is keys or values (..., N, head_dim)."""
        self._suspect_distance(x)
        product: ArrayT = self.multiply("x", x, self.products.as_given.kv, False, num_threads)
        return product

    def apply_to_o(self, o: ArrayT, *, num_threads: int = 0) -> ArrayT:
        """P o with the inverse rotary part; o is (..., N, head_dim)."""
        self._suspect_distance(o)
        product: ArrayT = self.multiply("o", o, self.products.as_given.o, True, num_threads)
        return product

    @overload
    def attend(
        self,
        q: ArrayT,
        k: ArrayT,
        v: ArrayT,
        *,
        memory: PRoPE | None = None,
        return_lse: Literal[False] = False,
        **options: Unpack[AttentionOptions],
    ) -> ArrayT: ...

    @overload
    def attend(
        self,
        q: ArrayT,
        k: ArrayT,
        v: ArrayT,
        *,
        memory: PRoPE | None = None,
        return_lse: Literal[True],
        **options: Unpack[AttentionOptions],
    ) -> tuple[ArrayT, ArrayT]: ...

    def attend(self, q: Any, k: Any, v: Any, *, memory: PRoPE | None = None, **options: Any) -> Any:
        """Attention under PRoPE. Keys and values have the cameras of ``memory``, or without it those of the queries.

        If the query cameras are far from the origin, all cameras are expressed relative to the first of them, so the
        world origin may be anywhere. ``options`` go to `attention`; with ``return_lse`` the result is a pair here too.
        """
        threads = options.get("num_threads", 0)
        keys = self if memory is None else check_instance("memory", memory, PRoPE)
        frame = self.products.shared_frame
        own, theirs = self.products.seen_from(frame, "self"), keys.products.seen_from(frame, "memory").kv
        result = attention(
            self.multiply("q", q, own.q, False, threads),
            keys.multiply("k", k, theirs, False, threads),
            keys.multiply("v", v, theirs, False, threads),
            **options,
        )
        if options.get("return_lse"):
            return self.multiply("o", result[0], own.o, True, threads), result[1]
        return self.multiply("o", result, own.o, True, threads)

    def _suspect_distance(self, x: ArrayLike) -> None:
        """Warn once if the dtype of the features is too coarse for the distance of the cameras."""
        distance = self.products.distance
        if distance * _SPACING["bfloat16"] <= _MOST_ERROR or self._suspected:
            return
        dtype = str(getattr(x, "dtype", "float32")).rpartition(".")[2]
        if distance * _SPACING.get(dtype, 2.0**-24) > _MOST_ERROR:
            self._suspected = True
            suspect(
                f"viewmats: all cameras are {distance:.3g} or more from the origin of the world, where {dtype} "
                "features lose what tells them apart; use attend, or pass world_from_reference, one of the cameras, "
                "to the PRoPE of queries and of memory alike"
            )

    def multiply(self, name: str, x: ArrayLike, matrices: MatrixTable, inverse: bool, num_threads: int) -> Any:
        """Apply one of ``products`` to features (..., N, head_dim), with the rotary part or its inverse."""
        x = readable(name, x)
        shape = tuple(np.shape(x))
        check_shape(name, shape, (*[None] * max(0, len(shape) - 2), len(self), self.head_dim))
        call = Call(name, x)
        is_double = str(x.dtype).endswith("float64")
        both = (matrices.coefficients, matrices.adjoint) if is_double else matrices.single
        product, adjoint = (
            call.beside(matrices.copies, f"{kind} {is_double}", array)
            for kind, array in zip(("product", "adjoint"), both, strict=True)
        )
        cos, sin = (None, None) if self._angles is None else self._angles.beside(name, x, double=True)
        constants = {
            "coefficients": product,
            "adjoint": adjoint,
            "camera": call.beside(matrices.copies, "camera", self._camera),
            "cos": cos,
            "sin": sin,
        }
        runs = [number for run in matrices.runs for number in run]
        return _PROPE((name, x), constants, runs, matrices.spread, inverse, check_threads(num_threads))


def _prope(
    x: Any,
    coefficients: Any,
    adjoint: Any,
    camera: Any,
    cos: Any,
    sin: Any,
    runs: Sequence[int],
    spread: int,
    inverse: bool,
    num_threads: int,
) -> Any:
    """One of the products, applied to x (..., N, d). Only the backward uses the adjoint."""
    call = Call("x", x, num_threads)
    heads = call.heads("x", x, (*[None] * max(0, len(x.shape) - 2), "N", "d"))
    _, _, tokens, dim = heads.shape
    dtype = "float64" if heads.dtype == "float64" else "float32"
    products = call.array("coefficients", coefficients, dtype, ("cameras", "groups", 4, 16 * spread))
    cameras, groups = products.shape[:2]
    triples = list(zip(runs[::3], runs[1::3], runs[2::3], strict=True))
    _check_runs(triples, spread, groups, dim, cos is not None)
    own = call.array("camera", camera, "int32", (tokens,))
    call.check("camera", own, lambda c: bool(c.min() >= 0 and c.max() < cameras), f"indices within [0, {cameras})")
    to_cos = None if cos is None else call.array("cos", cos, dtype, (tokens, dim // 4))
    to_sin = None if sin is None else call.array("sin", sin, dtype, (tokens, dim // 4))
    out, to_out = call.empty_heads(x, heads, dim)
    call.core.prope_apply(heads, triples, spread, products, own, to_cos, to_sin, inverse, to_out, call.handle)
    return out


def _check_runs(runs: list[tuple[int, int, int]], spread: int, groups: int, dim: int, turns: bool) -> None:
    """Check that runs cover features from the first on without gaps; with RoPE, exactly the first half."""
    end = dim // 2 if turns else dim
    position = 0
    fits = True
    for first, last, group in runs:
        whole = spread >= 1 and (last - first) % (4 * spread) == 0
        fits = fits and whole and first == position and first <= last <= end and 0 <= group < groups
        position = last
    if not fits or (turns and position != end):
        raise ValueError(f"runs: expected whole four-vectors, one run behind the other, up to {end}, got {runs}")


def _prope_backward(ctx: Any, gradient: Any) -> tuple[Any, ...]:
    """The same product with transposed matrices."""
    product, adjoint, camera, cos, sin, runs, spread, inverse, threads = kept(ctx)
    back = on_tensors("prope")(gradient, adjoint, product, camera, cos, sin, runs, spread, not inverse, threads)
    return back, *[None] * 9


_PROPE = declare(
    "prope",
    "(Tensor x, Tensor coefficients, Tensor adjoint, Tensor camera, Tensor? cos, Tensor? sin, int[] runs, int spread, "
    "bool inverse, int num_threads) -> Tensor",
    _prope,
    lambda x, *_: room_like(x),
    keep_inputs,
    _prope_backward,
)


def prope_attention(
    q: ArrayT,
    k: ArrayT,
    v: ArrayT,
    viewmats: ArrayLike,
    Ks: ArrayLike | None,
    patches_x: int,
    patches_y: int,
    image_width: int | None = None,
    image_height: int | None = None,
    *,
    layout: str = "half",
    subframes: Sequence[int] | None = None,
    dims_per_camera: int = 16,
    translation: str | float = "none",
    base: float = 100.0,
    world_from_reference: CameraPose | ArrayLike | None = None,
    **options: Unpack[AttentionOptions],
) -> ArrayT:
    """Self-attention of V camera views under PRoPE, in one call; q, k, v are (B, heads, V * patches_y * patches_x, d).

    The arguments are those of `PRoPE`; ``options`` go to `attention`. If keys and queries have different cameras, or
    cameras serve many layers, make the encodings once and use `PRoPE.attend`.
    """
    encoding = PRoPE(
        np.shape(q)[-1],
        viewmats,
        Ks,
        patches_x=patches_x,
        patches_y=patches_y,
        image_width=image_width,
        image_height=image_height,
        layout=layout,
        subframes=subframes,
        dims_per_camera=dims_per_camera,
        translation=translation,
        base=base,
        world_from_reference=world_from_reference,
    )
    out: ArrayT = encoding.attend(q, k, v, **options)
    return out
