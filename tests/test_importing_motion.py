"""What moves is found or given, and left out; frames of a video are chosen by motion."""

import numpy as np
import pytest
from PIL import Image

from import_helpers import CAMERA, PATH, WORLD, write_photos
from mosaicmem import CameraTrajectory, SuspiciousInput
from mosaicmem.datasets import open_sequence
from mosaicmem.importing import ImportOptions, OnnxSegmenter, import_footage, moving_pixels
from mosaicmem.importing.pairs import pairs_of
from mosaicmem.importing.points import depth_of_points, supported
from mosaicmem.importing.selection import MotionSelection
from onnx_models import mean_model, red_model
from scene_helpers import write_scene

pytest.importorskip("cv2")
BOX = (slice(90, 190), slice(120, 200))  # pixels of a visitor
VISITS = range(8, 12)


@pytest.fixture
def scene(tmp_path):
    """A data set in which something near stands in the way for four frames."""
    folder = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH, CAMERA))
    for i in VISITS:
        for kind, value in (("color", 250), ("depth", 700)):
            path = folder / f"frame-{4 * i:06d}.{kind}.png"
            with Image.open(path) as image:
                pixels = np.array(image)
            pixels[BOX] = value
            Image.fromarray(pixels).save(path)
    return folder


def test_what_other_frames_see_through_is_left_out(scene, tmp_path):
    made = import_footage(scene, tmp_path / "made", ImportOptions(moving_by_depth=True))
    sequence = open_sequence(tmp_path / "made")
    inside, outside = [], []
    for i, seen in enumerate(sequence):
        visitor = np.zeros(seen.depth.shape, bool)
        if i in VISITS:
            visitor[BOX] = True
            inside.append(seen.moving[visitor].mean())
            assert (seen.depth[seen.moving] == 0).all()
        outside.append(seen.moving[~visitor].mean())
    assert min(inside) > 0.9
    assert np.mean(outside) < 0.02
    assert 0 < made.moving < 0.05


def test_what_most_frames_see_does_not_move(tmp_path):
    """Two of ten frames see through a wall that all others see."""
    depths = [np.full((240, 320), 2.0, np.float32) for _ in range(10)]
    for i in (2, 8):
        depths[i][:] = 4.0

    def mask(i):
        return moving_pixels(i, 10, CAMERA, depths.__getitem__, lambda _: PATH[0])

    assert not mask(5).any()
    assert mask(5).shape == (240, 320)
    for i in range(4, 9):
        depths[i][:] = 4.0
    assert mask(3).mean() > 0.9, "now most frames see through it"


def test_nothing_moves_in_a_still_room(tmp_path):
    folder = write_scene(tmp_path / "scene", WORLD, CameraTrajectory(PATH, CAMERA))
    assert import_footage(folder, tmp_path / "made", ImportOptions(moving_by_depth=True)).moving < 0.01


def test_masks_in_files(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    for i in range(20):
        mask = np.zeros((120, 160), np.uint8)
        mask[10:20, 30 + i] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"photo {i}.png")
    pytest.importorskip("pycolmap")
    options = ImportOptions(masks=tmp_path / "masks", intrinsics=CAMERA)
    made = import_footage(photos, tmp_path / "made", options)
    assert made.moving == pytest.approx(10 / (120 * 160), rel=1e-3)
    seen = open_sequence(tmp_path / "made")[4]
    expected = np.zeros((240, 320), bool)
    expected[20:40, 68:70] = True
    np.testing.assert_array_equal(seen.moving, expected)
    assert (seen.depth[expected] == 0).all()


def test_frames_without_a_mask_stay(tmp_path):
    pytest.importorskip("pycolmap")
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    for i in range(0, 20, 2):
        Image.fromarray(np.zeros((120, 160), np.uint8)).save(tmp_path / "masks" / f"photo {i}.png")
    with pytest.warns(SuspiciousInput, match="10 of 20 frames have no file of masks"):
        made = import_footage(photos, tmp_path / "made", ImportOptions(masks=tmp_path / "masks", intrinsics=CAMERA))
    assert made.frames == 20


def test_interpolated_depth_cannot_show_what_moves(tmp_path):
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(ValueError, match="moving_by_depth: expected depth that is better than interpolated"):
        import_footage(photos, tmp_path / "made", ImportOptions(moving_by_depth=True))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_masks_that_seem_inverted(scene, tmp_path):
    def everything(image):
        return np.ones(image.shape[:2], bool)

    with pytest.warns(SuspiciousInput, match=r"masks say that 100 % of the pixels show something moving.*inverted"):
        import_footage(scene, tmp_path / "made", ImportOptions(moving=everything))


def test_a_function_says_what_moves(scene, tmp_path):
    def bright(image):
        return image.min(axis=2) > 245

    import_footage(scene, tmp_path / "made", ImportOptions(moving=bright))
    sequence = open_sequence(tmp_path / "made")
    assert all(sequence[i].moving[BOX].all() for i in VISITS)

    def wrong(image):
        return np.ones((3, 3), bool)

    with pytest.raises(ValueError, match=r"moving\(image\): expected"):
        import_footage(scene, tmp_path / "wrong", ImportOptions(moving=wrong))


# --- Networks that find what moves.

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "multiple": 1}


