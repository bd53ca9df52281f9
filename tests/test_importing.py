"""Data sets made of photos, videos and other data sets."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cli_helpers import run, succeed
from import_helpers import CAMERA, PATH, WORLD, aligned, depth_error, write_depth, write_photos, write_video
from mosaicmem import CameraTrajectory, FormatError, SuspiciousInput
from mosaicmem.datasets import open_sequence
from mosaicmem.geometry import fit_scale
from mosaicmem.importing import ImportOptions, import_footage
from onnx_models import red_model
from scene_helpers import write_scene

pytest.importorskip("cv2")
pycolmap = pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, and what `import_footage` made of them without further options."""
    folder = tmp_path_factory.mktemp("imported")
    write_photos(folder / "photos")
    report = import_footage(folder / "photos", folder / "made")
    (folder / "report.json").write_text(json.dumps(report.to_dict()))
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_photos_alone_give_poses_up_to_scale(folder, report):
    sequence = open_sequence(folder / "made")
    assert len(sequence) == report["frames"] == report["extracted"] == 20
    assert report["reprojection_error"] < 0.5
    assert abs(sequence.intrinsics.fx / CAMERA.fx - 1) < 0.03
    _, errors = aligned(sequence)
    assert np.sqrt(np.mean(errors**2)) < 0.01 * PATH.length
    assert [sequence.number(i) for i in range(20)] == list(range(20))


def test_the_unit_is_said(folder, report):
    sequence = open_sequence(folder / "made")
    assert sequence.unit == report["unit"] == "scene units"
    assert 1 < np.median(sequence[5].depth) < 4


def test_depth_of_points_alone_is_coarse(folder, report):
    sequence = open_sequence(folder / "made")
    scale, _ = aligned(sequence)
    assert report["depth"] == "points"
    assert report["coverage"] > 0.99
    assert 0.001 < depth_error(sequence, scale) < 0.1


def test_what_is_in_the_folder(folder, report):
    made = folder / "made"
    assert sorted(path.name for path in made.iterdir()) == ["cameras.json", "color", "dataset.json", "depth"]
    assert sorted(path.name for path in folder.iterdir()) == ["made", "photos", "report.json"]
    description = json.loads((made / "dataset.json").read_text())
    assert [frame["source"] for frame in description["frames"]][:3] == ["photo 0.png", "photo 1.png", "photo 2.png"]
    provenance = description["provenance"]
    assert provenance["source"] == str(folder / "photos")
    assert provenance["reprojection_error"] == report["reprojection_error"]
    assert provenance["options"]["mapper"] == "incremental"
    assert {key: provenance[key] for key in report} == report


def test_every_command_reads_it(folder, tmp_path):
    succeed("convert", folder / "made", tmp_path / "path.json")
    assert len(CameraTrajectory.load(tmp_path / "path.json")) == 20
    succeed("export-ply", "--scene", folder / "made", "--output", tmp_path / "cloud.ply")


def test_the_global_mapper(folder, tmp_path):
    made = import_footage(folder / "photos", tmp_path / "made", ImportOptions(mapper="global", intrinsics=CAMERA))
    assert made.poses == "estimated (global)"
    sequence = open_sequence(tmp_path / "made")
    assert sequence.intrinsics.params == pytest.approx(CAMERA.params)
    assert len(sequence) == 20
    assert aligned(sequence)[1].max() < 0.02 * PATH.length


def test_given_poses_are_kept_and_points_found_for_them(folder, tmp_path):
    PATH_FILE = tmp_path / "path.json"
    CameraTrajectory(PATH, CAMERA).save(PATH_FILE)
    made = import_footage(folder / "photos", tmp_path / "made", ImportOptions(trajectory=PATH_FILE))
    assert made.poses == "of path.json"
    assert made.points > 100
    assert made.unit == "metres"
    sequence = open_sequence(tmp_path / "made")
    for i in range(20):
        np.testing.assert_allclose(sequence.pose(i).world_from_camera, PATH[i].world_from_camera, atol=1e-9)
    assert sequence.intrinsics == CAMERA
    assert depth_error(sequence, 1.0) < 0.1


