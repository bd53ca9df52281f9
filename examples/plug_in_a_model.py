"""Adapters that put a latent video model behind mosaicmem's protocols, and feed it what memory provides.

The model here is small and untrained, so its video is noise; the adapters around it are the point. Replace it by your
own: a VAE with ``encode`` and ``decode``, and a denoiser that takes noisy latents, a timestep and conditions.

    pip install '.[torch]' && python examples/plug_in_a_model.py
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mosaicmem import (
    AutoregressivePipeline,
    CameraIntrinsics,
    MemoryContext,
    PipelineConfig,
    PRoPE,
    SyntheticWorld,
    TemporalLayout,
    WarpedRoPE,
    grid_positions,
)

CHANNELS, STRIDE, WIDTH, HEADS, HEAD_DIM = 8, 8, 64, 2, 48


# --- The model: replace these two classes by yours.


class YourVAE(nn.Module):
    """(B, 3, F, H, W) in [-1, 1] to (B, C, T, h, w): latent 0 is the first frame, then four frames per latent."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, CHANNELS, STRIDE, STRIDE)
        self.up = nn.ConvTranspose2d(CHANNELS, 3, STRIDE, STRIDE)

    def encode(self, video):
        kept = video[:, :, ::4].transpose(1, 2)
        return torch.stack([self.down(frame) for frame in kept.unbind(1)], dim=2)

    def decode(self, latents):
        frames = [torch.tanh(self.up(latent)) for latent in latents.unbind(2)]
        return torch.stack([frames[0], *(frame for frame in frames[1:] for _ in range(4))], dim=2)


class YourDenoiser(nn.Module):
    """Predicts the velocity from noisy latents, a canvas with its mask, and memory tokens."""

    def __init__(self):
        super().__init__()
        self.inputs = nn.Conv3d(2 * CHANNELS + 1, WIDTH, 1)
        self.time = nn.Linear(1, WIDTH)
        self.text = nn.Linear(64, WIDTH)
        self.queries = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.keys = nn.Linear(CHANNELS, HEADS * HEAD_DIM)
        self.values = nn.Linear(CHANNELS, HEADS * HEAD_DIM)
        self.back = nn.Linear(HEADS * HEAD_DIM, WIDTH)
        self.gate = nn.Parameter(torch.zeros(()))  # at 0 memory has no effect: the start for a trained model
        self.outputs = nn.Conv3d(WIDTH, CHANNELS, 1)

    def forward(self, latents, timestep, canvas, mask, text, attend):
        x = self.inputs(torch.cat([latents, canvas, mask], dim=1))
        extra = self.time(torch.full((1, 1), timestep / 1000)) + self.text(text)
        x = x + extra[:, :, None, None, None]
        tokens = x.flatten(2).transpose(1, 2)  # (B, T h w, WIDTH): frames, rows, columns
        tokens = tokens + attend(self, tokens)
        return self.outputs(tokens.transpose(1, 2).reshape(x.shape))


# --- The adapters.


class VAEAdapter:
    """Implements the `VAE` protocol. Images are float32 in [0, 1], channel last."""

    stride, channels, temporal = STRIDE, CHANNELS, TemporalLayout("causal", 4)

    def __init__(self, vae):
        self.vae = vae

    @torch.no_grad()
    def encode(self, video):
        x = torch.from_numpy(np.ascontiguousarray(video)).permute(3, 0, 1, 2)[None]
        return self.vae.encode(2 * x - 1)[0].numpy()

    @torch.no_grad()
    def decode(self, latents, num_frames):
        x = self.vae.decode(torch.from_numpy(latents)[None])[0, :, :num_frames]
        return ((x.permute(1, 2, 3, 0) + 1) / 2).numpy()

    def encode_image(self, image):
        # The latent of a keyframe is that of a one-frame video, channel last.
        return np.ascontiguousarray(self.encode(image[None])[:, 0].transpose(1, 2, 0))


