"""Fine-tunes a Wan transformer of diffusers to use memory: LoRA on its attention, and memory's own gates.

Any folders of posed RGB-D frames that `open_sequence` reads serve as data; without any, walks through synthetic rooms.
Runs on tiny random weights unless ``--model`` names published ones.

    pip install '.[diffusers]' && accelerate launch examples/finetune_wan.py --scenes SCENE [SCENE ...]

For Wan 2.2 TI2V 5B: ``--model Wan-AI/Wan2.2-TI2V-5B-Diffusers --size 1280 704 --window 81 --gap 8 --min-coverage 0.2
--top-k 256 --rank 64 --rate 1e-4 --precision bf16 --checkpointing --workers 4``, some 10,000 steps over some hundred
sequences, on GPUs with 80 GB. On several GPUs encode first, in one process: ``--steps 0``.
"""

import argparse
from itertools import count, islice
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import WanPipeline
from diffusers.training_utils import cast_training_params, compute_density_for_timestep_sampling
from peft import LoraConfig, get_peft_model_state_dict
from torch.utils.data import DataLoader

from mosaicmem import CameraIntrinsics
from mosaicmem.datasets import SyntheticWalk, open_sequence
from mosaicmem.models import WanMemoryVAE, add_memory, wan_rope
from mosaicmem.models.training import MemoryPolicy, RevisitDataset
from tiny_wan import tiny_wan


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, nargs="*", default=[], help="Folders of posed RGB-D frames.")
    parser.add_argument("--model", help="Published weights; tiny random ones if left out.")
    parser.add_argument("--kind", choices=("t2v", "ti2v"), default="t2v", help="Of the tiny weights.")
    parser.add_argument("--output", type=Path, default=Path("memory-lora"))
    parser.add_argument("--cache", type=Path, help="Folder for encoded latents.")
    parser.add_argument("--prompt", default="a room", help="Of all windows.")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), help="Width and height, pixels.")
    parser.add_argument("--window", type=int, default=9, help="Frames per sample.")
    parser.add_argument("--gap", type=int, default=0, help="Frames next to a window that memory never holds.")
    parser.add_argument("--min-coverage", type=float, default=0.0, help="Leave out windows of which memory shows less.")
    parser.add_argument("--top-k", type=int, default=64, help="Patches of memory per latent frame.")
    parser.add_argument("--rank", type=int, default=4, help="Of the LoRA.")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--shift", type=float, default=5.0, help="Of the noise levels; above 1: more at high noise.")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--checkpointing", action="store_true", help="Less memory, more computation.")
    parser.add_argument("--workers", type=int, default=0, help="Processes that prepare samples; needs --cache.")
    parser.add_argument("--save-every", type=int, default=500, help="Steps.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def with_memory(pipe, rank):
    """The transformer's handles of memory. LoRA and the gates train; all else is frozen."""
    dit = pipe.transformer.requires_grad_(False).train()
    targets = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
    dit.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"))
    # Gates at 0 leave the model as it is; memory's keys and values pass through the same weights as the video's.
    return [add_memory(dit, mode="kv"), add_memory(dit, mode="canvas")]


def loss_of(dit, handles, batch, text, shift, anchored):
    """Flow matching; of TI2V models, whose first latent frame is given, on the frames after it."""
    bare = handles[0].dit  # without what accelerate wraps around it
    weight = bare.patch_embedding.weight
    clean = batch["latents"]
    sigma = compute_density_for_timestep_sampling("logit_normal", len(clean), logit_mean=0.0, logit_std=1.0)
    sigma = (shift * sigma / (1 + (shift - 1) * sigma)).to(clean)
    noise = torch.randn_like(clean)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
    times = 1000 * sigma
    if anchored:
        noisy[:, :, 0] = clean[:, :, 0]
        rows, columns = (n // p for n, p in zip(clean.shape[3:], bare.config.patch_size[1:], strict=True))
        times = times[:, None].repeat(1, clean.shape[2] * rows * columns)
        times[:, : rows * columns] = 0
    for handle in handles:
        handle.set(batch["memory"].to(clean.device, weight.dtype))
    velocity = dit(noisy.to(weight), times, text.expand(len(clean), -1, -1), return_dict=False)[0]
    error = (velocity.float() - (noise - clean)) ** 2
    return error[:, :, 1:].mean() if anchored else error.mean()


def main():
    arguments = parse_arguments()
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # gates, where memory is empty
    accelerator = Accelerator(mixed_precision=arguments.precision, kwargs_handlers=[unused])
    torch.manual_seed(arguments.seed + accelerator.process_index)
    pipe = tiny_wan(arguments.kind)
    if arguments.model:
        pipe = WanPipeline.from_pretrained(arguments.model, torch_dtype=torch.bfloat16)
    pipe.vae.to(accelerator.device)
    handles = with_memory(pipe, arguments.rank)
    if arguments.checkpointing:
        pipe.transformer.enable_gradient_checkpointing()
    text = pipe.encode_prompt(arguments.prompt, do_classifier_free_guidance=False)[0].detach().to(accelerator.device)

    camera = CameraIntrinsics.from_fov(*arguments.size, fov_x=1.2)
    dataset = RevisitDataset(
        [open_sequence(folder) for folder in arguments.scenes]
        or [SyntheticWalk(27, seed=i, intrinsics=camera) for i in range(2)],
        WanMemoryVAE(pipe.vae),
        window=arguments.window,
        rope=wan_rope(pipe.transformer),
        patch=tuple(pipe.transformer.config.patch_size),
        policy=MemoryPolicy(remembered="around", gap=arguments.gap),
        min_coverage=arguments.min_coverage,
        size=tuple(arguments.size),
        cache=arguments.cache,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )
    if arguments.cache is not None and accelerator.is_main_process:
        dataset.encode()
    accelerator.wait_for_everyone()
    cast_training_params(pipe.transformer)  # float32, where bfloat16 would round most steps away
    trained = [p for p in pipe.transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, arguments.rate)
    loader = DataLoader(dataset, arguments.batch, shuffle=True, num_workers=arguments.workers)
    dit, optimizer, loader = accelerator.prepare(pipe.transformer, optimizer, loader)
    batches = (batch for dataset.epoch in count() for batch in loader)  # each epoch has other memories
    for step, batch in enumerate(islice(batches, arguments.steps), 1):
        with accelerator.autocast():
            loss = loss_of(dit, handles, batch, text, arguments.shift, bool(pipe.config.expand_timesteps))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {step}: loss {loss.item():.4f}")
        if accelerator.is_main_process and (step % arguments.save_every == 0 or step == arguments.steps):
            WanPipeline.save_lora_weights(arguments.output, get_peft_model_state_dict(accelerator.unwrap_model(dit)))
            for handle in handles:
                handle.save_pretrained(arguments.output / handle.mode)
            print(f"step {step}: LoRA and memory are in {arguments.output}")


if __name__ == "__main__":
    main()
