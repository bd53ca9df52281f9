"""Leave and return: what is measured, and that the required figures are reached."""

import importlib.util
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cli_helpers import run, succeed
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, PatchMemory
from mosaicmem.datasets import RgbdImage, SevenScenes, SyntheticWalk, open_sequence
from mosaicmem.evaluation import (
    Baseline,
    Canvases,
    Composer,
    Noise,
    common_cells,
    evaluate_composition,
    forgetting_curve,
    grid_frames,
    image_metrics,
    seconds_since_seen,
)
from mosaicmem.evaluation.frames import cropped
from mosaicmem.evaluation.image_metrics import lpips_where, psnr_where, ssim_where

pytest.importorskip("skimage")

STRIDE = 16


class Wall:
    """Frames of a wall at 3 m from cameras side by side; the colour encodes the time."""

    intrinsics = CameraIntrinsics(100.0, 100.0, 80.0, 64.0, 163, 130)

    def __init__(self, places):
        self.places = places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        pose = CameraPose.look_at([self.places[index], 0, 0], [self.places[index], 0, 3], timestamp=float(index))
        image = np.full((130, 163, 3), 5 * index, np.uint8)
        return RgbdImage(image, np.full((130, 163), 3, np.float32), pose, 100 + index)


@pytest.fixture(scope="module")
def walk():
    """Every third frame of a walk, and five targets of its way back."""
    sequence = SyntheticWalk(96)
    camera = cropped(sequence.intrinsics, STRIDE)
    return grid_frames(sequence, range(0, 48, 3), STRIDE), grid_frames(sequence, range(64, 85, 5), STRIDE), camera


class TestFrames:
    def test_pooling_and_cropping(self):
        source = SyntheticWalk(4)
        frame = grid_frames(source, [2], 7)[0]
        truth = source[2]
        assert frame.colors.shape == (480 // 7, 640 // 7, 3)
        np.testing.assert_allclose(frame.colors[3, 5], truth.image[21:28, 35:42].mean(axis=(0, 1)) / 255, rtol=1e-5)
        assert frame.depth[3, 5] == pytest.approx(np.median(truth.depth[21:28, 35:42]))
        assert frame.farthest[3, 5] == truth.depth[21:28, 35:42].max()
        assert (frame.number, frame.pose) == (2, truth.pose)
        assert cropped(source.intrinsics, 7).params == source.intrinsics.params

    def test_noise_is_that_of_the_seed_and_the_frame(self):
        source = Wall([0.0, 0.1, 0.2])
        exact = grid_frames(source, [1], STRIDE)[0]
        noisy = [grid_frames(source, frames, STRIDE, Noise(0.02, 0.05, 0.01, seed=3)) for frames in ([1], [0, 1])]
        np.testing.assert_array_equal(noisy[0][0].depth, noisy[1][1].depth)
        assert 0.001 < np.abs(noisy[0][0].pixel_depth / exact.pixel_depth - 1).mean() < 0.06
        moved = np.linalg.inv(exact.pose.world_from_camera) @ noisy[0][0].pose.world_from_camera
        assert 0.005 < np.linalg.norm(moved[:3, 3]) < 0.3
        assert 1e-3 < np.arccos((np.trace(moved[:3, :3]) - 1) / 2) < 0.05
        np.testing.assert_array_equal(grid_frames(source, [1], STRIDE, Noise())[0].depth, exact.depth)

    def test_a_stride_beyond_the_image_is_refused(self):
        with pytest.raises(ValueError, match="stride: expected at most 130, the shorter side of the image, got 200"):
            grid_frames(Wall([0.0]), [0], 200)


class TestMetrics:
    def test_psnr_of_the_cells_that_count(self):
        truth = np.full((8, 9, 3), 0.5, np.float32)
        image, counts = truth + np.float32(0.1), np.zeros((8, 9), bool)
        image[4:], counts[:4] = 0, True
        assert psnr_where(image, truth, counts) == pytest.approx(20, abs=1e-4)
        assert math.isnan(psnr_where(image, truth, np.zeros((8, 9), bool)))
        assert psnr_where(truth, truth, counts) == math.inf

    def test_ssim_does_not_see_what_does_not_count(self, rng):
        truth = rng.random((20, 30, 3), dtype=np.float32)
        counts = np.zeros((20, 30), bool)
        counts[:, :15] = True
        image = np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
        with_rubbish = np.where(counts[..., None], image, 1 - truth)
        assert ssim_where(with_rubbish, truth, counts) == pytest.approx(ssim_where(image, truth, counts), abs=0.02)
        assert ssim_where(truth, truth, counts) == pytest.approx(1)
        assert 0.3 < ssim_where(image, truth, counts) < 0.99
        assert math.isnan(ssim_where(image[:5], truth[:5], counts[:5]))

    @pytest.fixture
    def fresh_lpips(self):
        image_metrics._lpips_network.cache_clear()
        yield
        image_metrics._lpips_network.cache_clear()

    def test_lpips_is_left_out_where_it_is_not_installed(self, monkeypatch, fresh_lpips):
        monkeypatch.setattr(image_metrics.importlib.util, "find_spec", lambda name: None)
        truth = np.zeros((8, 8, 3), np.float32)
        assert math.isnan(lpips_where(truth, truth, np.ones((8, 8), bool)))

    def test_lpips_is_left_out_where_its_weights_are_not_to_be_had(self, monkeypatch, fresh_lpips):
        def refuse(**options):
            raise OSError("no network")

        monkeypatch.setattr(image_metrics.importlib.util, "find_spec", lambda name: True)
        monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=refuse))
        truth = np.zeros((8, 8, 3), np.float32)
        with pytest.warns(UserWarning, match="its weights are not to be had .no network."):
            assert math.isnan(lpips_where(truth, truth, np.ones((8, 8), bool)))


