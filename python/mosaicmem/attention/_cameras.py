"""The 4x4 matrices that PRoPE writes into features."""

from __future__ import annotations

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, as_array, check_choice, check_integer, check_number, check_shape
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.camera.pose import check_rigid_stack

TRANSLATIONS = ("none", "log", "logd4", "tanh")


def projection_matrices(
    viewmats: ArrayLike,
    Ks: ArrayLike | None,
    image_width: int | None,
    image_height: int | None,
    translation: str | float = "none",
) -> tuple[F64, F64]:
    """P = lift4(Kn) * camera_from_world of each camera, and its inverse in closed form; (V, S, 4, 4) float64 each.

    Kn = [[fx/W, 0, cx/W - 0.5], [0, fy/H, cy/H - 0.5], [0, 0, 1]], or the identity without intrinsics. The inverse is
    [R^T | -R^T t] lift4(Kn^-1). See `PRoPE` for the arguments.
    """
    shape = tuple(np.shape(viewmats))
    check_shape("viewmats", shape, ("V", 4, 4) if len(shape) != 4 else ("V", "S", 4, 4))
    subframes = shape[1] if len(shape) == 4 else 1
    if subframes not in (1, 4):
        raise ValueError(f"viewmats: expected 1 or 4 sub-frame cameras a latent frame, got shape {shape}")
    views = check_rigid_stack("viewmats", as_array("viewmats", viewmats, np.float64, shape, finite=True))
    views = views.reshape(-1, 4, 4)
    views[:, :3, 3] = scale_translation(views[:, :3, 3], translation)
    rotation_t = views[:, :3, :3].transpose(0, 2, 1)
    inverse = np.zeros_like(views)
    inverse[:, :3, :3] = rotation_t
    inverse[:, :3, 3] = -np.einsum("vij,vj->vi", rotation_t, views[:, :3, 3])
    inverse[:, 3, 3] = 1
    full = (shape[0], subframes, 4, 4)
    if Ks is None:
        return views.reshape(full), inverse.reshape(full)
    lift, unlift = _lifts(Ks, shape, image_width, image_height)
    return (lift @ views).reshape(full), (inverse @ unlift).reshape(full)


def scale_translation(t: F64, translation: str | float) -> F64:
    """Translations (N, 3) as ``translation`` of `PRoPE` says."""
    if not isinstance(translation, str):
        return t / check_number("translation", translation, above=0.0)
    check_choice("translation", translation, TRANSLATIONS)
    if translation == "none":
        return t
    length = np.linalg.norm(t, axis=1, keepdims=True)
    squashed = np.tanh(length) if translation == "tanh" else np.log1p(length)
    factor = np.divide(squashed, length, out=np.ones_like(length), where=length > 0)
    return np.asarray(t * factor / (4 if translation == "logd4" else 1))


def _lifts(Ks: ArrayLike, shape: tuple[int, ...], image_width: int | None, image_height: int | None) -> tuple[F64, F64]:
    """lift4(Kn) and its inverse of each camera, (cameras, 4, 4)."""
    if image_width is None or image_height is None:
        raise ValueError("image_width, image_height: expected both, since Ks are in pixels")
    width = check_integer("image_width", image_width, minimum=1)
    height = check_integer("image_height", image_height, minimum=1)
    if np.ndim(Ks) == 2:
        k = np.broadcast_to(as_array("Ks", Ks, np.float64, (3, 3), finite=True), (*shape[:-2], 3, 3))
    else:
        k = as_array("Ks", Ks, np.float64, (*shape[:-2], 3, 3), finite=True)
    distinct, first = np.unique(k.reshape(-1, 9), axis=0, return_index=True)
    for matrix, index in zip(distinct, first, strict=True):
        try:
            CameraIntrinsics.from_matrix(matrix.reshape(3, 3), width, height)
        except ValueError as error:
            place = ", ".join(str(i) for i in np.unravel_index(index, shape[:-2]))
            raise ValueError(f"Ks[{place}]: {error}") from None
    k = k.reshape(-1, 3, 3)
    fx, fy = k[:, 0, 0] / width, k[:, 1, 1] / height
    cx, cy = k[:, 0, 2] / width - 0.5, k[:, 1, 2] / height - 0.5
    lift, unlift = np.zeros((2, len(k), 4, 4))
    for matrix, diagonal_x, diagonal_y, offset_x, offset_y in (
        (lift, fx, fy, cx, cy),
        (unlift, 1 / fx, 1 / fy, -cx / fx, -cy / fy),
    ):
        matrix[:, 0, 0], matrix[:, 1, 1] = diagonal_x, diagonal_y
        matrix[:, 0, 2], matrix[:, 1, 2] = offset_x, offset_y
        matrix[:, 2, 2] = matrix[:, 3, 3] = 1
    return lift, unlift
