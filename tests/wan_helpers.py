"""Tiny Wan models and the memories that tests give them."""

import sys
from functools import cache
from pathlib import Path

from mosaicmem import CameraIntrinsics, MosaicMemoryStore, SyntheticVAE, SyntheticWorld, TemporalLayout, depth_to_grid

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

CAMERA = CameraIntrinsics.from_fov(128, 64, fov_x=1.3)
STRIDE, CHANNELS, FRAMES = 8, 16, 5
WAYS = [("kv", True), ("kv", False), ("concat", True), ("concat", False), ("canvas", True)]
"""mode and frame_local"""


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


def forward(dit, inputs, times=None):
    import torch

    latents, text = inputs
    times = torch.tensor([500.0, 300.0]) if times is None else times
    return dit(latents, times[: len(latents)], text).sample


def batch_for(handle, stores=None, **options):
    return handle.batch([filled(5), filled(1)] if stores is None else stores, targets(), vae_stride=STRIDE, **options)


def remembering(dit, mode="kv", frame_local=True, **options):
    """A handle with a batch of two samples."""
    from mosaicmem.models import add_memory

    handle = add_memory(dit, mode=mode, frame_local=frame_local, **options)
    handle.set(batch_for(handle, top_k=20))
    return handle
