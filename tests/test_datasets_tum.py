import os

import numpy as np
import pytest

from dataset_helpers import HEIGHT, START, WIDTH, assert_depth, cut, make_frames, save, tum_pose, write_tum
from mosaicmem import CameraIntrinsics, FormatError, SuspiciousInput
from mosaicmem.datasets import TumRgbd


@pytest.fixture
def frames(rng):
    return make_frames(rng)


@pytest.fixture
def folder(tmp_path, frames):
    return write_tum(tmp_path / "rgbd_dataset_freiburg1_desk", frames)


def edit(path, line, text):
    """Replace a line, counted from 0; None deletes it."""
    lines = path.read_text().splitlines()
    lines[line : line + 1] = [] if text is None else [text]
    path.write_text("\n".join(lines))


def test_every_frame(folder, frames):
    sequence = TumRgbd(folder)
    assert len(sequence) == 4
    for i, (seen, frame) in enumerate(zip(sequence, frames, strict=True)):
        np.testing.assert_array_equal(seen.image, frame.image)
        assert_depth(seen.depth, frame.units, 5000)
        np.testing.assert_allclose(seen.pose.world_from_camera, frame.pose.world_from_camera, atol=5e-6)
        assert seen.pose.timestamp == pytest.approx(i / 10, abs=1e-6)
        assert seen.number == sequence.number(i) == i
    assert [seen.number for seen in sequence[1:3]] == [1, 2]
    assert sequence[-1].number == 3
    assert sequence.trajectory([3]).poses[0] == sequence.pose(3)
    with pytest.raises(IndexError):
        sequence[4]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("rgbd_dataset_freiburg1_desk", (517.3, 516.5, 318.6, 255.3)),
        ("rgbd_dataset_freiburg2_xyz", (520.9, 521.0, 325.1, 249.7)),
        ("freiburg3", (535.4, 539.2, 320.1, 247.6)),
        ("fr1_desk", (517.3, 516.5, 318.6, 255.3)),
        ("TUM-FR3-office", (535.4, 539.2, 320.1, 247.6)),
    ],
)
def test_intrinsics_of_each_camera(tmp_path, frames, name, params, monkeypatch):
    folder = write_tum(tmp_path / name, frames)
    camera = TumRgbd(folder).intrinsics
    fx, fy, cx, cy = params
    assert camera.params == pytest.approx((fx / 20, fy / 20, (cx + 0.5) / 20, (cy + 0.5) / 20))
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    monkeypatch.chdir(folder)
    assert TumRgbd(".").intrinsics == camera


@pytest.mark.parametrize("name", ["kitchen", "freiburg4", "fr12", "zephyr1"])
def test_the_camera_of_another_folder_is_assumed_aloud(tmp_path, frames, name):
    folder = write_tum(tmp_path / name, frames)
    message = (
        r"default camera of TUM RGB-D \(525, 525, 319\.5, 239\.5 .* resized .* write fx fy cx cy to calibration\.txt"
    )
    with pytest.warns(SuspiciousInput, match=message) as caught:
        sequence = TumRgbd(folder)
    assert len(caught) == 1
    assert sequence.intrinsics.params == pytest.approx((26.25, 26.25, 16, 12))


def test_a_calibration_in_the_folder_goes_first(folder):
    (folder / "calibration.txt").write_text("30 31 15.5 11.5\n")
    assert TumRgbd(folder).intrinsics.params == (30, 31, 16, 12)


def test_images_of_full_size_keep_the_published_values(folder):
    save(next((folder / "rgb").iterdir()).with_name(f"{START:.6f}.png"), np.zeros((480, 640, 3), np.uint8))
    assert TumRgbd(folder).intrinsics.params == (517.3, 516.5, 319.1, 255.8)


