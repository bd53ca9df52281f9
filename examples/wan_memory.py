"""A Wan pipeline of diffusers remembers a room: first in one window, then window after window.

Runs on tiny random weights, so the video is noise; ``--kind ti2v`` and ``--scheduler euler`` are like Wan 2.2 TI2V and
its other scheduler. For the published weights, change the two lines that say so.

    pip install '.[diffusers]' && python examples/wan_memory.py
"""

import argparse

import torch

import mosaicmem as mm
from mosaicmem.models import WanMemoryModel, WanMemoryVAE, add_memory
from tiny_wan import tiny_wan

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--kind", choices=("t2v", "ti2v"), default="t2v")
parser.add_argument("--scheduler", choices=("unipc", "euler"), default="unipc")
parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
arguments = parser.parse_args()

# Published weights: pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.2-TI2V-5B-Diffusers", torch_dtype=torch.bfloat16)
pipe = tiny_wan(arguments.kind, arguments.scheduler, dtype=getattr(torch, arguments.dtype))

# What memory sees: your own frames with depth and poses. Published weights: of 1280 x 704 pixels.
world, camera = mm.SyntheticWorld(), mm.CameraIntrinsics.from_fov(128, 64, fov_x=1.3)
path = world.leave_and_return(camera, 24)
views = [world.render(camera, pose) for pose in path]

# --- One window, in the pipeline's own loop.
vae, store = WanMemoryVAE(pipe.vae), mm.MosaicMemoryStore(latent_patch_size=2)
for view, pose in zip(views[:3], path, strict=False):
    store.insert_keyframe(vae.encode_image(view.image), mm.depth_to_grid(view.depth, vae.stride), camera, pose)
# Trained gates: handle = MemoryHandle.load(pipe.transformer, folder)
handle = add_memory(pipe.transformer, mode="kv", gate=0.5)
handle.set(handle.batch(store, path[3:12], vae_stride=vae.stride, temporal=vae.temporal))
settings = {"height": camera.height, "width": camera.width, "num_frames": 9, "num_inference_steps": 3}
video = pipe("a room with windows", guidance_scale=5.0, **settings).frames[0]
print(f"one window: {video.shape}")
handle.remove()

# --- Window after window: what is generated is remembered too.
model = WanMemoryModel(pipe, mode=("kv", "canvas"), gate=0.5)
config = mm.PipelineConfig(
    prompt="a room with windows", window_size=9, window_overlap=1, num_inference_steps=3, guidance_scale=5.0, top_k=256
)
pipeline = mm.AutoregressivePipeline(config, depth_estimator=mm.SyntheticDepthEstimator(world), **model.parts())
for window in pipeline.stream(path[:17], image=views[0].image, depth=views[0].depth):
    done = window.statistics
    print(
        f"frames {done.first_frame}-{done.last_frame}: {done.tokens} memory tokens, {done.store_patches} patches kept"
    )
