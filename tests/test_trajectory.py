import itertools
import json
import math

import numpy as np
import pytest

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, CameraTrajectory, FormatError, SuspiciousInput

K = CameraIntrinsics.from_fov(64, 48, fov_x=1.0)


def walk(n=20):
    return CameraTrajectory.line(CameraPose(), CameraPose.look_at([0, 0, 1.9], [0, 0, 5]), n, K, fps=10)


class TestShapes:
    def test_line(self):
        path = walk()
        assert len(path) == 20
        assert path.length == pytest.approx(1.9)
        assert path.duration == pytest.approx(1.9)

    def test_circle_looks_ahead_and_closes(self):
        path = CameraTrajectory.circle([1, 0, 2], 2.0, 361, K)
        assert path.length == pytest.approx(4 * math.pi, rel=1e-4)
        np.testing.assert_allclose(path[0].world_from_camera, path[-1].world_from_camera, atol=1e-12)
        for a, b in itertools.pairwise(path):
            step = b.position - a.position
            assert step @ a.forward > 0.99 * np.linalg.norm(step)

    def test_orbit_looks_at_its_target_from_above(self):
        for pose in CameraTrajectory.orbit([1, 2, 3], 4.0, 12, K, height=1.0):
            target = pose.camera_from_world @ [1, 2, 3, 1]
            np.testing.assert_allclose(target[:2], 0, atol=1e-12)
            assert pose.position[1] == pytest.approx(1.0)  # up is -y

    def test_look_around_turns_right_on_the_spot(self):
        start = CameraPose.look_at([1, 2, 3], [1, 2, 9])
        path = CameraTrajectory.look_around(start, 91, K, angle=math.pi / 2)
        assert path.length == 0
        np.testing.assert_allclose(path[-1].forward, start.world_from_camera[:3, 0], atol=1e-12)

    def test_there_and_back(self):
        path = walk().there_and_back()
        assert len(path) == 39
        np.testing.assert_array_equal(path[0].world_from_camera, path[-1].world_from_camera)
        assert path.length == pytest.approx(3.8)
        assert path.duration == pytest.approx(3.8)

    def test_then(self):
        path = walk().then(walk(3))
        assert len(path) == 23
        assert path[20].timestamp == pytest.approx(path[19].timestamp + 0.1)


class TestWindows:
    @pytest.mark.parametrize(("count", "size", "overlap"), [(20, 8, 3), (7, 8, 3), (8, 8, 0), (20, 1, 0), (9, 8, 7)])
    def test_windows_cover_every_frame_in_order(self, count, size, overlap):
        windows = walk(count).windows(size, overlap)
        assert windows[0].start == 0
        assert windows[-1].stop == count
        assert all(len(w) <= size for w in windows)
        for a, b in itertools.pairwise(windows):
            assert b.start == a.stop - overlap
            assert b.stop > a.stop

    def test_overlap_must_be_less_than_the_window(self):
        with pytest.raises(ValueError, match="overlap: expected at most 7, got 8"):
            walk().windows(8, 8)


class TestKeyframes:
    def test_by_translation(self):
        assert walk().select_keyframes(0.45, 1.0) == [0, 5, 10, 15]

    def test_by_angle(self):
        path = CameraTrajectory.look_around(CameraPose(), 10, K, angle=0.9)
        assert path.select_keyframes(1.0, 0.25) == [0, 3, 6, 9]

    def test_by_gap(self):
        assert walk().select_keyframes(100, 3, max_gap=6) == [0, 6, 12, 18]