class TestComposition:
    def test_scores_are_of_what_was_composed(self):
        """A known composition: half of the cells covered, colours off by 0.1, half of the covered cells too deep."""
        camera = cropped(Wall.intrinsics, STRIDE)
        targets = grid_frames(Wall([0.0] * 30), range(30), STRIDE)

        def compose(window):
            truth = np.stack([targets[int(pose.timestamp)].colors for pose in window])
            covered = np.zeros(truth.shape[:3], bool)
            covered[:, :4] = True
            depth = np.where(np.arange(10) < 5, 3.0, 3.3).astype(np.float32) + np.zeros_like(covered, np.float32)
            return Canvases(truth + np.float32(0.1), covered, depth, 7.0, 0.002, 0.003)

        result = evaluate_composition(compose, targets, camera)
        assert result.coverage.shape == (30, 8, 10)
        assert [score.number for score in result.scores] == list(range(100, 130))
        assert result.psnr == pytest.approx(20, abs=1e-3)
        assert result.mean("psnr") == pytest.approx(20, abs=1e-3)
        assert result.mean("coverage") == 0.5
        assert result.mean("occlusion_error") == 0.5
        assert (result.keyframes, result.choose_milliseconds, result.compose_milliseconds) == (7, 2, 3)

    @pytest.mark.parametrize("strategy", ["visible_coverage", "top_k", "pose_nearest", "coverage"])
    @pytest.mark.parametrize("composition", ["blend", "backward", "pixels", "near", "far"])
    def test_every_strategy_with_every_composition(self, walk, strategy, composition):
        memory, targets, camera = walk
        if strategy == "top_k" and composition in ("pixels", "near", "far"):
            with pytest.raises(ValueError, match="composition: expected blend or backward for patches of top_k"):
                Composer(memory, camera, STRIDE, strategy, composition)
            return
        result = evaluate_composition(Composer(memory, camera, STRIDE, strategy, composition), targets, camera)
        assert result.psnr > 20
        assert result.mean("coverage") > 0.6
        assert 1 <= result.keyframes <= 21
        assert math.isnan(result.mean("occlusion_error")) == (composition in ("near", "far"))

    @pytest.mark.parametrize(
        ("policy", "strategy", "composition"), [("base", "pose_nearest", "near"), ("distilled", "coverage", "far")]
    )
    def test_published_rules_are_those_of_the_patch_memory(self, walk, policy, strategy, composition):
        memory, targets, camera = walk
        window = CameraTrajectory([frame.pose for frame in targets], camera)
        canvases = Composer(memory, camera, STRIDE, strategy, composition)(window)
        rules = PatchMemory(policy)
        rules.append(
            np.stack([frame.colors for frame in memory]).transpose(3, 0, 1, 2),
            np.stack([frame.pose.camera_from_world for frame in memory]),
            np.tile(camera.matrix, (len(memory), 1, 1)),
            np.stack([frame.pixel_depth for frame in memory]),
        )
        poses = np.repeat(window.camera_from_world, 4, axis=0)
        colors, valid = rules.fuse_candidates(poses, rules.select_candidate_frame_ids(poses))
        np.testing.assert_array_equal(canvases.colors, np.moveaxis(colors, 0, -1))
        np.testing.assert_array_equal(canvases.coverage, valid)

    def test_published_rules_are_for_their_stride_and_never_forget(self, walk):
        memory, _, camera = walk
        with pytest.raises(ValueError, match="stride: expected 16, which near is made for, got 8"):
            Composer(memory, camera, 8, composition="near")
        with pytest.raises(
            ValueError, match="max_bytes: expected no limit for coverage, which never forgets, got 1000"
        ):
            Composer(memory, camera, STRIDE, "coverage", max_bytes=1000)

    @pytest.mark.parametrize("composition", ["blend", "backward", "pixels"])
    def test_the_synthetic_world_comes_back(self, walk, composition):
        memory, targets, camera = walk
        result = evaluate_composition(Composer(memory, camera, STRIDE, composition=composition), targets, camera)
        assert result.psnr > 27
        assert result.mean("coverage") > 0.885
        assert result.mean("occlusion_error") < 0.005

    def test_a_real_room_comes_back_sharper_once_its_cameras_are_known(self, rgbd_scene):
        """The colour camera's focal length, pixels in place of cells, and depth continued to the image's border."""
        scores = []
        for color_focal, composition, reach in (
            (None, "blend", 0),
            ("estimate", "blend", 8),
            ("estimate", "pixels", 8),
        ):
            sequence = open_sequence(rgbd_scene, color_focal=color_focal)
            camera = cropped(sequence.intrinsics, STRIDE)
            memory = grid_frames(sequence, [*range(50), *range(71, 100)], STRIDE)
            targets = grid_frames(sequence, range(50, 71, 4), STRIDE)
            compose = Composer(memory, camera, STRIDE, composition=composition, extend_depth=reach)
            scores.append(evaluate_composition(compose, targets, camera, fill=compose.mean_color))
        given, blend, pixels = scores
        assert blend.psnr_all > given.psnr_all + 1
        assert pixels.psnr_all > blend.psnr_all + 0.3
        assert pixels.mean("edges") == pytest.approx(1, abs=0.1)
        assert min(blend.mean("coverage"), pixels.mean("coverage")) > 0.95

    def test_a_real_room_comes_back(self, rgbd_scene):
        """Better than the published rules in both quality and coverage."""
        sequence = SevenScenes(rgbd_scene)
        camera = cropped(sequence.intrinsics, STRIDE)
        memory = grid_frames(sequence, [*range(35), *range(66, 100)], STRIDE)
        targets = grid_frames(sequence, range(40, 61, 2), STRIDE)
        ours = evaluate_composition(Composer(memory, camera, STRIDE), targets, camera)
        assert ours.keyframes <= 16
        assert ours.mean("coverage") > 0.95
        for strategy, composition in (("pose_nearest", "near"), ("coverage", "far")):
            published = evaluate_composition(Composer(memory, camera, STRIDE, strategy, composition), targets, camera)
            assert ours.psnr > published.psnr + 1
            assert ours.mean("coverage") > published.mean("coverage") + 0.1


