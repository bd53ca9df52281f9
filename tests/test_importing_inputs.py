"""How files, numbers and units go together in an import: nothing is paired, scaled or left out without a word."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from import_helpers import CAMERA, PATH, WORLD, aligned, at_stage, depth_error, views, write_depth, write_photos
from mosaicmem import CameraIntrinsics, CameraTrajectory, FormatError, OnnxDepthEstimator, SuspiciousInput
from mosaicmem.camera.formats import save_trajectory
from mosaicmem.datasets import open_sequence
from mosaicmem.importing import ImportOptions, import_footage
from mosaicmem.importing.footage import open_footage
from mosaicmem.importing.maps import MapFiles
from mosaicmem.importing.photos import Photos
from mosaicmem.importing.selection import MotionSelection
from mosaicmem.importing.video import Video
from mosaicmem.media import save_mp4
from onnx_models import PLAIN, red_model
from scene_helpers import write_scene

pytest.importorskip("cv2")
pytest.importorskip("pycolmap")
KNOWN = ImportOptions(intrinsics=CAMERA)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grey(value=0, size=(64, 48)):
    return np.full(size[::-1], value, np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("footage") / "photos")


@pytest.fixture
def predictions(tmp_path):
    """What a network predicts: poses and depth, 2 units away, one unit apart."""
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(6)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3)).astype(np.uint8)
    k = [[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]
    np.savez(tmp_path / "a.npz", images=images, depths=np.full((6, 48, 64), 2.0, np.float32), K=k, c2w=poses)
    return tmp_path / "a.npz"


# --- Units.


def test_a_known_length_scales_depth_as_it_scales_positions(predictions, tmp_path):
    made = import_footage(predictions, tmp_path / "made", ImportOptions(scale="0,5=5"))
    assert (made.unit, made.poses) == ("metres", "of the data set")
    sequence = open_sequence(tmp_path / "made")
    assert np.linalg.norm(sequence.pose(5).position - sequence.pose(0).position) == pytest.approx(5)
    np.testing.assert_allclose(sequence[0].depth, 20, rtol=1e-3)


def test_what_is_in_scene_units_stays_in_them(predictions, tmp_path):
    assert import_footage(predictions, tmp_path / "made").unit == "scene units"
    assert open_sequence(tmp_path / "made").unit == "scene units"


def test_metric_depth_gives_metres_to_given_poses_without(photos, tmp_path):
    """A COLMAP model knows no metres: depth files say how large its unit is."""
    shrunk = [pose.world_from_camera.copy() for pose in PATH]
    for matrix in shrunk:
        matrix[:3, 3] /= 4
    lines = []
    for i, matrix in enumerate(shrunk):
        inverse = np.linalg.inv(matrix)
        w, x, y, z = _quaternion(inverse)
        lines += [f"{i + 1} {w} {x} {y} {z} {' '.join(map(str, inverse[:3, 3]))} 1 photo {i}.png", ""]
    shutil.copytree(photos, tmp_path / "colmap" / "images")
    model = tmp_path / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE 320 240 {' '.join(map(str, CAMERA.params))}\n")
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    made = import_footage(tmp_path / "colmap", tmp_path / "made", ImportOptions(depth=write_depth(tmp_path / "depth")))
    assert (made.poses, made.unit, made.depth) == ("of the data set", "metres", "files")
    sequence = open_sequence(tmp_path / "made")
    assert aligned(sequence)[0] == pytest.approx(1, abs=0.02)
    assert depth_error(sequence, 1.0) < 0.001


def _quaternion(matrix):
    from mosaicmem.camera.pose import quaternion_from_rotation

    return quaternion_from_rotation(matrix[:3, :3])


def test_a_few_pixels_of_sky_do_not_decide_how_depth_is_written(predictions, tmp_path):
    arrays = dict(np.load(predictions))
    arrays["depths"][:, 0, 0] = 1e10
    np.savez(predictions, **arrays)
    import_footage(predictions, tmp_path / "made")
    seen = open_sequence(tmp_path / "made")[2]
    assert seen.depth[0, 0] == 0
    np.testing.assert_allclose(seen.depth.ravel()[1:], 2, rtol=1e-4)


class Relative:
    """A network that knows depth up to scale and shift, and makes up a scale where nothing is known."""

    def estimate(self, image, intrinsics, pose, known_depth):
        known = known_depth[known_depth > 0]
        return np.full(known_depth.shape, np.median(known) if len(known) else 3.0, np.float32)


def test_a_frame_without_points_gets_no_depth_from_a_relative_network(photos, tmp_path):
    """Given poses keep a frame in which nothing was matched."""
    shutil.copytree(photos, tmp_path / "photos")
    save(tmp_path / "photos" / "photo 7.png", np.full((240, 320, 3), 90, np.uint8))
    CameraTrajectory(PATH, CAMERA).save(tmp_path / "path.json")
    options = ImportOptions(trajectory=tmp_path / "path.json", depth_estimator=Relative())
    with pytest.warns(SuspiciousInput, match="1 of 20 frames have no depth"):
        import_footage(tmp_path / "photos", tmp_path / "made", options)
    sequence = open_sequence(tmp_path / "made")
    assert not sequence[7].depth.any()
    assert (sequence[8].depth > 0).all()


# --- Which file is whose.


def footage_of(tmp_path, names):
    for name in names:
        save(tmp_path / "photos" / name, np.zeros((48, 64, 3), np.uint8))
    return open_footage(tmp_path / "photos")


def masks_in(tmp_path, names):
    for i, name in enumerate(names):
        save(tmp_path / "masks" / name, grey(i))
    return tmp_path / "masks"


def test_files_belong_to_frames_of_the_same_name(tmp_path):
    footage = footage_of(tmp_path, ["a.png", "b.png", "c.png"])
    masks = masks_in(tmp_path, ["b.png", "c.mask.png", "d.png"])
    with pytest.warns(SuspiciousInput, match=r"1 of 3 frames have no file of masks, a\.png first"):
        files = MapFiles("masks", masks, footage)
    assert [path and path.name for path in map(files.of, range(3))] == [None, "b.png", "c.mask.png"]


def test_files_of_colmap_belong_to_the_images_in_their_names(tmp_path):
    footage = footage_of(tmp_path, ["a.jpg", "b.jpg"])
    folder = tmp_path / "depth"
    folder.mkdir()
    for name in ("a.jpg.geometric.bin", "a.jpg.photometric.bin", "b.jpg.photometric.bin"):
        (folder / name).write_bytes(b"")
    files = MapFiles("depth", folder, footage)
    assert [files.of(i).name for i in range(2)] == ["a.jpg.geometric.bin", "b.jpg.photometric.bin"]


def test_files_of_other_names_belong_to_frames_in_their_order(tmp_path):
    footage = footage_of(tmp_path, ["a.png", "b.png", "c.png"])
    files = MapFiles("masks", masks_in(tmp_path, ["mask_2.png", "mask_10.png", "mask_1.png"]), footage)
    assert [files.of(i).name for i in range(3)] == ["mask_1.png", "mask_2.png", "mask_10.png"]
    with pytest.raises(FormatError, match=r"a file of masks for each of the 3 frames.*got 4 such as mask_1\.png"):
        MapFiles("masks", masks_in(tmp_path, ["mask_3.png"]), footage)


def test_files_of_a_video_are_in_the_order_of_its_frames(tmp_path, rng):
    save_mp4(tmp_path / "a.mp4", rng.integers(0, 256, (40, 48, 64, 3)).astype(np.uint8))
    files = MapFiles("masks", masks_in(tmp_path, [f"{i}.png" for i in range(40)]), Video(tmp_path / "a.mp4"))
    assert [files.of(i).name for i in (0, 1, 31, 39)] == ["0.png", "1.png", "31.png", "39.png"]


def test_files_of_a_data_set_go_by_position_not_by_number(tmp_path):
    """Its frames have the numbers 0, 4, 8, ..."""
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:4], CAMERA))
    for i in range(4):
        mask = grey(0, (320, 240))
        mask[i, i] = 255
        save(tmp_path / "masks" / f"m{i}.png", mask)
    import_footage(scene, tmp_path / "made", ImportOptions(masks=tmp_path / "masks"))
    assert [np.argwhere(seen.moving).tolist() for seen in open_sequence(tmp_path / "made")] == [
        [[i, i]] for i in range(4)
    ]


def test_masks_of_zeros_and_ones(tmp_path):
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:2], CAMERA))
    mask = grey(0, (320, 240))
    mask[5, 6] = 1
    for i in range(2):
        save(tmp_path / "masks" / f"{i}.png", mask)
    import_footage(scene, tmp_path / "made", ImportOptions(masks=tmp_path / "masks"))
    assert np.argwhere(open_sequence(tmp_path / "made")[0].moving).tolist() == [[5, 6]]


@pytest.mark.parametrize("kind", ["masks", "depth"])
def test_maps_that_are_turned_are_refused(photos, tmp_path, kind):
    for i in range(20):
        pixels = np.full((320, 240), 2000, np.uint16) if kind == "depth" else grey(0, (240, 320))
        save(tmp_path / kind / f"photo {i}.png", pixels)
    options = ImportOptions(intrinsics=CAMERA, **{kind: tmp_path / kind})
    with pytest.raises(FormatError, match=r"expected the shape of photo 0\.png, 320x240.*turned by 90 degrees"):
        import_footage(photos, tmp_path / "made", options)


def test_a_path_has_a_pose_for_each_frame(photos, tmp_path):
    CameraTrajectory([*PATH, PATH[-1].at(99.0)], CAMERA).save(tmp_path / "long.json")
    with pytest.raises(FormatError, match=r"each of the 20 frames of the footage, or of the 10 that are kept, got 21"):
        import_footage(photos, tmp_path / "made", ImportOptions(trajectory=tmp_path / "long.json", every=2))
    CameraTrajectory(PATH, CAMERA).save(tmp_path / "path.json")
    import_footage(photos, tmp_path / "made", ImportOptions(trajectory=tmp_path / "path.json", every=2))
    sequence = open_sequence(tmp_path / "made")
    np.testing.assert_allclose(sequence.pose(3).world_from_camera, PATH[6].world_from_camera, atol=1e-9)


def test_a_path_of_a_format_without_sizes_is_that_of_the_whole_frames(photos, tmp_path):
    """Frames are reduced to 160x120; K in the file counts the pixels of 320x240."""
    save_trajectory(tmp_path / "path.npz", CameraTrajectory(PATH, CAMERA), "matrixgame")
    options = ImportOptions(trajectory=tmp_path / "path.npz", depth=write_depth(tmp_path / "depth"), max_side=160)
    import_footage(photos, tmp_path / "made", options)
    assert open_sequence(tmp_path / "made").intrinsics.params == pytest.approx(CAMERA.scaled(160, 120).params)


def test_photos_take_the_times_of_their_path(photos, tmp_path):
    CameraTrajectory([pose.at(0.5 * i) for i, pose in enumerate(PATH)], CAMERA).save(tmp_path / "path.json")
    options = ImportOptions(trajectory=tmp_path / "path.json", depth=write_depth(tmp_path / "depth"), every=2)
    with pytest.raises(KeyboardInterrupt):
        import_footage(photos, tmp_path / "made", options, track=at_stage("Depth", 3, KeyboardInterrupt()))
    import_footage(photos, tmp_path / "made", options)
    assert [seen.pose.timestamp for seen in open_sequence(tmp_path / "made")] == [float(i) for i in range(10)]


def test_a_path_without_intrinsics_takes_those_of_the_data_set(tmp_path):
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:4], CAMERA))
    rows = [pose.camera_from_world[:3].ravel().tolist() for pose in PATH[4:8]]
    (tmp_path / "motion.json").write_text(json.dumps(rows))
    import_footage(scene, tmp_path / "made", ImportOptions(trajectory=str(tmp_path / "motion.json")))
    sequence = open_sequence(tmp_path / "made")
    assert sequence.intrinsics == CAMERA
    np.testing.assert_allclose(sequence.pose(1).world_from_camera, PATH[5].world_from_camera, atol=1e-9)


# --- Cameras.


def test_intrinsics_of_another_shape_are_refused(photos, tmp_path):
    wide = CameraIntrinsics(400.0, 400.0, 320.0, 180.0, 640, 360)
    with pytest.raises(
        ValueError, match=r"intrinsics: expected those of frames of the shape of 320x240, got .* 640x360"
    ):
        import_footage(photos, tmp_path / "made", ImportOptions(intrinsics=wide))
    for i in range(3):
        save(
            tmp_path / "upright" / f"{i}.png", np.random.default_rng(i).integers(0, 256, (320, 240, 3)).astype(np.uint8)
        )
    with pytest.raises(ValueError, match="frames are turned upright: give those of the upright frame"):
        import_footage(tmp_path / "upright", tmp_path / "made", KNOWN)


def test_exif_tells_lenses_apart_and_their_focal_lengths(tmp_path):
    for i, film in enumerate((26, 13, 0)):
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = "Maker", "Phone"
        more = exif.get_ifd(0x8769)
        more[0x920A] = float(film or 5)
        if film:
            more[0xA405] = film
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (720, 480)).save(tmp_path / "photos" / f"{i}.jpg", exif=exif)
    taken = list(Photos(tmp_path / "photos").frames())
    assert [each.focal for each in taken] == pytest.approx([26 / 36 * 720, 13 / 36 * 720, None])
    assert len({each.camera for each in taken}) == 3


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert next(iter(Video(tmp_path / "a.mp4").frames())).image.shape == (48, 128, 3)


def test_intrinsics_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected a principal point in the image, got \(320, 240\) of 320x240"):
        ImportOptions(intrinsics=CameraIntrinsics._derived(585.0, 585.0, 320.0, 240.0, 320, 240))


def test_poses_are_given_or_estimated(photos, tmp_path):
    with pytest.raises(
        ValueError, match="poses, trajectory: expected poses to be estimated, or a camera path, not both"
    ):
        ImportOptions(poses="estimate", trajectory="path.json")
    with pytest.raises(ValueError, match="poses: expected footage that has poses"):
        import_footage(photos, tmp_path / "made", ImportOptions(poses="given"))
    assert not any(path.name.endswith("importing") for path in tmp_path.iterdir()), "nothing is left of it"


def test_depth_stays_with_its_pixels_when_the_lens_is_estimated(tmp_path):
    """A data set with wrong intrinsics, of which poses and lens are estimated anew."""
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH, CAMERA))
    wrong = CAMERA.matrix
    wrong[:2, :2] *= 1.2
    np.savetxt(scene / "camera-intrinsics.txt", wrong)
    made = import_footage(scene, tmp_path / "made", ImportOptions(poses="estimate", camera_model="SIMPLE_PINHOLE"))
    assert made.intrinsics["fx"] == pytest.approx(CAMERA.fx, rel=0.03)
    np.testing.assert_allclose(open_sequence(tmp_path / "made")[5].depth, WORLD.depth(CAMERA, PATH[5]), atol=2e-3)


# --- Footage.


def test_a_dark_beginning_does_not_end_the_choice_of_frames(rng):
    small = rng.integers(0, 256, (60, 400, 3)).astype(np.uint8)
    texture = np.array(Image.fromarray(small).resize((1600, 240), Image.Resampling.BICUBIC))
    seen = [np.ascontiguousarray(texture[:, 6 * i : 6 * i + 320]) for i in range(40)]
    dark = [np.zeros((240, 320, 3), np.uint8)] * 5
    selection = MotionSelection(0.045)
    kept = [i for i, image in enumerate([*dark, *seen[:20], *dark, *seen[20:]]) if selection.add(image)[0]]
    assert len([i for i in kept if 5 <= i < 25]) >= 6
    assert len([i for i in kept if i >= 30]) >= 6


def test_frames_that_a_known_length_names_are_kept(tmp_path):
    path = WORLD.leave_and_return(CAMERA, 240)[80:120]
    save_mp4(tmp_path / "walk.mp4", np.stack([view.image_uint8 for view in views(path)]))
    distance = float(np.linalg.norm(path[7].position - path[33].position))
    made = import_footage(
        tmp_path / "walk.mp4", tmp_path / "made", ImportOptions(intrinsics=CAMERA, scale=f"7,33={distance}")
    )
    assert made.unit == "metres"
    sequence = open_sequence(tmp_path / "made")
    assert {7, 33} <= {sequence.number(i) for i in range(len(sequence))}
    assert aligned(sequence, path)[0] == pytest.approx(1, abs=0.05)


def test_times_that_go_back_are_said_and_mended(tmp_path):
    """Two recordings of a transport stream, one after the other in one file."""
    import av

    parts = []
    for _ in range(2):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(8):
                image = np.full((48, 64, 3), 30 * i, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with pytest.warns(SuspiciousInput, match="the times of 1 frames are missing or do not increase"):
        times = [taken.time for taken in Video(tmp_path / "both.ts").frames()]
    assert len(times) >= 14
    np.testing.assert_allclose(np.diff(times)[[0, 1, 7]], 0.04, atol=2e-3)
    assert (np.diff(times) > 0).all()


def test_two_photos_are_too_few(tmp_path):
    with pytest.raises(FormatError, match="expected at least 3 frames to estimate poses of, got 2"):
        import_footage(write_photos(tmp_path / "photos", PATH[:2]), tmp_path / "made", KNOWN)


def test_images_named_as_maps_are_no_photos_and_that_is_said(tmp_path):
    for name in ("a.png", "b.png", "masked_ball.png", "a_depth.png", "depth10m.png"):
        save(tmp_path / "photos" / name, np.zeros((48, 64, 3), np.uint8))
    with pytest.warns(SuspiciousInput, match=r"2 images are named as depth or masks, and left out: a_depth\.png"):
        found = Photos(tmp_path / "photos")
    assert found.names == ["a.png", "b.png", "masked_ball.png"]


# --- What an interrupted import is resumed for.


def test_networks_are_told_apart(tmp_path):
    pytest.importorskip("onnxruntime")
    for name, gain in (("a", 1.0), ("b", 2.0)):
        (tmp_path / f"{name}.onnx").write_bytes(red_model(gain=gain))

    def plain(name, **settings):
        network = OnnxDepthEstimator(tmp_path / f"{name}.onnx", **settings, **PLAIN)
        return ImportOptions(depth_estimator=network).plain()["depth_estimator"]

    assert plain("a") == plain("a")
    assert plain("a") != plain("b")
    assert plain("a") != plain("a", output="depth")
    assert plain("a") != plain("a", input_size=(24, 32))


def test_masks_that_were_changed_are_read_again(tmp_path):
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH[:3], CAMERA))
    for i in range(3):
        save(tmp_path / "masks" / f"{i}.png", grey(0, (320, 240)))
    options = ImportOptions(masks=tmp_path / "masks")
    with pytest.raises(KeyboardInterrupt):
        import_footage(scene, tmp_path / "made", options, track=at_stage("Depth", 1, KeyboardInterrupt()))
    mask = grey(0, (320, 240))
    mask[1, 2] = 255
    for i in range(3):
        save(tmp_path / "masks" / f"{i}.png", mask)
    import_footage(scene, tmp_path / "made", options)
    assert np.argwhere(open_sequence(tmp_path / "made")[2].moving).tolist() == [[1, 2]]


def test_another_source_of_depth_finds_its_points(photos, tmp_path):
    """Poses and depth of a data set need no points; a network does."""
    scene = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH, CAMERA))
    with pytest.raises(KeyboardInterrupt):
        import_footage(scene, tmp_path / "made", track=at_stage("Depth", 1, KeyboardInterrupt()))
    made = import_footage(scene, tmp_path / "made", ImportOptions(depth_estimator=Relative()))
    assert made.depth == "network"
    assert made.coverage == 1
