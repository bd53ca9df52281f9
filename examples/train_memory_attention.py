"""Trains a two-layer transformer to predict the tokens of an unseen view from memory tokens of other views.

The same network is trained twice on the same samples: once with the position where each memory token lands in the
target view (Warped RoPE) and the camera it comes from (PRoPE), and once with the tokens' positions in their own views.
Both are evaluated on held-out rooms. Gradients flow through mosaicmem's operators. Takes about a minute on two cores.

    pip install '.[examples]' && python examples/train_memory_attention.py
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from mosaicmem import (
    CameraIntrinsics,
    CameraTrajectory,
    MemoryRetrieval,
    MosaicMemoryStore,
    PRoPE,
    SyntheticVAE,
    SyntheticWorld,
    WarpedRoPE,
    depth_to_grid,
    grid_positions,
)

CAMERA = CameraIntrinsics.from_fov(80, 48, fov_x=np.radians(75))
VAE = SyntheticVAE(stride=8, channels=8)
ROWS, COLUMNS = 6, 10
MEMORY_TOKENS, BATCH = 128, 16
TRAINING_WORLDS, HELD_OUT_WORLDS = range(6), range(100, 102)
WIDTH, HEADS, HEAD_DIM = 96, 2, 48


@dataclass
class Sample:
    """One target view, and the memory tokens retrieved for it from other views."""

    target: np.ndarray  # (60, C) latents to predict
    known: np.ndarray  # (60,) bool: cells that memory covers
    camera: np.ndarray  # (4, 4) camera_from_world of the target
    tokens: np.ndarray  # (M, C)
    landed: np.ndarray  # (M, 3) Warped RoPE positions in the target view
    seen_at: np.ndarray  # (M, 3) positions in the view that each token comes from
    source_cameras: np.ndarray  # (M, 4, 4)


def make_samples(world_seed, rng, count):
    """Samples along a walk through two rooms: memory holds three views within 12 frames of the target."""
    world = SyntheticWorld(world_seed)
    path = world.leave_and_return(CAMERA, num_frames=96)
    views = [world.render(CAMERA, pose) for pose in path]
    latents = [VAE.encode_image(view.image) for view in views]
    samples = []
    while len(samples) < count:
        target = int(rng.integers(12, 84))
        store = MosaicMemoryStore(latent_patch_size=1)
        for frame in target + rng.choice([*range(-12, -2), *range(3, 13)], 3, replace=False):
            depth = depth_to_grid(views[frame].depth, VAE.stride)
            store.insert_keyframe(latents[frame], depth, CAMERA, path[frame])
        mosaic = (
            MemoryRetrieval(top_k=MEMORY_TOKENS)
            .retrieve(store, CameraTrajectory([path[target]], CAMERA), VAE.stride)
            .packed()
        )
        if len(mosaic) == MEMORY_TOKENS:
            seen_at = np.column_stack([np.zeros(MEMORY_TOKENS), mosaic.source_positions])
            cameras = mosaic.source_camera_from_world[mosaic.patch_sources[mosaic.token_patches]]
            samples.append(
                Sample(
                    latents[target].reshape(-1, VAE.channels),
                    mosaic.coverage[0].ravel(),
                    path[target].camera_from_world,
                    mosaic.tokens,
                    mosaic.positions,
                    seen_at,
                    cameras,
                )
            )
    return samples


class Encoding:
    """Positions of the tokens of a batch: rotary tables and cameras, for queries and for memory.

    The tokens of all samples are concatenated, so that one table serves the batch.
    """

    def __init__(self, samples, aligned):
        grid = np.tile(grid_positions(1, ROWS, COLUMNS), (len(samples), 1))
        places = np.concatenate([s.landed if aligned else s.seen_at for s in samples])
        self.rope = WarpedRoPE(HEAD_DIM, theta=100.0)
        self.query_table, self.memory_table = self.rope.table(grid), self.rope.table(places)
        self.query_cameras = self.memory_cameras = None
        if aligned:
            image = {"Ks": CAMERA.matrix, "image_width": CAMERA.width, "image_height": CAMERA.height}
            # The choice of world frame must not matter: cameras relative to the target's.
            sources = np.concatenate([s.source_cameras @ np.linalg.inv(s.camera) for s in samples])
            targets = np.tile(np.eye(4), (len(samples), 1, 1))
            self.query_cameras = PRoPE(HEAD_DIM, targets, patches_x=COLUMNS, patches_y=ROWS, **image)
            self.memory_cameras = PRoPE(HEAD_DIM, sources, positions=places[:, 1:], **image)

    def queries(self, q):
        q = self.rope.apply(q, self.query_table)
        return self.query_cameras.apply_to_q(q) if self.query_cameras else q

    def keys_values(self, k, v):
        k = self.rope.apply(k, self.memory_table)
        if self.memory_cameras:
            k, v = self.memory_cameras.apply_to_kv(k), self.memory_cameras.apply_to_kv(v)
        return k, v

    def outputs(self, o):
        return self.query_cameras.apply_to_o(o) if self.query_cameras else o


class Block(nn.Module):
    """Cross-attention to memory, then an MLP per token."""

    def __init__(self):
        super().__init__()
        inner = HEADS * HEAD_DIM
        self.norm, self.norm_memory, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, inner) for _ in range(3))
        self.out = nn.Linear(inner, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x, memory, encoding, batch):
        def heads(linear, tokens):  # (B * N, width) -> (heads, B * N, head_dim)
            return linear(tokens).view(len(tokens), HEADS, HEAD_DIM).transpose(0, 1)

        def by_sample(tokens):  # (heads, B * N, head_dim) -> (B, heads, N, head_dim)
            return tokens.reshape(HEADS, batch, -1, HEAD_DIM).transpose(0, 1)

        memory = self.norm_memory(memory)
        q = encoding.queries(heads(self.q, self.norm(x)))
        k, v = encoding.keys_values(heads(self.k, memory), heads(self.v, memory))
        o = scaled_dot_product_attention(by_sample(q), by_sample(k), by_sample(v))
        o = encoding.outputs(o.transpose(0, 1).reshape(HEADS, -1, HEAD_DIM))
        x = x + self.out(o.transpose(0, 1).reshape(len(x), -1))
        return x + self.mlp(self.norm_mlp(x))


class Predictor(nn.Module):
    """Two blocks that map one learned query, shared by all cells, to the latents of each cell."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(WIDTH))
        self.embed = nn.Linear(VAE.channels, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.read = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VAE.channels))

    def forward(self, samples, aligned):
        encoding = Encoding(samples, aligned)
        memory = self.embed(torch.from_numpy(np.concatenate([s.tokens for s in samples])))
        x = self.query.expand(len(samples) * ROWS * COLUMNS, WIDTH)
        for block in self.blocks:
            x = block(x, memory, encoding, len(samples))
        return self.read(x)


