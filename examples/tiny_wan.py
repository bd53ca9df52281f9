"""A diffusers Wan pipeline with tiny random weights: the real classes, for tests and tries on any machine."""

import tempfile

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

WORDS = ["<pad>", "</s>", "<unk>", "a", "room", "with", "windows"]


def tiny_wan(kind="t2v", scheduler="unipc", *, dtype=torch.float32, seed=0, **transformer) -> WanPipeline:
    """A pipeline like Wan 2.1 T2V (stride 8, 16 channels) or Wan 2.2 TI2V (stride 16, 48 channels).

    ``dtype`` is that of the transformer, loaded as ``from_pretrained`` does: some of its layers stay float32.
    """
    torch.manual_seed(seed)
    channels = 48 if kind == "ti2v" else 16
    vae = {"base_dim": 8, "z_dim": channels, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    vae |= {"latents_mean": [0.1] * channels, "latents_std": [0.5] * channels}
    if kind == "ti2v":
        vae |= {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    dit = {"num_attention_heads": 2, "attention_head_dim": 24, "in_channels": channels, "out_channels": channels}
    dit |= {"text_dim": 32, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2, **transformer}
    transformer = WanTransformer3DModel(**dit).eval()
    if dtype != torch.float32:
        with tempfile.TemporaryDirectory() as folder:
            transformer.save_pretrained(folder)
            transformer = WanTransformer3DModel.from_pretrained(folder, torch_dtype=dtype).eval()
    text = UMT5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    pipe = WanPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=UMT5EncoderModel(text).eval(),
        vae=AutoencoderKLWan(**vae).eval(),
        transformer=transformer,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
        if scheduler == "unipc"
        else FlowMatchEulerDiscreteScheduler(shift=5.0),
        expand_timesteps=kind == "ti2v",
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
