"""Scenes and VAEs for tests of builds; processes of a build import this module."""

import os
import signal
import time

from mosaicmem import CameraIntrinsics, SyntheticVAE, SyntheticWorld
from mosaicmem.scale import BuildConfig
from scene_helpers import write_scene

CAMERA = CameraIntrinsics.from_fov(96, 64, fov_x=1.2)
CONFIG = BuildConfig(window=8, head_dim=24, top_k=32, translation=0.0, angle=0.0, interval=2)


def write_scenes(folder, count, frames=20):
    scenes = []
    for i in range(count):
        world = SyntheticWorld(i)
        scenes.append(write_scene(folder / f"scene{i}", world, world.leave_and_return(CAMERA, frames + i)))
    return scenes


def content(folder):
    """All bytes of a build by name, without the lock, which holds the number of a process."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class SlowVAE(SyntheticVAE):
    def encode_image(self, image):
        time.sleep(0.03)
        return super().encode_image(image)


class DeadlyVAE(SyntheticVAE):
    """Kills its process where an image is mostly red."""

    def encode_image(self, image):
        if image[..., 0].mean() > 250:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(image)


def broken_vae():
    raise OSError("no weights here")


def fatal_vae():
    os._exit(3)


def no_vae():
    return 7
