"""``mosaicmem generate --image``: a run begins with one image."""

import numpy as np
import pytest

from cli_helpers import run, succeed
from mosaicmem import CameraIntrinsics, SyntheticWorld
from mosaicmem.media import save_png

SMALL = ["--set", "window_size=4", "--set", "window_overlap=1", "--set", "num_inference_steps=2"]


def fail(*arguments):
    done = run(*arguments)
    assert done.returncode != 0
    return done.stderr


@pytest.fixture
def files(tmp_path):
    world = SyntheticWorld()
    path = world.leave_and_return(CameraIntrinsics.from_fov(64, 48, fov_x=1.3), 8)
    view = world.render(path.intrinsics, path[0])
    path.save(tmp_path / "path.json")
    save_png(tmp_path / "first.png", view.image)
    save_png(tmp_path / "wide.png", np.repeat(view.image, 2, axis=1))
    np.save(tmp_path / "depth.npy", view.depth)
    return tmp_path


def command(folder, *more, image="first.png"):
    return [
        "generate",
        "--image",
        folder / image,
        "--trajectory",
        folder / "path.json",
        "-o",
        folder / "out",
        *SMALL,
        *more,
    ]


def test_memory_begins_with_it(files):
    printed = succeed(*command(files, "--depth-file", files / "depth.npy")).stdout
    assert "Memory begins with" in printed
    assert "first.png" in printed
    first = next(line for line in printed.splitlines() if line.strip().startswith("0"))
    assert float(first.split()[4]) > 25  # per cent of the first window, covered by the image


def test_resumes_only_with_the_same_image(files):
    kept = ["--depth-file", files / "depth.npy", "--checkpoint", files / "kept"]
    succeed(*command(files, *kept))
    succeed(*command(files, *kept, "--force"))
    save_png(files / "other.png", np.zeros((48, 64, 3), np.uint8))
    assert "image was" in fail(*command(files, *kept, "--force", image="other.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda f: command(f), "--image: expected its depth too, from --depth-file, --depth-model or --depth-files"),
        (lambda f: command(f, "--depth-file", f / "depth.npy", image="wide.png"), "expected 64x48 pixels, got 128x48"),
        (lambda f: ["generate", "--depth-file", f / "depth.npy", "--trajectory", f / "path.json", "-o", f / "out"],
         "--depth-file: expected --image, whose depth it is"),
        (lambda f: ["generate", "--image", f / "first.png", "--scene", f, "--frames", "0:2", "-o", f / "out"],
         "--image: expected --trajectory, whose first camera sees it"),
    ],
)  # fmt: skip
def test_mistakes(files, arguments, message):
    assert message in fail(*arguments(files))
    assert not (files / "out").exists()