def test_the_nearest_partner_is_taken(folder, frames, rng):
    nearer = make_frames(rng, 1)[0]
    save(folder / "depth" / "nearer.png", nearer.units)
    with open(folder / "depth.txt", "a") as file:  # out of order, and further lines that are not the nearest
        file.write(f"{START + 0.096:.6f} depth/nearer.png\n{START + 0.09:.6f} depth/none.png\n")
    with open(folder / "groundtruth.txt", "a") as file:
        file.write(tum_pose(START + 0.104, frames[0].pose) + "\n" + tum_pose(START + 0.098, nearer.pose) + "\n")
    sequence = TumRgbd(folder)
    assert_depth(sequence[1].depth, nearer.units, 5000)
    assert sequence.pose(1).distance_to(nearer.pose) < 1e-5
    assert sequence.pose(1).timestamp == pytest.approx(0.1, abs=1e-6)
    for i in (0, 2, 3):
        assert_depth(sequence[i].depth, frames[i].units, 5000)
        assert sequence.pose(i).distance_to(frames[i].pose) < 1e-5


def test_association_is_that_of_a_scan(tmp_path, frames, rng):
    folder = write_tum(tmp_path / "fr1", frames)
    colors, depths, poses = (START + rng.uniform(0, 10, count).round(6) for count in (200, 150, 300))
    for name, times in (("rgb", colors), ("depth", depths)):
        (folder / f"{name}.txt").write_text("".join(f"{t:.6f} {name}/{t:.6f}.png\n" for t in times))
    (folder / "groundtruth.txt").write_text("".join(f"{t:.6f} {i} 0 0 0 0 0 1\n" for i, t in enumerate(poses)))
    expected = []
    for number, time in enumerate(sorted(colors)):
        depth, pose = (min(range(len(ts)), key=lambda i, ts=ts: abs(ts[i] - time)) for ts in (depths, poses))
        if abs(depths[depth] - time) <= 0.02 and abs(poses[pose] - time) <= 0.02:
            expected.append((number, f"{time:.6f}.png", f"{depths[depth]:.6f}.png", pose, time - min(colors)))
    save(folder / "rgb" / expected[0][1], frames[0].image)
    with pytest.warns(SuspiciousInput, match=f"{200 - len(expected)} of 200 images are left out"):
        sequence = TumRgbd(folder)
    assert 20 < len(sequence) == len(expected) < 180
    for i, (number, color, depth, pose, time) in enumerate(expected):
        files = sequence._frames[i]
        assert (sequence.number(i), files.color.name, files.depth.name) == (number, color, depth)
        assert sequence.pose(i).position[0] == pose
        assert sequence.pose(i).timestamp == pytest.approx(time, abs=1e-6)


def test_images_without_a_partner_are_left_out(folder):
    edit(folder / "depth.txt", 1, None)  # of frame 0
    edit(folder / "groundtruth.txt", 4, None)  # of frame 2
    message = r"rgb\.txt: 2 of 4 images are left out, number 0 first: 1 have no depth image within 0\.02 s, 1 no pose"
    with pytest.warns(SuspiciousInput, match=message):
        sequence = TumRgbd(folder)
    assert [seen.number for seen in sequence] == [1, 3]
    assert [seen.pose.timestamp for seen in sequence] == pytest.approx([0.1, 0.3], abs=1e-6)


@pytest.mark.parametrize(("apart", "count"), [(0.02, 10), (-0.02, 10), (0.0201, 9), (-0.0201, 9)])
def test_partners_are_at_most_20_ms_apart(tmp_path, rng, apart, count):
    """One missing image in ten is left out without a warning."""
    folder = write_tum(tmp_path / "freiburg2", make_frames(rng, 10))
    path = folder / "depth.txt"
    edit(path, 2, f"{START + 0.1 + apart:.6f} {path.read_text().splitlines()[2].split()[1]}")
    assert len(TumRgbd(folder)) == count


def test_no_partners_at_all(folder):
    (folder / "depth.txt").write_text("12.5 depth/a.png\n")
    with pytest.raises(
        FormatError, match=r"rgb\.txt: expected images within 0\.02 s .* depth image is 1\.3.*e\+09 s away"
    ):
        TumRgbd(folder)


