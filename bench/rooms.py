"""Rooms of boxes, tables and spheres with exact depth, rendered by MuJoCo: matte ones, and shiny ones whose colours
change with the camera. Sequences of RGB-D frames, for measuring what memory shows where depth and poses are exact.

Needs ``pip install mujoco`` and EGL or OSMesa; MUJOCO_GL says which.
"""

import math
import os

import numpy as np

from mosaicmem import CameraIntrinsics, CameraPose
from mosaicmem.datasets import RgbdImage, RgbdSequence

WIDTH, HEIGHT, FOV_Y = 640, 480, 55.0  # pixels, degrees
HALF = (3.0, 2.5, 1.4)  # metres, of the room
MATERIALS, SOLIDS, TABLES = 12, 16, 5
KINDS = ("checker", "gradient", "checker", "flat")
SHAPES = ("box", "cylinder", "ellipsoid", "sphere")


class Room(RgbdSequence):
    """A walk of 100 frames that turns back and forth in a room."""

    def __init__(self, shiny, frames=100, seed=3):
        os.environ.setdefault("MUJOCO_GL", "egl")
        import mujoco

        self._mujoco, self._model = (
            mujoco,
            mujoco.MjModel.from_xml_string(described(shiny, np.random.default_rng(seed))),
        )
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, HEIGHT, WIDTH)
        focal = HEIGHT / 2 / math.tan(math.radians(FOV_Y) / 2)
        self._camera = CameraIntrinsics(focal, focal, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
        self._poses = [pose_at(i / frames, i / 10) for i in range(frames)]

    @property
    def intrinsics(self):
        return self._camera

    def __len__(self):
        return len(self._poses)

    def pose(self, index):
        return self._poses[index]

    def _frame(self, index):
        mujoco, pose = self._mujoco, self._poses[index]
        rotation = pose.world_from_camera[:3, :3] @ np.diag([1.0, -1.0, -1.0])  # OpenGL's axes
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
        self._model.cam_pos[0], self._model.cam_quat[0] = pose.position, quaternion
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera=0)
        image = self._renderer.render().copy()
        self._renderer.enable_depth_rendering()
        self._renderer.update_scene(self._data, camera=0)
        depth = self._renderer.render().astype(np.float32)
        self._renderer.disable_depth_rendering()
        return RgbdImage(image, depth, pose, index)


def pose_at(part, time):
    """The camera at a part of the walk; the world's up is +z."""
    a = 3.2 * math.pi * part
    eye = np.array([0.9 * math.cos(0.9 * a), 0.7 * math.sin(0.9 * a), 1.2 + 0.15 * math.sin(3 * a)])
    yaw = a + 1.2 * math.sin(4 * math.pi * part)
    ahead = np.array([math.cos(yaw), math.sin(yaw), -0.25 + 0.15 * math.sin(5 * a)])
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(ahead, right), ahead, eye], axis=1)
    return CameraPose(matrix, time)


def described(shiny, rng):
    """The room in MuJoCo's XML."""
    gloss = 'specular="0.8" shininess="0.8"' if shiny else 'specular="0"'
    assets = "".join(material(i, gloss, 0.25 if shiny and i == 0 else 0, rng) for i in range(MATERIALS))
    glare = "0.6 0.6 0.6" if shiny else "0 0 0"
    return f"""<mujoco>
      <visual><global offwidth="{WIDTH}" offheight="{HEIGHT}"/><map znear="0.01" zfar="50"/>
        <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="{glare}"/></visual>
      <statistic extent="1"/><asset>{assets}</asset>
      <worldbody>
        <light pos="1 1 2.6" dir="-0.2 -0.2 -1" diffuse="0.6 0.6 0.6" specular="{glare}"/>
        <light pos="-1.5 -1 2.6" dir="0.2 0.1 -1" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
        {walls()}{solids(rng)}{tables(rng)}<camera name="c" pos="0 0 1" fovy="{FOV_Y}"/>
      </worldbody></mujoco>"""


def material(i, gloss, reflectance, rng):
    first, second = (" ".join(f"{x:.3f}" for x in rng.uniform(low, 0.9, 3)) for low in (0.2, 0.1))
    across, along = rng.integers(1, 5, 2)
    mark = f'mark="random" random="0.02" markrgb="{second}"' if i % 2 else ""
    return (
        f'<texture name="t{i}" type="2d" builtin="{KINDS[i % 4]}" rgb1="{first}" rgb2="{second}" {mark} width="512" '
        f'height="512"/><material name="m{i}" texture="t{i}" texrepeat="{across} {along}" {gloss} '
        f'reflectance="{reflectance}"/>'
    )


def solid(shape, place, size, paint, turn=0.0):
    where, extent = (" ".join(f"{x:.3f}" for x in values) for values in (place, size))
    return f'<geom type="{shape}" pos="{where}" size="{extent}" euler="0 0 {turn:.1f}" material="m{paint}"/>'


def walls():
    x, y, z = HALF
    thin = 0.05
    sides = [
        ((0, 0, -thin), (x, y, thin)),
        ((0, 0, 2 * z + thin), (x, y, thin)),
        ((x, 0, z), (thin, y, z)),
        ((-x, 0, z), (thin, y, z)),
        ((0, y, z), (x, thin, z)),
        ((0, -y, z), (x, thin, z)),
    ]
    return "".join(solid("box", place, size, i) for i, (place, size) in enumerate(sides))


def solids(rng):
    made = ""
    for i in range(SOLIDS):
        x, y = rng.uniform(-2.5, 2.5), rng.uniform(-2.0, 2.0)
        if math.hypot(x, y) < 1.1:  # the camera walks there
            x, y = x + math.copysign(1.3, x), y + math.copysign(0.9, y)
        size = rng.uniform(0.1, 0.45, 3)
        height = float(size[{"box": 2, "ellipsoid": 2, "cylinder": 1, "sphere": 0}[SHAPES[i % 4]]])
        made += solid(SHAPES[i % 4], (x, y, height), size, (5 * i + 3) % MATERIALS, rng.uniform(0, 180))
    return made


def tables(rng):
    made = ""
    for i in range(TABLES):
        x, y = rng.uniform(-2.2, 2.2), rng.uniform(-1.7, 1.7)
        if math.hypot(x, y) < 1.1:
            continue
        made += solid("box", (x, y, 0.7), (0.35, 0.25, 0.02), 6 + i)
        for dx in (-0.3, 0.3):
            for dy in (-0.2, 0.2):
                made += solid("cylinder", (x + dx, y + dy, 0.35), (0.02, 0.34, 0), 7 + i % 4)
    return made