def test_depth_files_give_metres(folder, tmp_path):
    options = ImportOptions(depth=write_depth(tmp_path / "depth"), intrinsics=CAMERA)
    made = import_footage(folder / "photos", tmp_path / "made", options)
    assert (made.unit, made.depth) == ("metres", "files")
    sequence = open_sequence(tmp_path / "made")
    scale, errors = aligned(sequence)
    assert scale == pytest.approx(1, abs=0.01)
    assert errors.max() < 0.02
    assert depth_error(sequence, 1.0) < 0.001


@pytest.mark.parametrize("scale", [f"2,17={float(np.linalg.norm(PATH[2].position - PATH[17].position))}", 7.0])
def test_a_known_length_gives_metres(folder, tmp_path, scale):
    made = import_footage(folder / "photos", tmp_path / "made", ImportOptions(scale=scale, intrinsics=CAMERA))
    assert made.unit == "metres"
    sequence = open_sequence(tmp_path / "made")
    if scale == 7.0:  # metres a scene unit, of which the median depth of points has two
        assert 7 < np.median(sequence[5].depth) < 28
    else:
        assert aligned(sequence)[0] == pytest.approx(1, abs=0.02)


class Network:
    """A depth network that knows the room: depth up to a scale and a shift of its own for each image."""

    def __init__(self):
        self._known = [WORLD.render(CAMERA, pose) for pose in PATH]

    def estimate(self, image, intrinsics, pose, known_depth):
        view = min(self._known, key=lambda each: np.abs(each.image[::8, ::8] - image[::8, ::8]).mean())
        guess = 0.3 * view.depth + 0.1
        fit = fit_scale(guess, known_depth)
        return (fit.scale * guess + fit.shift).astype(np.float32)


def test_a_network_is_aligned_to_the_points(folder, tmp_path):
    made = import_footage(folder / "photos", tmp_path / "made", ImportOptions(depth_estimator=Network()))
    assert made.depth == "network"
    sequence = open_sequence(tmp_path / "made")
    assert depth_error(sequence, aligned(sequence)[0]) < 0.03


def test_a_data_set_is_copied_as_it_is(tmp_path):
    write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:5], CAMERA))
    made = import_footage(tmp_path / "scene", tmp_path / "made")
    assert (made.kind, made.poses, made.depth, made.unit) == ("data set", "of the data set", "data set", "metres")
    before, after = open_sequence(tmp_path / "scene"), open_sequence(tmp_path / "made")
    assert after.intrinsics == before.intrinsics
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.pose.world_from_camera, b.pose.world_from_camera)
        assert (a.number, a.pose.timestamp) == (b.number, b.pose.timestamp)


def test_poses_of_a_data_set_may_be_estimated_anew(tmp_path):
    write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH, CAMERA))
    made = import_footage(tmp_path / "scene", tmp_path / "made", ImportOptions(poses="estimate", every=2))
    assert (made.poses, made.unit, made.frames) == ("estimated (incremental)", "metres", 10)
    sequence = open_sequence(tmp_path / "made")
    path = {4 * i: pose for i, pose in enumerate(PATH)}
    scale, errors = aligned(sequence, path)
    assert scale == pytest.approx(1, abs=0.05)
    assert errors.max() < 0.05