@pytest.mark.parametrize("name", ["rgb", "depth", "groundtruth"])
def test_times_that_repeat_are_said(folder, frames, name):
    path = folder / f"{name}.txt"
    lines = path.read_text().splitlines()
    time = lines[2].split()[0]
    again = tum_pose(float(time), frames[3].pose) if name == "groundtruth" else f"{time} {lines[3].split()[1]}"
    path.write_text("\n".join([*lines, again]))
    with pytest.warns(
        SuspiciousInput, match=rf"{name}\.txt:{len(lines) + 1}: the time {time} is in the list before"
    ) as caught:
        sequence = TumRgbd(folder)
    assert len(caught) == 1
    assert len(sequence) == (5 if name == "rgb" else 4)
    path.write_text("\n".join([*lines, lines[2]]) if name == "groundtruth" else "\n".join(reversed(lines)))
    assert [seen.number for seen in TumRgbd(folder)] == [0, 1, 2, 3]  # the same pose repeated; another order


@pytest.mark.parametrize(
    "image", ["../secret.png", "/etc/passwd", "rgb/../../secret.png", "link/secret.png", "circle", "a\0b"]
)
def test_paths_that_leave_the_folder(folder, image):
    (folder / "link").symlink_to(folder.parent)
    (folder / "circle").symlink_to("circle")
    save(folder.parent / "secret.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    edit(folder / "rgb.txt", 2, f"{START + 0.1:.6f} {image}")
    with pytest.raises(FormatError, match=r"rgb\.txt:3: expected a path inside the folder|circle: not readable"):
        TumRgbd(folder)[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rgb.txt", "soon rgb/a.png", r"rgb\.txt:3: expected a timestamp and a path, got 'soon rgb/a\.png'"),
        ("rgb.txt", "1305031102.2", r"rgb\.txt:3: expected a timestamp and a path"),
        ("depth.txt", "nan depth/a.png", r"depth\.txt:3: expected a timestamp in seconds, got nan"),
        ("depth.txt", "1e300 depth/a.png", r"depth\.txt:3: expected a timestamp in seconds, got 1e\+300"),
        ("depth.txt", "1 " + "d" * 5000, r"depth\.txt:3: expected lines of at most 4096 bytes"),
        ("groundtruth.txt", "1 2 3 4", r"groundtruth\.txt:3: expected 8 numbers, got 4"),
        ("groundtruth.txt", "1 2 3 4 5 6 7 8 9", r"groundtruth\.txt:3: expected 8 numbers, got 9"),
        ("groundtruth.txt", "1 2 3 4 here 0 0 1", r"groundtruth\.txt:3: expected numbers, got '1 2 3 4 here 0 0 1'"),
        ("groundtruth.txt", f"{START} 0 0 0 0 0 0 2", r"groundtruth\.txt:3: wxyz: expected a unit quaternion"),
        ("groundtruth.txt", f"{START} nan 0 0 0 0 0 1", r"groundtruth\.txt:3: position: expected finite values"),
        (
            "groundtruth.txt",
            f"{START} 1e300 0 0 0 0 0 1",
            r"groundtruth\.txt:3: world_from_camera: expected values with",
        ),
        ("groundtruth.txt", f"{START} 0 0 0 0 0 0 1e30", r"groundtruth\.txt:3: wxyz: expected a unit quaternion"),
    ],
)
def test_bad_lines_are_named(folder, name, text, message):
    edit(folder / name, 2, text)
    with pytest.raises(FormatError, match=message):
        list(TumRgbd(folder))


def test_the_line_of_a_pose_is_known_in_a_list_out_of_order(folder):
    edit(folder / "groundtruth.txt", 2, f"{START + 0.103:.6f} 0 0 0 0 0 0 2")
    edit(folder / "groundtruth.txt", 3, f"{START + 0.003:.6f} 0 0 0 0 0 0 3")
    sequence = TumRgbd(folder)
    for index, line in ((0, 4), (1, 3)):
        with pytest.raises(FormatError, match=rf"groundtruth\.txt:{line}: wxyz"):
            sequence.pose(index)


