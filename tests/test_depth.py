import numpy as np
import pytest
from PIL import Image

from mosaicmem import (
    CameraPose,
    DepthCompletion,
    DepthEstimator,
    DepthFromFiles,
    FormatError,
    SuspiciousInput,
    SyntheticDepthEstimator,
)
from mosaicmem.geometry import fit_scale

IMAGE = np.zeros((48, 80, 3), dtype=np.float32)


def test_synthetic_depth_is_that_of_the_world(world, small_camera):
    pose = CameraPose.look_at([-1, -1.5, 0], [-4, -1.5, 0])
    known = np.zeros((48, 80), dtype=np.float32)
    estimator = SyntheticDepthEstimator(world)
    assert isinstance(estimator, DepthEstimator)
    exact = estimator.estimate(IMAGE, small_camera, pose, known)
    np.testing.assert_array_equal(exact, world.render(small_camera, pose).depth)
    noisy = SyntheticDepthEstimator(world, relative_noise=0.1, seed=3).estimate(IMAGE, small_camera, pose, known)
    assert np.std(noisy / exact - 1) == pytest.approx(0.1, rel=0.1)


class TestCompletion:
    def test_known_depth_is_kept_and_holes_stay_within_its_range(self, small_camera, rng):
        known = rng.uniform(1, 3, (48, 80)).astype(np.float32)
        known[rng.random(known.shape) < 0.7] = 0
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        np.testing.assert_array_equal(filled[known > 0], known[known > 0])
        assert filled.min() >= 1 - 1e-5
        assert filled.max() <= 3 + 1e-5

    def test_one_known_pixel_fills_everything(self, small_camera):
        known = np.zeros((48, 80), dtype=np.float32)
        known[3, 77] = 2.5
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        np.testing.assert_allclose(filled, 2.5, rtol=1e-6)

    def test_a_slope_is_continued_smoothly_over_a_hole(self, small_camera):
        slope = np.tile(np.linspace(1, 3, 80, dtype=np.float32), (48, 1))
        known = slope.copy()
        known[20:28, 30:38] = 0
        filled = DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known)
        assert np.abs(filled - slope).max() < 0.1

    def test_nothing_known_gives_a_plane(self, small_camera):
        filled = DepthCompletion(4.0).estimate(IMAGE, small_camera, CameraPose(), np.zeros((48, 80), np.float32))
        assert (filled == 4.0).all()

    def test_what_is_not_known_depth(self, small_camera):
        known = np.full((48, 80), np.inf, np.float32)
        known[:, 0], known[0, 0] = 2.0, np.nan
        assert (DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), known) == 2).all()
        with pytest.raises(TypeError, match="known_depth: expected metres"):
            DepthCompletion().estimate(IMAGE, small_camera, CameraPose(), np.zeros((48, 80), np.uint16))


def worse_than_least_squares(fit, predicted, known):
    """The mean relative error of a fit, divided by that of the ordinary least squares line."""

    def error(scale, shift):
        return np.mean(np.abs(scale * predicted + shift - known) / known)

    return (error(*fit[:2]) + 1e-9) / (error(*np.polyfit(predicted, known, 1)) + 1e-9)


