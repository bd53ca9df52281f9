"""Trains a small video world model that learns to use memory, and lets it leave a room and come back.

The model is diffusers' Wan transformer, 2.3 million weights, trained from scratch by flow matching: on walks through
furnished rooms, with what memory shows of each window as a canvas, and often without any, so that it learns to live
without memory too. Then it walks through rooms that it has never seen: it begins with an image, memory with a few real
frames of the beginning, it generates the way out and back, and is scored on its return, with memory and without, from
the same noise. Generated frames are remembered with the room's true depth.

Takes about 22 minutes on two cores, of which training is 20. ``--minutes 1`` shows that it runs.

    pip install '.[diffusers,evaluate]' pycolmap && python examples/train_world_model.py --output world-model
"""

import argparse
import copy
import importlib.util
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch.utils.data import DataLoader

import mosaicmem as mm
from mosaicmem.datasets import RgbdImage, RgbdSequence
from mosaicmem.evaluation import camera_errors, locate_frames
from mosaicmem.metrics import psnr
from mosaicmem.models import MemoryBatch, add_memory, wan_rope
from mosaicmem.models.training import MemoryPolicy, RevisitDataset

CAMERA = mm.CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(75))
VAE = mm.SyntheticVAE(stride=4, channels=6)
WINDOW, OVERLAP = 6, 1
BATCH, RATE, SHIFT = 4, 2.5e-3, 3.0
LEAST = 0.05  # of sigma^2 in the loss's weights, which would grow without bound at low noise
UNSEEN = (100_001, 100_002, 100_003)  # seeds of rooms that training never uses


class Walk(RgbdSequence):
    """A walk between random places of two furnished rooms; colours, furniture and path come from the seed."""

    def __init__(self, seed, frames=48):
        rng = np.random.default_rng(seed)
        self.world, self.rendered = furnished(seed, rng), {}
        x, z = rng.uniform(-2.6, 2.6, 7), rng.uniform(-1.8, 2.6, 7)
        places = [
            mm.CameraPose.look_at([a, -1.5, b], target)
            for a, b, target in zip(x, z, rng.uniform([-4, -1.2, -3], [4, -1.2, 3], (7, 3)), strict=True)
        ]
        places += places[:3]  # and back to the first ones
        legs = np.linspace(0, len(places) - 1 - 1e-6, frames)
        self.path = [places[int(t)].interpolate(places[int(t) + 1], t % 1).at(i / 15) for i, t in enumerate(legs)]

    @property
    def intrinsics(self):
        return CAMERA

    def pose(self, index):
        return self.path[index]

    def __len__(self):
        return len(self.path)

    def _frame(self, index):
        if index not in self.rendered:
            view = self.world.render(CAMERA, self.path[index])
            self.rendered[index] = RgbdImage(view.image_uint8, view.depth, self.path[index], index)
        return self.rendered[index]


def furnished(seed, rng):
    """A world of its own colours, whose furniture stands elsewhere."""
    world = mm.SyntheticWorld(seed)
    for index, (low, high) in enumerate(world.furniture):
        if index > 1 and (high - low)[1] < 2.5 and low[1] > -3:  # not the wall between the rooms, nor the pillars
            world = world.with_furniture_moved(index, [0.0, 0.0, rng.uniform(-0.4, 0.4)])
    return world


