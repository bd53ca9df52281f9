import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from memory_helpers import K, filled_store
from mosaicmem import CameraPose, CameraTrajectory, MosaicMemoryStore, PipelineConfig, PointCloud, __version__
from mosaicmem.cli._common import output_folder
from mosaicmem.device import describe_cuda
from scene_helpers import write_scene
from test_depth_onnx import red_model

COMMANDS = (
    "demo",
    "generate",
    "evaluate",
    "inspect",
    "visualize",
    "splice",
    "export-ply",
    "convert",
    "show-config",
    "bench",
)


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
        (tmp_path / "out" / "frames" / "old").write_text("old")
        succeed(*arguments, "--force")
        assert not (tmp_path / "out" / "frames" / "old").exists()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_files_of_others_and_outputs_of_other_commands_are_left_alone(self, tmp_path, scene, memory):
        arguments = ["generate", "--scene", scene, "--frames", "0:2", "-o", tmp_path / "out", "--force"]
        succeed(*arguments)
        done = run("visualize", memory / "store", "-o", tmp_path / "out", "--force")
        assert "is there and of mosaicmem generate: it is left alone" in done.stderr
        (tmp_path / "out" / "notes.txt").write_text("mine")
        done = run(*arguments)
        assert "holds 'notes.txt', which mosaicmem did not write" in done.stderr
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "summary.json").write_text("{}")
        assert "no output of mosaicmem" in run("demo", "-o", tmp_path / "mine", "--force").stderr

    def test_an_empty_folder_makes_way(self, tmp_path, scene):
        (tmp_path / "out").mkdir()
        succeed("generate", "--scene", scene, "--frames", "0:2", "-o", tmp_path / "out")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-o", "out", "--save-memory", "out/memory"], "--output, --save-memory: expected places apart"),
            (["-o", "out", "--checkpoint", "out/kept"], "--output, --checkpoint: expected places apart"),
            (["-o", "e/out", "--save-memory", "e"], "--output, --save-memory: expected places apart"),
            (["-o", "out", "--memory", "out/memory"], "--output, --memory: expected places apart"),
        ],
    )
    def test_outputs_and_inputs_lie_apart(self, tmp_path, scene, options, message):
        done = run("generate", "--scene", scene, "--frames", "0:2", *options, cwd=tmp_path)
        assert message in done.stderr
        assert not list(tmp_path.iterdir())

    def test_a_store_is_not_spliced_over(self, memory):
        before = sorted(p.name for p in (memory / "store").iterdir())
        done = run("splice", memory / "store", memory / "store", "-o", memory / "store", "--force")
        assert "--output, FIRST: expected places apart" in done.stderr
        assert sorted(p.name for p in (memory / "store").iterdir()) == before

    def test_an_earlier_run_comes_back_if_it_cannot_be_replaced(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        summary = json.dumps({"command": "demo", "files": ["summary.json"]})
        (tmp_path / "out" / "summary.json").write_text(summary)
        rename = Path.rename

        def fail(self, target):
            if self.name.startswith(".out.") and not self.name.endswith(".old"):
                raise OSError("no space")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no space"), output_folder(tmp_path / "out", True, "demo") as folder:
            (folder / "summary.json").write_text("{}")
        assert (tmp_path / "out" / "summary.json").read_text() == summary

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
    version, cuda = succeed("--version").stdout.splitlines()
    assert version == f"mosaicmem {__version__}"
    assert cuda == f"CUDA: {describe_cuda()}"
    done = succeed("--help").stdout
    assert "Exit codes: 0 done; 1 failed" in done
    assert "--install-completion" in done
    for command in COMMANDS:
        assert command in done
        assert f"Example: mosaicmem {command}" in succeed(command, "--help").stdout


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
        (["export-ply", "-o", "a.ply"], "--scene, --store: expected exactly one of the two"),
        (["generate", "--frames", "0:2", "-o", "out"], "--scene, --memory: expected one of the two, or both"),
        (["generate", "--memory", "m", "--frames", "0:2", "-o", "out"], "--frames, --memory-frames: expected --scene"),
        (
            ["generate", "--scene", "SCENE", "--trajectory", "bad.json", "--ablate", "-o", "out"],
            "bad.json: expected",
        ),
        (["show-config", "--set", "window_sise=3"], "--set: window_sise: no such setting; did you mean window_size?"),
        (["show-config", "--set", "window_size"], "--set: expected NAME=VALUE, got 'window_size'"),
        (["show-config", "--set", "window_size=many"], "window_size: input should be a valid integer, got 'many'"),
        (["bench", "--case", "64,5"], "--case: expected WxH,FRAMES,STEPS, 128x128,32,5 say, got '64,5'"),
        (["convert", "none.txt", "a.json"], "none.txt: no such file or folder"),
        (["convert", "bad.json", "a.bin"], "--to: expected one of mosaicmem, tum"),
        (["inspect", "bad.json"], "bad.json: expected"),
        (["inspect", "bad.json", "--verify"], "expected a store with them"),
        (["visualize", "SCENE", "-o", "out"], "no store: it has no manifest.json"),
        (["splice", "a", "b", "-o", "out"], "a: no folder of a store"),
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
            succeed(
                *("inspect", tmp_path / "store", "--json", "--verify", "--coverage"),
                *("--trajectory", tmp_path / "path.json", "--set", "top_k=4096", "--set", "min_visibility=0.01"),
            ).stdout
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
        assert "stride: expected one, as the store's keyframes have strides [8, 16]" in failed.stderr
        shown = succeed("inspect", tmp_path / "store", "--trajectory", tmp_path / "path.json", "--stride", 8).stdout
        assert "covered of the path's views" in shown

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


@pytest.fixture(scope="module")
def memory(tmp_path_factory, scene):
    """A saved store of eight frames of the scene."""
    folder = tmp_path_factory.mktemp("memory")
    arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "10:12", "-o", folder / "run"]
    succeed(*arguments, "--save-memory", folder / "store")
    (folder / "path.json").write_bytes((folder / "run" / "trajectory.json").read_bytes())
    return folder


