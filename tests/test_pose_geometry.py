"""Directions, relative poses, points in images, and points in regions."""

import math

import numpy as np
import pytest

from conftest import random_pose
from memory_helpers import K, filled_store
from mosaicmem import CameraPose, Frustum, Sphere
from mosaicmem.memory import Box
from mosaicmem.memory.regions import choose


def test_directions_are_a_right_handed_frame(rng):
    pose = random_pose(rng, 1.0, 0.0)
    np.testing.assert_allclose(np.cross(pose.right, -pose.up), pose.forward, atol=1e-12)
    upright = CameraPose.look_at((0, -1, 0), (0, -1, 5))
    np.testing.assert_allclose(upright.up, (0, -1, 0), atol=1e-12)
    upright.right[0] = 7  # a copy
    assert upright.right[0] != 7


def test_relative_poses(rng):
    a, b = random_pose(rng, 1.0, 1.0), random_pose(rng, 1.0, 2.0)
    relative = a.relative_to(b)
    np.testing.assert_allclose(b.world_from_camera @ relative.world_from_camera, a.world_from_camera, atol=1e-12)
    assert relative.timestamp == 1.0
    np.testing.assert_allclose(a.relative_to(a).world_from_camera, np.eye(4), atol=1e-12)


class TestProjection:
    def test_points_land_where_they_were_seen(self, rng):
        pose = random_pose(rng, 1.0, 0.0)
        pixels = rng.uniform((0, 0), (K.width, K.height), (50, 2))
        depth = rng.uniform(0.5, 9, 50)
        local = K.unproject(pixels, depth)
        world = local @ pose.world_from_camera[:3, :3].T + pose.position
        where, how_far, visible = pose.project_points(world, K)
        np.testing.assert_allclose(where, pixels, atol=1e-9)
        np.testing.assert_allclose(how_far, depth, atol=1e-9)
        assert visible.all()

    def test_what_is_behind_or_beside_is_not_visible(self):
        here = CameraPose(np.eye(4))
        pixels, depth, visible = here.project_points([[0, 0, 2], [0, 0, -2], [9, 0, 2], [0, 0, 0]], K)
        assert visible.tolist() == [True, False, False, False]
        assert np.isnan(pixels[[1, 3]]).all()
        assert depth.tolist() == [2, -2, 2, 0]

    def test_points_are_checked(self):
        with pytest.raises(ValueError, match=r"points: expected shape \(N, 3\), got \(3,\)"):
            CameraPose(np.eye(4)).project_points([0, 0, 2], K)


class TestRegions:
    def test_points_in_a_region_are_those_that_a_store_finds(self, rng):
        store, keyframes = filled_store(rng, 4)
        centres = store.describe_patches(store.patch_ids)["centre"]
        middle, pose = centres.mean(axis=0), keyframes[0][2]
        turned = random_pose(rng, 0.3, 0.0).world_from_camera.copy()
        turned[:3, 3] = middle
        for region in (
            Sphere(middle, 2.0),
            Box(middle - 1.5, middle + 2),
            Box((-1.5, -1.5, -1.5), (2, 2, 2), turned),
            Frustum(K, pose, 0.5, 3.0),
            Frustum(K, pose),
        ):
            inside = region.contains(centres)
            assert 0 < inside.sum() < len(inside)
            # The index keeps float32 offsets: a centre on a border may be on either side.
            different = set(store.patch_ids[inside]) ^ set(choose(store, region).tolist())
            assert len(different) <= 1

    def test_a_frustum_is_what_its_camera_sees(self, rng):
        points = rng.uniform(-3, 3, (400, 3))
        pose = random_pose(rng, 0.3, 0.0)
        _, depth, visible = pose.project_points(points, K)
        for near, far in ((0.5, 2.0), (0.05, math.inf)):
            inside = Frustum(K, pose, near, far).contains(points)
            np.testing.assert_array_equal(inside, visible & (depth >= near) & (depth <= far))

    def test_bounds_are_included(self):
        assert Sphere((0, 0, 0), 1).contains([[1, 0, 0], [1.001, 0, 0]]).tolist() == [True, False]
        assert Box((0, 0, 0), (1, 1, 1)).contains([[0, 1, 0], [0, 1, -0.001]]).tolist() == [True, False]