def test_a_network_gives_one_map(rng):
    image = rng.uniform(0, 1, (24, 32, 3)).astype(np.float32)
    mask = OnnxSegmenter(red_model(), **PLAIN)(image)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, image[..., 0] > 0.5)
    np.testing.assert_array_equal(OnnxSegmenter(red_model(), threshold=0.9, **PLAIN)(image), image[..., 0] > 0.9)


def identity_model():
    """The channels of the image as the scores of three classes."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["scores"])],
        "identity",
        [helper.make_tensor_value_info("image", types.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("scores", types.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    return model.SerializeToString()


def test_a_network_gives_classes(rng):
    image = rng.uniform(0, 1, (24, 32, 3)).astype(np.float32)
    found = OnnxSegmenter(identity_model(), classes=[0, 2], **PLAIN)(image)
    np.testing.assert_array_equal(found, image.argmax(axis=2) != 1)
    with pytest.raises(ValueError, match=r"classes: expected the numbers of those that move.* gives 3"):
        OnnxSegmenter(identity_model(), **PLAIN)
    with pytest.raises(ValueError, match=r"classes: expected numbers below 3, .* got \[15\]"):
        OnnxSegmenter(identity_model(), classes=[15], **PLAIN)
    with pytest.raises(ValueError, match="classes: expected none"):
        OnnxSegmenter(red_model(), classes=[1], **PLAIN)


def test_a_network_gives_labels():
    image = np.zeros((24, 32, 3), np.uint8)
    image[:, :10] = 255
    model = mean_model([1, 3, "h", "w"], answer="INT64")
    found = OnnxSegmenter(model, **PLAIN)(image)
    np.testing.assert_array_equal(found, image[..., 0] > 0)
    np.testing.assert_array_equal(OnnxSegmenter(model, classes=[0], **PLAIN)(image), image[..., 0] == 0)


# --- Points of the structure.


@pytest.mark.parametrize("count", [400, 5000])
def test_points_at_depths_of_their_own_are_left_out(rng, count):
    row, column = rng.integers(0, 480, count), rng.integers(0, 640, count)
    depth = 2 + row / 480 + column / 1000
    wrong = rng.random(count) < 0.1
    depth[wrong] *= rng.choice([0.3, 0.5, 1.8, 3.0], wrong.sum())
    kept = supported(row, column, depth)
    assert kept[~wrong].mean() > 0.99
    assert kept[wrong].mean() < 0.2


def test_of_points_in_one_pixel_the_nearest_counts():
    points = np.array([[0, 0, 2.0], [0, 0, 1.0], [0, 0, 3.0], [0, 0, -1.0], [9, 0, 1.0]])
    row, column, depth = depth_of_points(points, np.eye(4), CAMERA)
    seen = np.zeros((240, 320))
    seen[row, column] = depth
    assert len(depth) == 3
    assert seen[120, 160] == 1.0


def test_few_points_are_all_kept():
    assert supported(np.arange(5), np.arange(5), np.array([1.0, 9, 2, 7, 4])).all()


# --- Which frames are kept, and matched.


def shifted(texture, x):
    return np.ascontiguousarray(texture[:240, int(x) : int(x) + 320])


@pytest.fixture
def texture(rng):
    small = rng.integers(0, 256, (60, 400, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((1600, 240), Image.Resampling.BICUBIC))


def test_a_frame_is_kept_when_it_has_moved_enough(texture):
    selection = MotionSelection(0.045)
    kept = [i for i in range(33) if selection.add(shifted(texture, 4 * i))[0]]
    assert kept == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert 0.045 <= selection.most_motion < 0.06


def test_a_still_camera_keeps_one_frame(texture):
    selection = MotionSelection(0.03)
    assert [selection.add(shifted(texture, 7)) for _ in range(9)] == [(True, False)] + [(False, False)] * 8
    assert selection.most_motion < 1e-3


def test_a_cut_is_seen(texture):
    selection = MotionSelection(0.03)
    dark = (texture[:, ::-1] // 3).astype(np.uint8)
    found = [selection.add(shifted(each, 2 * i)) for each in (texture, dark) for i in range(6)]
    assert [i for i, (_, cut) in enumerate(found) if cut] == [6]


def test_no_corners_are_no_cut():
    selection = MotionSelection(0.03)
    assert [selection.add(np.full((240, 320, 3), i, np.uint8))[1] for i in range(5)] == [False] * 5


@pytest.fixture
def looping(tmp_path):
    """Frames 0 to 119; the last 20 look like the first 20."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (100, 12, 16)).astype(np.uint8)
    files = []
    for i in range(120):
        Image.fromarray(tiles[i % 100]).resize((64, 48)).save(tmp_path / f"{i:03d}.png")
        files.append(f"{i:03d}.png")
    return tmp_path, files


def test_frames_are_matched_with_neighbours_and_where_the_camera_comes_back(looping):
    folder, files = looping
    pairs = pairs_of(folder, files, True)
    assert pairs == sorted(set(pairs))
    assert all(0 <= a < b < 120 for a, b in pairs)
    assert {(a, a + d) for d in range(1, 11) for a in range(120 - d)} <= set(pairs)
    assert {(a, a + 64) for a in range(56)} <= set(pairs)
    assert {(a, a + 100) for a in range(20)} <= set(pairs)
    assert len(pairs) < 120 * 30


def test_few_photos_are_all_matched(looping):
    folder, files = looping
    assert len(pairs_of(folder, files[:30], False)) == 30 * 29 // 2
    assert {(a, a + 100) for a in range(20)} <= set(pairs_of(folder, files, False))
