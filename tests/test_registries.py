"""User-defined formats and layouts work by name, like the built-in ones."""

import numpy as np
import pytest

from cli_helpers import run, succeed
from dataset_helpers import make_frames, write_replica
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory
from mosaicmem.camera import formats
from mosaicmem.camera.formats import format_names, load_trajectory, register_format, save_trajectory
from mosaicmem.datasets import Replica, layout_names, layouts, open_sequence, register_layout

CAMERA = CameraIntrinsics(100.0, 100.0, 40.0, 24.0, 80, 48)


def words(text):
    """The text without the spaces and borders at which help is wrapped."""
    return "".join(text.replace("│", " ").split())


class TestFormats:
    @pytest.fixture
    def heights(self):
        """A format that stores only the heights of the cameras."""

        def read(path, options):
            return CameraTrajectory([CameraPose.look_at([0, -h, 0], [0, 0, 9]) for h in np.loadtxt(path)], CAMERA)

        def write(path, trajectory):
            np.savetxt(path, -trajectory.world_from_camera[:, 1, 3])

        register_format("heights", read, write)
        yield
        del formats.FORMATS["heights"]

    def test_one_of_your_own(self, tmp_path, heights):
        (tmp_path / "a.txt").write_text("1.0\n2.5\n")
        path = load_trajectory(tmp_path / "a.txt", "heights")
        assert path[1].position.tolist() == [0, -2.5, 0]
        save_trajectory(tmp_path / "b.txt", path, "heights")
        np.testing.assert_allclose(np.loadtxt(tmp_path / "b.txt"), [1, 2.5])

    def test_names_are_known_to_the_command(self):
        text = words(run("convert", "--help").stdout)
        assert [name for name in format_names() if words(name) not in text] == []

    def test_a_name_that_is_taken(self):
        with pytest.raises(ValueError, match="name: expected one that is free, got 'tum'"):
            register_format("tum", None, None)


class TestLayouts:
    def test_one_of_your_own(self, tmp_path, rng):
        """The layout of Replica, except for the name of one file."""
        write_replica(tmp_path / "scene", make_frames(rng, 3))
        (tmp_path / "scene" / "traj.txt").rename(tmp_path / "scene" / "poses.txt")

        def ours(folder, intrinsics=None):
            (folder / "traj.txt").write_bytes((folder / "poses.txt").read_bytes())
            return Replica(folder, intrinsics=intrinsics)

        register_layout("Ours", ("poses.txt", "results"), ours)
        try:
            assert layout_names()[-1] == "Ours"
            assert len(open_sequence(tmp_path / "scene")) == 3
            succeed("export-ply", "--scene", tmp_path / "scene", "-o", tmp_path / "cloud.ply")
        finally:
            layouts._LAYOUTS.pop()

    def test_names_are_known_to_the_commands(self):
        for command in ("evaluate", "generate", "export-ply"):
            text = words(run(command, "--help").stdout)
            assert [name for name in layout_names() if words(name) not in text] == []

    def test_a_name_that_is_taken(self):
        with pytest.raises(ValueError, match="name: expected one that is free, got 'Replica'"):
            register_layout("Replica", (), None)