class TestScores:
    """Figures of all cells, of common cells, and of edges, on canvases whose errors are known."""

    def frames(self):
        return grid_frames(SyntheticWalk(4), range(2), STRIDE), cropped(SyntheticWalk(4).intrinsics, STRIDE)

    def shown(self, targets, colors, covered):
        frames, camera = targets
        return evaluate_composition(
            lambda window: Canvases(colors, covered, None, 1.0), frames, camera, fill=np.full(3, 0.25)
        )

    def test_what_is_not_covered_counts_as_the_fill(self):
        targets = self.frames()
        truth = np.stack([frame.colors for frame in targets[0]])
        covered = np.zeros(truth.shape[:3], bool)
        covered[:, ::2] = True
        result = self.shown(targets, truth, covered)
        off = np.where(covered[..., None], 0, truth - 0.25)
        assert result.psnr_all == pytest.approx(-10 * np.log10((off**2).mean()), abs=1e-3)
        assert result.psnr > 100  # over what is covered, nothing is wrong
        assert result.mean("ssim_all") < 1

    def test_common_cells_are_those_of_all(self):
        targets = self.frames()
        truth = np.stack([frame.colors for frame in targets[0]])
        half, whole = np.zeros(truth.shape[:3], bool), np.ones(truth.shape[:3], bool)
        half[:, :, :5] = True
        off = truth.copy()
        off[:, :, 5:] += 0.3  # wrong where the other shows nothing
        off[:, :, :5] += 0.1
        results = [self.shown(targets, truth + np.float32(0.1), half), self.shown(targets, off, whole)]
        assert common_cells(results, targets[0]) == [pytest.approx(20, abs=1e-3)] * 2
        assert results[1].psnr < 15

    def test_edges_are_those_of_the_truth_blurred_or_made_up(self):
        targets = self.frames()
        truth = np.stack([frame.colors for frame in targets[0]])
        whole = np.ones(truth.shape[:3], bool)
        grey = truth.mean(axis=(1, 2), keepdims=True)
        for factor in (0.5, 1.0, 1.5):
            result = self.shown(targets, (grey + factor * (truth - grey)).astype(np.float32), whole)
            assert result.mean("edges") == pytest.approx(factor, rel=1e-4)
        assert math.isnan(self.shown(targets, truth, ~whole).mean("edges"))