def test_a_video_keeps_the_frames_that_move(tmp_path):
    path = WORLD.leave_and_return(CAMERA, 240)[80:120]
    video = write_video(tmp_path / "walk.mp4", [path[0]] * 10 + list(path))
    made = import_footage(video, tmp_path / "made", ImportOptions(intrinsics=CAMERA))
    sequence = open_sequence(tmp_path / "made")
    numbers = [sequence.number(i) for i in range(len(sequence))]
    assert made.kind == "video"
    assert 8 <= len(sequence) <= 30
    assert sum(number <= 10 for number in numbers) <= 2, "the camera stands still"
    times = [sequence.pose(i).timestamp for i in range(len(sequence))]
    np.testing.assert_allclose(times, np.array(numbers) / 30, atol=1e-3)
    _, errors = aligned(sequence, [path[0]] * 10 + list(path))
    assert errors.max() < 0.05


def test_frames_are_thinned_out_with_a_warning(folder, tmp_path):
    with pytest.warns(SuspiciousInput, match="20 frames were thinned out to 10"):
        import_footage(folder / "photos", tmp_path / "made", ImportOptions(max_frames=10, intrinsics=CAMERA))
    sequence = open_sequence(tmp_path / "made")
    assert [sequence.number(i) for i in range(10)] == [0, 2, 4, 6, 8, 11, 13, 15, 17, 19]


def test_large_frames_are_reduced(folder, tmp_path):
    options = ImportOptions(max_side=240, intrinsics=CAMERA)
    made = import_footage(folder / "photos", tmp_path / "made", options)
    assert made.intrinsics == pytest.approx(CAMERA.scaled(240, 180).to_dict())
    assert open_sequence(tmp_path / "made")[0].image.shape == (180, 240, 3)


def test_a_distorted_lens_is_estimated_and_undistorted(tmp_path):
    """Photos through a lens that bends: its coefficient is found, and the data set has straight images."""
    import cv2

    bend = -0.15
    (tmp_path / "photos").mkdir()
    wide = CAMERA.from_fov(480, 360, fov_x=2 * np.arctan(480 / 2 / 260.0))
    u, v = np.meshgrid(np.arange(320) + 0.5, np.arange(240) + 0.5)
    x, y = (u - 160) / 260, (v - 120) / 260
    for _ in range(30):  # the ray of each bent pixel, by fixed-point iteration
        r2 = x * x + y * y
        x, y = (u - 160) / 260 / (1 + bend * r2), (v - 120) / 260 / (1 + bend * r2)
    maps = [(260 * each + centre - 0.5).astype(np.float32) for each, centre in ((x, 240), (y, 180))]
    for i, pose in enumerate(PATH):
        bent = cv2.remap(WORLD.render(wide, pose).image_uint8, *maps, cv2.INTER_LINEAR)
        Image.fromarray(bent).save(tmp_path / "photos" / f"{i}.png")
    made = import_footage(tmp_path / "photos", tmp_path / "made")
    assert made.lens["params"][3] == pytest.approx(bend, abs=0.05)
    assert made.frames == 20
    sequence = open_sequence(tmp_path / "made")
    assert aligned(sequence)[1].max() < 0.03
    truth = WORLD.render(sequence.intrinsics, PATH[10]).image_uint8
    assert np.abs(sequence[10].image.astype(int) - truth).mean() < 12


def test_two_scenes_that_do_not_join_are_said(folder, tmp_path):
    shutil.copytree(folder / "photos", tmp_path / "photos")
    other = WORLD.leave_and_return(CAMERA, 120)[90:104]
    for path in write_photos(tmp_path / "others", other, type(WORLD)(11)).iterdir():
        path.rename(tmp_path / "photos" / path.name.replace("photo", "view"))
    with pytest.warns(SuspiciousInput, match=r"fall into \d scenes that could not be joined; used is the one of 20"):
        made = import_footage(tmp_path / "photos", tmp_path / "made", ImportOptions(intrinsics=CAMERA))
    assert made.frames == 20
    assert len(made.components) >= 2


