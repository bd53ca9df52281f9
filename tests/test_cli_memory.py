"""The commands that read stores, paths and scenes: inspect, convert, visualize, splice, export-ply."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial import cKDTree

from cli_helpers import run, succeed
from memory_helpers import K, filled_store
from mosaicmem import CameraPose, CameraTrajectory, MosaicMemoryStore, PointCloud


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
        succeed("inspect", tmp_path / "store")  # without --verify, tensors are not checked
        failed = run("inspect", tmp_path / "store", "--verify")
        assert failed.returncode == 1
        assert failed.stderr.count("\n") == 1
        assert f"{path.name}: damaged: its content does not match" in failed.stderr
        assert "no folder of a store" in run("inspect", tmp_path / "nowhere").stderr


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
        assert run(*arguments).returncode == 1  # the output exists already
        succeed(*arguments, "--force", "--layout", "vertical", "--picture", tmp_path / "up.svg")
        assert (tmp_path / "up.svg").stat().st_size > 5_000
        assert MosaicMemoryStore.open(tmp_path / "both").bounds[1, 0] == pytest.approx(high[0])

    def test_other_folders_are_left_alone(self, tmp_path, memory):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "letters").write_text("dear")
        done = run("splice", memory / "store", memory / "store", "-o", tmp_path / "precious", "--force")
        assert "it has no manifest.json" in done.stderr
        assert (tmp_path / "precious" / "letters").read_text() == "dear"


def test_export_ply(tmp_path, scene):
    succeed("export-ply", "--scene", scene, "--frames", "0:4", "-o", tmp_path / "a.ply", "--voxel-size", 0.05)
    cloud = PointCloud.load_ply(tmp_path / "a.ply")
    assert len(cloud) > 500
    assert cloud.colors is not None
    assert cloud.normals is not None
    alone = succeed("export-ply", "--scene", scene, "--frames", "0:1", "-o", tmp_path / "one.ply")
    assert "poses and depth could not be compared: that takes two frames at least, got 1" in alone.stdout
    assert run("export-ply", "--scene", scene, "-o", tmp_path / "a.ply").returncode == 1
    succeed("export-ply", "--scene", scene, "-o", tmp_path / "a.ply", "--force", "--ascii")
    assert (tmp_path / "a.ply").read_bytes().startswith(b"ply\nformat ascii")


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