@pytest.mark.parametrize("name", ["rgb.txt", "depth.txt", "groundtruth.txt"])
def test_missing_empty_and_huge_lists(folder, name):
    path = folder / name
    path.write_text("# nothing yet\n")
    with pytest.raises(FormatError, match=rf"{name}: expected at least one line with a timestamp"):
        TumRgbd(folder)
    path.write_bytes(b"\n" * 300_000)
    with pytest.raises(FormatError, match=rf"{name}: expected at most 262144 lines"):
        TumRgbd(folder)
    os.truncate(path, 1 << 40)  # a sparse file: it takes no disk space
    with pytest.raises(FormatError, match=rf"{name}: expected at most 67108864 bytes, got 1099511627776"):
        TumRgbd(folder)
    path.unlink()
    with pytest.raises(FormatError, match=rf"{name}: missing"):
        TumRgbd(folder)
    os.mkfifo(path)
    with pytest.raises(FormatError, match=rf"{name}: not a file"):
        TumRgbd(folder)


def test_bad_images_are_named(folder):
    sequence = TumRgbd(folder)
    color, depth = sequence._frames[1].color, sequence._frames[1].depth
    cut(depth)
    with pytest.raises(FormatError, match=rf"{depth.name}: not a readable image"):
        sequence[1]
    save(depth, np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(FormatError, match=rf"{depth.name}: expected a 16-bit grey image, got uint8"):
        sequence[1]
    save(depth, np.ones((HEIGHT, WIDTH + 1), np.uint16))
    with pytest.raises(FormatError, match=rf"{depth.name}: expected 32x24 pixels, got 33x24"):
        sequence[1]
    depth.unlink()
    with pytest.raises(FormatError, match=rf"{depth.name}: missing, though {color.name} is there"):
        sequence[1]
    save(color, np.ones((HEIGHT + 1, WIDTH, 3), np.uint8))
    with pytest.raises(FormatError, match=rf"{color.name}: expected 32x24 pixels, got 32x25"):
        sequence[1]
    color.unlink()
    with pytest.raises(FormatError, match=rf"{color.name}: missing"):
        sequence[1]


def test_intrinsics_are_for_images_of_four_to_three(folder):
    save(folder / "rgb" / f"{START:.6f}.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(FormatError, match=r"expected an image of 4:3, as the freiburg1 camera .* is for, got 32x32"):
        TumRgbd(folder)
    camera = CameraIntrinsics(30, 30, 16, 16, 32, 32)
    assert TumRgbd(folder, intrinsics=camera).intrinsics == camera


class TestTimesOfOtherUnits:
    def rewrite(self, folder, names, factor):
        for name in names:
            path = folder / name
            words = [line.split(maxsplit=1) for line in path.read_text().splitlines() if not line.startswith("#")]
            path.write_text("".join(f"{float(time) * factor:.0f} {rest}\n" for time, rest in words))

    def test_since_1970_are_taken_for_what_they_must_be(self, folder, frames):
        self.rewrite(folder, ["groundtruth.txt"], 1e9)
        self.rewrite(folder, ["rgb.txt", "depth.txt"], 1e6)
        with pytest.warns(SuspiciousInput, match=r"taken as (nano|micro)seconds") as caught:
            sequence = TumRgbd(folder)
        assert len(caught) == 3  # once per file
        assert [seen.pose.timestamp for seen in sequence] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-5)

    def test_intervals_alone_are_refused(self, folder):
        path = folder / "rgb.txt"
        path.write_text("".join(f"{i * 100_000_000} rgb/{i}.png\n" for i in range(4)))
        with pytest.raises(FormatError, match=r"rgb\.txt: times: expected seconds, .* nanoseconds\?"):
            TumRgbd(folder)


def test_coarse_quaternions_are_normalised_and_named_once(folder):
    for i in range(3):
        edit(folder / "groundtruth.txt", i + 1, f"{START + i / 10:.6f} 0 0 0 0.006 0.711 0 0.711")
    with pytest.warns(
        SuspiciousInput, match=r"groundtruth\.txt: line 2 and 2 more: a quaternion of norm 1\.00\d+"
    ) as caught:
        sequence = TumRgbd(folder)
    assert len(caught) == 1
    for i in range(3):
        assert np.linalg.norm(sequence.pose(i).quaternion) == pytest.approx(1)
