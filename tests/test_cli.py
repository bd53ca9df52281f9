"""The command line as a whole, and the commands that need no scene."""

import importlib.util
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cli_helpers import check_outputs, run, succeed
from mosaicmem import PipelineConfig, __version__
from mosaicmem._border import describe_cuda

COMMANDS = (
    "demo",
    "generate",
    "evaluate",
    "inspect",
    "view",
    "visualize",
    "edit",
    "splice",
    "export-ply",
    "convert",
    "import",
    "path",
    "show-config",
    "bench",
)


def test_demo(tmp_path):
    done = succeed("demo", "--output", tmp_path / "demo")
    summary, frames = check_outputs(tmp_path / "demo", 64)
    revisit = summary["revisit"]
    assert revisit["psnr_with_memory"] >= revisit["psnr_without_memory"] + 6
    assert revisit["coverage"] > 0.75
    assert len(revisit["frames"]) >= 8
    assert f"{revisit['psnr_with_memory']:.2f} dB with memory" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # a pipe is no terminal
    assert np.asarray(Image.open(frames[0])).shape == (192, 320, 3)
    assert (tmp_path / "demo" / "revisit.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(tmp_path, kind):
    command = [sys.executable, "-m", "mosaicmem", "demo", "-o", str(tmp_path / "a" / "b")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "a").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(kind)
    assert process.wait() == -kind
    assert not list(tmp_path.iterdir())


def test_show_config(tmp_path):
    text = succeed("show-config").stdout
    assert PipelineConfig(**json.loads(text)) == PipelineConfig()
    (tmp_path / "c.json").write_text('{"seed": 9}')
    assert json.loads(succeed("show-config", "--config", tmp_path / "c.json").stdout)["seed"] == 9
    assert "window_size" in succeed("show-config", "--schema").stdout


def test_derived_sizes():
    asked = ["show-config", "--sizes", "1270x700,81", "--set", "vae_stride=16", "--set", "latent_channels=48"]
    sizes = json.loads(succeed(*asked).stdout)
    assert sizes["padded_image"] == {"width": 1280, "height": 704}
    assert sizes["latent_grid"] == {"columns": 80, "rows": 44, "cells": 3520, "channels": 48}
    assert sizes["keyframe"]["patches"] == 880
    assert sizes["keyframe"]["bytes"]["latents"] == 3520 * 48 * 4
    assert sizes["path"] == {"frames": 81, "windows": 7, "last_window_frames": 9}
    assert "path" not in json.loads(succeed("show-config", "--sizes", "64x64").stdout)


def test_derived_sizes_are_those_of_a_keyframe():
    from mosaicmem import AutoregressivePipeline, CameraIntrinsics, CameraPose

    sizes = json.loads(succeed("show-config", "--sizes", "90x50").stdout)["keyframe"]
    pipeline = AutoregressivePipeline()
    camera = CameraIntrinsics.from_fov(90, 50, fov_x=1.0)
    pipeline.observe(np.zeros((50, 90, 3)), np.ones((50, 90)), camera, CameraPose(np.eye(4)))
    statistics = pipeline.store.statistics()
    assert statistics.patches == sizes["patches"]
    assert statistics.keyframe_bytes == sizes["bytes"]["total"]


def test_demo_of_another_size(tmp_path):
    succeed("demo", "--size", "97x65", "--frames", "20", "--output", tmp_path / "demo")
    with Image.open(next((tmp_path / "demo" / "frames").iterdir())) as image:
        assert image.size == (97, 65)
    assert "expected 64 to 2048 pixels along each side" in run("demo", "--size", "9x9", "-o", tmp_path / "x").stderr


def test_histograms():
    from mosaicmem.cli._bench_report import histogram

    assert histogram([1.0]) == "█·······"
    assert histogram([0, 0, 0, 0, 0, 0, 0, 0, 8]) == "█······▁"
    assert histogram([1, 2, 3, 4, 5, 6, 7, 8]) == "████████"


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


FAILED, WRONG_USAGE = 1, 2
FAILURES = [
    (["generate", "--scene", "nowhere", "--frames", "0:2", "-o", "out"], "nowhere: no such folder"),
    (["show-config", "--config", "bad.json"], "bad.json: window_sise: no such setting"),
    (["show-config", "--config", "none.json"], "none.json"),
    (["export-ply", "--scene", "SCENE", "--min-count", "1000000", "-o", "a.ply"], "no voxel of 0.02 m holds"),
    (["generate", "--scene", "SCENE", "--trajectory", "bad.json", "-o", "out"], "bad.json: expected"),
    (["convert", "none.txt", "a.json"], "none.txt: no such file or folder"),
    (["inspect", "bad.json"], "bad.json: expected"),
    (["visualize", "SCENE", "-o", "out"], "no store: it has no manifest.json"),
    (["splice", "a", "b", "-o", "out"], "a: no folder of a store"),
]
MISUSES = [
    (["generate", "--scene", "SCENE", "-o", "out"], "--frames, --trajectory: expected exactly one of the two"),
    (["generate", "--scene", "SCENE", "--frames", "0:99", "-o", "out"], "--frames: expected 0 <= A < B <= 12"),
    (["generate", "--scene", "SCENE", "--frames", "one", "-o", "out"], "--frames: expected A:B or A:B:STEP, got 'one'"),
    (["generate", "--scene", "SCENE", "--frames", "0:12", "-o", "out"], "--frames: expected some frames to be left"),
    (["generate", "--scene", "SCENE", "--frames", "0:2", "-o", "SCENE"], "--output, --scene: expected places apart"),
    (["generate", "--frames", "0:2", "-o", "out"], "--frames, --memory-frames: expected --scene"),
    (["generate", "--memory", "m", "--frames", "0:2", "-o", "out"], "--frames, --memory-frames: expected --scene"),
    (["generate", "--trajectory", "bad.json", "--ablate", "-o", "out"], "--ablate: expected --frames"),
    (["generate", "--trajectory", "bad.json", "--intrinsics", "1,1,1,1", "-o", "out"], "--intrinsics: expected --size"),
    (
        ["generate", "--scene", "SCENE", "--frames", "0:2", "--depth-size", "8x8", "-o", "out"],
        "--depth-size: expected --de",
    ),
    (
        ["generate", "--scene", "SCENE", "--frames", "0:2", "--depth-output", "metric", "-o", "out"],
        "--depth-output: expec",
    ),
    (["generate", "--scene", "SCENE", "--frames", "0:2", "-o", "out.mp4"], "--output: expected a folder, got out.mp4"),
    (["demo", "-o", "out", "--set", "window_size=3"], "--set: window_overlap: expected less than window_size = 3"),
    (["evaluate", "--scene", "synthetic", "--force"], "--force: expected --output"),
    (["evaluate", "--scene", "synthetic", "--set", "window_size=8"], "--set: window_size has no effect here"),
    (["evaluate", "--scene", "SCENE", "--seed", "3"], "--seed: expected --depth-noise"),
    (["evaluate", "--scene", "SCENE", "--composition", "near", "--set", "composition=blend"], "at most one of the two"),
    (["export-ply", "-o", "a.ply"], "--scene, --store, --trajectory: expected exactly one"),
    (["export-ply", "--scene", "SCENE", "-o", "a.obj"], "--output: expected a name that ends in .ply, got a.obj"),
    (["export-ply", "--scene", "SCENE", "--colors", "components", "-o", "a.ply"], "--colors: expected --store"),
    (["export-ply", "--store", "m", "--frames", "0:2", "-o", "a.ply"], "--frames: expected --scene"),
    (
        ["export-ply", "--store", "m", "--colors", "red", "-o", "a.ply"],
        "--colors: expected scene, components or",
    ),
    (["show-config", "--set", "window_sise=3"], "--set: window_sise: no such setting; did you mean window_size?"),
    (["show-config", "--set", "window_size"], "--set: expected NAME=VALUE, got 'window_size'"),
    (["show-config", "--set", "window_size=many"], "window_size: input should be a valid integer, got 'many'"),
    (["show-config", "--schema", "--set", "seed=1"], "--schema: expected none of --config, --set"),
    (
        ["show-config", "--for", "splice"],
        "--for: expected demo, generate, evaluate, inspect, visualize, bench or build",
    ),
    (["bench", "--case", "64,5"], "--case: expected WxH,FRAMES,STEPS, 128x128,32,5 say, got '64,5'"),
    (["bench", "--memory-size", "big"], "--memory-size: expected WIDTHxHEIGHT"),
    (["bench", "--force"], "--force: expected --output"),
    (["bench", "-o", "b.txt"], "--output: expected a name that ends in .json"),
    (["bench", "--set", "num_inference_steps=3"], "--set: num_inference_steps has no effect here"),
    (["convert", "bad.json", "a.bin"], "--to: expected one of mosaicmem, tum"),
    (["convert", "bad.json", "a.json", "--from", "fbx"], "--from: expected mosaicmem, tum"),
    (["convert", "bad.json", "a.json", "--to", "tum"], "TARGET: expected a name that ends in .txt or .tum"),
    (["inspect", "bad.json", "--verify"], "--verify: expected a store with them"),
    (["inspect", "bad.json", "--stride", "8"], "--stride: expected a store with them"),
    (["splice", "a", "b", "-o", "out", "--layout", "round"], "--layout: expected horizontal or vertical, got 'round'"),
    (["splice", "a", "b", "-o", "out", "--picture", "a.gif"], "--picture: expected a name that ends in .png or .svg"),
    (["splice", "a", "b", "-o", "out", "--offset", "nan"], "--offset: expected a finite number"),
    (["visualize", "m", "-o", "out", "--format", "gif"], "--format: expected png or svg, got 'gif'"),
    (["generate", "--scene", "SCENE", "--frames", "0:99", "-o", "out"], "not by the numbers of their files, 0 to 44"),
    (["demo", "-o", "out", "--save-memory", "out"], "--output, --save-memory: expected places apart"),
    (["convert", "bad.json", "a.txt", "--to", "colmap"], "TARGET: expected a folder, got a.txt"),
    (["convert", "bad.json", "bad.json", "--force"], "TARGET, SOURCE: expected places apart"),
]


class TestFailures:
    """One line that says why, nothing half-written, and an exit code that says whose mistake it was."""

    def check(self, tmp_path, scene, arguments, message, code):
        (tmp_path / "bad.json").write_text('{"window_sise": 3}')
        arguments = [str(scene) if a == "SCENE" else a for a in arguments]
        done = run(*arguments, cwd=tmp_path)
        assert message in done.stderr
        assert done.returncode == code
        assert done.stderr.startswith("mosaicmem: error: ")
        assert len(done.stderr.splitlines()) == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json"]
        return arguments

    @pytest.mark.parametrize(("arguments", "message"), FAILURES)
    def test_failed(self, tmp_path, scene, arguments, message):
        self.check(tmp_path, scene, arguments, message, FAILED)

    @pytest.mark.parametrize(("arguments", "message"), MISUSES)
    def test_wrong_usage(self, tmp_path, scene, arguments, message):
        self.check(tmp_path, scene, arguments, message, WRONG_USAGE)

    @pytest.mark.parametrize("option", ["--frames", "--stride", "--top-k", "--fps", "--size", "--set"])
    def test_pictures_of_a_path_need_one(self, tmp_path, option):
        value = {"--size": "8x8", "--set": "near=1"}.get(option, "1")
        done = run("visualize", "m", "-o", "out", option, value, cwd=tmp_path)
        assert f"{option}: expected --trajectory, whose views are drawn" in done.stderr
        assert done.returncode == WRONG_USAGE

    def test_what_a_store_is_asked_needs_a_path(self, memory):
        for options in (["--coverage"], ["--stride", "8"], ["--set", "near=1"], ["--fps", "5"]):
            done = run("inspect", memory / "store", *options)
            assert f"{options[0]}: expected --trajectory" in done.stderr
            assert done.returncode == WRONG_USAGE

    def test_a_message_of_the_library_names_the_option(self, tmp_path, memory):
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "letters").write_text("dear")
        arguments = ["generate", "--trajectory", memory / "path.json", "-o", tmp_path / "out"]
        done = run(*arguments, "--checkpoint", tmp_path / "kept")
        assert done.stderr.startswith("mosaicmem: error: --checkpoint: expected a new or empty folder")
        assert done.returncode == FAILED

    def test_a_traceback_is_for_those_who_ask(self, tmp_path):
        done = run("convert", "none.txt", "a.json", "--debug", cwd=tmp_path)
        assert "Traceback" in done.stderr
        assert done.returncode == FAILED

    @pytest.mark.parametrize(
        ("command", "option", "value"),
        [
            ("generate", "--output", None),
            ("demo", "--frames", "many"),
            ("demo", "--threads", "9999"),
            ("generate", "--half-life", "nan"),
            ("generate", "--fps", "inf"),
            ("evaluate", "--pose-noise", "nan"),
            ("evaluate", "--seed", str(2**64)),
            ("export-ply", "--voxel-size", "inf"),
            ("bench", "--step-seconds", "nan"),
            ("inspect", "--fps", "inf"),
        ],
    )
    def test_values_of_the_wrong_kind_or_range(self, command, option, value):
        done = run(command, *([option, value] if value else []), *(["x"] if command == "inspect" else []))
        assert option in done.stderr
        assert done.returncode == WRONG_USAGE


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


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_building_without_torch_says_what_is_missing(tmp_path):
    done = run("build", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "needs torch: pip install torch (mosaicmem's extra [torch])" in done.stderr