class WorldModel(torch.nn.Module):
    """Wan's transformer over noisy latents and the rays of each cell; a `DiffusionBackbone`."""

    prediction_type = "sample"
    uses_anchor = True  # windows begin with the latents of an image
    patch = 4  # latent cells along an edge of a token
    patch_size = (1, patch, patch)

    def __init__(self):
        super().__init__()
        self.dit = WanTransformer3DModel(
            num_attention_heads=6,
            attention_head_dim=32,
            patch_size=self.patch_size,
            in_channels=VAE.channels + 6,
            out_channels=VAE.channels,
            text_dim=8,
            freq_dim=64,
            ffn_dim=512,
            num_layers=4,
        )
        self.memory = add_memory(self.dit, mode="canvas", gate=1.0)

    def forward(self, noisy, sigma, rays, memory, anchored):
        """Clean latents (B, C, T, h, w) from noisy ones; ``anchored`` (B,) tells whose first frame is clean already."""
        self.memory.set(memory)
        tokens = noisy.shape[3] * noisy.shape[4] // self.patch**2
        times = 1000 * sigma[:, None, None].repeat(1, noisy.shape[2], tokens)
        times[:, 0] *= ~anchored[:, None]
        no_text = noisy.new_zeros(len(noisy), 1, 8)
        return self.dit(torch.cat([noisy, rays], 1), times.flatten(1), no_text, return_dict=False)[0]

    @torch.no_grad()
    def predict(self, sample, timestep, context):
        """As the pipeline asks: one window, whose first frame is the anchor."""
        x = torch.as_tensor(sample).clone()
        if context.anchor is not None:
            x[:, :, :1] = torch.as_tensor(context.anchor)[None]
        rays, memory = context.once(
            "world model",
            lambda: (
                plucker(
                    torch.from_numpy(context.cameras.camera_from_world @ context.cameras[0].world_from_camera)[None]
                ),
                MemoryBatch.of_contexts(context, rope=wan_rope(self.dit), patch=self.patch_size),
            ),
        )
        anchored = torch.tensor([context.anchor is not None])
        return self(x, torch.tensor([timestep / 1000]), rays.float(), memory, anchored).numpy()


def plucker(camera_from_world):
    """Direction and moment of the ray through the centre of each cell, (B, 6, T, h, w), of cameras (B, T, 4, 4)."""
    grid = CAMERA.latent_grid(VAE.stride)
    y, x = np.mgrid[: grid.height, : grid.width] + 0.5
    ray = grid.unproject(np.stack([x.ravel(), y.ravel()], 1), np.ones(x.size))
    ray = torch.from_numpy(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    world_from_camera = torch.linalg.inv(camera_from_world.double())
    direction = torch.einsum("btij,nj->btni", world_from_camera[..., :3, :3], ray)
    moment = torch.linalg.cross(world_from_camera[..., None, :3, 3].expand_as(direction), direction)
    rays = torch.cat([direction, moment], -1).movedim(-1, 1)
    return rays.unflatten(3, (grid.height, grid.width)).float()


def loss_of(model, batch, rng):
    """Flow matching; most samples begin with a clean frame.

    The transformer gives clean latents, which so small a one learns faster than velocities: it need not carry the noise
    to its output. An error of theirs is one of velocity times sigma.
    """
    clean = batch["latents"]
    sigma = torch.sigmoid(torch.randn(len(clean), generator=rng))
    sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    noise = torch.randn(clean.shape, generator=rng)
    noisy = torch.lerp(clean, noise, sigma[:, None, None, None, None])
    anchored = torch.rand(len(clean), generator=rng) < 0.7
    noisy[anchored, :, 0] = clean[anchored, :, 0]
    error = (model(noisy, sigma, plucker(batch["camera_from_world"]), batch["memory"], anchored) - clean) ** 2
    error = error / (sigma**2).clamp(min=LEAST)[:, None, None, None, None]
    weight = torch.ones(clean.shape[0], 1, clean.shape[2], 1, 1)
    weight[anchored, :, 0] = 0
    return (error * weight).mean() / weight.mean()


def train(minutes, rooms, seed):
    """The trained model: the running mean of its weights over the last steps."""
    torch.manual_seed(seed)
    model, rng = WorldModel(), torch.Generator().manual_seed(seed)
    policy = MemoryPolicy(remembered="around", gap=3, max_keyframes=10, dropout=0.3, noise=0.1, holes=0.3)
    dataset = RevisitDataset(
        {str(i): Walk(seed * rooms + i) for i in range(rooms)},
        VAE,
        window=WINDOW,
        step=3,
        rope=wan_rope(model.dit),
        patch=model.patch_size,
        policy=policy,
        top_k=1,  # the canvas shows memory to this model, not tokens
        seed=seed,
    )
    averaged = copy.deepcopy(model.dit.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.01)
    begun, step, losses = time.monotonic(), 0, []
    while True:
        for batch in DataLoader(dataset, BATCH, shuffle=True, drop_last=True, generator=rng):
            done = (time.monotonic() - begun) / (60 * minutes)
            if done >= 1:
                model.dit.load_state_dict(averaged)
                return model.eval(), step
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * done))
            loss = loss_of(model, batch, rng)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            losses.append(loss.item())
            decay = min(0.995, 1 - 1 / step)
            for name, value in model.dit.state_dict().items():
                averaged[name].lerp_(value, 1 - decay)
            if step % 50 == 0:
                print(f"{100 * done:3.0f} %, step {step}: loss {np.mean(losses[-50:]):.3f}", flush=True)
        dataset.epoch += 1


