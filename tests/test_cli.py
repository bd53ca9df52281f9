import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from memory_helpers import K, filled_store
from mosaicmem import CameraPose, CameraTrajectory, MosaicMemoryStore, PipelineConfig, PointCloud, __version__
from mosaicmem.cli._common import output_folder
from scene_helpers import write_scene


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-c", "from mosaicmem.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def succeed(*arguments, cwd=None):
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def check_outputs(folder, count):
    names = {p.name for p in folder.iterdir()}
    assert {"frames", "video.mp4", "scene.ply", "trajectory.json", "config.json", "summary.json"} <= names
    frames = sorted((folder / "frames").iterdir())
    assert len(frames) == count
    with av.open(str(folder / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == count
    assert len(CameraTrajectory.load(folder / "trajectory.json")) == count
    PipelineConfig.load(folder / "config.json")
    assert len(PointCloud.load_ply(folder / "scene.ply")) > 1000
    return json.loads((folder / "summary.json").read_text()), frames


@pytest.fixture(scope="module")
def scene(tmp_path_factory, world, small_camera):
    path = world.leave_and_return(small_camera, 12)
    return write_scene(tmp_path_factory.mktemp("cli") / "scene", world, path)


def test_demo(tmp_path):
    done = succeed("demo", "--output", tmp_path / "demo")
    summary, frames = check_outputs(tmp_path / "demo", 64)
    revisit = summary["revisit"]
    assert revisit["psnr_with_memory"] >= revisit["psnr_without_memory"] + 6
    assert revisit["coverage"] > 0.75
    assert len(revisit["frames"]) >= 8
    assert f"{revisit['psnr_with_memory']:.2f} dB with memory" in done.stdout
    assert np.asarray(Image.open(frames[0])).shape == (192, 320, 3)
    assert (tmp_path / "demo" / "revisit.png").stat().st_size > 10_000


def test_generate_follows_the_sequence(tmp_path, scene):
    done = succeed(
        "generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "8:12:2", "--output", tmp_path / "out"
    )
    summary, _ = check_outputs(tmp_path / "out", 2)
    assert [f["frame"] for f in summary["targets"]["frames"]] == [8, 10]
    assert summary["memory_frames"] == list(range(8))
    assert "with memory" in done.stdout


def test_generate_follows_a_trajectory(tmp_path, scene, world, small_camera):
    world.leave_and_return(small_camera.scaled(160, 96), 5).save(tmp_path / "path.json")
    succeed("generate", "--scene", scene, "--trajectory", tmp_path / "path.json", "-o", tmp_path / "out", "--seed", 3)
    summary, frames = check_outputs(tmp_path / "out", 5)
    assert np.asarray(Image.open(frames[0])).shape == (96, 160, 3)
    assert summary["memory_frames"] == list(range(12))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 3


class TestForce:
    """--force replaces an earlier run, and nothing else."""

    def test_an_earlier_run_is_replaced(self, tmp_path, scene):
        arguments = ["generate", "--scene", scene, "--frames", "0:2", "-o", tmp_path / "out"]
        succeed(*arguments)
        (tmp_path / "out" / "old").write_text("old")
        succeed(*arguments, "--force")
        assert not (tmp_path / "out" / "old").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_an_earlier_run_comes_back_if_it_cannot_be_replaced(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "summary.json").write_text("earlier")
        rename = Path.rename

        def fail(self, target):
            if self.name.endswith(str(os.getpid())):
                raise OSError("no space")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no space"), output_folder(tmp_path / "out", force=True) as folder:
            (folder / "summary.json").write_text("new")
        assert (tmp_path / "out" / "summary.json").read_text() == "earlier"

    @pytest.mark.parametrize("target", [".", "", "..", "precious", "file"])
    def test_anything_else_is_left_alone(self, tmp_path, scene, target):
        here = tmp_path / "here"
        (here / "precious").mkdir(parents=True)
        (here / "precious" / "letters").write_text("dear")
        (here / "file").write_text("mine")
        done = run("generate", "--scene", scene, "--frames", "0:2", "-o", target, "--force", cwd=here)
        assert done.returncode == 1
        assert "--output: " in done.stderr
        assert (here / "precious" / "letters").read_text() == "dear"
        assert sorted(p.name for p in here.iterdir()) == ["file", "precious"]

    def test_a_scene_is_never_replaced(self, scene):
        before = sorted(p.name for p in scene.iterdir())
        for command in ("generate", "export-ply"):
            output = scene if command == "generate" else scene / "frame-000000.color.png"
            done = run(command, "--scene", scene, "--frames", "0:2", "-o", output, "--force")
            assert done.returncode == 1
            assert "left alone" in done.stderr
        assert sorted(p.name for p in scene.iterdir()) == before


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(tmp_path, kind):
    command = [sys.executable, "-m", "mosaicmem", "demo", "-o", str(tmp_path / "a" / "b")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "a").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(kind)
    assert process.wait(timeout=30) == -kind
    assert not list(tmp_path.iterdir())


def test_remembered_targets_are_pointed_out(tmp_path, scene):
    done = succeed("generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "6:9", "-o", tmp_path / "out")
    assert "warning: 2 of 3 target frames are remembered too" in done.stderr


def test_export_ply(tmp_path, scene):
    succeed("export-ply", "--scene", scene, "--frames", "0:4", "-o", tmp_path / "a.ply", "--voxel-size", 0.05)
    cloud = PointCloud.load_ply(tmp_path / "a.ply")
    assert len(cloud) > 500
    assert cloud.colors is not None
    assert cloud.normals is not None
    assert run("export-ply", "--scene", scene, "-o", tmp_path / "a.ply").returncode == 1
    succeed("export-ply", "--scene", scene, "-o", tmp_path / "a.ply", "--force", "--ascii")
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat ascii")


def test_show_config(tmp_path):
    text = succeed("show-config").stdout
    assert PipelineConfig(**json.loads(text)) == PipelineConfig()
    (tmp_path / "c.json").write_text('{"seed": 9}')
    assert json.loads(succeed("show-config", "--config", tmp_path / "c.json").stdout)["seed"] == 9
    assert "window_size" in succeed("show-config", "--schema").stdout


def test_version_and_help():
    assert succeed("--version").stdout.strip() == f"mosaicmem {__version__}"
    for command in ("demo", "generate", "export-ply", "show-config"):
        assert "Example: mosaicmem" in succeed(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--scene", "nowhere", "--frames", "0:2", "-o", "out"], "nowhere: no such folder"),
        (["generate", "--scene", "SCENE", "-o", "out"], "--frames, --trajectory: expected exactly one of the two"),
        (["generate", "--scene", "SCENE", "--frames", "0:99", "-o", "out"], "--frames: expected 0 <= A < B <= 12"),
        (
            ["generate", "--scene", "SCENE", "--frames", "one", "-o", "out"],
            "--frames: expected A:B or A:B:STEP, got 'one'",
        ),
        (["generate", "--scene", "SCENE", "--frames", "0:2", "-o", "SCENE"], "is there already; --force replaces it"),
        (["show-config", "--config", "bad.json"], "bad.json: window_sise: no such setting"),
        (["show-config", "--config", "none.json"], "none.json"),
        (["demo", "--seed", "99999999999999999999999999", "-o", "out"], "seed: "),
        (["export-ply", "--scene", "SCENE", "--min-count", "1000000", "-o", "a.ply"], "no voxel of 0.02 m holds"),
    ],
)
def test_a_failure_is_one_line(tmp_path, scene, arguments, message):
    (tmp_path / "bad.json").write_text('{"window_sise": 3}')
    arguments = [str(scene) if a == "SCENE" else a for a in arguments]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("mosaicmem: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json"]  # nothing half-written
    assert "Traceback" in run(*arguments, "--debug", cwd=tmp_path).stderr


def test_usage_errors_exit_with_2():
    assert run("generate").returncode == 2
    assert run("demo", "--frames", "many").returncode == 2


class TestInspect:
    def test_json_says_what_the_store_says(self, rng, tmp_path):
        store, _ = filled_store(rng, 5, max_patches=1000)
        store.delete_frame(2)
        store.save(tmp_path / "store")
        CameraTrajectory([CameraPose(), CameraPose(timestamp=1.0)], K).save(tmp_path / "path.json")
        report = json.loads(
            succeed("inspect", tmp_path / "store", "--json", "--verify", "--trajectory", tmp_path / "path.json").stdout
        )
        opened = MosaicMemoryStore.open(tmp_path / "store")
        assert report["patches"] == len(store)
        assert report["keyframes"] == report["observations"] == 4
        assert report["bytes"]["total"] == opened.nbytes
        assert report["bytes"]["latent"] == store.statistics().latent_bytes
        assert report["bounds"] == store.bounds.tolist()
        assert (report["first_time"], report["last_time"]) == (0.0, 4.0)
        assert report["kinds"] == [{"rows": 6, "columns": 10, "stride": 8, "latent_dtype": "float32", "keyframes": 4}]
        counts = np.unique(store.describe_patches(store.patch_ids)["frame_id"], return_counts=True)[1]
        assert report["patches_a_keyframe"] == {
            "least": counts.min(),
            "median": np.median(counts),
            "most": counts.max(),
        }
        assert [row["patches"] for row in report["coverage"]] == [len(store.retrieve(K, CameraPose(), top_k=4096))] * 2
        assert 0 < report["coverage"][0]["coverage"] <= 1
        assert report["settings"]["max_patches"] == 1000

    def test_tables(self, rng, tmp_path):
        store, _ = filled_store(rng, 3)
        store.insert_keyframe(np.zeros((3, 5, 4)), np.ones((3, 5)), K.scaled(80, 48), CameraPose())
        store.save(tmp_path / "store")
        CameraTrajectory([CameraPose()], K).save(tmp_path / "path.json")
        shown = succeed("inspect", tmp_path / "store").stdout
        assert f"{len(store)}" in shown
        assert "3x5 cells of 16 pixels" in shown
        failed = run("inspect", tmp_path / "store", "--trajectory", tmp_path / "path.json")
        assert failed.returncode == 1
        assert "--stride: expected one, as the store's keyframes have strides [8, 16]" in failed.stderr
        shown = succeed("inspect", tmp_path / "store", "--trajectory", tmp_path / "path.json", "--stride", 8).stdout
        assert "mean" in shown

    def test_an_empty_store(self, tmp_path):
        MosaicMemoryStore().save(tmp_path / "store")
        assert "patches" in succeed("inspect", tmp_path / "store", "--verify").stdout

    def test_damage_is_one_line_that_names_the_file(self, rng, tmp_path):
        store, _ = filled_store(rng, 3)
        store.save(tmp_path / "store")
        (path,) = (tmp_path / "store").glob("keyframes-*")
        content = bytearray(path.read_bytes())
        content[-5] ^= 1  # a bit of a tensor
        path.write_bytes(content)
        succeed("inspect", tmp_path / "store")  # nobody looked
        failed = run("inspect", tmp_path / "store", "--verify")
        assert failed.returncode == 1
        assert failed.stderr.count("\n") == 1
        assert f"{path.name}: damaged: its content does not match" in failed.stderr
        assert "no folder of a store" in run("inspect", tmp_path / "nowhere").stderr