class TestGenerateMore:
    def test_settings_from_everywhere(self, tmp_path, scene):
        """The file, then --set, then options of their own."""
        (tmp_path / "c.json").write_text('{"window_size": 5, "seed": 3, "prompt": "file", "half_life": 7.0}')
        arguments = ["generate", "--scene", scene, "--frames", "0:2", "-o", tmp_path / "out", "--config"]
        arguments += [tmp_path / "c.json", "--set", "window_size=6", "--set", "prompt=a b", "--seed", "4"]
        succeed(*arguments, "--set", 'events=[{"window": 1, "prompt": "rain"}]')
        config = PipelineConfig.load(tmp_path / "out" / "config.json")
        assert (config.window_size, config.seed, config.prompt, config.half_life) == (6, 4, "a b", 7.0)
        assert config.prompt_of(1) == "rain"

    def test_json_is_all_that_is_printed(self, tmp_path, scene):
        done = succeed("generate", "--scene", scene, "--frames", "0:2", "-o", tmp_path / "out", "--json")
        figures = json.loads(done.stdout)
        written = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert figures["targets"] == written["targets"]

    def test_ablation(self, tmp_path, scene):
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "8:10", "--ablate"]
        done = succeed(*arguments, "-o", tmp_path / "out")
        ablation = json.loads((tmp_path / "out" / "summary.json").read_text())["ablation"]
        assert ablation[0]["name"] == "everything"
        assert ablation[-1]["name"] == "no memory"
        assert ablation[0]["psnr"] > ablation[-1]["psnr"]
        for entry in ablation:
            assert entry["name"] in done.stdout

    def test_memory_goes_on(self, tmp_path, memory):
        """From a saved store, without a scene; saved in place, and elsewhere."""
        store = tmp_path / "store"
        shutil.copytree(memory / "store", store)
        before = len(MosaicMemoryStore.open(store))
        arguments = ["generate", "--memory", store, "--trajectory", memory / "path.json", "--set", "remember=all"]
        succeed(*arguments, "-o", tmp_path / "a", "--save-memory", store)
        assert len(MosaicMemoryStore.open(store)) > before
        done = run(*arguments, "-o", tmp_path / "b", "--save-memory", memory / "store")
        assert done.returncode == 1
        assert "--save-memory: " in done.stderr
        assert "--force replaces it" in done.stderr
        succeed(*arguments, "-o", tmp_path / "b", "--save-memory", tmp_path / "new")
        assert len(MosaicMemoryStore.open(tmp_path / "new")) > before
        summary = json.loads((tmp_path / "a" / "summary.json").read_text())
        assert summary["windows"][0]["coverage"] > 0.1
        # With a checkpoint too, which goes on from a store of its own.
        kept = ["--checkpoint", tmp_path / "kept", "--save-memory", store]
        succeed(*arguments, "-o", tmp_path / "c", *kept)
        assert len(MosaicMemoryStore.open(store)) > before
        assert not (tmp_path / "a" / "scene.ply").exists()  # nothing was seen that could be fused

    def test_a_killed_run_goes_on(self, tmp_path, scene):
        """SIGKILL after the first window; the same command then gives the same frames."""
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:4", "--frames", "4:12"]
        arguments += ["--set", "window_size=2", "--set", "window_overlap=1"]
        succeed(*arguments, "-o", tmp_path / "whole")
        command = [*arguments, "-o", tmp_path / "out", "--checkpoint", tmp_path / "kept"]
        process = subprocess.Popen([sys.executable, "-m", "mosaicmem", *map(str, command)], stderr=subprocess.DEVNULL)
        while not (tmp_path / "kept" / "window-000001.safetensors").exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        done = run(*command, "--seed", 9)
        assert "of another run: seed was 0, now it is 9" in done.stderr
        succeed(*command)
        for frame in (tmp_path / "whole" / "frames").iterdir():
            assert (tmp_path / "out" / "frames" / frame.name).read_bytes() == frame.read_bytes()

    def test_depth_from_files(self, tmp_path, scene):
        (tmp_path / "depth").mkdir()
        for i in range(8, 10):
            shutil.copy(scene / f"frame-{4 * i:06d}.depth.png", tmp_path / "depth")
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "8:10"]
        succeed(*arguments, "-o", tmp_path / "out", "--depth-files", tmp_path / "depth")
        done = run(*arguments, "-o", tmp_path / "b", "--depth-files", tmp_path / "depth", "--depth-model", "m.onnx")
        assert "--depth-model, --depth-files: expected at most one of the two" in done.stderr

    def test_depth_from_a_network(self, tmp_path, scene):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        (tmp_path / "model.onnx").write_bytes(red_model(gain=3.0))
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "8:10", "-o", tmp_path / "out"]
        arguments += ["--depth-model", tmp_path / "model.onnx"]
        succeed(*arguments, "--depth-output", "metric", "--depth-size", "42x28")
        done = run(*arguments, "--depth-output", "disparity", "--force")
        assert "output: expected one of metric, depth, inverse, got 'disparity'" in done.stderr

    def test_a_path_of_another_format_takes_the_scene_s_camera(self, tmp_path, scene, memory):
        succeed("convert", memory / "path.json", tmp_path / "path.txt", "--to", "tum")
        succeed("generate", "--scene", scene, "--trajectory", tmp_path / "path.txt", "-o", tmp_path / "out")
        assert CameraTrajectory.load(tmp_path / "out" / "trajectory.json").intrinsics.width == 80


