"""Times in files of camera paths: their unit is obeyed, suspected, or refused, alike in every format that has times."""

import json
import warnings

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraTrajectory, FormatError, SuspiciousInput
from mosaicmem.camera.formats import load_trajectory, save_trajectory
from mosaicmem.camera.times import PER_SECOND, judge_times

CAMERA = CameraIntrinsics(501.25, 498.5, 320.0, 240.0, 640, 480)
SUFFIX = {"tum": ".txt", "re10k": ".txt", "nerfstudio": ".json", "mosaicmem": ".json"}
OPTIONS = {"tum": {"intrinsics": CAMERA}, "re10k": {"size": (640, 480)}}
NATIVE = {"tum": "s", "nerfstudio": "s", "mosaicmem": "s", "re10k": "us"}
EPOCH = 1_403_636_579.75


def write(folder, name, times):
    """A file that stores the numbers ``times`` as they are, whatever their unit."""
    rng = np.random.default_rng(3)
    per_second = PER_SECOND[NATIVE[name]]
    path = CameraTrajectory([random_pose(rng, 1.0, float(t) / per_second) for t in times], CAMERA)
    file = folder / f"{name}{SUFFIX[name]}"
    save_trajectory(file, path, name)
    return file


def load(file, **options):
    return np.array([pose.timestamp for pose in load_trajectory(file, **OPTIONS.get(file.stem, {}), **options)])


@pytest.mark.parametrize("name", NATIVE)
class TestEvery:
    @pytest.mark.parametrize("unit", PER_SECOND)
    def test_a_unit_that_is_given_is_obeyed(self, tmp_path, name, unit):
        seconds = 2.0 + np.arange(6) * 0.05
        file = write(tmp_path, name, (seconds * PER_SECOND[unit]).round(3))
        if NATIVE[name] == "us" and unit == "s":
            file = write(tmp_path, name, seconds := np.arange(2.0, 8.0))  # the format holds only whole microseconds
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(load(file, time_unit=unit), seconds, atol=1e-9)

    def test_frame_numbers_that_are_given(self, tmp_path, name):
        times = load(write(tmp_path, name, np.arange(5)), time_unit="frames", fps=10)
        np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3, 0.4])

    @pytest.mark.parametrize("fps", [1000, 240, 60, 30, 29.97, 10, 1, 0.2])
    def test_cameras_of_all_speeds_are_fine(self, tmp_path, name, fps):
        times = (EPOCH + np.arange(9) / fps) * PER_SECOND[NATIVE[name]]
        for each in (times, times - times[0] + 0.5 * PER_SECOND[NATIVE[name]], times[:1], times[[0, 0]], times[[0, 5]]):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                load(write(tmp_path, name, each))


