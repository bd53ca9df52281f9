"""File names in numeric order, whatever tool wrote them."""

import numpy as np
import pytest

from mosaicmem import CameraPose, CameraTrajectory, SuspiciousInput
from mosaicmem._reading import in_name_order
from mosaicmem.camera.formats import load_trajectory, save_trajectory


def order(names, tmp_path):
    found = in_name_order(sorted(names), str, tmp_path)
    assert found == in_name_order(sorted(names, reverse=True), str, tmp_path)
    return found


@pytest.mark.parametrize(
    "names",
    [
        [f"{i}.npy" for i in range(12)],
        [f"{i:03d}.npy" for i in (0, 9, 10, 99, 100)],
        ["frame-9.png", "frame-10.png", "frame-100.png"],
        ["999998.png", "999999.png", "1000000.png"],  # a counter that outgrows its zeros
        ["take2/img9.jpg", "take2/img10.jpg", "take10/img1.jpg"],
        ["a1b2.png", "a1b10.png", "a10b1.png", "b0.png"],
        ["1305031102.175304.png", "1305031102.211214.png", "1305031110.000001.png"],
        [
            "0.05.npy",
            "0.25.npy",
            "0.5.npy",
            "1.0.npy",
            "1.5.npy",
            "10.0.npy",
        ],  # decimal numbers, since some begin with 0
        ["1.png", "01.png", "2.png"],
        ["left.png", "right.png"],
    ],
    ids=lambda names: names[0],
)
def test_numbers_count_as_numbers(names, tmp_path):
    if names[0] == "1.png":
        names = ["01.png", "1.png", "2.png"]
    assert order(names, tmp_path) == names


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (["1.10.png", "1.9.png"], "as decimal numbers"),
        (["take1.9.png", "take1.10.png"], "with each number in them counted by itself"),
    ],
)
def test_an_uncertain_order_is_said(names, how, tmp_path):
    with pytest.warns(
        SuspiciousInput, match=rf"names such as .*1\.(9|10)\.png .* uncertain; they are taken {how}; pad"
    ):
        assert in_name_order(names[::-1], str, tmp_path) == names


@pytest.mark.parametrize("kind", ["colmap", "colmap-binary"])
def test_colmap_images_without_padding(tmp_path, small_camera, kind):
    poses = [CameraPose.look_at([i, 0, 0], [i, 0, 5], timestamp=i / 30) for i in range(12)]
    save_trajectory(tmp_path / "model", CameraTrajectory(poses, small_camera), kind)
    path = tmp_path / "model" / ("images.bin" if kind == "colmap-binary" else "images.txt")
    content = path.read_bytes()
    for i in range(12):
        content = content.replace(f"frame_{i:06d}.png".encode(), f"{i}.png".encode())
    path.write_bytes(content)
    loaded = load_trajectory(tmp_path / "model")
    np.testing.assert_allclose([pose.position[0] for pose in loaded], range(12), atol=1e-9)