class TestJson:
    def test_round_trip_is_exact(self, tmp_path, rng):
        path = CameraTrajectory([random_pose(rng, timestamp=i / 3) for i in range(5)], K)
        path.save(tmp_path / "path.json")
        again = CameraTrajectory.load(tmp_path / "path.json")
        assert again == path

    def test_schema_is_written(self, tmp_path):
        walk().save(tmp_path / "path.json")
        document = json.loads((tmp_path / "path.json").read_text())
        assert document["schema"] == "mosaicmem.trajectory"
        assert document["schema_version"] == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.update(schema="other"), "schema"),
            (lambda d: d.update(schema_version=99), "schema_version.*99"),
            (lambda d: d["intrinsics"].pop("fx"), "intrinsics.*fx"),
            (lambda d: d["frames"][3].pop("timestamp"), r"frames\[3\]: timestamp is missing"),
            (lambda d: d["frames"][2].update(world_from_camera=[[1]]), r"frames\[2\].*expected shape \(4, 4\)"),
            (lambda d: d.update(frames=[]), "at least one pose"),
            (lambda d: d.update(frames=7), "frames: expected a list, got int"),
            (lambda d: d["frames"].insert(2, 7), r"frames\[2\]: expected an object, got int"),
            (lambda d: d.update(intrinsics=[]), "intrinsics: expected an object, got list"),
            (lambda d: d["intrinsics"].update(foo=1), "intrinsics: unknown key 'foo'"),
            (lambda d: d["frames"][1].update(timestamp=10**400), r"frames\[1\]: timestamp: expected a finite number"),
            (lambda d: d["frames"].reverse(), "timestamps that do not decrease"),
        ],
    )
    def test_bad_documents_are_explained(self, tmp_path, change, message):
        document = walk().to_dict()
        change(document)
        file = tmp_path / "path.json"
        file.write_text(json.dumps(document))
        with pytest.raises(FormatError, match=message) as error:
            CameraTrajectory.load(file)
        assert str(file) in str(error.value)

    def test_unknown_fields_are_named_and_lenses_refused(self, tmp_path):
        file = tmp_path / "path.json"

        def load(change):
            document = walk().to_dict()
            change(document)
            file.write_text(json.dumps(document))
            return CameraTrajectory.load(file)

        def add_to_all(document):
            for frame in document["frames"]:
                frame["exposure"] = 3

        with pytest.warns(SuspiciousInput, match=r"skipped: exposure \(frames\[0\] and \d+ more\)") as caught:
            load(add_to_all)
        assert len(caught) == 1
        with pytest.warns(SuspiciousInput, match=r"skipped: note"):
            load(lambda d: d.update(note="a"))
        for change, message in (
            (lambda d: d["intrinsics"].update(k1=0.1), "intrinsics: expected no distortion"),
            (lambda d: d.update(is_fisheye=True), "expected a pinhole camera"),
            (lambda d: d["frames"][2].update(k1=0.1), r"frames\[2\]: expected no distortion"),
        ):
            with pytest.raises(FormatError, match=message):
                load(change)
        assert load(lambda d: d["intrinsics"].update(k1=0.0)) == walk()

    def test_times_that_are_no_seconds_are_suspected(self, tmp_path):
        poses = [pose.at(i * 5e7) for i, pose in enumerate(walk())]
        CameraTrajectory(poses, K).save(tmp_path / "path.json")
        with pytest.warns(SuspiciousInput, match="5e[+]07 s apart .* nanoseconds") as caught:
            assert CameraTrajectory.load(tmp_path / "path.json")[1].timestamp == 5e7
        assert len(caught) == 1

    @pytest.mark.parametrize("text", ['{"x": ' + "9" * 5000 + "}", '{"schema": \n "mosaic', "[1, 2]", "\xff\x00"])
    def test_broken_json(self, tmp_path, text):
        file = tmp_path / "path.json"
        file.write_text(text, encoding="latin-1")
        with pytest.raises(FormatError, match=r"path\.json"):
            CameraTrajectory.load(file)

    def test_line_of_a_syntax_error(self, tmp_path):
        file = tmp_path / "path.json"
        file.write_text('{\n"schema": 1,\n oops }')
        with pytest.raises(FormatError, match=r"path\.json:3"):
            CameraTrajectory.load(file)


def test_empty_path_is_refused():
    with pytest.raises(ValueError, match="poses: expected at least one pose"):
        CameraTrajectory([], K)