class Memory:
    """What depends on memory alone, made once per window: all steps and both guidance branches share it."""

    def __init__(self, context: MemoryContext, rope: WarpedRoPE):
        # Warped Latent: the canvas and its coverage mask, as extra channels of the noisy latents.
        self.canvas = torch.from_numpy(context.canvas).permute(3, 0, 1, 2)[None]
        self.mask = torch.from_numpy(context.coverage)[None, None].float()
        # Warped RoPE: queries at their grid positions, memory tokens where they land.
        frames, rows, columns = context.coverage.shape
        self.query_table = rope.table(grid_positions(frames, rows, columns))
        mosaic = None if context.mosaic is None else context.mosaic.packed()  # all frames attend to all tokens
        self.is_there = mosaic is not None and len(mosaic) > 0
        if not self.is_there:
            return
        self.key_table = rope.table(mosaic.positions)
        self.tokens = torch.from_numpy(mosaic.tokens)[None]
        # PRoPE: the camera of each query, and the camera that saw each memory token.
        self.cameras = None
        if context.use_prope:
            camera, grid = context.cameras.intrinsics, {"patches_x": columns, "patches_y": rows}
            image = {"image_width": camera.width, "image_height": camera.height}
            views = context.cameras.camera_from_world
            # Relative to one camera: features are too coarse for cameras a kilometre from the world's origin.
            shared = {**image, "world_from_reference": context.cameras[0]}
            of_queries = PRoPE(HEAD_DIM, views, np.tile(camera.matrix, (frames, 1, 1)), **grid, **shared)
            of_memory = PRoPE(
                HEAD_DIM,
                mosaic.source_camera_from_world,
                mosaic.source_intrinsics,
                camera=mosaic.patch_sources[mosaic.token_patches],
                positions=mosaic.source_positions,
                **shared,
            )
            self.cameras = (of_queries, of_memory)


class BackboneAdapter:
    """Implements the `DiffusionBackbone` protocol."""

    prediction_type = "velocity"

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.rope = WarpedRoPE(HEAD_DIM)

    @torch.no_grad()
    def predict(self, sample, timestep, context: MemoryContext):
        memory = context.once("memory", lambda: Memory(context, self.rope))
        vectors = context.text if len(context.text) else np.zeros((1, 64), np.float32)
        text = torch.from_numpy(vectors.mean(axis=0, keepdims=True))

        def attend(model, hidden):
            return self.attend(model, hidden, memory, context.gate)

        return self.denoiser(torch.from_numpy(sample), timestep, memory.canvas, memory.mask, text, attend).numpy()

    def attend(self, model, hidden, memory, gate):
        """Attention from video tokens to memory tokens. Use your own attention kernel here."""
        if not memory.is_there:
            return torch.zeros_like(hidden)

        def heads(x):
            return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)

        q = self.rope.apply(heads(model.queries(hidden)), memory.query_table)
        k = self.rope.apply(heads(model.keys(memory.tokens)), memory.key_table)
        v = heads(model.values(memory.tokens))
        if memory.cameras is not None:
            of_queries, of_memory = memory.cameras
            q, k, v = of_queries.apply_to_q(q), of_memory.apply_to_kv(k), of_memory.apply_to_kv(v)
        out = scaled_dot_product_attention(q, k, v)
        if memory.cameras is not None:
            out = of_queries.apply_to_o(out)
        gate = torch.tanh(model.gate) if gate is None else gate  # an ablation may override the model's own gate
        return gate * model.back(out.transpose(1, 2).flatten(2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=17)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    world = SyntheticWorld()
    camera = CameraIntrinsics.from_fov(160, 96, fov_x=np.radians(75))
    path = world.leave_and_return(camera, 64)[: arguments.frames]

    config = PipelineConfig(
        scheduler="flow_matching", flow_shift=3.0, num_inference_steps=4, window_size=9, window_overlap=1, top_k=256
    )
    pipeline = AutoregressivePipeline(
        config, vae=VAEAdapter(YourVAE()), backbone=BackboneAdapter(YourDenoiser().eval())
    )
    for pose in path[:3]:
        view = world.render(camera, pose)  # your first frames, with depth and pose
        pipeline.observe(view.image, view.depth, camera, pose)

    for window in pipeline.stream(path):
        done = window.statistics
        print(
            f"frames {done.first_frame}-{done.last_frame}: {100 * done.coverage:.0f} % known, "
            f"{done.tokens} memory tokens, {1000 * done.seconds['retrieve']:.0f} ms of memory, "
            f"{1000 * done.seconds['denoise']:.0f} ms of the model"
        )


if __name__ == "__main__":
    main()
