"""The command line as a whole, and the commands that need no scene."""

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
from mosaicmem.device import describe_cuda

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
