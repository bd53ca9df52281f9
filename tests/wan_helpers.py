"""Tiny Wan models and the memories that tests give them."""

import sys
from functools import cache
from pathlib import Path

from mosaicmem import CameraIntrinsics, MosaicMemoryStore, SyntheticVAE, SyntheticWorld, TemporalLayout, depth_to_grid

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

CAMERA = CameraIntrinsics.from_fov(128, 64, fov_x=1.3)
STRIDE, CHANNELS, FRAMES = 8, 16, 5


@cache
def world():
    return SyntheticWorld()


@cache
def path():
    return world().leave_and_return(CAMERA, 24)


def targets():
    return path()[:FRAMES]


@cache
def filled(keyframes, patch_size=2, first=0, channels=CHANNELS):
    """A store with some keyframes; do not change it."""
    vae = SyntheticVAE(STRIDE, channels, TemporalLayout())
    store = MosaicMemoryStore(patch_size)
    for pose in list(path())[first : first + keyframes]:
        view = world().render(CAMERA, pose)
        store.insert_keyframe(vae.encode_image(view.image), depth_to_grid(view.depth, STRIDE), CAMERA, pose)
    return store


def tiny_pipe(*arguments, **options):
    from tiny_wan import tiny_wan

    return tiny_wan(*arguments, **options)


def open_gates(handle, value=1.0):
    import torch

    with torch.no_grad():
        for name, parameter in handle._state().items():
            if name.endswith("gate"):
                parameter.fill_(value)
