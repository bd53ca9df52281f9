"""Lenses with distortion, and images resampled to a pinhole camera."""

import numpy as np
import pytest

from mosaicmem import CameraIntrinsics
from mosaicmem.datasets.lens import Lens, Rectifier, nearest

pytest.importorskip("cv2")
WIDTH, HEIGHT = 96, 72
CAMERA = CameraIntrinsics(70.0, 72.0, 47.0, 37.0, WIDTH, HEIGHT)


def opencv_pixels(params, x, y):
    """OpenCV's radial and tangential distortion."""
    fx, fy, cx, cy, k1, k2, p1, p2 = params
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return fx * bent_x + cx, fy * bent_y + cy


def fisheye_pixels(params, x, y):
    """OpenCV's fisheye: the angle from the axis becomes a distance."""
    fx, fy, cx, cy, *k = params
    r = np.hypot(x, y)
    theta = np.arctan(r)
    bent = theta * (1 + sum(each * theta ** (2 * i + 2) for i, each in enumerate(k)))
    scale = bent / np.maximum(r, 1e-12)
    return fx * x * scale + cx, fy * y * scale + cy


LENSES = [
    (Lens("OPENCV", (70, 72, 47, 37, -0.2, 0.05, 0.004, -0.003), WIDTH, HEIGHT), opencv_pixels),
    (Lens("OPENCV_FISHEYE", (60, 61, 48, 36, 0.05, -0.01, 0.002, 0.0), WIDTH, HEIGHT), fisheye_pixels),
]
IDS = [lens.model for lens, _ in LENSES]


def rays_of(camera):
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy


@pytest.mark.parametrize(("lens", "formula"), LENSES, ids=IDS)
def test_pixels_are_those_of_the_formula(lens, formula):
    pytest.importorskip("pycolmap")
    x, y = rays_of(CAMERA)
    got = lens.pixels_of(np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)).reshape(*x.shape, 2)
    np.testing.assert_allclose(got, np.stack(formula(lens.params, x, y), axis=-1), atol=1e-9)


@pytest.mark.parametrize(("lens", "formula"), LENSES, ids=IDS)
def test_an_image_of_coordinates_shows_where_pixels_come_from(lens, formula):
    pytest.importorskip("pycolmap")
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    image = np.stack([2 * u, 3 * v, 0 * u], axis=-1).round().astype(np.uint8)
    camera = lens.intrinsics
    rectifier = Rectifier(lens, camera)
    there_u, there_v = formula(lens.params, *rays_of(camera))
    inside = (there_u > 1) & (there_u < WIDTH - 1) & (there_v > 1) & (there_v < HEIGHT - 1)
    assert inside.mean() > 0.8
    got = rectifier.image(image).astype(float)
    assert np.abs(got[inside][:, 0] / 2 - there_u[inside]).max() < 0.5
    assert np.abs(got[inside][:, 1] / 3 - there_v[inside]).max() < 0.4
    depth = rectifier.depth(u.astype(np.float32))
    assert set(np.unique(depth)) <= {0.0, *np.unique(u)}, "depth is never mixed"
    assert np.abs(depth[inside] - there_u[inside]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("lens", "formula"), LENSES, ids=IDS)
def test_no_pixel_of_the_pinhole_is_blank(lens, formula):
    pytest.importorskip("pycolmap")
    assert Rectifier(lens, lens.intrinsics).sees.all()


def test_a_lens_that_bends_outwards_is_zoomed_into():
    pytest.importorskip("pycolmap")
    lens = Lens("SIMPLE_RADIAL", (70, 48, 36, 0.2), WIDTH, HEIGHT)
    camera = lens.intrinsics
    assert camera.fx > 72
    assert camera.params[2:] == (48, 36)
    assert Rectifier(lens, camera).sees.all()
    less = CameraIntrinsics(camera.fx * 0.98, camera.fy * 0.98, 48, 36, WIDTH, HEIGHT)
    assert not Rectifier(lens, less).sees.all()


def test_pixels_that_the_lens_does_not_see_are_black_without_depth(rng):
    narrow = Lens.of(CameraIntrinsics(140.0, 144.0, 47.0, 37.0, WIDTH, HEIGHT))
    rectifier = Rectifier(narrow, CAMERA)
    image = rectifier.image(np.full((HEIGHT, WIDTH, 3), 200, np.uint8))
    depth = rectifier.depth(np.full((HEIGHT, WIDTH), 2, np.float32))
    assert 0.2 < rectifier.sees.mean() < 0.3
    assert (image[rectifier.sees] == 200).all()
    assert (image[~rectifier.sees] == 0).all()
    assert (depth == np.where(rectifier.sees, 2, 0)).all()


def test_the_same_camera_changes_nothing(rng):
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    depth = rng.uniform(1, 2, (HEIGHT, WIDTH)).astype(np.float32)
    rectifier = Rectifier(Lens.of(CAMERA), CAMERA)
    assert np.abs(rectifier.image(image).astype(int) - image).max() == 0
    np.testing.assert_array_equal(rectifier.depth(depth), depth)


def test_larger_images_are_averaged(rng):
    large = Lens.of(CAMERA.scaled(4 * WIDTH, 4 * HEIGHT))
    checks = np.indices((4 * HEIGHT, 4 * WIDTH)).sum(axis=0) % 2 * 255
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert np.abs(Rectifier(large, CAMERA).image(image).astype(int) - 127).max() <= 1


@pytest.mark.parametrize(("lens", "formula"), LENSES, ids=IDS)
def test_a_scaled_lens_is_that_of_the_resized_image(lens, formula):
    pytest.importorskip("pycolmap")
    rays = np.array([[0.2, -0.1, 1.0], [-0.3, 0.25, 1.0]])
    half = lens.scaled(WIDTH // 2, HEIGHT // 2)
    np.testing.assert_allclose(half.pixels_of(rays), lens.pixels_of(rays) / 2, atol=1e-9)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="params: expected 8 for OPENCV, got 4"):
        Lens("OPENCV", (70, 72, 47, 37), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="model: expected one of"):
        Lens("THIN", (70, 72, 47, 37), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="fx: expected more than 0"):
        Lens("PINHOLE", (-70, 72, 47, 37), WIDTH, HEIGHT)


def test_which_lenses_are_pinholes():
    assert Lens("OPENCV", (70, 72, 47, 37, 0, 0, 0, 0), WIDTH, HEIGHT).is_pinhole
    assert Lens("SIMPLE_RADIAL", (70, 47, 37, 0), WIDTH, HEIGHT).is_pinhole
    assert not Lens("SIMPLE_RADIAL", (70, 47, 37, 1e-9), WIDTH, HEIGHT).is_pinhole
    assert not Lens("OPENCV_FISHEYE", (70, 72, 47, 37, 0, 0, 0, 0), WIDTH, HEIGHT).is_pinhole


def test_nearest_pixels_of_another_size():
    small = np.arange(6).reshape(2, 3)
    assert nearest(small, (6, 4)).tolist() == np.repeat(np.repeat(small, 2, axis=0), 2, axis=1).tolist()
    assert nearest(np.repeat(np.repeat(small, 3, axis=0), 3, axis=1), (3, 2)).tolist() == small.tolist()
