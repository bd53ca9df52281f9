"""``mosaicmem evaluate --video``, and the reader of videos."""

import json
import math

import numpy as np
import pytest

from cli_helpers import run, succeed
from mosaicmem import CameraIntrinsics, FormatError, SyntheticWorld
from mosaicmem.media import read_video, save_mp4
from mosaicmem.metrics import psnr
from scene_helpers import write_scene

CAMERA = CameraIntrinsics.from_fov(160, 96, fov_x=1.3)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A scene on disk, and a video whose last frame looks where the first does."""
    folder = tmp_path_factory.mktemp("video")
    world = SyntheticWorld()
    path = world.leave_and_return(CAMERA, 12, fps=2.0)
    write_scene(folder / "scene", world, path)
    path.save(folder / "path.json")
    frames = np.stack([world.render(CAMERA, pose).image for pose in path])
    save_mp4(folder / "video.mp4", frames, fps=2.0)
    return folder, frames


class TestReading:
    def test_frames_are_those_saved(self, video):
        folder, frames = video
        read = np.stack(list(read_video(folder / "video.mp4", 12, (160, 96))))
        assert read.shape == (12, 96, 160, 3)
        assert psnr(read, frames) > 28

    @pytest.mark.parametrize("size", [(47, 33), (48, 32)])
    def test_odd_sides_are_cut_off_again(self, tmp_path, size):
        image = np.linspace(0, 1, size[0] * size[1] * 3).reshape(1, size[1], size[0], 3)
        save_mp4(tmp_path / "v.mp4", image)
        assert next(read_video(tmp_path / "v.mp4", 1, size)).shape == (size[1], size[0], 3)

    @pytest.mark.parametrize(
        ("frames", "size", "message"),
        [
            (11, (160, 96), "expected 11 frames, one per pose, got more"),
            (13, (160, 96), "expected 13 frames, one per pose, got 12"),
            (12, (96, 160), "expected frames of 96x160, got 160x96"),
        ],
    )
    def test_other_lengths_and_sizes(self, video, frames, size, message):
        with pytest.raises(FormatError, match=message):
            list(read_video(video[0] / "video.mp4", frames, size))

    @pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 5000, "half"])
    def test_damage(self, video, tmp_path, content):
        whole = (video[0] / "video.mp4").read_bytes()
        (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        with pytest.raises(FormatError, match=r"v\.mp4"):
            list(read_video(tmp_path / "v.mp4", 12, (160, 96)))


class TestCommand:
    pytest.importorskip("skimage")

    @pytest.fixture(autouse=True)
    def needs_pycolmap(self):
        pytest.importorskip("pycolmap")

    def test_with_the_scene(self, video, tmp_path):
        folder, _ = video
        out = succeed(
            *("evaluate", "--video", folder / "video.mp4", "--scene", folder / "scene", "--json"),
            *("--output", tmp_path / "out"),
        )
        summary = json.loads(out.stdout)
        assert summary["psnr"] > 28
        cameras = summary["cameras"]
        assert (cameras["recovered"], cameras["asked"]) == (12, 12)
        assert cameras["mean_rotation_degrees"] < 0.5
        assert cameras["mean_translation"] < 0.03
        back = summary["revisits"][-1]
        assert back["frame"] == 11
        assert back["seconds_away"] > 1
        assert back["angle_away"] > math.radians(60)
        assert back["psnr"] > 25
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["cameras"] == cameras

    def test_with_a_path_alone(self, video):
        folder, _ = video
        out = succeed("evaluate", "--video", folder / "video.mp4", "--trajectory", folder / "path.json")
        assert "by structure from motion, scaled to the path" in out.stdout
        assert "Returns, compared with the video itself" in out.stdout
        assert "RotErr" in out.stdout

    def test_the_scene_is_not_written_to(self, video):
        folder, _ = video
        result = run("evaluate", "--video", folder / "video.mp4", "--scene", folder / "scene", "-o", folder / "scene")
        assert result.returncode != 0
        assert "--output" in result.stderr
        assert "--scene" in result.stderr

    def test_a_video_of_another_place(self, video, tmp_path):
        folder, frames = video
        blocks = np.random.default_rng(0).uniform(size=(len(frames), 12, 20, 3))
        save_mp4(tmp_path / "v.mp4", blocks.repeat(8, axis=1).repeat(8, axis=2))
        out = succeed("evaluate", "--video", tmp_path / "v.mp4", "--scene", folder / "scene", "--json")
        cameras = json.loads(out.stdout)["cameras"]
        assert cameras["recovered"] == 0
        assert cameras["rot_err"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--scene: expected the folder of a sequence or synthetic, or else --video"),
        (("--video", "v.mp4"), "--video: expected either --scene or --trajectory with it"),
        (("--video", "v.mp4", "--scene", "s", "--trajectory", "p"), "--video: expected either --scene or --trajectory"),
        (("--video", "v.mp4", "--scene", "s", "--budgets", "3"), "--budgets: expected no --video with it"),
        (("--video", "v.mp4", "--scene", "s", "--stride", "8"), "--stride: expected no --video with it"),
        (("--video", "v.mp4", "--scene", "s", "--threads", "1"), "--threads: expected no --video with it"),
        (("--video", "v.mp4", "--scene", "s", "--seed", "1"), "--seed: expected --scene synthetic with it"),
        (("--video", "v.mp4", "--trajectory", "p", "--frames", "0:3"), "--frames: expected --scene with it"),
        (("--video", "v.mp4", "--trajectory", "p", "--color-focal", "500"), "--color-focal: expected --scene"),
        (("--scene", "synthetic", "--trajectory", "p.json"), "--trajectory: expected --video too"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    result = run("evaluate", *options)
    assert result.returncode == 2
    assert message in result.stderr