def come_back(model, room, frames, steps, seed):
    """Walks out of a room and back, with memory and without.

    Returns the path, what a camera sees along it, a video of each, and the frames of the return.
    """
    world = furnished(room, np.random.default_rng(room))
    path = world.leave_and_return(CAMERA, frames)
    config = mm.PipelineConfig(
        seed=seed,
        window_size=WINDOW,
        window_overlap=OVERLAP,
        latent_patch_size=model.patch,
        num_inference_steps=steps,
        top_k=1,
    )
    views = [world.render(CAMERA, pose) for pose in path]
    parts = {"backbone": model, "vae": VAE, "depth_estimator": mm.SyntheticDepthEstimator(world)}
    parts["scheduler"] = mm.FlowMatchingScheduler(shift=SHIFT, prediction_type="sample")
    pipeline = mm.AutoregressivePipeline(config, **parts)
    for i in range(0, frames // 6, 2):  # what a camera has seen before the model takes over
        pipeline.observe(views[i].image, views[i].depth, CAMERA, path[i])
    videos = {
        name: pipeline.varied(use_memory=remembers).generate(path, image=views[0].image, depth=views[0].depth).frames
        for name, remembers in (("with memory", True), ("without", False))
    }
    return path, views, videos, range(frames - frames // 4, frames)


def score(path, views, video, back):
    """PSNR of the return, and where in the real room its frames are seen from."""
    images, depth = ({i: getattr(views[i], name) for i in back} for name in ("image", "depth"))
    figures = {"PSNR": float(np.mean([psnr(video[i], views[i].image) for i in back]))}
    if importlib.util.find_spec("pycolmap") is not None:
        errors = camera_errors(locate_frames(video, images, depth, path), path, align="none")
        figures |= {"located": len(errors.frames), "frames": len(back)}
        figures |= {"RotErr": errors.mean_rotation, "TransErr": errors.mean_translation}
    return figures


def draw(views, videos, back, file):
    """Rows: the truth, with memory, without; columns: the way out, and the return."""
    last = back[-1]
    columns = [0, len(views) // 4, len(views) // 2, back[0], (back[0] + last) // 2, last]
    rows = {"truth": [view.image for view in views], **videos}
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(2.1 * len(columns), 1.35 * len(rows)))
    for line, (name, video) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, i in zip(line, columns, strict=True):
            axis.imshow(video[i])
            axis.set(xticks=[], yticks=[])
    for axis, i in zip(axes[0], columns, strict=True):
        axis.set_title(f"frame {i}, back" if i in back else f"frame {i}", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("world-model"))
    parser.add_argument("--minutes", type=float, default=20, help="Of training.")
    parser.add_argument("--rooms", type=int, default=60, help="To train on.")
    parser.add_argument("--frames", type=int, default=48, help="Of the walk that leaves and returns.")
    parser.add_argument("--steps", type=int, default=20, help="Of denoising.")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        choices=range(1, 1 + len(UNSEEN)),
        help="Of the noise, each in a room of its own.",
    )
    parser.add_argument("--weights", type=Path, help="Of an earlier run, in place of training.")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    if arguments.weights is None:
        model, steps = train(arguments.minutes, arguments.rooms, 0)
        torch.save(model.dit.state_dict(), arguments.output / "weights.pt")
        print(f"{steps} steps of training")
    else:
        model = WorldModel().eval()
        model.dit.load_state_dict(torch.load(arguments.weights, weights_only=True))
    scores = []
    for seed, room in enumerate(UNSEEN[: arguments.seeds]):
        path, views, videos, back = come_back(model, room, arguments.frames, arguments.steps, seed)
        scores.append({name: score(path, views, video, back) for name, video in videos.items()})
        draw(views, videos, back, arguments.output / f"room-{seed}.png")
        for name, figures in scores[-1].items():
            print(
                f"room {seed}, {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True
            )
    gains = [one["with memory"]["PSNR"] - one["without"]["PSNR"] for one in scores]
    print(f"PSNR on return: {np.mean(gains):+.2f} dB by memory ({', '.join(f'{gain:+.2f}' for gain in gains)})")
    (arguments.output / "scores.json").write_text(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
