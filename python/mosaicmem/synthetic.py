"""The synthetic world: two furnished rooms, rendered with exact depth from any camera. Ground truth for demo and tests.

Up is -y; the floor is y = 0. Surfaces are boxes, so ray intersections have a closed form; textures are functions of
the position on the surface, so all views are consistent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mosaicmem._arrays import F32, F64, U8, ArrayLike, as_array, check_integer
from mosaicmem.camera import CameraIntrinsics, CameraPose, CameraTrajectory

_EYE_HEIGHT = 1.5


@dataclass(frozen=True, eq=False)
class RenderedView:
    """A rendered image and its depth.

    Attributes
    ----------
    image : (H, W, 3) float32 in [0, 1]
    depth : (H, W) float32
        Metres along z; 0 where no surface is hit.
    """

    image: F32
    depth: F32

    @property
    def image_uint8(self) -> U8:
        """The image as (H, W, 3) uint8."""
        return np.rint(self.image * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _Box:
    """An axis-aligned box with a texture; ``inside`` for the room itself, seen from within."""

    low: F64
    high: F64
    texture: str
    color: F64
    accent: F64
    inside: bool = False
    moved: F64 = field(default_factory=lambda: np.zeros(3))  # displacement since creation; the texture moves along


class SyntheticWorld:
    """Two adjoining rooms with boxes, pillars and pictures.

    Parameters
    ----------
    seed : int
        Determines colours and textures.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_integer("seed", seed, minimum=0)
        self._boxes = _furnish(np.random.default_rng(seed))

    @property
    def furniture(self) -> list[tuple[F64, F64]]:
        """The two corners (low, high), world metres, of each box in the rooms."""
        return [(box.low.copy(), box.high.copy()) for box in self._boxes[1:]]

    def with_furniture_moved(self, index: int, offset: ArrayLike) -> SyntheticWorld:
        """The same world with one box of `furniture` moved by ``offset`` (3,) metres, its texture with it."""
        index = check_integer("index", index, minimum=0, maximum=len(self._boxes) - 2) + 1
        shift = as_array("offset", offset, np.float64, (3,), finite=True)
        box = self._boxes[index]
        other = SyntheticWorld(self.seed)
        other._boxes = list(self._boxes)
        other._boxes[index] = replace(box, low=box.low + shift, high=box.high + shift, moved=box.moved + shift)
        return other

    def render(self, intrinsics: CameraIntrinsics, pose: CameraPose) -> RenderedView:
        """The image and the exact depth that a camera sees."""
        rays, depth, surface = self._trace(intrinsics, pose)
        image = np.zeros((len(rays), 3))
        points = pose.position + np.where(np.isfinite(depth), depth, 0)[:, None] * rays
        for index in np.unique(surface[surface >= 0]):
            seen = surface == index
            image[seen] = _shade(self._boxes[index], points[seen], self.seed + 101 * int(index))
        return RenderedView(
            np.clip(image, 0, 1).astype(np.float32).reshape(intrinsics.height, intrinsics.width, 3),
            _as_image(depth, intrinsics),
        )

    def depth(self, intrinsics: CameraIntrinsics, pose: CameraPose) -> F32:
        """The depth of `render` alone, (H, W) float32 metres; 0 where nothing is seen."""
        return _as_image(self._trace(intrinsics, pose)[1], intrinsics)

    def _trace(self, intrinsics: CameraIntrinsics, pose: CameraPose) -> tuple[F64, F64, NDArray[np.int64]]:
        """Rays (N, 3) in the world, with z = 1 in the camera frame so that the ray parameter is the depth, their depths
        (N,), and the index (N,) of the first box that each ray hits, -1 for none."""
        j, i = np.meshgrid(np.arange(intrinsics.width), np.arange(intrinsics.height))
        pixels = np.stack([j.ravel() + 0.5, i.ravel() + 0.5], axis=1)
        rays = intrinsics.unproject(pixels, np.ones(len(pixels))) @ pose.world_from_camera[:3, :3].T
        depth = np.full(len(rays), np.inf)
        surface = np.full(len(rays), -1)
        with np.errstate(divide="ignore"):
            inverse = np.ascontiguousarray(1.0 / rays.T)
        for index, box in enumerate(self._boxes):
            hit = _intersect(box, pose.position, inverse)
            nearer = hit < depth
            depth[nearer] = hit[nearer]
            surface[nearer] = index
        return rays, depth, surface

    def leave_and_return(self, intrinsics: CameraIntrinsics, num_frames: int, *, fps: float = 15.0) -> CameraTrajectory:
        """A loop: along the pictures of the first room, through the door into the second, and back to the pictures.

        The way back takes another route than the way out, so revisited places are seen from other viewpoints; the last
        pose equals the first.
        """
        num_frames = check_integer("num_frames", num_frames, minimum=2)
        waypoints = [CameraPose.look_at(_eye(*eye), _eye(*target)) for eye, target in _LOOP]
        # Waypoints are equally spaced in time, except that the camera eases in and out.
        last = len(waypoints) - 1
        poses = []
        for frame in range(num_frames):
            place = last * _ease(frame / (num_frames - 1))
            leg = min(int(place), last - 1)
            poses.append(waypoints[leg].interpolate(waypoints[leg + 1], place - leg).at(frame / fps))
        return CameraTrajectory(poses, intrinsics)


