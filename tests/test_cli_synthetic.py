"""Commands on a bare camera path: the memory of a synthetic flat; and the files of the Rust implementation."""

import json

import numpy as np
import pytest

from cli_helpers import run, succeed
from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    CameraTrajectory,
    FormatError,
    MosaicMemoryStore,
    PipelineConfig,
    PointCloud,
    SuspiciousInput,
    SyntheticWorld,
)

K = CameraIntrinsics.from_fov(64, 48, fov_x=1.2)


@pytest.fixture
def folder(tmp_path):
    """A folder with a camera path in the flat, and one far outside."""
    SyntheticWorld(0).leave_and_return(K, 20, fps=8).save(tmp_path / "path.json")
    away = np.eye(4)
    away[:3, 3] = 500, 0, 500
    CameraTrajectory([CameraPose(away, i / 8) for i in range(3)], K).save(tmp_path / "away.json")
    return tmp_path


class TestInspect:
    def test_memory_along_a_path(self, folder):
        done = succeed("inspect", "path.json", "--synthetic", "--coverage", "--json", cwd=folder)
        report = json.loads(done.stdout)
        assert report["memory"]["patches"] > 100
        assert report["memory"]["keyframes"] == report["keyframes"] > 3
        assert report["mean_coverage"] > 0.8
        assert len(report["coverage"]) == 20
        told = succeed("inspect", "path.json", "--synthetic", "--set", "vae_stride=16", cwd=folder).stdout
        assert "Memory of a synthetic flat, seen by the path's keyframes" in told
        assert "3x4 cells of 16 pixels" in told
        assert "covered of the path's views" in told

    def test_only_paths_have_one(self, folder):
        done = run("inspect", "path.json", "--coverage", cwd=folder)
        assert "--coverage: expected a store or --synthetic with it" in done.stderr
        succeed("splice", "path.json", "path.json", "-o", "both", cwd=folder)
        assert "--synthetic: expected a camera path" in run("inspect", "both", "--synthetic", cwd=folder).stderr

    def test_outside_the_flat(self, folder):
        done = run("inspect", "away.json", "--synthetic", cwd=folder)
        assert done.returncode == 1
        assert "expected cameras within the synthetic flat" in done.stderr


def test_splice_of_paths(folder):
    succeed("splice", "path.json", "path.json", "-o", "both", "--seed", "3", cwd=folder)
    both = MosaicMemoryStore.open(folder / "both")
    alone = json.loads(succeed("inspect", "path.json", "--synthetic", "--json", cwd=folder).stdout)["memory"]
    assert len(both) > alone["patches"]
    low, high = both.bounds
    one = np.subtract(*reversed(alone["bounds"]))
    assert high[0] - low[0] > 1.5 * one[0]
    assert (
        "--seed: expected a camera path" in run("splice", "both", "both", "-o", "x", "--seed", "3", cwd=folder).stderr
    )


def test_export_ply_of_a_path(folder):
    succeed("export-ply", "--trajectory", "path.json", "-o", "flat.ply", cwd=folder)
    cloud = PointCloud.load_ply(folder / "flat.ply")
    assert len(cloud) > 100
    assert np.ptp(cloud.colors, axis=0).min() > 50
    misuse = run("export-ply", "--store", "x", "--trajectory", "path.json", "-o", "a.ply", cwd=folder)
    assert "--scene, --store, --trajectory: expected exactly one of the three" in misuse.stderr


def test_windows_of_generate(folder):
    more = ["--steps", "2", "--window-size", "6", "--window-overlap", "1"]
    done = succeed("generate", "--trajectory", "path.json", "-o", "out", *more, "--json", cwd=folder)
    windows = json.loads(done.stdout)["windows"]
    assert [window["first_frame"] for window in windows] == [0, 5, 10, 15]
    config = json.loads((folder / "out" / "config.json").read_text())
    assert (config["num_inference_steps"], config["window_size"], config["window_overlap"]) == (2, 6, 1)
    wrong = run("generate", "--trajectory", "path.json", "-o", "x", "--window-size", "3", cwd=folder)
    assert "--window-overlap: expected less than window_size = 3, got 4" in wrong.stderr


class TestRustConfiguration:
    FIELDS = {  # noqa: RUF012
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "window_size": 16,
        "window_overlap": 4,
        "keyframe_interval": 4,
        "max_memory_patches": 10000,
        "retrieval_top_k": 64,
        "width": 256,
        "height": 256,
        "latent_channels": 16,
        "spatial_downsample": 8,
        "temporal_downsample": 4,
        "hidden_dim": 64,
        "num_heads": 4,
        "voxel_size": 0.05,
        "depth_base": 5.0,
        "seed": 42,
        "diversity_radius": 20.0,
        "diversity_penalty": 0.5,
        "temporal_decay_half_life": 5,
        "adaptive_keyframes": False,
        "keyframe_translation_threshold": 0.5,
        "keyframe_angular_threshold": 0.3,
        "temporal_compression": 4,
        "enable_warped_latent": False,
    }

    def load(self, tmp_path, **changes):
        (tmp_path / "rust.json").write_text(json.dumps({**self.FIELDS, **changes}))
        with pytest.warns(SuspiciousInput, match="width, height, hidden_dim, num_heads, depth_base") as said:
            config = PipelineConfig.load(tmp_path / "rust.json")
        assert len(said) == 1
        return config

    def test_settings_have_their_meaning(self, tmp_path):
        config = self.load(tmp_path)
        assert (config.num_inference_steps, config.guidance_scale, config.seed) == (20, 7.5, 42)
        assert (config.window_size, config.window_overlap, config.keyframe_interval) == (16, 4, 4)
        assert (config.max_patches, config.top_k, config.half_life) == (10000, 64, 5.0)
        assert (config.vae_stride, config.temporal_kind, config.temporal_factor) == (8, "uniform", 4)
        assert (config.fusion_voxel_size, config.adaptive_keyframes, config.use_warped_latent) == (0.05, False, False)
        assert (config.keyframe_translation, config.keyframe_angle) == (0.5, 0.3)
        assert (config.diversity_radius, config.diversity_penalty) == (20.0, 0.5)

    def test_ablations(self, tmp_path):
        ablation = {"enable_memory": False, "enable_prope": False, "memory_gate_override": None}
        config = self.load(tmp_path, ablation=ablation)
        assert (config.use_memory, config.use_prope, config.memory_gate) == (False, False, PipelineConfig().memory_gate)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"colour": 1}, "'colour': no setting of the Rust implementation"),
            ({"ablation": {"enable_magic": True}}, "ablation: 'enable_magic': no setting"),
            ({"retrieval_top_k": 0}, "top_k"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::mosaicmem.SuspiciousInput")
    def test_others_are_refused(self, tmp_path, change, message):
        (tmp_path / "rust.json").write_text(json.dumps({**self.FIELDS, **change}))
        with pytest.raises(FormatError, match=message):
            PipelineConfig.load(tmp_path / "rust.json")

    def test_commands_take_it(self, folder):
        (folder / "rust.json").write_text(json.dumps({**self.FIELDS, "num_inference_steps": 1, "window_size": 8}))
        more = ["--config", "rust.json", "-o", "out", "--json"]
        done = succeed("generate", "--trajectory", "path.json", *more, cwd=folder)
        assert "width, height" in done.stderr
        assert json.loads(done.stdout)["windows"][0]["fused_voxels"] > 0
