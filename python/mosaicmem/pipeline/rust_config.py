"""The configuration JSON of the Rust implementation of this system, in terms of this one's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosaicmem.errors import FormatError, suspect

_SAME = (
    *("num_inference_steps", "guidance_scale", "window_size", "window_overlap", "keyframe_interval"),
    *("latent_channels", "seed", "diversity_radius", "diversity_penalty", "adaptive_keyframes"),
)
_RENAMED = {
    "max_memory_patches": "max_patches",
    "retrieval_top_k": "top_k",
    "spatial_downsample": "vae_stride",
    "temporal_downsample": "temporal_factor",
    "voxel_size": "fusion_voxel_size",
    "temporal_decay_half_life": "half_life",
    "keyframe_translation_threshold": "keyframe_translation",
    "keyframe_angular_threshold": "keyframe_angle",
    "enable_warped_latent": "use_warped_latent",
}
_OF_ABLATION = {
    "enable_memory": "use_memory",
    "enable_prope": "use_prope",
    "enable_warped_rope": "use_warped_rope",
    "enable_warped_latent": "use_warped_latent",
    "memory_gate_override": "memory_gate",
}
_WITHOUT = (  # settings that have no counterpart: images have the size of the path's cameras, models bring their own
    *("width", "height", "hidden_dim", "num_heads", "depth_base", "temporal_compression"),
    *("backend", "checkpoint_path"),
)
_FLOATS = ("guidance_scale", "fusion_voxel_size", "half_life", "keyframe_translation", "keyframe_angle", "memory_gate")


def is_of_rust(fields: dict[str, Any]) -> bool:
    """Whether a JSON object has settings by names that only the Rust implementation uses."""
    return any(name in fields for name in (*_RENAMED, "hidden_dim", "depth_base", "ablation"))


def of_rust(path: str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The settings of this implementation. Latent frames are uniform in time there.

    Raises
    ------
    FormatError
        An unknown key.

    Warns
    -----
    SuspiciousInput
        Settings have no counterpart; the message names them.
    """
    found: dict[str, Any] = {"temporal_kind": "uniform"} if "temporal_downsample" in fields else {}
    unused: list[str] = []
    ablation: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _SAME:
            found[name] = value
        elif name in _RENAMED:
            found[_RENAMED[name]] = value
        elif name == "ablation" and isinstance(value, dict):
            ablation = _of_ablation(path, value)
        elif name in _WITHOUT:
            unused.append(name)
        else:
            raise FormatError(path, f"{name!r:.80}: no setting of the Rust implementation")
    both = "use_warped_latent"  # named in two places: either switches it off
    if both in ablation and both in found:
        ablation[both] = bool(ablation[both] and found[both])
    found |= ablation
    if unused:
        suspect(
            f"{path}: {', '.join(unused)}: of the Rust implementation, without a counterpart here, so ignored; images "
            "have the size of the camera path"
        )
    return {name: float(value) if _is_whole_float(name, value) else value for name, value in found.items()}


def _of_ablation(path: str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    unknown = [name for name in fields if name not in _OF_ABLATION]
    if unknown:
        raise FormatError(path, f"ablation: {unknown[0]!r:.80}: no setting of the Rust implementation")
    return {_OF_ABLATION[name]: value for name, value in fields.items() if value is not None}


def _is_whole_float(name: str, value: Any) -> bool:
    return name in _FLOATS and type(value) is int