class TestFit:
    """Scale and shift by robust least squares."""

    def test_exact_data(self, rng):
        predicted = rng.uniform(0.5, 4, 500)
        fit = fit_scale(predicted, 2.5 * predicted + 0.3)
        np.testing.assert_allclose(fit[:2], (2.5, 0.3), rtol=1e-9)
        fit = fit_scale(predicted, 2.5 * predicted, with_shift=False)
        assert fit.scale == pytest.approx(2.5, rel=1e-12)
        assert fit.shift == 0
        assert fit.inliers == 1

    @pytest.mark.parametrize("with_shift", [True, False])
    def test_40_percent_of_outliers(self, rng, with_shift):
        predicted = rng.uniform(0.5, 4, (40, 50))
        known = 1.7 * predicted + (0.4 if with_shift else 0) + rng.normal(0, 0.01, predicted.shape)
        known[:16] = rng.uniform(5, 20, (16, 50))  # all on one side: no average would survive it
        fit = fit_scale(predicted, known, with_shift=with_shift)
        assert fit.scale == pytest.approx(1.7, abs=0.01)
        assert fit.shift == pytest.approx(0.4 if with_shift else 0, abs=0.02)
        assert 0.5 < fit.inliers < 0.65

    def test_noise_is_averaged_as_least_squares_would(self, rng):
        predicted = rng.uniform(0.5, 4, 8000)
        known = 2 * predicted + 1 + rng.normal(0, 0.1, predicted.shape)
        expected = np.polyfit(predicted, known, 1)
        np.testing.assert_allclose(fit_scale(predicted, known)[:2], expected, atol=2e-3)

    def test_what_is_unknown_does_not_count(self, rng):
        predicted = rng.uniform(0.5, 4, 300).astype(np.float32)
        known = 3 * predicted
        known[::3] = 0
        known[1::7] = np.nan
        predicted[2::11] = np.inf
        assert fit_scale(predicted, known).scale == pytest.approx(3, rel=1e-5)

    def test_a_wall_and_what_stands_before_it(self, rng):
        """Most pixels are of a wall, on which noise hides the slope; it shows only between the wall and the rest."""
        wall, near = 0.5 + rng.normal(0, 0.05, 5500), 1.0 + rng.normal(0, 0.12, 2600)
        predicted = np.concatenate([wall, near])
        known = np.concatenate(
            [rng.uniform(0.35, 0.42, len(wall)), 0.35 + 0.45 * near + rng.normal(0, 0.04, len(near))]
        )
        assert np.corrcoef(predicted, known)[0, 1] > 0.93
        fit = fit_scale(predicted, known)
        assert worse_than_least_squares(fit, predicted, known) < 1.1

    @pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.3, "heavy", "quantised", "saturated", "two planes"])
    @pytest.mark.parametrize("pixels", [64, 200, 6000])
    def test_clean_data_as_least_squares_would(self, rng, noise, pixels):
        predicted = rng.uniform(0.5, 4, pixels)
        if noise == "two planes":
            predicted = rng.choice([1.0, 3.0], pixels) + rng.normal(0, 0.15, pixels)
        known = 1.7 * predicted + 0.4
        if noise == "heavy":
            known = np.maximum(known + 0.1 * rng.standard_t(3, pixels), 0.1)
        elif noise == "quantised":
            predicted = np.round(2 * predicted) / 2
        elif noise == "saturated":
            predicted = np.minimum(predicted, 3.6)
        elif isinstance(noise, float):
            known = known * np.clip(1 + noise * rng.standard_normal(pixels), 0.2, None)
        assert worse_than_least_squares(fit_scale(predicted, known), predicted, known) < 1.1

    @pytest.mark.parametrize("inverse", [True, False])
    def test_real_depth_that_a_network_blurs_and_bends(self, rng, rgbd_scene, inverse):
        from mosaicmem.datasets import SevenScenes

        sequence = SevenScenes(rgbd_scene)
        for i in range(0, 100, 9):
            depth = sequence[i].depth[::4, ::4]
            known = np.where(depth > 0, 1 / np.maximum(depth, 0.1) if inverse else depth, 0)
            image = np.where(known > 0, known, np.median(known[known > 0]))
            for _ in range(30):  # a blur of some ten pixels
                image = (
                    np.roll(image, 1, 0) + np.roll(image, 1, 1) + np.roll(image, -1, 0) + np.roll(image, -1, 1)
                ) / 4
            bend = 1 + 0.1 * np.sin(np.arange(image.shape[1]) / 25)
            predicted = (3 * image**0.8 * bend + 0.7 + rng.normal(0, 0.03, image.shape))[known > 0]
            assert worse_than_least_squares(fit_scale(predicted, known[known > 0]), predicted, known[known > 0]) < 1.1

    @pytest.mark.parametrize("part", [0.1, 0.3, 0.4, 0.45])
    @pytest.mark.parametrize("kind", ["far", "near", "anything", "times three", "nearest", "farthest"])
    def test_outliers_of_many_kinds(self, rng, part, kind):
        predicted = rng.uniform(0.5, 4, 6000)
        true = 1.7 * predicted + 0.4
        known = true * (1 + 0.01 * rng.standard_normal(len(true)))
        count = int(part * len(true))
        wrong = {"nearest": np.argsort(predicted)[:count], "farthest": np.argsort(predicted)[-count:]}.get(
            kind, rng.choice(len(true), count, replace=False)
        )
        low, high = {"far": (5, 20), "near": (0.1, 1), "nearest": (8, 9), "farthest": (0.4, 0.5)}.get(kind, (0.2, 9))
        known[wrong] = 3 * true[wrong] if kind == "times three" else rng.uniform(low, high, count)
        scale, shift, inliers = fit_scale(predicted, known)
        assert np.mean(np.abs(scale * predicted + shift - true) / true) < 0.01
        assert inliers == pytest.approx(1 - part, abs=0.1)

    @pytest.mark.parametrize("unit", [1e-3, 1e3])
    def test_units_do_not_matter(self, rng, unit):
        predicted = rng.uniform(0.5, 4, 500)
        known = 1.7 * predicted + 0.4 + rng.normal(0, 0.05, 500)
        scale, shift, inliers = fit_scale(predicted, known)
        assert fit_scale(predicted, unit * known) == pytest.approx((unit * scale, unit * shift, inliers), rel=1e-9)
        assert fit_scale(unit * predicted, known) == pytest.approx((scale / unit, shift, inliers), rel=1e-9)

    def test_a_flat_wall_gives_a_scale(self, rng):
        """No slope can be told from noise, but a scale can."""
        fit = fit_scale(1 + rng.normal(0, 0.01, 2000), 2 + rng.normal(0, 0.01, 2000))
        assert fit.scale + fit.shift == pytest.approx(2, abs=0.01)

    @pytest.mark.parametrize("pixels", [64, 500, 6000])
    def test_no_answer_from_what_has_nothing_to_do_with_depth(self, rng, pixels):
        for _ in range(5):
            assert fit_scale(rng.uniform(0.5, 2, pixels), rng.uniform(0.5, 4, pixels)) is None
            decreasing = rng.uniform(0.5, 2, pixels)
            some = rng.random(pixels) < 0.2
            assert fit_scale(decreasing, 5 - 2 * decreasing + some * rng.uniform(0, 4, pixels)) is None

    def test_no_answer(self, rng):
        predicted = rng.uniform(1, 2, 200)
        assert fit_scale(predicted[:63], predicted[:63]) is None  # too few
        assert fit_scale(predicted, 5 - predicted) is None  # upside down
        assert fit_scale(np.ones(200), predicted) is None  # does not vary
        with pytest.raises(ValueError, match=r"known: expected shape \(200,\), got \(199,\)"):
            fit_scale(predicted, predicted[1:])


