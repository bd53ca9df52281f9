"""What commands say about the sequence in ``--scene``, and about the camera given for it."""

import json

import numpy as np
import pytest

from cli_helpers import run, succeed
from dataset_helpers import make_frames, write_seven_scenes
from mosaicmem import CameraTrajectory
from mosaicmem.cli._scenes import open_scene

GIVEN = ("--intrinsics", "30,31,40,24", "--size", "80x48")
COMMANDS = {
    "generate": ("--frames", "0:2", "-o", "out"),
    "evaluate": ("--memory-frames", "0:4", "--frames", "4:6", "--stride", "8", "--repeats", "1", "-o", "out"),
    "export-ply": ("-o", "out.ply"),
}


@pytest.fixture(params=COMMANDS)
def command(request):
    return request.param


class TestGivenIntrinsics:
    def test_generate_follows_the_scene_with_them(self, tmp_path, scene):
        succeed("generate", "--scene", scene, *GIVEN, *COMMANDS["generate"], cwd=tmp_path)
        assert CameraTrajectory.load(tmp_path / "out" / "trajectory.json").intrinsics.params == (30, 31, 40, 24)

    def test_generate_follows_a_path_and_remembers_the_scene_with_them(self, tmp_path, scene, memory):
        succeed("convert", memory / "path.json", tmp_path / "path.txt", "--to", "tum")
        path = ("--trajectory", tmp_path / "path.txt", "--memory-frames", "0:4", "-o")
        succeed("generate", "--scene", scene, *path, tmp_path / "own", "--save-memory", tmp_path / "a")
        succeed("generate", "--scene", scene, *GIVEN, *path, tmp_path / "given", "--save-memory", tmp_path / "b")
        assert CameraTrajectory.load(tmp_path / "given" / "trajectory.json").intrinsics.params == (30, 31, 40, 24)
        bounds = [json.loads(succeed("inspect", tmp_path / name, "--json").stdout)["bounds"] for name in "ab"]
        assert np.abs(np.subtract(*bounds)).max() > 0.1

    def test_evaluate_and_export_ply_look_through_them(self, tmp_path, scene):
        figures = []
        for i, given in enumerate(((), GIVEN)):
            (tmp_path / str(i)).mkdir()
            for name in ("evaluate", "export-ply"):
                done = succeed(name, "--scene", scene, *given, *COMMANDS[name], "--json", cwd=tmp_path / str(i))
                figures.append(json.loads(done.stdout))
        assert figures[0]["runs"] != figures[2]["runs"]
        assert np.abs(np.subtract(figures[1]["bounds"], figures[3]["bounds"])).max() > 0.1

    def test_those_of_another_size_are_refused(self, tmp_path, scene, command):
        given = ("--intrinsics", "300,300,320,240", "--size", "640x480")
        done = run(command, "--scene", scene, *given, *COMMANDS[command], cwd=tmp_path)
        assert done.returncode != 0
        assert "intrinsics (--intrinsics, --size): expected those of images of 80x48 pixels, which" in done.stderr
        assert "got those of 640x480" in done.stderr

    def test_a_size_alone_is_compared(self, scene):
        assert open_scene(scene, None, "80x48").intrinsics.width == 80
        with pytest.raises(ValueError, match="--size: expected 80x48, as the images of --scene are, got 640x480"):
            open_scene(scene, None, "640x480")
        with pytest.raises(ValueError, match="--intrinsics: expected --size with it"):
            open_scene(scene, "30,31,40,24", None)

    def test_where_they_mean_nothing(self, tmp_path, memory):
        done = run("evaluate", "--scene", "synthetic", *GIVEN)
        assert "--intrinsics, --size, --color-focal: expected a folder as --scene, got synthetic" in done.stderr
        done = run("export-ply", "--store", memory / "store", *GIVEN, "-o", tmp_path / "a.ply")
        assert "--intrinsics, --size: expected --scene" in done.stderr


def test_an_assumed_camera_is_said_once(tmp_path, rng, command):
    scene = write_seven_scenes(tmp_path / "scene", make_frames(rng, 8), intrinsics=None)
    done = succeed(command, "--scene", scene, *COMMANDS[command], cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if "intrinsics" in line]
    assert len(said) == 1
    assert said[0].startswith(
        f"mosaicmem: warning: {scene}: no file with intrinsics; assumed is the camera of 7-Scenes"
    )
    assert "give intrinsics (--intrinsics, --size)" in said[0]


def test_what_is_no_scene(tmp_path, scene, command):
    (tmp_path / "walk.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    done = run(command, "--scene", tmp_path / "walk.mp4", *COMMANDS[command], cwd=tmp_path)
    assert done.returncode == 1
    assert "walk.mp4: expected a folder, got a video; a sequence needs the depth and the pose" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(FileNotFoundError, match=r"--scene: .*nowhere: no such folder"):
        open_scene(tmp_path / "nowhere", None, None)