def _as_image(depth: F64, intrinsics: CameraIntrinsics) -> F32:
    shape = (intrinsics.height, intrinsics.width)
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32).reshape(shape)


def _eye(x: float, z: float) -> F64:
    return np.array([x, -_EYE_HEIGHT, z])


def _ease(t: float) -> float:
    """Smoothstep blended with the identity: a quarter of the mean speed at both ends."""
    return 0.25 * t + 0.75 * (3 * t * t - 2 * t * t * t)


# (eye, target) as (x, z). The door is in the wall x = 0, between z = 1 and z = 3.
_LOOP = (
    ((-1.4, -0.6), (-4.0, -1.0)),
    ((-1.5, 0.2), (-4.0, 0.6)),
    ((-1.2, 1.2), (-2.5, 3.0)),
    ((-0.6, 1.9), (1.5, 2.2)),
    ((0.9, 1.8), (4.0, 0.8)),
    ((1.9, 0.9), (4.0, -1.5)),
    ((1.6, 1.5), (0.4, 3.0)),
    ((0.2, 2.0), (-3.0, 1.6)),
    ((-1.0, 1.0), (-4.0, 0.4)),
    ((-1.7, 0.1), (-4.0, -0.2)),
    ((-1.4, -0.6), (-4.0, -1.0)),
)


def _furnish(rng: np.random.Generator) -> list[_Box]:
    def box(
        low: tuple[float, float, float], high: tuple[float, float, float], texture: str, inside: bool = False
    ) -> _Box:
        """A box between two corners (x, height, z) in random colours; height points up although y points down."""
        y_low, y_high = -high[1], -low[1]
        color = rng.uniform(0.35, 0.8, 3)
        return _Box(
            np.array([low[0], y_low, low[2]]),
            np.array([high[0], y_high, high[2]]),
            texture,
            color,
            np.clip(color + rng.choice([-1, 1]) * rng.uniform(0.2, 0.4, 3), 0.05, 0.95),
            inside,
        )

    return [
        box((-4, 0, -3), (4, 2.8, 3), "room", inside=True),
        box((-0.1, 0, -3), (0.1, 2.8, 1), "brick"),
        box((-0.1, 2.2, 1), (0.1, 2.8, 3), "brick"),
        # First room: pictures on the far wall, a cupboard, a table, a pillar.
        box((-4, 1.0, -1.9), (-3.95, 2.1, -0.3), "picture"),
        box((-4, 1.1, 0.2), (-3.95, 2.0, 1.2), "picture"),
        box((-3.3, 1.0, 2.95), (-2.0, 2.0, 3), "picture"),
        box((-3.9, 0, -2.9), (-3.2, 1.9, -2.1), "wood"),
        box((-3.4, 0, -1.4), (-2.6, 0.75, -0.4), "wood"),
        box((-3.2, 0.75, -1.1), (-2.9, 1.05, -0.8), "checker"),
        box((-3.0, 0, 1.5), (-2.7, 2.8, 1.8), "stripes"),
        # Second room: a picture, shelves, boxes, a pillar.
        box((3.95, 1.0, -0.8), (4, 2.1, 0.8), "picture"),
        box((3.3, 0, -2.4), (3.9, 1.6, -1.2), "wood"),
        box((2.2, 0, -0.6), (2.9, 0.6, 0.1), "checker"),
        box((2.3, 0.6, -0.5), (2.7, 1.0, -0.1), "brick"),
        box((2.6, 0, 1.7), (2.9, 2.8, 2.0), "stripes"),
        box((0.8, 1.1, 2.95), (2.0, 2.0, 3), "picture"),
    ]


