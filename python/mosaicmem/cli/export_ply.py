"""``mosaicmem export-ply``: the fused point cloud of a sequence or of a saved store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaicmem.cli._common import (
    AsJson,
    Debug,
    Force,
    Seed,
    Threads,
    check_apart,
    check_output_file,
    finite,
    print_json,
)
from mosaicmem.cli._errors import UsageError, check_choice, check_useful, reports_errors
from mosaicmem.cli._frames import own_numbers, parse_range, selected
from mosaicmem.cli._scenes import A_SEQUENCE, ColorFocal, SceneIntrinsics, SceneSize, open_scene
from mosaicmem.cli._settings import read_settings
from mosaicmem.cli._synthetic_memory import open_or_walk
from mosaicmem.cli._tables import say
from mosaicmem.cli._terminal import progress_bar, warn

if TYPE_CHECKING:
    from mosaicmem.datasets import RgbdSequence
    from mosaicmem.geometry import StreamingFusion
    from mosaicmem.memory import MosaicMemoryStore


@reports_errors
def export_ply(
    output: Annotated[Path, typer.Option("--output", "-o", help="PLY file to write.")],
    scene: Annotated[Path | None, typer.Option(help=f"{A_SEQUENCE}.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of a saved store instead.")] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="Camera path instead: what a synthetic flat shows along it, remembered.")
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(help="Frames of the sequence, A:B or A:B:STEP, by position from 0. Default: all."),
    ] = None,
    voxel_size: Annotated[float, typer.Option(help="Metres.", min=1e-4, max=1e6, callback=finite)] = 0.02,
    min_count: Annotated[int, typer.Option(help="Least points a voxel.", min=1)] = 1,
    colors: Annotated[
        str | None,
        typer.Option(
            help="Of a store: scene (thumbnails, or components without), components (false colours, any latents), "
            "synthetic (as SyntheticVAE decodes). Default: scene."
        ),
    ] = None,
    intrinsics: SceneIntrinsics = None,
    size: SceneSize = None,
    color_focal: ColorFocal = None,
    seed: Seed = None,
    ascii: Annotated[bool, typer.Option("--ascii", help="Text instead of binary.")] = False,
    as_json: AsJson = False,
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Write a point cloud with colours and normals, from a posed RGB-D sequence or from the patches of a memory.

    Example: mosaicmem export-ply --scene rgbd_scene --frames 0:60 --output scene.ply
    """
    from mosaicmem.geometry import StreamingFusion

    if sum(place is not None for place in (scene, store, trajectory)) != 1:
        raise UsageError("--scene, --store, --trajectory: expected exactly one of the three")
    if scene is None:
        check_useful({"--frames": frames}, "expected --scene, whose frames they are")
    if store is not None:
        check_useful({"--intrinsics": intrinsics, "--size": size}, "expected --scene or --trajectory")
    if trajectory is None:
        check_useful({"--seed": seed}, "expected --trajectory, along which a synthetic flat is seen")
    if scene is not None:
        check_useful({"--colors": colors}, "expected --store; a sequence has colours of its own")
    else:
        check_useful({"--color-focal": color_focal}, "expected --scene, whose colour camera it is")
    if colors is not None:
        check_choice("--colors", colors, ("scene", "components", "synthetic"))
    check_apart({"--output": output}, {"--scene": scene, "--store": store, "--trajectory": trajectory})
    output = check_output_file(output, force, (".ply",))
    fusion = StreamingFusion(voxel_size, num_threads=threads or 0)
    if scene is not None:
        sequence = open_scene(scene, intrinsics, size, color_focal)
        what, dropped = _fuse_sequence(fusion, sequence, ":" if frames is None else frames)
    else:
        settings = read_settings(None, None, {"seed": seed, "num_threads": threads})
        opened, _ = open_or_walk(store or trajectory, intrinsics, size, settings)  # type: ignore[arg-type]
        count, dropped = _fuse_store(fusion, opened, str(store or trajectory), colors or "scene")
        what = f"{count} keyframes"
    if dropped:
        warn(f"{dropped} points were out of range and left out; a larger --voxel-size reaches further")
    cloud = fusion.point_cloud(min_count)
    if not len(cloud):
        raise ValueError(
            f"--min-count, --voxel-size: no voxel of {voxel_size} m holds {min_count} points; "
            f"{dropped} points were out of range"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    cloud.save_ply(output, binary=not ascii)
    if as_json:
        low, high = cloud.bounds
        print_json(
            {"points": len(cloud), "dropped": dropped, "bounds": [low.tolist(), high.tolist()], "file": str(output)}
        )
        return
    say(f"{len(cloud)} points of {what} in {output}")


def _fuse_sequence(fusion: StreamingFusion, sequence: RgbdSequence, frames: str) -> tuple[str, int]:
    """Fuse a sequence; returns which frames, and how many points were out of range."""
    from mosaicmem.geometry import PoseCheck

    wanted = parse_range("--frames", frames, len(sequence), getattr(sequence, "number", None))
    dropped = 0
    check = PoseCheck(times=False)
    with progress_bar() as progress:
        for i in progress.track(wanted, description="Fusing"):
            seen = sequence[i]
            check.add(seen.depth, sequence.intrinsics, seen.pose)
            dropped += fusion.add_frame(seen.depth, sequence.intrinsics, seen.pose, seen.image).out_of_range
    if not check.compared:
        say(check.conclusion)
    return selected(wanted, own_numbers(sequence, wanted)), dropped


def _fuse_store(fusion: StreamingFusion, opened: MosaicMemoryStore, name: str, colors: str) -> tuple[int, int]:
    """Fuse a store, one point per latent cell; returns how many keyframes, and how many points were out of range."""
    from mosaicmem.media import to_uint8
    from mosaicmem.memory.contents import observed_keyframes

    keyframes = list(observed_keyframes(opened))
    if not keyframes:
        raise ValueError(f"{name}: the store is empty")
    color_of = _color_function(colors, keyframes)
    dropped = 0
    with progress_bar() as progress:
        for keyframe in progress.track(keyframes, description="Fusing"):
            shades = to_uint8("colors", color_of(keyframe))
            counts = fusion.add_frame(keyframe.depth, keyframe.intrinsics, keyframe.world_from_camera, shades)
            dropped += counts.out_of_range
    return len(keyframes), dropped


def _color_function(colors: str, keyframes: list[Any]) -> Any:
    """A function from a keyframe to the colours (h, w, 3) of its cells, in [0, 1]."""
    import numpy as np

    from mosaicmem.diffusion import SyntheticVAE
    from mosaicmem.latent_colors import LatentColors
    from mosaicmem.memory.scene_colors import SceneColors

    if colors == "scene":
        return SceneColors(keyframes)
    if colors == "components":
        components = LatentColors(np.concatenate([k.latents[k.depth > 0] for k in keyframes]))
        return lambda keyframe: components(keyframe.latents)
    stride, channels = keyframes[0].stride, keyframes[0].latents.shape[2]
    vae = SyntheticVAE(stride, channels)

    def decoded(keyframe: Any) -> Any:
        rows, columns, _ = keyframe.latents.shape
        return vae.decode_image(keyframe.latents).reshape(rows, stride, columns, stride, 3).mean(axis=(1, 3))

    return decoded