class TestConvert:
    def test_there_and_back(self, tmp_path, memory):
        path = CameraTrajectory.load(memory / "path.json")
        k = ",".join(str(x) for x in path.intrinsics.params)
        size = f"{path.intrinsics.width}x{path.intrinsics.height}"
        for kind, name in (("tum", "a.txt"), ("colmap", "model"), ("colmap-binary", "binary"), ("matrixgame", "a.npz")):
            target = tmp_path / name
            done = succeed("convert", memory / "path.json", target, "--to", kind, "--json")
            assert json.loads(done.stdout)["frames"] == len(path)
            given = [] if kind.startswith("colmap") else ["--size", size]
            given += ["--intrinsics", k] if kind == "tum" else []
            succeed("convert", target, tmp_path / f"{kind}.json", *given)
            again = CameraTrajectory.load(tmp_path / f"{kind}.json")
            np.testing.assert_allclose(again.world_from_camera, path.world_from_camera, atol=1e-9)
            assert again.intrinsics.params == pytest.approx(path.intrinsics.params)

    def test_nothing_is_overwritten(self, tmp_path, memory):
        (tmp_path / "a.json").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "letters").write_text("dear")
        assert run("convert", memory / "path.json", tmp_path / "a.json").returncode == 1
        for force in ([], ["--force"]):
            done = run("convert", memory / "path.json", tmp_path / "folder", "--to", "colmap", *force)
            assert done.returncode == 1
        assert (tmp_path / "folder" / "letters").read_text() == "dear"
        assert "not JSON" in run("convert", memory / "path.json", tmp_path / "a.json", "--force").stderr
        assert (tmp_path / "a.json").read_text() == "mine"
        shutil.copy(memory / "path.json", tmp_path / "b.json")
        succeed("convert", memory / "path.json", tmp_path / "b.json", "--force", "--to", "nerfstudio")
        assert "frames" in json.loads((tmp_path / "b.json").read_text())

    def test_bad_options(self, tmp_path, memory):
        for options, message in (
            (["--intrinsics", "1,2,3,4"], "--intrinsics: expected --size with it"),
            (["--intrinsics", "1,2", "--size", "4x4"], "--intrinsics: expected FX,FY,CX,CY in pixels, got '1,2'"),
            (["--size", "640"], "--size: expected WIDTHxHEIGHT in pixels, 640x480 say, got '640'"),
        ):
            assert message in run("convert", memory / "path.json", tmp_path / "b.json", *options).stderr