def _intersect(box: _Box, origin: F64, inverse: F64) -> F64:
    """Slab test: the depth at which each ray (inverse directions (3, n)) hits the box, inf where it misses."""
    near = np.full(inverse.shape[1], -np.inf)
    far = np.full(inverse.shape[1], np.inf)
    for axis in range(3):
        with np.errstate(invalid="ignore"):  # 0 * inf: a ray that lies in the plane of a face
            a = (box.low[axis] - origin[axis]) * inverse[axis]
            b = (box.high[axis] - origin[axis]) * inverse[axis]
        np.fmax(near, np.fmin(a, b), out=near)
        np.fmin(far, np.fmax(a, b), out=far)
    if box.inside:
        return np.where(far > 1e-6, far, np.inf)
    return np.where((near < far) & (near > 1e-6), near, np.inf)


def _shade(box: _Box, points: F64, seed: int) -> F64:
    """Colour of points on the box's surface, (n, 3)."""
    if box.moved.any():
        at_home = replace(box, low=box.low - box.moved, high=box.high - box.moved, moved=np.zeros(3))
        return _shade(at_home, points - box.moved, seed)
    offset = np.minimum(np.abs(points - box.low), np.abs(points - box.high))
    axis = offset.argmin(axis=1)  # that of the face's normal
    # Textures affect appearance, not geometry: float32 is enough.
    s = np.where(axis == 0, points[:, 2], points[:, 0]).astype(np.float32)
    t = np.where(axis == 1, points[:, 2], points[:, 1]).astype(np.float32)
    if box.texture == "room":
        return _shade_room(box, points, axis, s, t, seed)
    mix = _PATTERNS[box.texture](s, t, seed)
    color = box.color + mix[:, None] * (box.accent - box.color)
    if box.texture == "picture":
        color = np.where((axis == 0)[:, None] | (axis == 2)[:, None], _picture(box, points, seed), color)
    light = np.array([0.92, 1.0, 0.8])[axis]
    return np.asarray(color * (light * (0.85 + 0.3 * _noise(9 * s, 9 * t, seed)))[:, None])


def _shade_room(box: _Box, points: F64, axis: NDArray[np.intp], s: F32, t: F32, seed: int) -> F64:
    floor = (axis == 1) & (points[:, 1] > box.high[1] - 1e-6)
    ceiling = (axis == 1) & ~floor
    walls = np.where((axis == 0)[:, None], box.color, 0.5 * (box.color + box.accent))
    paper = 0.12 * np.sin(8 * np.pi * s) * np.sin(4 * np.pi * t) + 0.25 * (_noise(3 * s, 3 * t, seed) - 0.5)
    skirting = (points[:, 1] > -0.12) & ~floor
    color = walls + paper[:, None]
    color[skirting] = 0.25
    planks = 0.35 + 0.25 * _wood(s[floor], t[floor], seed + 1)
    color[floor] = planks[:, None] * np.array([1.25, 0.95, 0.65])
    color[ceiling] = 0.8 + 0.12 * (_noise(2 * s[ceiling], 2 * t[ceiling], seed) - 0.5)[:, None]
    light = np.where(axis == 2, 0.88, 1.0) * (0.8 + 0.4 * _noise(0.7 * s, 0.7 * t, seed + 2))
    return np.asarray(color * light[:, None])


