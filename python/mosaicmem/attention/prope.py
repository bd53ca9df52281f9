"""PRoPE: cameras as relative positional encoding, layout "half"."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mosaicmem import _core
from mosaicmem._arrays import (
    F64,
    I32,
    ArrayLike,
    as_array,
    check_instance,
    check_integer,
    check_number,
    check_threads,
    like,
    to_numpy,
)
from mosaicmem.attention.kernel import attention
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.camera.pose import check_rigid


def projection_matrices(
    camera_from_world: ArrayLike,
    intrinsics: ArrayLike | None,
    image_width: int | None,
    image_height: int | None,
) -> tuple[F64, F64]:
    """P = lift4(Kn) * camera_from_world of each camera, and its inverse in closed form; (V, 4, 4) float64 each.

    Kn = [[fx/W, 0, cx/W - 0.5], [0, fy/H, cy/H - 0.5], [0, 0, 1]], or the identity without intrinsics. The inverse is
    [R^T | -R^T t] lift4(Kn^-1).
    """
    views = as_array("camera_from_world", camera_from_world, np.float64, ("V", 4, 4), finite=True)
    inverse = np.zeros_like(views)
    views = (
        np.stack([check_rigid(f"camera_from_world[{i}]", view) for i, view in enumerate(views)])
        if len(views)
        else views
    )
    rotation_t = views[:, :3, :3].transpose(0, 2, 1)
    inverse[:, :3, :3] = rotation_t
    inverse[:, :3, 3] = -np.einsum("vij,vj->vi", rotation_t, views[:, :3, 3])
    inverse[:, 3, 3] = 1
    if intrinsics is None:
        return views.copy(), inverse
    if image_width is None or image_height is None:
        raise ValueError("image_width, image_height: expected both, since intrinsics are in pixels")
    width = check_integer("image_width", image_width, minimum=1)
    height = check_integer("image_height", image_height, minimum=1)
    k = as_array("intrinsics", intrinsics, np.float64, (len(views), 3, 3), finite=True)
    for i, matrix in enumerate(k):
        try:
            CameraIntrinsics.from_matrix(matrix, width, height)
        except ValueError as error:
            raise ValueError(f"intrinsics[{i}]: {error}") from None
    fx, fy = k[:, 0, 0] / width, k[:, 1, 1] / height
    cx, cy = k[:, 0, 2] / width - 0.5, k[:, 1, 2] / height - 0.5
    lift, unlift = np.zeros((2, len(views), 4, 4))
    for matrix, diagonal_x, diagonal_y, offset_x, offset_y in (
        (lift, fx, fy, cx, cy),
        (unlift, 1 / fx, 1 / fy, -cx / fx, -cy / fy),
    ):
        matrix[:, 0, 0], matrix[:, 1, 1] = diagonal_x, diagonal_y
        matrix[:, 0, 2], matrix[:, 1, 2] = offset_x, offset_y
        matrix[:, 2, 2] = matrix[:, 3, 3] = 1
    return lift @ views, inverse @ unlift


class PRoPE:
    """Projective positional encoding of tokens that belong to cameras, layout "half".

    The first half of each head is taken as four-vectors that are multiplied by 4x4 matrices of the token's camera, so
    that logits see only P_q P_k^-1; the next quarter turns with the token's patch column (x), the last quarter with its
    row (y).

    q <- P^T q;  k, v <- P^-1 k, P^-1 v;  o <- P o, all with the rotary part on x and y (its inverse on o).

    Parameters
    ----------
    head_dim : int
        A multiple of 8.
    camera_from_world : (V, 4, 4) array
        Rigid; one a camera ("viewmats").
    patches_x, patches_y : int
        Token grid of each camera. Tokens are ordered camera by camera, rows, then columns.
    image_width, image_height : int, optional
        Pixels; needed with ``intrinsics``.
    intrinsics : (V, 3, 3) array, optional
        K in pixels ("Ks"). Without it P = camera_from_world.
    camera : (N,) int array, optional
        Instead of a full grid: the camera of each token. Then ``positions`` is needed and patches_x, patches_y are not.
    positions : (N, 2) array, optional
        (x, y) of each token in patches, fractions allowed.
    base : float
        Base of the frequencies base^(-i / n), n = head_dim / 8.

    References
    ----------
    Cameras as Relative Positional Encoding, arXiv 2507.10496.
    """

    def __init__(
        self,
        head_dim: int,
        camera_from_world: ArrayLike,
        patches_x: int | None = None,
        patches_y: int | None = None,
        image_width: int | None = None,
        image_height: int | None = None,
        intrinsics: ArrayLike | None = None,
        *,
        camera: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        base: float = 100.0,
    ) -> None:
        self.head_dim = check_integer("head_dim", head_dim, minimum=8)
        if head_dim % 8:
            raise ValueError(f"head_dim: expected a multiple of 8, got {head_dim}")
        self._project, self._unproject = projection_matrices(camera_from_world, intrinsics, image_width, image_height)
        count = len(self._project)
        if camera is None and positions is None:
            columns = check_integer("patches_x", patches_x, minimum=1)
            rows = check_integer("patches_y", patches_y, minimum=1)
            self._camera = np.repeat(np.arange(count, dtype=np.int32), rows * columns)
            y, x = np.divmod(np.tile(np.arange(rows * columns), count), columns)
            place = np.stack([x, y], axis=1).astype(np.float64)
        elif camera is None or positions is None:
            raise ValueError("camera, positions: expected both or none")
        else:
            self._camera = _camera_indices(camera, count)
            place = as_array("positions", positions, np.float64, (len(self._camera), 2), finite=True)
        # n pairs an axis at frequencies base^(-i/n): the table of an axis of 2n dimensions.
        quarter = head_dim // 4
        self._cos, self._sin = _core.rope_table(place, (quarter, quarter), check_number("base", base, above=0.0))

    def apply_to_q(self, q: ArrayLike, *, num_threads: int = 0) -> Any:
        """P^T q with the rotary part; q is (..., N, head_dim)."""
        return self._apply("q", q, self._project.transpose(0, 2, 1), False, num_threads)

    def apply_to_kv(self, x: ArrayLike, *, num_threads: int = 0) -> Any:
        """P^-1 x with the rotary part; x is keys or values (..., N, head_dim)."""
        return self._apply("x", x, self._unproject, False, num_threads)

    def apply_to_o(self, o: ArrayLike, *, num_threads: int = 0) -> Any:
        """P o with the inverse rotary part; o is (..., N, head_dim)."""
        return self._apply("o", o, self._project, True, num_threads)

    def attend(self, q: ArrayLike, k: ArrayLike, v: ArrayLike, *, memory: PRoPE | None = None, **options: Any) -> Any:
        """Attention under PRoPE. Keys and values have the cameras of ``memory``, or those of the queries without it.

        ``options`` go to :func:`~mosaicmem.attention.attention`; with ``return_lse`` the result is a pair here too.
        """
        keys = self if memory is None else check_instance("memory", memory, PRoPE)
        threads = options.get("num_threads", 0)
        result = attention(
            self.apply_to_q(q, num_threads=threads),
            keys.apply_to_kv(k, num_threads=threads),
            keys.apply_to_kv(v, num_threads=threads),
            **options,
        )
        if options.get("return_lse"):
            return self.apply_to_o(result[0], num_threads=threads), result[1]
        return self.apply_to_o(result, num_threads=threads)

    def _apply(self, name: str, x: ArrayLike, matrices: F64, inverse: bool, num_threads: int) -> Any:
        array = to_numpy(name, x)
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        leading = [None] * max(0, array.ndim - 2)
        features = as_array(name, x, dtype, (*leading, len(self._camera), self.head_dim))
        out = _core.prope_apply(
            features.reshape(math.prod(features.shape[:-2]), *features.shape[-2:]),
            np.ascontiguousarray(matrices, dtype=dtype),
            self._camera,
            self._cos.astype(dtype, copy=False),
            self._sin.astype(dtype, copy=False),
            inverse,
            check_threads(num_threads),
        )
        return like(x, out.reshape(features.shape))


def _camera_indices(camera: ArrayLike, count: int) -> I32:
    indices = as_array("camera", camera, np.int32, ("N",))
    if indices.size and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(f"camera: expected indices within [0, {count}), got {indices.min()} to {indices.max()}")
    return indices