def loss_of(model, samples, aligned):
    """Mean squared error on the cells that memory covers, in units of the variance of latents there."""
    known = torch.from_numpy(np.concatenate([s.known for s in samples]))
    target = torch.from_numpy(np.concatenate([s.target for s in samples]))[known]
    return mse_loss(model(samples, aligned)[known], target) / target.var()


def train(name, training, held_out, aligned, steps):
    """The held-out loss at every twentieth of the training, as (step, loss)."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Predictor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    curve, start = [], time.perf_counter()
    for step in range(steps + 1):
        if step % max(1, steps // 20) == 0:
            with torch.no_grad():
                curve.append((step, float(loss_of(model, held_out, aligned))))
            print(f"{name:24} step {step:5}  held-out loss {curve[-1][1]:.4f}  {time.perf_counter() - start:5.1f} s")
        if step == steps:
            break
        batch = [training[i] for i in rng.choice(len(training), BATCH, replace=False)]
        loss = loss_of(model, batch, aligned)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return curve


def save_plot(curves, path):
    """Held-out loss over steps, one line per run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        steps, losses = zip(*curve, strict=True)
        axes.plot(steps, losses, label=f"{name}: {losses[-1]:.3f}")
    axes.set(xlabel="step", ylabel="held-out loss (variance of latents = 1)", title="Predicting a view from memory")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=900, help="training steps of each run (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="samples a training world (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("memory_attention.png"), help="(default: %(default)s)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("rendering and remembering ...")
    training = [s for seed in TRAINING_WORLDS for s in make_samples(seed, rng, options.samples)]
    held_out = [s for seed in HELD_OUT_WORLDS for s in make_samples(seed, rng, 32)]
    curves = {
        name: train(name, training, held_out, aligned, options.steps)
        for name, aligned in (("Warped RoPE + PRoPE", True), ("own places, no cameras", False))
    }
    save_plot(curves, options.plot)
    losses = {name: curve[-1][1] for name, curve in curves.items()}
    print(", ".join(f"{name}: {loss:.4f}" for name, loss in losses.items()), f"-> {options.plot}")


if __name__ == "__main__":
    main()
