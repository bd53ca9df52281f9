"""Every command numbers frames by position, from 0, and shows the numbers of their files beside."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from cli_helpers import run
from mosaicmem.cli._captions import captioned_sheet
from mosaicmem.cli._errors import UsageError
from mosaicmem.cli._frames import caption_of, parse_list, parse_range, selected

SELECTION = ["--memory-frames", "0:8", "--frames", "8:12:2"]


class TestSelection:
    @pytest.mark.parametrize(
        ("text", "frames"), [(":", [0, 1, 2, 3]), ("1:", [1, 2, 3]), (":3:2", [0, 2]), ("3:4", [3]), ("0:4:9", [0])]
    )
    def test_ranges(self, text, frames):
        assert list(parse_range("--frames", text, 4)) == frames

    @pytest.mark.parametrize(
        "text", ["", "1", "2:1", "1:1", "0:5", "-1:2", "0:2:0", "0:2:-1", "a:b", "0:1:1:1", "0:1.5"]
    )
    def test_what_is_no_range_of_theirs(self, text):
        with pytest.raises(UsageError, match="--frames: expected"):
            parse_range("--frames", text, 4)

    def test_numbers_of_files_are_told_from_positions(self):
        with pytest.raises(UsageError, match="by position, 0 to 99, not by the numbers of their files, 0 to 396"):
            parse_range("--frames", "240:400:16", 100, lambda i: 4 * i)
        with pytest.raises(UsageError) as error:
            parse_range("--frames", "240:400:16", 100, lambda i: i)
        assert "numbers of their files" not in str(error.value)

    def test_lists_take_ranges_too(self):
        assert parse_list("--frames", "3,0,3", 4) == [0, 3]
        assert parse_list("--frames", "0:4:2", 4) == [0, 2]
        with pytest.raises(UsageError, match="from 0 to 3 with commas"):
            parse_list("--frames", "4", 4)

    def test_words(self):
        assert selected(range(60, 100, 4), list(range(240, 400, 16))) == "10 frames, 60 to 96 (files 240 to 384)"
        assert selected([3], None) == "frame 3"
        assert selected([], None) == "no frames"
        assert caption_of(60, 240) == "frame 60 (file 240)"
        assert caption_of(60, 60) == "frame 60"


class TestEveryCommandSaysTheSame:
    """The files of the scene are numbered 0, 4, 8, ..."""

    def test_generate_and_evaluate(self, tmp_path, scene):
        made = run("generate", "--scene", scene, *SELECTION, "-o", tmp_path / "out")
        generated = json.loads((tmp_path / "out" / "summary.json").read_text())
        compared = run("evaluate", "--scene", scene, *SELECTION, "--stride", "8", "--json")
        evaluated = json.loads(compared.stdout)
        for targets in (generated["targets"]["frames"], evaluated["runs"][0]["targets"]):
            assert [(each["frame"], each["number"]) for each in targets] == [(8, 32), (10, 40)]
        for summary in (generated, evaluated):
            assert summary["memory_frames"] == list(range(8))
            assert summary["memory_numbers"] == list(range(0, 32, 4))
        assert (evaluated["target_frames"], evaluated["target_numbers"]) == ([8, 10], [32, 40])
        assert [each["output_frame"] for each in generated["targets"]["frames"]] == [0, 1]
        said = "8 frames, 0 to 7 (files 0 to 28)"
        assert said in made.stdout
        assert "2 frames, 8 to 10 (files 32 to 40)" in made.stdout
        assert re.search(r"^ *8 +32 .*\n *10 +40 ", made.stdout, re.MULTILINE)
        assert said in run("evaluate", "--scene", scene, *SELECTION, "--stride", "8").stdout

    def test_export(self, tmp_path, scene):
        done = run("export-ply", "--scene", scene, "--frames", "2:6", "-o", tmp_path / "a.ply")
        assert "of 4 frames, 2 to 5 (files 8 to 20) in" in done.stdout

    def test_real_numbering(self, tmp_path, rgbd_scene):
        """Files are numbered 0, 4, ..., 396: position 60 is file 240, and there is no position 240."""
        done = run("export-ply", "--scene", rgbd_scene, "--frames", "60:62", "-o", tmp_path / "a.ply")
        assert "2 frames, 60 to 61 (files 240 to 244)" in done.stdout
        done = run("export-ply", "--scene", rgbd_scene, "--frames", "240:244", "-o", tmp_path / "b.ply")
        assert done.returncode == 2
        assert "0 to 99, not by the numbers of their files, 0 to 396" in done.stderr

    def test_a_path_counts_from_0(self, tmp_path, memory):
        pytest.importorskip("matplotlib")
        view = ["--trajectory", memory / "path.json"]
        rows = json.loads(run("inspect", memory / "store", *view, "--coverage", "--json").stdout)["coverage"]
        assert [row["frame"] for row in rows] == [0, 1]
        run("visualize", memory / "store", *view, "--frames", "1:2", "-o", tmp_path / "out")
        assert {p.name for p in (tmp_path / "out").glob("view-*")} == {"view-000001.png"}


class TestFromNothing:
    def test_a_path_alone(self, tmp_path, memory):
        arguments = ["generate", "--trajectory", memory / "path.json", "--set", "keyframe_interval=1"]
        done = run(*arguments, "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert "Memory begins empty: the first window is made up" in done.stdout
        assert "What memory covered of the views" in done.stdout
        assert re.search(r"^ *0 +0 to 1 +0\.0 % +0\.0 % +0\.0 % +0 +2$", done.stdout, re.MULTILINE)
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["coverage"] == 0
        assert summary["memory_frames"] == []
        assert len(list((tmp_path / "out" / "frames").iterdir())) == 2

    def test_coverage_of_a_path_is_printed(self, tmp_path, memory):
        arguments = ["generate", "--memory", memory / "store", "--trajectory", memory / "path.json"]
        done = run(*arguments, "-o", tmp_path / "out")
        coverage = json.loads((tmp_path / "out" / "summary.json").read_text())["coverage"]
        assert coverage > 0.1
        assert f"{100 * coverage:.1f} %" in done.stdout
        assert f"Memory begins with {memory / 'store'}." in done.stdout

    def test_something_must_say_where_to_go(self, tmp_path):
        done = run("generate", "-o", tmp_path / "out")
        assert "--frames, --trajectory: expected exactly one of the two" in done.stderr
        assert done.returncode == 2


class TestPictures:
    """Pictures and pages explain themselves."""

    def test_a_sheet_has_room_for_its_words(self):
        cell = np.zeros((20, 60, 3), np.float32)
        sheet = captioned_sheet("A title", ["one", "two"], ["a row"], [[cell, cell + 0.5]], ["A note."])
        bare = captioned_sheet("", ["", ""], [""], [[cell, cell + 0.5]])
        assert sheet.shape[0] > bare.shape[0] > 20
        assert sheet.shape[1] > bare.shape[1] > 120
        assert ((sheet > 0.1) & (sheet < 0.2)).any()  # text was drawn
        narrow = captioned_sheet("", ["words that are wider than their column"], [""], [[cell]])
        assert narrow.shape[0] > bare.shape[0] + 15

    def test_figures_name_axes_units_and_colours(self, memory):
        pytest.importorskip("matplotlib")
        from mosaicmem import CameraTrajectory, MosaicMemoryStore
        from mosaicmem.plots import plot_coverage, plot_retrieved, plot_top_down

        store, path = MosaicMemoryStore.open(memory / "store"), CameraTrajectory.load(memory / "path.json")
        words = said(plot_top_down(store, path))
        assert {"x, metres", "z, metres", "cameras of observed keyframes", "path, and some of its cameras"} <= words
        assert any("Colours: of the scene" in text for text in words)
        words = said(plot_coverage(np.ones((2, 3, 4), bool), np.array([0.0, 1.0])))
        assert {"covered, %", "time, s", "column of the latent grid", "row"} <= words
        words = said(plot_retrieved(store, path, 1, 8))
        assert {"u, pixels", "v, pixels", "depth, metres"} <= words
        assert any(text.startswith("Frame 1 of the path, at") and "white: not in memory" in text for text in words)

    def test_tilted_axes_say_so(self):
        from mosaicmem.plots import _axis_name

        assert _axis_name(np.array([0.0, 0.0, -1.0])) == "-z, metres"
        assert _axis_name(np.array([0.9848, 0.1736, 0.0])) == "x, metres (tilted by 10 degrees)"

    def test_the_page(self, tmp_path, memory):
        pytest.importorskip("matplotlib")
        view = ["--trajectory", memory / "path.json", "--frames", "1"]
        done = run("visualize", memory / "store", *view, "--html", "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "out" / "index.html").read_text()
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
        assert re.search(r"body \{[^}]*padding: 1", page)
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
        assert captions == re.findall(r'<img alt="(.*?)"', page)
        assert len(captions) == 3
        assert all(len(caption) > 100 for caption in captions)
        assert "Frame 1 of the path" in captions[2]
        assert "red line is the path" in captions[0]
        assert re.search(r"covered of the path.*?s views</th><td>[0-9.]+ %, mean of 2 frames", page)

    def test_an_evaluation(self, tmp_path, scene):
        pytest.importorskip("matplotlib")
        done = run("evaluate", "--scene", scene, *SELECTION, "--stride", "8", "--plot", "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / "out" / "visible_coverage-blend.png") as picture:
            pixels = np.asarray(picture)
        assert (pixels[:25, :300] < 80).any()  # a title
        assert pixels.shape[1] > 4 * 320 + 60  # names of rows


def said(figure):
    """All texts of a figure."""
    import matplotlib.text

    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}