def _picture(box: _Box, points: F64, seed: int) -> F64:
    """Hills under a sun in a dark frame, over the two long axes of a thin box."""
    size = box.high - box.low
    along = 2 if size[0] < size[2] else 0
    x = (points[:, along] - box.low[along]) / size[along]
    y = (box.high[1] - points[:, 1]) / size[1]  # 0 at the bottom
    rng = np.random.default_rng(seed)
    palette = rng.uniform(0.1, 0.95, (4, 3))
    color = palette[0] * (1 - y[:, None]) + palette[1] * y[:, None]
    sun = rng.uniform(0.25, 0.75, 2) * [1, 0.4] + [0, 0.45]
    color[np.hypot((x - sun[0]) * size[along] / size[1], y - sun[1]) < 0.13] = [0.98, 0.85, 0.25]
    for hill, height in ((2, 0.5), (3, 0.3)):
        line = height + 0.1 * np.sin(2 * np.pi * (rng.uniform(0.8, 2) * x + rng.uniform()))
        color[y < line] = palette[hill]
    frame = (np.minimum(x, 1 - x) * size[along] < 0.06) | (np.minimum(y, 1 - y) * size[1] < 0.06)
    color[frame] = [0.15, 0.1, 0.06]
    return np.asarray(color)


def _noise(s: F32, t: F32, seed: int) -> F32:
    """Smooth value noise in [0, 1]: three octaves of hashed lattice values."""
    total = np.zeros_like(s)
    for octave in range(3):
        x, y = s * 2**octave, t * 2**octave
        x0, y0 = np.floor(x), np.floor(y)
        fx, fy = x - x0, y - y0
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        corner = [[_hash(x0 + dx, y0 + dy, seed + octave) for dx in (0, 1)] for dy in (0, 1)]
        top = corner[0][0] + fx * (corner[0][1] - corner[0][0])
        bottom = corner[1][0] + fx * (corner[1][1] - corner[1][0])
        total += (top + fy * (bottom - top)) * 0.5 ** (octave + 1)
    return np.asarray(total / 0.875)


def _hash(x: F32, y: F32, seed: int) -> F32:
    """A number in [0, 1) for each lattice point."""
    h = x.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    h ^= y.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA77)
    h ^= np.uint32(seed * 0xC2B2AE3D & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> np.uint32(12))) * np.uint32(0x297A2D39)
    h = (h ^ (h >> np.uint32(15))) >> np.uint32(8)
    return np.asarray(h.astype(np.float32) * np.float32(2**-24))


def _brick(s: F32, t: F32, seed: int) -> F32:
    row = np.floor(t / 0.12)
    x = s / 0.3 + 0.5 * (row % 2)
    mortar = (x % 1 < 0.06) | (t / 0.12 % 1 < 0.12)
    return np.where(mortar, 1.0, 0.45 * _hash(np.floor(x), row, seed))


def _wood(s: F32, t: F32, seed: int) -> F32:
    plank = np.floor(t / 0.22)
    grain = 0.5 + 0.5 * np.sin(40 * t + 6 * _noise(1.5 * s, 6 * t, seed))
    return np.where(t / 0.22 % 1 < 0.05, 0.0, 0.5 * grain + 0.5 * _hash(plank, np.floor(s / 1.7), seed))


def _checker(s: F32, t: F32, seed: int) -> F32:
    return np.asarray((np.floor(s / 0.15) + np.floor(t / 0.15)) % 2)


def _stripes(s: F32, t: F32, seed: int) -> F32:
    return np.asarray(np.sin(2 * np.pi * (t + 0.5 * s) / 0.4) > 0, dtype=np.float32)


def _plain(s: F32, t: F32, seed: int) -> F32:
    return np.zeros_like(s)


_PATTERNS = {"brick": _brick, "wood": _wood, "checker": _checker, "stripes": _stripes, "picture": _plain}
