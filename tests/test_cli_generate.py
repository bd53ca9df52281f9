"""`mosaicmem generate`: what it writes, replaces, and continues with."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_helpers import check_outputs, run, succeed
from mosaicmem import CameraTrajectory, MosaicMemoryStore, PipelineConfig, _files
from mosaicmem.cli._common import output_folder
from onnx_models import red_model

KILLED_AFTER_A_WINDOW = """
import os, signal, sys
from mosaicmem.cli import main
replace, windows = os.replace, 0
def replace_and_die(source, target):
    global windows
    replace(source, target)
    windows += "attachment-" in str(target)
    if windows == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
main()
"""


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


def test_remembered_targets_are_pointed_out(tmp_path, scene):
    done = succeed("generate", "--scene", scene, "--memory-frames", "0:8", "--frames", "6:9", "-o", tmp_path / "out")
    assert "warning: 2 of 3 target frames are remembered too" in done.stderr


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
        check_outputs(tmp_path / "out", 2)

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

    @pytest.mark.parametrize("exchanges", [True, False])
    def test_an_earlier_run_comes_back_if_it_cannot_be_replaced(self, tmp_path, monkeypatch, exchanges):
        (tmp_path / "out").mkdir()
        summary = json.dumps({"command": "demo", "files": ["summary.json"]})
        (tmp_path / "out" / "summary.json").write_text(summary)
        rename = Path.rename

        def fail(self, target):
            if self.name.startswith(".out.") and not self.name.endswith(".old"):
                raise OSError("no space")
            return rename(self, target)

        def exchange(one, other):
            if exchanges:
                raise OSError("no space")
            return False

        monkeypatch.setattr(Path, "rename", fail)
        monkeypatch.setattr(_files, "_exchange", exchange)
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
        assert done.returncode == (1 if target in ("precious", "file") else 2)
        assert "--output: " in done.stderr
        assert (here / "precious" / "letters").read_text() == "dear"
        assert sorted(p.name for p in here.iterdir()) == ["file", "precious"]

    def test_a_scene_is_never_replaced(self, scene):
        before = sorted(p.name for p in scene.iterdir())
        for command in ("generate", "export-ply"):
            output = scene if command == "generate" else scene / "frame-000000.color.png"
            done = run(command, "--scene", scene, "--frames", "0:2", "-o", output, "--force")
            assert done.returncode == 2
            expected = "expected places apart" if command == "generate" else "expected a name that ends in .ply"
            assert expected in done.stderr
        assert sorted(p.name for p in scene.iterdir()) == before


class TestGenerateMore:
    def test_settings_from_everywhere(self, tmp_path, scene):
        """Precedence, lowest first: the file, --set, dedicated options."""
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
        """A run from a saved store, without a scene; its memory is saved in place, and elsewhere."""
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
        # With a checkpoint too, which keeps a store of its own.
        kept = ["--checkpoint", tmp_path / "kept", "--save-memory", store]
        succeed(*arguments, "-o", tmp_path / "c", *kept)
        assert len(MosaicMemoryStore.open(store)) > before
        assert not (tmp_path / "a" / "scene.ply").exists()  # no frame was observed, so nothing to fuse

    def test_a_killed_run_goes_on(self, tmp_path, scene):
        """SIGKILL after the first window; the same command then gives the same frames."""
        arguments = ["generate", "--scene", scene, "--memory-frames", "0:4", "--frames", "4:12"]
        arguments += ["--set", "window_size=2", "--set", "window_overlap=1"]
        succeed(*arguments, "-o", tmp_path / "whole")
        command = [*arguments, "-o", tmp_path / "out", "--checkpoint", tmp_path / "kept"]
        process = subprocess.run([sys.executable, "-c", KILLED_AFTER_A_WINDOW, *map(str, command)])
        assert process.returncode == -signal.SIGKILL
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
        assert "--depth-output: expected metric, depth or inverse, got 'disparity'" in done.stderr

    def test_a_path_of_another_format_takes_the_scene_s_camera(self, tmp_path, scene, memory):
        succeed("convert", memory / "path.json", tmp_path / "path.txt", "--to", "tum")
        succeed("generate", "--scene", scene, "--trajectory", tmp_path / "path.txt", "-o", tmp_path / "out")
        assert CameraTrajectory.load(tmp_path / "out" / "trajectory.json").intrinsics.width == 80