class TestInspectMore:
    def test_a_store(self, memory):
        figures = json.loads(succeed("inspect", memory / "store", "--json", "--verify").stdout)
        assert figures["verified"]
        assert figures["patches"] == len(MosaicMemoryStore.open(memory / "store"))
        path = ["--trajectory", memory / "path.json"]
        figures = json.loads(succeed("inspect", memory / "store", *path, "--json").stdout)
        assert "coverage" not in figures
        each = json.loads(succeed("inspect", memory / "store", *path, "--coverage", "--json").stdout)
        assert len(each["coverage"]) == 2
        mean = np.mean([row["coverage"] for row in each["coverage"]])
        assert each["mean_coverage"] == figures["mean_coverage"] == pytest.approx(mean)
        assert "covered of the path's views" in succeed("inspect", memory / "store", *path).stdout

    def test_a_path(self, memory):
        figures = json.loads(succeed("inspect", memory / "path.json", "--json").stdout)
        path = CameraTrajectory.load(memory / "path.json")
        assert figures["frames"] == 2
        assert figures["metres"] == pytest.approx(path.length)
        assert figures["degrees"]["total"] == pytest.approx(np.degrees(path[0].angle_to(path[1])))
        assert "field of view" in succeed("inspect", memory / "path.json").stdout