class TestBaselines:
    def test_from_the_same_place_they_show_the_same(self, walk):
        memory, _, camera = walk
        for name in ("copy", "warp", "plain"):
            result = evaluate_composition(Baseline(name, memory, camera, STRIDE), memory[:2], camera)
            assert result.psnr > 25, name
            assert result.mean("coverage") > 0.99

    def test_memory_is_ahead_of_them_over_all_cells(self, walk):
        memory, targets, camera = walk
        compose = Composer(memory, camera, STRIDE, composition="pixels")
        fill = compose.mean_color
        ours = evaluate_composition(compose, targets, camera, fill=fill)
        for name in ("copy", "warp", "plain"):
            theirs = evaluate_composition(Baseline(name, memory, camera, STRIDE), targets, camera, fill=fill)
            assert ours.psnr_all > theirs.psnr_all, name

    def test_a_warped_wall_is_where_it_should_be(self):
        """The camera moves half a metre before a wall at 3 m: its colours, those of time, move by a sixth of f."""
        camera = cropped(Wall.intrinsics, STRIDE)
        memory = grid_frames(Wall([0.0]), [0], STRIDE)
        target = CameraTrajectory([CameraPose.look_at([0.48, 0, 0], [0.48, 0, 3])], camera)
        shown = Baseline("warp", memory, camera, STRIDE)(target)
        assert shown.coverage[0, :, :9].all()
        assert not shown.coverage[0, :, 9:].any()
        np.testing.assert_allclose(shown.depth[0, :, :9], 3, rtol=1e-5)

    def test_a_fused_surface(self, walk):
        memory, targets, camera = walk
        pytest.importorskip("open3d")
        result = evaluate_composition(Baseline("tsdf", memory, camera, STRIDE), targets[:1], camera)
        assert result.psnr > 20

    def test_others_are_refused(self, walk):
        memory, _, camera = walk
        with pytest.raises(ValueError, match="name: expected one of copy, warp, plain, tsdf"):
            Baseline("nerf", memory, camera, STRIDE)
        with pytest.raises(ValueError, match="memory: expected at least one frame"):
            Baseline("copy", [], camera, STRIDE)
        if importlib.util.find_spec("open3d") is None:
            with pytest.raises(ModuleNotFoundError, match="pip install open3d"):
                Baseline("tsdf", memory, camera, STRIDE)