def test_the_command(folder, tmp_path):
    done = succeed("import", folder / "photos", "--output", tmp_path / "made", "--scale", "0,5=1.5")
    said = " ".join(done.stdout.split())
    assert "20 frames of the photos, 20 chosen, 20 placed, 320x240 pixels, focal length 25" in said
    assert "Unit: metres, by 1.5 m between frames 0 and 5." in " ".join(done.stdout.split())
    assert "interpolated between the points of the structure, which is coarse" in " ".join(done.stdout.split())
    again = run("import", folder / "photos", "--output", tmp_path / "made")
    assert again.returncode == 1
    assert "is there already; --force replaces it" in again.stderr
    succeed("import", folder / "photos", "--output", tmp_path / "made", "--force", "--every", "2")
    assert len(open_sequence(tmp_path / "made")) == 10


def test_the_command_in_json(folder, tmp_path):
    done = succeed("import", folder / "photos", "--output", tmp_path / "made", "--json", "--every", "2")
    assert json.loads(done.stdout)["frames"] == 10


def test_networks_of_the_command(tmp_path):
    """A depth network that answers 2 metres everywhere, and one that says that what is red moves."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "depth.onnx").write_bytes(red_model(gain=0.0, offset=2.0))
    (tmp_path / "mask.onnx").write_bytes(red_model())
    write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:8], CAMERA))
    networks = ["--depth-model", tmp_path / "depth.onnx", "--depth-output", "metric", "--depth-size", "112x84"]
    given = [*networks, "--mask-model", tmp_path / "mask.onnx"]
    done = succeed("import", tmp_path / "scene", "--output", tmp_path / "made", *given)
    assert "estimated by the network" in done.stdout
    assert "Moving, and left out" in done.stdout
    sequence = open_sequence(tmp_path / "made")
    assert (sequence[0].depth[~sequence[0].moving] > 0).all()
    assert not sequence[0].depth[sequence[0].moving].any()


WRONG = [
    (["--depth-units", "5"], "--depth-units: expected --depth"),
    (["--depth-output", "metric"], "--depth-output: expected --depth-model"),
    (["--mask-classes", "3"], "--mask-classes: expected --mask-model"),
    (["--mapper", "fast"], "--mapper: expected one of"),
    (["--camera-model", "ROUND"], "--camera-model: expected one of"),
    (["--scale", "3;4"], "--scale: expected metres for each unit, or FRAME,FRAME=METRES"),
    (["--size", "320x240"], "--size: expected --intrinsics with it"),
    (["--poses", "none"], "--poses: expected one of"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments[0] for arguments, _ in WRONG])
def test_wrong_usage(folder, tmp_path, arguments, message):
    done = run("import", folder / "photos", "--output", tmp_path / "made", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "made").exists()


def test_a_known_length_between_frames_that_are_not_there(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"scale: expected the numbers of two frames, got 99; .* has numbers from 0 to 19"
    ):
        import_footage(folder / "photos", tmp_path / "made", ImportOptions(scale="0,99=2"))


def test_a_trajectory_of_another_length(folder, tmp_path):
    CameraTrajectory(PATH[:7], CAMERA).save(tmp_path / "path.json")
    with pytest.raises(FormatError, match=r"expected a pose for each of the 20 frames of the footage.* got 7"):
        import_footage(folder / "photos", tmp_path / "made", ImportOptions(trajectory=tmp_path / "path.json"))


def test_real_colour_frames_alone(rgbd_scene, tmp_path):
    """Every fourth frame of the real sequence: structure from motion comes near the given poses."""
    given = open_sequence(rgbd_scene)
    (tmp_path / "photos").mkdir()
    for i in range(0, 100, 4):
        shutil.copy(given.color_file(i), tmp_path / "photos")
    made = import_footage(tmp_path / "photos", tmp_path / "made")
    assert made.frames >= 23
    assert made.reprojection_error < 1
    sequence = open_sequence(tmp_path / "made")
    path = {i: given.pose(4 * i) for i in range(25)}
    _, errors = aligned(sequence, path)
    assert np.sqrt(np.mean(errors**2)) < 0.08
    assert 490 < sequence.intrinsics.fx < 560