class TestFromFiles:
    def estimate(self, estimator, camera, time):
        pose = CameraPose(timestamp=time)
        return estimator.estimate(IMAGE, camera, pose, np.zeros((48, 80), np.float32))

    def test_png_and_npy(self, tmp_path, small_camera, rng):
        depth = rng.uniform(0.5, 4, (48, 80)).astype(np.float32)
        depth[0, :3] = 0
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(tmp_path / "000.png")
        holes = depth.copy()
        holes[1, 0], holes[1, 1] = np.nan, -1
        np.save(tmp_path / "001.npy", holes.astype(np.float64))
        estimator = DepthFromFiles.in_folder(tmp_path, [0.0, 0.1])
        assert isinstance(estimator, DepthEstimator)
        np.testing.assert_allclose(self.estimate(estimator, small_camera, 0.0), depth, atol=6e-4)
        second = self.estimate(estimator, small_camera, 0.1004)
        np.testing.assert_allclose(second[2:], depth[2:], rtol=1e-6)
        assert (second[1, :2] == 0).all()

    def test_numbers_in_names_count_as_numbers(self, tmp_path, small_camera):
        for i in range(12):
            np.save(tmp_path / f"{i}.npy", np.full((48, 80), i + 1, np.float32))
        (tmp_path / "._0.npy").write_bytes(b"")  # macOS leaves such files beside others
        estimator = DepthFromFiles.in_folder(tmp_path, [i / 10 for i in range(12)])
        assert [self.estimate(estimator, small_camera, i / 10)[0, 0] for i in range(12)] == list(range(1, 13))

    def test_two_series_in_one_folder(self, tmp_path):
        for name in ("depth_0.png", "depth_1.png", "mask_0.png", "mask_1.png"):
            (tmp_path / name).write_bytes(b"")
        with pytest.warns(
            SuspiciousInput, match=r"files of 2 kinds, such as depth_0\.png and mask_0\.png, are taken as"
        ):
            DepthFromFiles.in_folder(tmp_path, range(4))
        (tmp_path / "mask_1.png").rename(tmp_path / "depth_0.npy")
        with pytest.raises(FormatError, match=r"depth_0\.png: expected one file a frame, got depth_0\.npy too"):
            DepthFromFiles.in_folder(tmp_path, range(4))

    def test_a_folder_of_other_files(self, tmp_path):
        (tmp_path / "0.exr").write_bytes(b"")
        with pytest.raises(
            FormatError, match=r"expected 1 \.png or \.npy files, one a timestamp, got 0; 0\.exr is neither"
        ):
            DepthFromFiles.in_folder(tmp_path, [0.0])
        with pytest.raises(
            FormatError, match=r"0\.exr: expected a folder, got an OpenEXR image; give the folder of depth images"
        ):
            DepthFromFiles.in_folder(tmp_path / "0.exr", [0.0])

    @pytest.mark.parametrize(
        ("shape", "dtype", "hint"),
        [
            ((48, 80, 1), np.float32, "leave out the axis of length 1"),
            ((1, 48, 80), np.float32, "leave out the axis of length 1"),
            ((80, 48), np.float32, r"transposed\?"),
            ((48, 80), np.uint16, r"millimetres\? divide by 1000"),
        ],
    )
    def test_arrays_that_nearly_fit(self, tmp_path, small_camera, shape, dtype, hint):
        np.save(tmp_path / "0.npy", np.ones(shape, dtype))
        estimator = DepthFromFiles.in_folder(tmp_path, [0.0])
        with pytest.raises(FormatError, match=rf"expected floating-point metres of shape \(48, 80\), got .*; {hint}"):
            self.estimate(estimator, small_camera, 0.0)

    def test_bad_files_are_named(self, tmp_path, small_camera):
        Image.fromarray(np.zeros((48, 81), np.uint16)).save(tmp_path / "0.png")
        np.save(tmp_path / "1.npy", np.zeros((48, 80), np.int32))
        (tmp_path / "2.npy").write_bytes(b"no")
        np.save(tmp_path / "3.npy", np.array([object()]), allow_pickle=True)
        estimator = DepthFromFiles.in_folder(tmp_path, [0.0, 1.0, 2.0, 3.0])
        for time, message in (
            (0.0, r"0\.png: expected 80x48 pixels, got 81x48"),
            (1.0, r"1\.npy: expected floating-point metres of shape \(48, 80\), got int32"),
            (2.0, r"2\.npy: not a \.npy array"),
            (3.0, r"3\.npy: not a \.npy array"),
        ):
            with pytest.raises(FormatError, match=message):
                self.estimate(estimator, small_camera, time)
        with pytest.raises(
            ValueError, match=r"no depth file within 0\.001 s of 0\.5 s; the nearest, 0\.png, is 0\.5 s"
        ):
            self.estimate(estimator, small_camera, 0.5)

    def test_bad_values(self, tmp_path):
        with pytest.raises(FormatError, match=r"expected 2 \.png or \.npy files, one a timestamp, got 0"):
            DepthFromFiles.in_folder(tmp_path, [0.0, 1.0])
        with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
            DepthFromFiles.in_folder(tmp_path / "nowhere", [0.0])
        with pytest.raises(ValueError, match="timestamps: expected ascending times"):
            DepthFromFiles(["a.png", "b.png"], [1.0, 1.0])
        with pytest.raises(ValueError, match="files: expected at least one"):
            DepthFromFiles([], [])
