"""The 4x4 camera matrices that PRoPE multiplies features by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mosaicmem._arrays import (
    F64,
    ArrayLike,
    as_array,
    check_choice,
    check_integer,
    check_number,
    check_shape,
    to_numpy,
)
from mosaicmem.camera import CameraIntrinsics
from mosaicmem.camera.pose import CameraPose, check_rigid, check_rigid_stack, invert_rigid
from mosaicmem.errors import suspect

TRANSLATIONS = ("none", "log", "logd4", "tanh")

_WORTH_A_MOVE = 0.5  # move only if the largest translation shrinks below this fraction
_FAR = 100.0  # metres from the world origin
_COARSE = 0.01  # metres between neighbouring floating-point numbers


@dataclass(frozen=True, eq=False)
class SharedFrame:
    """What all cameras in one attention must share.

    Attributes
    ----------
    world_from_reference : (4, 4) float64 or None
        As passed to `PRoPE`.
    translation : str or float
        As passed to `PRoPE`.
    world_from_frame : (4, 4) float64 or None
        Rigid. Cameras are multiplied by it from the right, which changes no logit; None leaves them unchanged.
    """

    world_from_reference: F64 | None
    translation: str | float
    world_from_frame: F64 | None

    def differs_from(self, other: SharedFrame) -> str | None:
        """The name of the `PRoPE` argument that makes the two frames incompatible, or None."""
        if self.translation != other.translation:
            return "translation"
        mine, theirs = self.world_from_reference, other.world_from_reference
        same = mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
        return None if same else "world_from_reference"


class ProjectedCameras:
    """Validated cameras: P = lift4(Kn) * camera_from_world of each, in any world frame.

    Kn = [[fx/W, 0, cx/W - 0.5], [0, fy/H, cy/H - 0.5], [0, 0, 1]], or the identity without intrinsics. See `PRoPE` for
    the arguments.

    Attributes
    ----------
    subframes : int
        S, 1 or 4.
    shared : SharedFrame
        The frame that suits these cameras best: that of the first camera if it makes translations much smaller.
    distance : float
        Distance of the nearest camera from the origin, if it is much larger than the distances between cameras; else
        0. It determines how many digits are lost if these cameras are not expressed in ``shared``.
    """

    def __init__(
        self,
        viewmats: ArrayLike,
        Ks: ArrayLike | None,
        image_width: int | None,
        image_height: int | None,
        translation: str | float,
        world_from_reference: CameraPose | ArrayLike | None,
    ) -> None:
        shape = tuple(np.shape(viewmats))
        check_shape("viewmats", shape, ("V", 4, 4) if len(shape) != 4 else ("V", "S", 4, 4))
        subframes = shape[1] if len(shape) == 4 else 1
        if subframes not in (1, 4):
            raise ValueError(f"viewmats: expected 1 or 4 sub-frame cameras per latent frame, got shape {shape}")
        self.subframes = subframes
        self._shape = (shape[0], subframes, 4, 4)
        given = to_numpy("viewmats", viewmats)
        views = check_rigid_stack("viewmats", as_array("viewmats", given, np.float64, shape, finite=True))
        views = views.reshape(-1, 4, 4)
        _suspect_coarse(views[:, :3, 3], given.dtype)
        reference = None
        if world_from_reference is not None:
            reference = _reference(world_from_reference)
            views = views @ reference
        elif isinstance(translation, str) and translation != "none":
            _suspect_far(_seen_from_the_first(views)[0] if len(views) > 1 else 0.0, translation)
        self._views = views
        views[:, :3, 3] = scale_translation(views[:, :3, 3], translation)
        self._lifts = None if Ks is None else _lifts(Ks, shape, image_width, image_height)
        self.distance, at_first = _seen_from_the_first(views)
        self.shared = SharedFrame(reference, translation, at_first)

    def __len__(self) -> int:
        return int(self._shape[0])

    def matrices(self, world_from_frame: F64 | None = None) -> tuple[F64, F64]:
        """P and its closed-form inverse, relative to a frame: (V, S, 4, 4) float64 each.

        The inverse is [R^T | -R^T t] lift4(Kn^-1).
        """
        views = self._views if world_from_frame is None else self._views @ world_from_frame
        rotation_t = views[:, :3, :3].transpose(0, 2, 1)
        inverse = np.zeros_like(views)
        inverse[:, :3, :3] = rotation_t
        inverse[:, :3, 3] = -np.einsum("vij,vj->vi", rotation_t, views[:, :3, 3])
        inverse[:, 3, 3] = 1
        if self._lifts is None:
            return views.reshape(self._shape), inverse.reshape(self._shape)
        lift, unlift = self._lifts
        return (lift @ views).reshape(self._shape), (inverse @ unlift).reshape(self._shape)


def projection_matrices(
    viewmats: ArrayLike,
    Ks: ArrayLike | None,
    image_width: int | None,
    image_height: int | None,
    translation: str | float = "none",
) -> tuple[F64, F64]:
    """P and its inverse for each camera, in the world frame, (V, S, 4, 4) float64 each."""
    return ProjectedCameras(viewmats, Ks, image_width, image_height, translation, None).matrices()


def _seen_from_the_first(views: F64) -> tuple[float, F64 | None]:
    """`ProjectedCameras.distance`, and the frame of the first camera if moving there pays off, else None."""
    if not len(views):
        return 0.0, None
    first = invert_rigid(views[0])
    length = np.linalg.norm(views[:, :3, 3], axis=1)
    apart = float(np.linalg.norm((views @ first)[:, :3, 3], axis=1).max())
    distance = float(length.min()) if length.min() > 4 * apart else 0.0
    return distance, first if apart < _WORTH_A_MOVE * length.max() else None


def _reference(world_from_reference: CameraPose | ArrayLike) -> F64:
    if isinstance(world_from_reference, CameraPose):
        return world_from_reference.world_from_camera
    return check_rigid("world_from_reference", world_from_reference)


def _suspect_far(distance: float, translation: str) -> None:
    if distance > _FAR:
        suspect(
            f"translation: {translation!r} depends on the frame of the world, and these cameras are {distance:.3g} or "
            "more from its origin; pass world_from_reference, one of the cameras, the same wherever they meet others"
        )


def _suspect_coarse(t: F64, dtype: np.dtype) -> None:
    if dtype.kind != "f" or dtype.itemsize >= 8 or not t.size:
        return
    far = np.abs(t).max()
    step = float(np.spacing(far.astype(dtype)))
    if step > _COARSE:
        suspect(
            f"viewmats: {dtype} tells translations of {far:.3g} apart by {step:.2g} only; compute them in float64, or "
            "relative to a camera"
        )


def scale_translation(t: F64, translation: str | float) -> F64:
    """Translations (N, 3), scaled by the ``translation`` rule of `PRoPE`."""
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
    """lift4(Kn) and its inverse for each camera, (cameras, 4, 4)."""
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