class TestVisualize:
    @pytest.mark.parametrize("kind", ["png", "svg"])
    def test_pictures_and_a_page(self, tmp_path, memory, kind):
        path = ["--trajectory", memory / "path.json", "--format", kind, "--html"]
        succeed("visualize", memory / "store", *path, "-o", tmp_path / "out")
        names = {p.name for p in (tmp_path / "out").iterdir()}
        pictures = {f"{name}.{kind}" for name in ("top-down", "coverage", "view-000000", "view-000001")}
        assert names == {*pictures, "index.html", "summary.json"}
        for name in pictures:
            content = (tmp_path / "out" / name).read_bytes()
            assert len(content) > 5_000
            assert content.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        page = (tmp_path / "out" / "index.html").read_text()
        assert page.count("<img") == 4
        assert 'src="data:image/' in page
        assert "http" not in page.split("</style>")[1].split("<img")[0]
        coverage = json.loads((tmp_path / "out" / "summary.json").read_text())["coverage"]
        assert len(coverage) == 2

    def test_a_store_alone(self, tmp_path, memory):
        done = succeed("visualize", memory / "store", "-o", tmp_path / "out", "--json")
        assert json.loads(done.stdout)["files"] == [str(tmp_path / "out" / "top-down.png")]

    def test_the_same_bytes_each_time(self, tmp_path, memory):
        for name in ("a", "b"):
            succeed("visualize", memory / "store", "-o", tmp_path / name, "--format", "svg")
        assert (tmp_path / "a" / "top-down.svg").read_bytes() == (tmp_path / "b" / "top-down.svg").read_bytes()

    def test_without_matplotlib(self, tmp_path, memory):
        code = "import sys; sys.modules['matplotlib'] = None; from mosaicmem.cli import main; main()"
        command = [sys.executable, "-c", code, "visualize", str(memory / "store"), "-o", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "visualize needs matplotlib: pip install matplotlib" in done.stderr

    def test_bad_frames(self, tmp_path, memory):
        path = ["--trajectory", memory / "path.json", "--frames", "0,7"]
        done = run("visualize", memory / "store", *path, "-o", tmp_path / "out")
        assert "--frames: expected numbers from 0 to 1 with commas, got '0,7'" in done.stderr
        assert not (tmp_path / "out").exists()


class TestSplice:
    def test_two_side_by_side(self, tmp_path, memory):
        one = MosaicMemoryStore.open(memory / "store")
        arguments = ["splice", memory / "store", memory / "store", "-o", tmp_path / "both", "--json"]
        figures = json.loads(succeed(*arguments, "--offset", "1.5").stdout)
        both = MosaicMemoryStore.open(tmp_path / "both")
        assert figures["patches"] == len(both) == 2 * len(one)
        (low, high), (both_low, both_high) = one.bounds, both.bounds
        assert both_high[0] - both_low[0] == pytest.approx(2 * (high[0] - low[0]) + 1.5)
        assert (tmp_path / "both.png").stat().st_size > 5_000
        assert {p.name for p in tmp_path.iterdir()} == {"both", "both.png"}
        assert run(*arguments).returncode == 1  # it is there
        succeed(*arguments, "--force", "--layout", "vertical", "--picture", tmp_path / "up.svg")
        assert (tmp_path / "up.svg").stat().st_size > 5_000
        assert MosaicMemoryStore.open(tmp_path / "both").bounds[1, 0] == pytest.approx(high[0])

    def test_other_folders_are_left_alone(self, tmp_path, memory):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "letters").write_text("dear")
        done = run("splice", memory / "store", memory / "store", "-o", tmp_path / "precious", "--force")
        assert "it has no manifest.json" in done.stderr
        assert (tmp_path / "precious" / "letters").read_text() == "dear"


class TestExportStore:
    @pytest.mark.parametrize("colors", ["components", "synthetic"])
    def test_patches_as_a_cloud(self, tmp_path, memory, scene, colors):
        succeed("export-ply", "--store", memory / "store", "-o", tmp_path / "a.ply", "--colors", colors)
        cloud = PointCloud.load_ply(tmp_path / "a.ply")
        assert len(cloud) > 200
        assert np.linalg.norm(cloud.normals, axis=1).max() == pytest.approx(1, abs=1e-3)
        assert np.ptp(cloud.colors, axis=0).min() > 50
        succeed("export-ply", "--scene", scene, "--frames", "0:8", "-o", tmp_path / "b.ply")
        dense = PointCloud.load_ply(tmp_path / "b.ply")
        nearest = cKDTree(dense.points).query(cloud.points)[0]
        assert np.median(nearest) < 0.03
        if colors == "synthetic":
            near = cKDTree(dense.points).query(cloud.points)[1]
            assert np.abs(cloud.colors.astype(int) - dense.colors[near]).mean() < 40

    def test_larger_voxels_make_fewer_points(self, tmp_path, memory):
        counts = []
        for size in (0.05, 0.4):
            done = succeed(
                "export-ply",
                "--store",
                memory / "store",
                "-o",
                tmp_path / f"{size}.ply",
                "--voxel-size",
                size,
                "--json",
            )
            counts.append(json.loads(done.stdout)["points"])
        assert counts[0] > 1.5 * counts[1]


class TestBench:
    def test_table_and_json(self, tmp_path):
        arguments = ["bench", "--case", "64x64,4,2", "--repeats", 1, "--memory-size", "160x96"]
        done = succeed(*arguments, "--profile")
        assert "Where it goes" in done.stdout
        assert "of a step of 1 s" in done.stdout
        figures = json.loads(succeed(*arguments, "--json", "-o", tmp_path / "b.json").stdout)
        assert figures == json.loads((tmp_path / "b.json").read_text())
        (case,) = figures["cases"]
        assert case["case"] == {"width": 64, "height": 64, "frames": 4, "steps": 2}
        assert 0 < sum(case["stages"].values()) <= case["seconds"]
        memory = figures["memory"]
        assert memory["seconds"] == pytest.approx(sum(memory["parts"].values()))
        assert memory["part_of_step"] == pytest.approx(memory["seconds"])
