"""Outputs of commands never overwrite an input, through any kind of link, and their suffixes match their formats."""

import os
import shutil

import pytest

from cli_helpers import run
from mosaicmem.cli._common import check_apart
from mosaicmem.cli._errors import UsageError


@pytest.fixture
def path(tmp_path, memory):
    """A camera path that only this test uses."""
    shutil.copy(memory / "path.json", tmp_path / "path.json")
    return tmp_path / "path.json"


@pytest.fixture
def store(tmp_path, memory):
    shutil.copytree(memory / "store", tmp_path / "store")
    return tmp_path / "store"


class TestApart:
    def links(self, tmp_path):
        """Hard and symbolic links to tmp_path / a, to its file, and out of it."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_text("dear")
        os.link(tmp_path / "a" / "file", tmp_path / "hard")
        (tmp_path / "soft").symlink_to(tmp_path / "a" / "file")
        (tmp_path / "folder").symlink_to(tmp_path / "a")
        (tmp_path / "outside").write_text("dear")
        (tmp_path / "a" / "in").symlink_to(tmp_path / "outside")
        return tmp_path / "a"

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("a/file", "a/file"),
            ("hard", "a/file"),
            ("a/file", "hard"),
            ("soft", "a/file"),
            ("hard", "soft"),
            ("a/../a/file", "folder/file"),
            ("a", "folder/file"),
            ("folder", "a/file"),
            ("a", "soft"),
            ("a", "a/in"),
            ("a/new", "folder"),
            ("folder/new/newer", "a"),
        ],
    )
    def test_the_same_place(self, tmp_path, written, read):
        self.links(tmp_path)
        with pytest.raises(UsageError, match="--output, --memory: expected places apart"):
            check_apart({"--output": tmp_path / written}, {"--memory": tmp_path / read})

    @pytest.mark.parametrize(("written", "read"), [("b", "a"), ("outside", "a"), ("ab", "a"), ("b/file", "a/file")])
    def test_other_places(self, tmp_path, written, read):
        self.links(tmp_path)
        check_apart({"--output": tmp_path / written}, {"--memory": tmp_path / read, "--config": None})

    def test_an_output_may_lie_within_the_folder_of_a_scene(self, tmp_path):
        check_apart({"--output": tmp_path / "out"}, {"--scene": tmp_path})
        with pytest.raises(UsageError, match="--output, --scene"):
            check_apart({"--output": tmp_path}, {"--scene": tmp_path / "scene"})


class TestSourcesSurvive:
    def check(self, kept, *arguments):
        before = {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()} if kept.is_dir() else kept.read_bytes()
        done = run(*arguments, "--force")
        assert done.returncode == 2, done.stderr
        assert "expected places apart" in done.stderr
        after = {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()} if kept.is_dir() else kept.read_bytes()
        assert after == before

    def test_convert(self, tmp_path, path):
        os.link(path, tmp_path / "hard.json")
        (tmp_path / "soft.json").symlink_to(path)
        for target in (path, tmp_path / "hard.json", tmp_path / "soft.json", tmp_path / "x" / ".." / "path.json"):
            self.check(path, "convert", path, target)
        self.check(path, "convert", path, target, "--to", "nerfstudio")

    def test_convert_a_model(self, tmp_path, path):
        model = tmp_path / "model"
        assert run("convert", path, model, "--to", "colmap").returncode == 0
        for target, kind in ((model, "colmap"), (model, "colmap-binary"), (model / "images.txt", "tum")):
            self.check(model, "convert", model, target, "--to", kind)

    def test_files_beside_the_main_input(self, tmp_path, path, store, scene):
        out = tmp_path / "out"
        assert run("generate", "--scene", scene, "--frames", "0:2", "-o", out).returncode == 0
        walk = ["--scene", scene, "--memory-frames", "0:2"]
        self.check(out, "generate", *walk, "--trajectory", out / "trajectory.json", "-o", out)
        self.check(out, "generate", *walk, "--frames", "2:4", "--config", out / "config.json", "-o", out)
        self.check(out, "generate", *walk, "--frames", "2:4", "--depth-files", out / "frames", "-o", out)
        self.check(store, "visualize", store, "-o", store)
        self.check(store, "visualize", store, "-o", store / "pictures")
        self.check(store, "splice", store, store, "-o", tmp_path / "both", "--picture", store / "a.png")
        self.check(store, "export-ply", "--store", store, "-o", store / "a.ply")
        self.check(out, "evaluate", "--scene", "synthetic", "--config", out / "config.json", "-o", out)
        self.check(out, "demo", "--config", out / "config.json", "-o", out)
        self.check(path, "bench", "--config", path, "-o", path)


class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "ending"),
        [
            (["export-ply", "--store", "STORE", "-o", "a.obj"], ".ply"),
            (["export-ply", "--store", "STORE", "-o", "cloud"], ".ply"),
            (["splice", "STORE", "STORE", "-o", "both", "--picture", "a.jpg"], ".png or .svg"),
            (["bench", "-o", "figures.csv"], ".json"),
            (["convert", "PATH", "a.npz", "--to", "nerfstudio"], ".json"),
            (["convert", "PATH", "a.json", "--to", "kitti"], ".txt"),
            (["convert", "PATH", "a.json", "--to", "matrixgame"], ".npz"),
        ],
    )
    def test_files_end_as_they_should(self, tmp_path, store, path, arguments, ending):
        before = sorted(tmp_path.iterdir())
        names = {"STORE": store, "PATH": path}
        done = run(*(names.get(a, a) for a in arguments), cwd=tmp_path)
        assert f"expected a name that ends in {ending}" in done.stderr
        assert done.returncode == 2
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("option", ["--output", "--save-memory"])
    def test_folders_do_not(self, tmp_path, option):
        names = {"--output": "out", "--save-memory": "memory", option: "flat.mp4"}
        done = run("demo", *(word for pair in names.items() for word in pair), cwd=tmp_path)
        assert f"{option}: expected a folder, got flat.mp4" in done.stderr
        assert done.returncode == 2
        assert not list(tmp_path.iterdir())

    def test_upper_case_is_the_same(self, tmp_path, store):
        assert run("export-ply", "--store", store, "-o", tmp_path / "A.PLY").returncode == 0
