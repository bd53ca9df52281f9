import itertools

import numpy as np
import pytest

from mosaicmem import (
    CameraIntrinsics,
    CameraPose,
    SyntheticWorld,
    WarpedLatent,
    reproject_depth_grid,
    unproject_to_image,
)
from mosaicmem.metrics import psnr

K = CameraIntrinsics.from_fov(160, 96, fov_x=1.3)


def test_depth_is_exact(world):
    """A view straight at the far wall x = -4, on which a picture 5 cm thick hangs."""
    pose = CameraPose.look_at([-1, -1.5, -1], [-4, -1.5, -1])
    view = world.render(K, pose)
    assert view.depth[48, 80] == pytest.approx(2.95, abs=1e-6)
    points, valid = unproject_to_image(view.depth, K, pose)
    assert valid.all()
    assert points[..., 1].max() <= 1e-5  # nothing under the floor
    assert points[..., 1].min() >= -2.8 - 1e-5  # nothing above the ceiling


def test_views_agree_with_each_other(world):
    """A view warped by its exact depth looks like the other view, where the other sees the same surface."""
    a = CameraPose.look_at([-1.0, -1.5, 0.0], [-4, -1.3, 0])
    b = CameraPose.look_at([-1.2, -1.4, 0.3], [-4, -1.4, 0.1])
    seen_a, seen_b = world.render(K, a), world.render(K, b)
    projected, valid = reproject_depth_grid(seen_a.depth, 1, K, a, K, b)
    warped = WarpedLatent("bilinear").splat(
        seen_a.image[valid], projected[valid][:, 1::-1] - 0.5, projected[valid][:, 2], 96, 160
    )
    same = warped.coverage & (np.abs(warped.depth - seen_b.depth) < 0.02 * seen_b.depth)
    assert same.mean() > 0.7
    assert psnr(warped.latents, seen_b.image, same) > 24
    np.testing.assert_allclose(np.median(warped.depth[same] - seen_b.depth[same]), 0, atol=0.02)


def test_walls_occlude(world):
    """The second room's picture is behind the wall between the rooms."""
    through = CameraPose.look_at([-2, -1.5, -1], [4, -1.5, -1])
    assert world.render(K, through).depth[48, 80] == pytest.approx(1.9, abs=0.2)


def test_detail_and_determinism(world):
    pose = world.leave_and_return(K, 10)[3]
    image = world.render(K, pose).image
    assert image.std() > 0.05
    assert np.abs(np.diff(image, axis=1)).mean() > 0.01
    assert SyntheticWorld(0).render(K, pose).image.tobytes() == image.tobytes()
    assert SyntheticWorld(1).render(K, pose).image.tobytes() != image.tobytes()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loop_leaves_and_comes_back(seed):
    world = SyntheticWorld(seed)
    loop = world.leave_and_return(K, 60)
    np.testing.assert_allclose(loop[0].world_from_camera, loop[-1].world_from_camera, atol=1e-12)
    assert max(pose.position[0] for pose in loop) > 1.0  # into the second room
    assert all(world.render(K.scaled(40, 24), pose).depth.min() > 0.2 for pose in loop)  # never inside anything
    steps = [a.distance_to(b) for a, b in itertools.pairwise(loop)]
    assert max(steps) < 0.5