class TestForgetting:
    def test_ages_are_those_of_the_last_view(self):
        camera = cropped(Wall.intrinsics, STRIDE)
        source = Wall([0.0, 0.0, 1.5, 0.0])
        memory = grid_frames(source, range(3), STRIDE)
        target = grid_frames(source, [3], STRIDE)
        ages = seconds_since_seen(memory, target, camera, STRIDE)
        assert ages.shape == (1, 8, 10)
        assert (ages[0, :, 0] == 2).all()  # last seen by frame 1
        assert (ages[0, :, -1] == 1).all()  # frame 2 stands to the right
        later = grid_frames(source, [0], STRIDE)  # frames after the target do not count as seen
        assert np.isinf(seconds_since_seen(memory[1:], later, camera, STRIDE)).all()
        elsewhere = grid_frames(Wall([0.0, 50.0]), [1], STRIDE)
        assert np.isinf(seconds_since_seen(elsewhere, target, camera, STRIDE)).all()

    def test_what_does_not_fit_into_the_budget_is_forgotten(self, walk):
        memory, targets, camera = walk
        ages = seconds_since_seen(memory, targets, camera, STRIDE)
        curves = []
        for limit in (300_000, None):
            compose = Composer(memory, camera, STRIDE, max_bytes=limit)
            result = evaluate_composition(compose, targets, camera)
            curves.append(forgetting_curve(result, targets, ages, [0, 2, 4, 8, math.inf]))
        small, whole = curves
        assert [part.cells for part in small] == [part.cells for part in whole]
        assert sum(part.cells for part in whole) < ages.size  # an age of inf falls into no bin
        oldest_small, oldest_whole = [[part for part in curve if part.cells][-1] for curve in curves]
        assert oldest_whole.coverage > 0.98
        assert oldest_small.coverage < oldest_whole.coverage - 0.05


class TestCommand:
    def test_writes_tables_figures_and_pictures(self, tmp_path):
        done = succeed(
            *("evaluate", "--scene", "synthetic", "--memory-frames", "0:40:8", "--frames", "90:118:9"),
            *("--strategy", "visible_coverage", "--strategy", "top_k", "--budgets", "0.2,4"),
            *("--depth-noise", "0.01", "--output", tmp_path / "out", "--plot", "--repeats", "1"),
        )
        assert "visible_coverage + blend" in done.stdout
        *tables, where = done.stdout.splitlines()
        assert max(map(len, tables)) <= 80
        assert str(tmp_path) in where
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert summary["memory_frames"] == [0, 8, 16, 24, 32]
        assert summary["noise"]["depth"] == 0.01
        assert [(each["strategy"], each["max_bytes"]) for each in summary["runs"]] == [
            ("visible_coverage", 200_000),
            ("visible_coverage", 4_000_000),
            ("top_k", 200_000),
            ("top_k", 4_000_000),
        ]
        for each in summary["runs"]:
            assert each["psnr"] > 15
            assert 0 < each["coverage"] <= 1
            assert len(each["targets"]) == 4
            assert sum(part["cells"] for part in each["forgetting"]) > 0
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"targets.png", "forgetting.png", "visible_coverage-blend-0.2MB.png", "top_k-blend-4MB.png"} < names
        with Image.open(tmp_path / "out" / "top_k-blend-4MB.png") as picture:
            assert picture.size[0] > 4 * 320  # four panels, and words around them
            assert picture.size[1] > 4 * 240

    def test_without_output_it_only_prints(self, tmp_path):
        done = succeed("evaluate", "--scene", "synthetic", "--memory-frames", "0:8:4", "--frames", "2:4", cwd=tmp_path)
        assert "PSNR" in done.stdout
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--scene", "synthetic", "--plot"], "--plot: expected --output too"),
            (["--scene", "synthetic", "--budgets", "1,x"], "--budgets: expected megabytes with commas between"),
            (
                ["--scene", "synthetic", "--budgets", "1", "--strategy", "coverage"],
                "--budgets: expected no limit for coverage",
            ),
            (["--scene", "nowhere", "--strategy", "best"], "--strategy: expected one of"),
            (
                ["--scene", "nowhere", "--strategy", "top_k", "--composition", "near"],
                "--composition: expected blend or",
            ),
            (["--scene", "synthetic", "--output", "."], "--output: expected a new place"),
            (["--scene", "nowhere", "--pose-noise", "inf"], "--pose-noise: expected a finite number"),
            (["--scene", "synthetic", "--frames", ""], "--frames: expected A:B or A:B:STEP"),
            (["--scene", "synthetic", "--frames", "9:5"], "--frames: expected 0 <= A < B <= 120"),
            (
                ["--scene", "synthetic", "--frames", "1:2", "--memory-frames", "0:1", "--stride", "900"],
                "--stride: expected at most",
            ),
        ],
    )
    def test_errors_are_one_line(self, arguments, message):
        done = run("evaluate", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.startswith("mosaicmem: error: ")
        assert done.stderr.count("\n") == 1