class TestImpossibleTimes:
    @pytest.mark.parametrize("name", ["tum", "nerfstudio"])
    @pytest.mark.parametrize(("unit", "said"), [("ns", "nanoseconds"), ("us", "microseconds"), ("ms", "milliseconds")])
    @pytest.mark.parametrize("frames", [1, 2, 7])
    def test_since_1970_are_taken_for_what_they_must_be(self, tmp_path, name, unit, said, frames):
        file = write(tmp_path, name, (EPOCH + np.arange(frames) * 0.05) * PER_SECOND[unit])
        with pytest.warns(
            SuspiciousInput, match=rf"cannot be seconds: .* taken as {said}; .*--time-unit {unit}"
        ) as caught:
            times = load(file)
        assert len(caught) == 1
        assert str(file) in str(caught[0].message)
        np.testing.assert_allclose(times, EPOCH + np.arange(frames) * 0.05, atol=1e-6)

    def test_nanoseconds_since_a_start(self, tmp_path):
        """The clock of a phone that has been on for a day."""
        file = write(tmp_path, "tum", 9e13 + np.arange(5) * 33_333_333)
        with pytest.warns(SuspiciousInput, match="taken as nanoseconds"):
            assert load(file)[0] == 9e4

    @pytest.mark.parametrize(
        "times",
        [
            [9e13],  # one frame has no interval to tell by
            1.6e15 + np.arange(5) * 33_333_333,  # nanoseconds of 18 days, or microseconds since 1970, 33 seconds apart
        ],
    )
    def test_what_is_impossible_and_uncertain_is_refused(self, tmp_path, times):
        with pytest.raises(FormatError, match=r"tum\.txt: times: expected seconds, got .*; give their unit"):
            load(write(tmp_path, "tum", times))

    @pytest.mark.parametrize(
        ("step", "said"), [(5e7, "nanoseconds"), (33_333, "microseconds"), (40_000.5, "microseconds")]
    )
    def test_intervals_alone_are_refused(self, tmp_path, step, said):
        for frames in (2, 5):
            with pytest.raises(FormatError, match=rf"tum\.txt: times: .* s apart \(median\); {said}\? give time_unit"):
                load(write(tmp_path, "tum", np.arange(frames) * step))

    def test_nanoseconds_in_the_place_of_microseconds(self, tmp_path):
        with pytest.warns(SuspiciousInput, match="cannot be microseconds: they were taken as nanoseconds"):
            times = load(write(tmp_path, "re10k", (EPOCH + np.arange(4)) * 1e9))
        np.testing.assert_allclose(times, EPOCH + np.arange(4), atol=1e-6)

    def test_one_time_that_is_wrong(self, tmp_path):
        with pytest.raises(FormatError, match="expected seconds"):
            load(write(tmp_path, "tum", [0.0, 0.1, 0.2, 1e15]))


class TestSuspiciousTimes:
    @pytest.mark.parametrize(
        ("name", "times", "message"),
        [
            ("tum", np.arange(6), r"0, 1, 2 \.\.\. look like frame numbers; give time_unit=\"frames\""),
            ("nerfstudio", np.arange(1, 6), "look like frame numbers"),
            ("mosaicmem", np.arange(6), "look like frame numbers"),
            ("re10k", np.arange(6), r"expected microseconds, got .* 1e-06 s apart .*; frame numbers\?"),
            ("re10k", np.arange(6) * 33, r"milliseconds\? give time_unit=\"ms\""),
            ("tum", np.arange(6) * 33.3, r"33\.3 s apart .*; milliseconds\?"),
            ("mosaicmem", np.arange(6) * 5e7, r"nanoseconds\?"),
            ("nerfstudio", np.arange(200) / 199, r"from 0 to 1; parts of the duration\?"),
            ("tum", np.arange(6) * 1e-5, r"1e-05 s apart .*; parts of the duration\?"),
        ],
    )
    def test_are_said_once_and_read_as_they_are(self, tmp_path, name, times, message):
        with pytest.warns(SuspiciousInput, match=message) as caught:
            found = load(write(tmp_path, name, times))
        assert len(caught) == 1
        assert caught[0].filename == __file__
        np.testing.assert_allclose(found, np.asarray(times) / PER_SECOND[NATIVE[name]], atol=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(write(tmp_path, name, times), time_unit=NATIVE[name])

    @pytest.mark.parametrize("times", [[], [5.0], [0, 1], [0, 40], [1, 1, 1], [3, 4, 5], [0, 1, 2.5], [0.5, 1, 1.5]])
    def test_too_few_and_others_are_not(self, times):
        assert judge_times(np.array(times, float)) is None


def test_formats_without_times_take_no_unit(tmp_path):
    rng = np.random.default_rng(3)
    save_trajectory(tmp_path / "a.txt", CameraTrajectory([random_pose(rng)] * 2, CAMERA), "kitti")
    with pytest.raises(FormatError, match=r"no times that could have a unit .* give fps"):
        load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA, time_unit="ms")
    assert load_trajectory(tmp_path / "a.txt", intrinsics=CAMERA, time_unit="frames", fps=10).duration == 0.1


def test_times_that_are_no_numbers_are_named(tmp_path):
    file = write(tmp_path, "nerfstudio", np.arange(3) / 10)
    document = json.loads(file.read_text())
    document["frames"][2]["time"] = "late"
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"frames\[2\]: time: expected a number, got str"):
        load(file)
