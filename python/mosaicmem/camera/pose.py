"""Camera poses: rigid transforms with a timestamp, and the checks that they pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicmem._arrays import F64, ArrayLike, Bool, as_array, check_number
from mosaicmem.errors import suspect

if TYPE_CHECKING:
    from mosaicmem.camera.intrinsics import CameraIntrinsics

# Poses in files are often rounded to three decimals, which puts each number off by e <= 5e-4.
_ROUNDING = 5e-4
# Then R R^T is off by at most 2 |row|_1 e + 3 e^2, and a unit row has |row|_1 <= sqrt(3). The 1e-6 is for float32.
_RIGID_TOLERANCE = 2 * math.sqrt(3) * _ROUNDING + 3 * _ROUNDING**2 + 1e-6
# The norm of a quaternion is off by at most |q|_1 e + 2 e^2, and a unit quaternion has |q|_1 <= 2.
_NORM_TOLERANCE = 2 * _ROUNDING + 2 * _ROUNDING**2 + 1e-6
_NORM_LIMIT = 20 * _ROUNDING + 200 * _ROUNDING**2 + 1e-6  # the same for two decimals
_MOST = 1e12  # metres
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def check_rigid(name: str, matrix: ArrayLike) -> F64:
    """A 4x4 rigid transform as float64, its rotation made exactly orthonormal.

    Raises
    ------
    ValueError
        The matrix is not finite or exceeds 1e12, its last row is not [0, 0, 0, 1], or its rotation is not
        orthonormal with determinant +1. R R^T may be off by 1.7e-3, which rounding to three decimals explains.
    """
    m = as_array(name, matrix, np.float64, (4, 4), finite=True)
    if not np.allclose(m[3], [0, 0, 0, 1], atol=1e-6):
        hint = "; transposed?" if np.allclose(m[:3, 3], 0) else ""
        raise ValueError(f"{name}: expected a last row of [0, 0, 0, 1], got {m[3].tolist()}{hint}")
    if np.abs(m[:3]).max() > _MOST:
        raise ValueError(f"{name}: expected values within {_MOST:g}, got {np.abs(m[:3]).max():g}")
    rotation = m[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > _RIGID_TOLERANCE:
        raise ValueError(
            f"{name}: expected an orthonormal rotation, got one that is off by {error:.3g}; {_why_not_rigid(rotation)}"
        )
    if determinant(rotation) < 0:
        raise ValueError(
            f"{name}: expected a rotation of determinant +1, got -1: an axis is mirrored; one OpenGL axis flipped "
            "and not the other?"
        )
    rigid = np.eye(4)
    rigid[:3] = m[:3]
    if error > 1e-12:  # otherwise unchanged, so that saved poses round-trip bit for bit
        u, _, vt = np.linalg.svd(rotation)
        rigid[:3, :3] = u @ vt
    return rigid


def _why_not_rigid(rotation: F64) -> str:
    """The likely mistake in a matrix (3, 3) that is not orthonormal."""
    scale = float(np.cbrt(abs(determinant(rotation))))
    if scale > 0 and np.allclose(rotation @ rotation.T / scale**2, np.eye(3), rtol=0, atol=_RIGID_TOLERANCE):
        return f"it is scaled by {scale:.6g}: divide it out"
    nearest = nearest_rotation(rotation)
    if np.allclose(rotation, rotation.round(2), rtol=0, atol=1e-7) and np.abs(rotation - nearest).max() < 0.01:
        return "rounded to two decimals? write three or more"
    return "a product with K, or a shear?"


def check_rigid_stack(name: str, matrices: F64) -> F64:
    """`check_rigid` for a stack (..., 4, 4) of finite matrices, vectorised."""
    m = matrices.reshape(-1, 4, 4)
    for index in np.flatnonzero(~are_rigid(m)):  # check_rigid raises on the first
        place = ", ".join(str(i) for i in np.unravel_index(index, matrices.shape[:-2]))
        check_rigid(f"{name}[{place}]", m[index])
    return make_rigid(m).reshape(matrices.shape)


def determinant(matrices: F64) -> F64:
    """Determinants of matrices (..., 3, 3); infinite or NaN on overflow, without a warning.

    Avoids LAPACK, which divides by the entries: they may be too small for that.
    """
    first, second, third = np.moveaxis(matrices, -2, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((first * np.cross(second, third)).sum(axis=-1))


def are_rigid(m: F64) -> Bool:
    """Which matrices of a stack (N, 4, 4), finite or not, `check_rigid` would accept."""
    rotation = m[:, :3, :3]
    with np.errstate(invalid="ignore", over="ignore"):
        error = _orthonormal_errors(rotation)
        sound = np.isclose(m[:, 3], [0, 0, 0, 1], atol=1e-6).all(axis=1) & (np.abs(m[:, :3]) <= _MOST).all(axis=(1, 2))
        sound &= error <= _RIGID_TOLERANCE
        sound[sound] &= determinant(rotation[sound]) > 0
    return np.asarray(sound)


def make_rigid(m: F64) -> F64:
    """A stack (N, 4, 4) that passes `are_rigid`, with rotations made exactly orthonormal."""
    rigid = np.tile(np.eye(4), (len(m), 1, 1))
    rigid[:, :3] = m[:, :3]
    off = _orthonormal_errors(m[:, :3, :3]) > 1e-12
    u, _, vt = np.linalg.svd(m[off, :3, :3])
    rigid[off, :3, :3] = u @ vt
    return rigid


def _orthonormal_errors(rotation: F64) -> F64:
    products = rotation @ rotation.transpose(0, 2, 1)
    return np.asarray(np.abs(products - np.eye(3)).max(axis=(1, 2), initial=0))


def nearest_rotation(matrices: F64) -> F64:
    """The rotations (..., 3, 3), determinant +1, nearest to any matrices (..., 3, 3)."""
    u, _, vt = np.linalg.svd(matrices)
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt)


def rigid_part(matrices: F64) -> F64:
    """Rigid camera_from_world (..., 4, 4) for affine ones, which an edit may have scaled or mirrored.

    The camera stays where it is, and turns as little as it can.
    """
    rotations = nearest_rotation(matrices[..., :3, :3])
    centres = -np.linalg.solve(matrices[..., :3, :3], matrices[..., :3, 3:])
    upper = np.concatenate([rotations, -rotations @ centres], axis=-1)
    return np.concatenate([upper, matrices[..., 3:, :]], axis=-2)


def invert_rigid(matrix: F64) -> F64:
    """The inverse of a rigid 4x4: [R^T | -R^T t]."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse


def unit_quaternion(name: str, quaternion: ArrayLike) -> tuple[F64, float]:
    """A quaternion (4,) divided by its norm, and the norm; ValueError if the norm is too far from 1."""
    quaternion = as_array(name, quaternion, np.float64, (4,), finite=True)
    norm = quaternion_norm(quaternion)
    if not can_be_unit(norm):
        raise ValueError(f"{name}: expected a unit quaternion, got norm {norm:.6g}")
    return quaternion / norm, norm


def quaternion_norm(quaternion: F64) -> float:
    """The norm of any four finite numbers; infinite on overflow."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(quaternion))


def can_be_unit(norm: Any) -> Any:
    """Whether a quaternion norm, or each in an array, can be that of a unit quaternion rounded to two decimals."""
    return np.abs(norm - 1) <= _NORM_LIMIT


def is_coarse(norm: Any) -> Any:
    """Whether a norm, or each in an array, is off by more than rounding a quaternion to three decimals explains."""
    return np.abs(norm - 1) > _NORM_TOLERANCE


def describe_coarse(norm: float) -> str:
    """The warning for a quaternion with a coarse norm."""
    return f"a quaternion of norm {norm:.6g} was normalised; rounded to two decimals? its rotation is as coarse"


def rotation_from_quaternion(wxyz: F64) -> F64:
    """Rotations (..., 3, 3) of unit quaternions (..., 4): w, x, y, z."""
    w, x, y, z = np.moveaxis(wxyz, -1, 0)
    rows = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.asarray(np.moveaxis(rows, (0, 1), (-2, -1)))


def quaternion_from_rotation(rotation: F64) -> F64:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation (3, 3): the dominant eigenvector of Bar-Itzhack's matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    quaternion = np.linalg.eigh(k)[1][:, -1]
    return np.asarray(-quaternion if quaternion[0] < 0 else quaternion)


@dataclass(frozen=True, eq=False)
class CameraPose:
    """The pose of a camera in the world at a point in time.

    Make one with `from_world_from_camera`, `from_camera_from_world`, `look_at` or
    `from_quaternion`; each validates its input.

    Attributes
    ----------
    world_from_camera : (4, 4) float64
        Rigid; camera axes are OpenCV's (+x right, +y down, +z forward). Metres.
    timestamp : float
        Seconds.
    """

    world_from_camera: F64 = field(default_factory=lambda: np.eye(4))
    timestamp: float = 0.0

    def __post_init__(self) -> None:
        rigid = check_rigid("world_from_camera", self.world_from_camera)
        rigid.flags.writeable = False
        object.__setattr__(self, "world_from_camera", rigid)
        object.__setattr__(self, "timestamp", check_number("timestamp", self.timestamp))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.world_from_camera.flags.writeable = False  # copied and unpickled arrays are writeable again

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CameraPose)
            and self.timestamp == other.timestamp
            and np.array_equal(self.world_from_camera, other.world_from_camera)
        )

    def __hash__(self) -> int:
        return hash(((self.world_from_camera + 0.0).tobytes(), self.timestamp))  # -0.0 equals 0.0

    @classmethod
    def from_world_from_camera(cls, matrix: ArrayLike, timestamp: float = 0.0) -> CameraPose:
        """From the 4x4 that takes camera points to the world (camera-to-world, "c2w")."""
        return cls(check_rigid("world_from_camera", matrix), timestamp)

    @classmethod
    def from_camera_from_world(cls, matrix: ArrayLike, timestamp: float = 0.0) -> CameraPose:
        """From the 4x4 that takes world points to the camera (world-to-camera, "w2c", "extrinsics", "viewmat")."""
        return cls(invert_rigid(check_rigid("camera_from_world", matrix)), timestamp)

    @classmethod
    def from_opengl(cls, world_from_camera: ArrayLike, timestamp: float = 0.0) -> CameraPose:
        """From a camera-to-world 4x4 with OpenGL or Blender axes (+y up, looking along -z)."""
        return cls(check_rigid("world_from_camera", world_from_camera) @ OPENGL_FROM_OPENCV, timestamp)

    @classmethod
    def look_at(
        cls,
        eye: ArrayLike,
        target: ArrayLike,
        up: ArrayLike = (0.0, -1.0, 0.0),
        timestamp: float = 0.0,
    ) -> CameraPose:
        """A camera at ``eye`` that looks at ``target`` with ``up`` towards the top of the image.

        The default ``up`` is -y, so that the identity pose stands upright.
        """
        eye = as_array("eye", eye, np.float64, (3,), finite=True)
        target = as_array("target", target, np.float64, (3,), finite=True)
        up = as_array("up", up, np.float64, (3,), finite=True)
        forward = target - eye
        if not np.linalg.norm(forward) > 0:
            raise ValueError(f"target: expected a point away from eye, got the same point {target.tolist()}")
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, up)
        if not np.linalg.norm(right) > 1e-9 * np.linalg.norm(up):
            raise ValueError(f"up: expected a direction not along the view, got {up.tolist()}")
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        matrix[:3, 3] = eye
        return cls(matrix, timestamp)

    @classmethod
    def from_quaternion(cls, wxyz: ArrayLike, position: ArrayLike, timestamp: float = 0.0) -> CameraPose:
        """From the rotation world_from_camera as a quaternion (w, x, y, z) and the camera's centre in the world.

        The quaternion is normalised, with a `SuspiciousInput` if its norm is off by more than rounding to three
        decimals explains; a norm that is off by more than 1 % is an error.
        """
        quaternion, norm = unit_quaternion("wxyz", wxyz)
        if is_coarse(norm):
            suspect(f"wxyz: {describe_coarse(norm)}")
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_from_quaternion(quaternion)
        matrix[:3, 3] = as_array("position", position, np.float64, (3,), finite=True)
        return cls(matrix, timestamp)

    @classmethod
    def _of_rigid(cls, rigid: F64, timestamp: float) -> CameraPose:
        """From a matrix that `make_rigid` returned and a finite time, without further checks."""
        pose = object.__new__(cls)
        matrix = rigid.copy()
        matrix.flags.writeable = False
        object.__setattr__(pose, "world_from_camera", matrix)
        object.__setattr__(pose, "timestamp", timestamp)
        return pose

    @property
    def camera_from_world(self) -> F64:
        """(4, 4) float64, the inverse of world_from_camera."""
        return invert_rigid(self.world_from_camera)

    @property
    def position(self) -> F64:
        """The camera's centre in the world, (3,) metres."""
        return self.world_from_camera[:3, 3]

    @property
    def forward(self) -> F64:
        """The viewing direction in the world, (3,), unit."""
        return self.world_from_camera[:3, 2]

    @property
    def right(self) -> F64:
        """The direction of the image's columns, +x, in the world, (3,)."""
        return np.array(self.world_from_camera[:3, 0])

    @property
    def up(self) -> F64:
        """Against the direction of the image's rows, -y, in the world, (3,)."""
        return np.asarray(-self.world_from_camera[:3, 1])

    def relative_to(self, reference: CameraPose) -> CameraPose:
        """This pose in the frame of another camera: ``world_from_camera`` of the result is reference_from_camera.

        Its timestamp stays that of this pose.
        """
        return CameraPose(reference.camera_from_world @ self.world_from_camera, self.timestamp)

    def project_points(self, points: ArrayLike, intrinsics: CameraIntrinsics) -> tuple[F64, F64, Bool]:
        """Where world points land in an image taken from here.

        Parameters
        ----------
        points : (N, 3) array
            World, metres.
        intrinsics : CameraIntrinsics

        Returns
        -------
        pixels : (N, 2) float64
            (u, v); NaN for points that are not in front of the camera.
        depth : (N,) float64
            z in the camera's frame, metres.
        visible : (N,) bool
            Whether the point is in front of the camera and lands within the image. Nothing occludes it here.
        """
        world = as_array("points", points, np.float64, ("N", 3), finite=True)
        local = world @ self.camera_from_world[:3, :3].T + self.camera_from_world[:3, 3]
        pixels, depth = intrinsics.project(local)
        with np.errstate(invalid="ignore"):
            u, v = pixels[:, 0], pixels[:, 1]
            inside = (u >= 0) & (u <= intrinsics.width) & (v >= 0) & (v <= intrinsics.height)
        return pixels, depth, (depth > 0) & inside

    @property
    def quaternion(self) -> F64:
        """The rotation world_from_camera as a unit quaternion (w, x, y, z), w >= 0."""
        return quaternion_from_rotation(self.world_from_camera[:3, :3])

    def at(self, timestamp: float) -> CameraPose:
        """The same pose at another time, seconds."""
        return CameraPose(self.world_from_camera, timestamp)

    def angle_to(self, other: CameraPose) -> float:
        """The angle of the rotation between the two cameras, radians in [0, pi]."""
        relative = self.world_from_camera[:3, :3].T @ other.world_from_camera[:3, :3]
        # atan2 of the vector and scalar parts stays precise near 0 and pi, where acos of the trace does not.
        w, *xyz = quaternion_from_rotation(relative)
        return 2 * math.atan2(float(np.linalg.norm(xyz)), float(w))

    def distance_to(self, other: CameraPose) -> float:
        """The distance between the two camera centres, metres."""
        return float(np.linalg.norm(self.position - other.position))

    def interpolate(self, other: CameraPose, fraction: float) -> CameraPose:
        """Between this pose (0) and ``other`` (1): position and time linearly, rotation along the shortest arc."""
        fraction = check_number("fraction", fraction, minimum=0.0, maximum=1.0)
        a, b = self.quaternion, other.quaternion
        cosine = float(a @ b)
        if cosine < 0:
            b, cosine = -b, -cosine
        angle = math.acos(min(1.0, cosine))
        if angle < 1e-7:
            quaternion = (1 - fraction) * a + fraction * b
        else:
            quaternion = (math.sin((1 - fraction) * angle) * a + math.sin(fraction * angle) * b) / math.sin(angle)
        return CameraPose.from_quaternion(
            quaternion / np.linalg.norm(quaternion),
            (1 - fraction) * self.position + fraction * other.position,
            (1 - fraction) * self.timestamp + fraction * other.timestamp,
        )
