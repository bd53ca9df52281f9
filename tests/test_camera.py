import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_pose
from mosaicmem import CameraIntrinsics, CameraPose, SuspiciousInput
from mosaicmem.camera.pose import check_rigid, check_rigid_stack, determinant


def intrinsics():
    return CameraIntrinsics(500.0, 510.0, 319.5, 240.25, 640, 480)


class TestIntrinsics:
    def test_project_and_unproject_are_inverse(self, rng):
        pixels = rng.uniform([0, 0], [640, 480], (200, 2))
        depth = rng.uniform(0.1, 50, 200)
        again, z = intrinsics().project(intrinsics().unproject(pixels, depth))
        np.testing.assert_allclose(again, pixels, rtol=0, atol=1e-9)
        np.testing.assert_allclose(z, depth, rtol=1e-14)

    def test_points_behind_the_camera_have_no_pixel(self):
        pixels, depth = intrinsics().project([[0.0, 0, -1], [0, 0, 0], [0, 0, 2]])
        assert np.isnan(pixels[:2]).all()
        np.testing.assert_allclose(pixels[2], [319.5, 240.25])
        np.testing.assert_array_equal(depth, [-1, 0, 2])

    def test_fov(self):
        camera = CameraIntrinsics.from_fov(640, 480, fov_x=math.radians(90))
        assert camera.fx == pytest.approx(320)
        assert camera.fov == pytest.approx((math.radians(90), 2 * math.atan(0.75)))
        assert CameraIntrinsics.from_fov(640, 480, fov_y=camera.fov[1]).fx == pytest.approx(320)

    def test_opencv_principal_point_moves_by_half_a_pixel(self):
        k = [[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]
        assert CameraIntrinsics.from_opencv(k, 640, 480).params == (500, 500, 320, 240)
        assert CameraIntrinsics.from_matrix(k, 640, 480).params == (500, 500, 319.5, 239.5)

    def test_latent_grid_keeps_directions(self, rng):
        grid = intrinsics().latent_grid(8)
        assert (grid.width, grid.height) == (80, 60)
        pixels = rng.uniform(0, 480, (10, 2))
        np.testing.assert_allclose(
            grid.unproject(pixels / 8, np.ones(10)), intrinsics().unproject(pixels, np.ones(10)), atol=1e-12
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fx": 0.0}, "fx: expected more than 0"),
            ({"fy": float("nan")}, "fy: expected a finite number"),
            ({"cx": "320"}, "cx: expected a number, got str"),
            ({"width": 640.0}, "width: expected an integer"),
            ({"height": 0}, "height: expected at least 1"),
            ({"cx": 10**400}, "cx: expected a finite number"),
            ({"cx": 1j}, "cx: expected a number, got complex"),
        ],
    )
    def test_bad_values_are_named(self, change, message):
        with pytest.raises((TypeError, ValueError), match=message):
            CameraIntrinsics(**{**intrinsics().to_dict(), **change})

    def test_degrees_are_suspected(self):
        with pytest.raises(ValueError, match="degrees"):
            CameraIntrinsics.from_fov(640, 480, fov_x=90)

    def test_transposed_matrix_is_suspected(self):
        with pytest.raises(ValueError, match="transposed"):
            CameraIntrinsics.from_matrix(intrinsics().matrix.T, 640, 480)
        with pytest.raises(ValueError, match="transposed"):
            CameraIntrinsics.from_opencv(intrinsics().matrix.T, 640, 480)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ([[1, 0, 0], [0, 1, 0], [0, 0, 2]], r"scaled by 2\? divide it out"),
            ([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]], "skew moves pixels sideways"),
            ([[1, 0, 0], [0, -1, 0], [0, 0, 1]], r"fy: expected more than 0, got -510; .* mirrors an axis"),
            ([[0, 0, 0], [0, 1, 0], [0, 0, 1]], "fx: expected more than 0.0, got 0"),
        ],
    )
    def test_matrices_that_are_no_k_are_explained(self, change, message):
        matrix = np.array(change, float) @ intrinsics().matrix
        for make in (CameraIntrinsics.from_matrix, CameraIntrinsics.from_opencv):
            with pytest.raises(ValueError, match=message):
                make(matrix, 640, 480)

    def test_what_rounding_leaves_of_a_skew_is_no_skew(self):
        matrix = intrinsics().matrix
        matrix[0, 1] = 1e-13
        assert CameraIntrinsics.from_matrix(matrix, 640, 480) == intrinsics()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ((0, 0, 640, 480), r"corner of the image; left out, .* the middle is \(320, 240\) pixels"),
            ((0.5, 0.5, 640, 480), "corner of the image"),
            ((-0.5, 0.5, 640, 480), "corner of the image"),
            ((320, 240, 480, 640), r"480x640 does not fit .* \(320, 240\), and 640x480 does; .* swapped\?"),
            ((540, 960, 1920, 1080), r"1920x1080 does not fit .* swapped\?"),
            ((512, 630, 1280, 1024), r"swapped\?"),
            ((700, 240, 640, 480), "lies outside the image of 640x480"),
            ((320, -3, 640, 480), "lies outside the image"),
            ((960, 540, 640, 360), "intrinsics of an image of about 1920x1080"),
        ],
    )
    def test_principal_points_are_suspected_once(self, values, message):
        with pytest.warns(SuspiciousInput, match=message) as caught:
            CameraIntrinsics(500, 500, *values)
        assert len(caught) == 1

    @pytest.mark.parametrize(
        "values",
        [
            (0, 240, 640, 480),  # cropped on the left, up to the principal point
            (240, 240, 480, 480),
            (250, 260, 500, 512),
            (200, 300, 640, 480),
            (0, 0, 8, 8),
            (0.5, 0.5, 1, 1),
            (1, 0.5, 2, 1),
        ],
    )
    def test_cut_and_tiny_images_are_fine(self, values):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CameraIntrinsics(500, 500, *values)

    def test_what_is_made_of_a_suspected_camera_is_not_suspected_again(self):
        with pytest.warns(SuspiciousInput):
            camera = CameraIntrinsics(500, 500, 320, 240, 480, 640)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            camera.scaled(240, 320).latent_grid(8).padded(7)

    def test_a_part_of_the_image_sees_the_same_rays(self):
        camera = CameraIntrinsics(50, 51, 30, 20, 64, 48)
        part = camera.cropped(10, 4, 32, 40)
        assert (part.width, part.height) == (32, 40)
        point = np.array([[0.1, -0.2, 2.0]])
        np.testing.assert_allclose(part.project(point)[0], camera.project(point)[0] - [10, 4])
        assert camera.cropped(0, 0, 64, 48) == camera
        for arguments, message in (
            ((10, 4, 55, 40), "width: expected at most 54, got 55"),
            ((10, 48, 5, 1), "top: expected at most 47, got 48"),
            ((-1, 0, 5, 5), "left: expected at least 0, got -1"),
        ):
            with pytest.raises(ValueError, match=message):
                camera.cropped(*arguments)

    def test_stride_must_divide_the_image(self):
        with pytest.raises(ValueError, match="stride: expected a divisor of the image size 640x480, got 7"):
            intrinsics().latent_grid(7)


class TestPose:
    def test_both_directions_are_inverse(self, rng):
        pose = random_pose(rng)
        np.testing.assert_allclose(pose.world_from_camera @ pose.camera_from_world, np.eye(4), atol=1e-14)
        again = CameraPose.from_camera_from_world(pose.camera_from_world)
        np.testing.assert_allclose(again.world_from_camera, pose.world_from_camera, atol=1e-14)

    def test_look_at_sees_its_target_in_the_middle_and_up_above(self):
        pose = CameraPose.look_at([1, -1.5, 2], [4, -1, -3])
        target = pose.camera_from_world @ [4, -1, -3, 1]
        np.testing.assert_allclose(target[:2], 0, atol=1e-12)
        assert target[2] == pytest.approx(math.sqrt(9 + 0.25 + 25))
        above = pose.camera_from_world @ [4, -2, -3, 1]  # up is -y
        assert above[1] < 0
        assert above[0] == pytest.approx(0, abs=1e-12)

    def test_identity_looks_along_z_upright(self):
        pose = CameraPose.look_at([0, 0, 0], [0, 0, 1])
        np.testing.assert_allclose(pose.world_from_camera, np.eye(4), atol=1e-15)

    def test_opengl_axes(self):
        pose = CameraPose.from_opengl(np.eye(4))
        np.testing.assert_allclose(pose.forward, [0, 0, -1])

    @given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
    def test_quaternion_round_trip(self, q):
        q = np.array(q) / np.linalg.norm(q)
        again = CameraPose.from_quaternion(q, [1, 2, 3]).quaternion
        np.testing.assert_allclose(again * np.sign(again @ q), q, atol=1e-9)

    def test_interpolation_ends_where_it_should_and_halves_the_angle(self, rng):
        a, b = random_pose(rng, timestamp=1.0), random_pose(rng, timestamp=3.0)
        np.testing.assert_allclose(a.interpolate(b, 0).world_from_camera, a.world_from_camera, atol=1e-12)
        np.testing.assert_allclose(a.interpolate(b, 1).world_from_camera, b.world_from_camera, atol=1e-12)
        middle = a.interpolate(b, 0.5)
        assert middle.timestamp == 2.0
        assert a.angle_to(middle) == pytest.approx(a.angle_to(b) / 2)
        np.testing.assert_allclose(middle.position, (a.position + b.position) / 2)

    def test_small_angles_are_exact(self):
        turned = CameraPose.from_quaternion([math.cos(5e-9), math.sin(5e-9), 0, 0], [0, 0, 0])
        assert CameraPose().angle_to(turned) == pytest.approx(1e-8, rel=1e-6)

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (np.eye(3), r"world_from_camera: expected shape \(4, 4\), got \(3, 3\)"),
            (2 * np.diag([1, 1, 1, 0.5]), "scaled by 2"),
            (np.diag([1.0, 1, -1, 1]), "determinant"),
            (np.full((4, 4), np.nan), "finite"),
            (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1.0, 2, 3, 1]]), "transposed"),
            (np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "orthonormal"),
            ("pose", "expected dtype float64"),
        ],
    )
    def test_bad_matrices_are_explained(self, matrix, message):
        with pytest.raises((TypeError, ValueError), match=message):
            CameraPose.from_world_from_camera(matrix)

    @pytest.mark.parametrize("decimals", [3, 4, 6])
    def test_rounded_rotations_are_made_orthonormal(self, rng, decimals):
        """Over many random rotations; a single matrix and a stack are treated alike."""
        exact = np.stack([random_pose(rng).world_from_camera for _ in range(2000)])
        rounded = exact.round(decimals)
        for matrix in (check_rigid("m", rounded[0]), *check_rigid_stack("m", rounded)):
            np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(check_rigid_stack("m", rounded), exact, atol=2 * 10.0**-decimals)

    def test_the_worst_rounding_of_a_rotation(self):
        """Each number of the row off by half a unit of the third decimal, all away from zero."""
        third = 1 / math.sqrt(3)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([[third] * 3, np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5])
        matrix[:3, :3] = matrix[[0, 2, 1], :3] if np.linalg.det(matrix[:3, :3]) < 0 else matrix[:3, :3]
        matrix[0, :3] += 5e-4
        np.testing.assert_allclose(np.linalg.norm(check_rigid("m", matrix)[0, :3]), 1, atol=1e-12)
        matrix[0, :3] += 1e-4
        with pytest.raises(ValueError, match="orthonormal"):
            check_rigid("m", matrix)

    def test_coarser_rotations_are_explained(self, rng):
        rotation = random_pose(rng).world_from_camera
        with pytest.raises(ValueError, match=r"rounded to two decimals\? write three or more"):
            CameraPose(rotation.round(2))
        with pytest.raises(ValueError, match=r"scaled by 0\.5"):
            CameraPose(np.diag([0.5, 0.5, 0.5, 1]) @ rotation.round(4))

    def test_quaternions_of_few_decimals(self, rng):
        for _ in range(300):
            exact = random_pose(rng).quaternion
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                pose = CameraPose.from_quaternion(exact.round(3), [0, 0, 0])
            assert abs(pose.quaternion @ exact) > 1 - 1e-5
        with pytest.warns(SuspiciousInput, match=r"norm 1\.004 was normalised; rounded to two decimals\?") as caught:
            CameraPose.from_quaternion(1.004 * exact, [0, 0, 0])
        assert len(caught) == 1
        for norm in (1.02, 0.98, 0.0):
            with pytest.raises(ValueError, match="expected a unit quaternion"):
                CameraPose.from_quaternion(norm * exact, [0, 0, 0])

    def test_equal_poses_have_equal_hashes(self):
        other = np.eye(4)
        other[0, 1] = -0.0
        assert CameraPose(other) == CameraPose()
        assert hash(CameraPose(other)) == hash(CameraPose())

    def test_pose_cannot_be_changed(self):
        with pytest.raises(ValueError, match="read-only"):
            CameraPose().world_from_camera[0, 3] = 1


def test_a_stack_is_checked_as_its_matrices_are(rng):
    stack = np.stack([random_pose(rng).camera_from_world for _ in range(24)]).reshape(2, 3, 4, 4, 4)
    stack[1, :, :, :3, :3] += rng.uniform(-1e-5, 1e-5, (3, 4, 3, 3))  # off by rounding: made orthonormal
    expected = [check_rigid("m", matrix) for matrix in stack.reshape(-1, 4, 4)]
    np.testing.assert_array_equal(check_rigid_stack("m", stack).reshape(-1, 4, 4), expected)
    assert check_rigid_stack("m", np.zeros((0, 4, 4))).shape == (0, 4, 4)
    for damage, message in ((2.0, "off by"), (-1.0, "determinant"), (1e13, "within 1e")):
        broken = stack.copy()
        broken[1, 2, 3, 0, :3] *= damage
        with pytest.raises(ValueError, match=rf"^m\[1, 2, 3\]: .*{message}"):
            check_rigid_stack("m", broken)
    broken[:] = stack
    broken[0, 1, 0, 3, 0] = 1
    with pytest.raises(ValueError, match=r"m\[0, 1, 0\]: expected a last row"):
        check_rigid_stack("m", broken)


class TestDeterminant:
    @pytest.mark.parametrize("small", [1e-320, 1e-160, 1e12])
    def test_numbers_at_the_ends_of_float64(self, small):
        matrix = np.array([[0.0, 0, 1], [small, 1, 0], [0, 0, 1]])
        assert determinant(matrix) == 0
        with pytest.raises(ValueError, match="orthonormal"):
            check_rigid("pose", np.block([[matrix, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))

    def test_is_that_of_lapack(self, rng):
        matrices = rng.standard_normal((50, 3, 3))
        np.testing.assert_allclose(determinant(matrices), np.linalg.det(matrices), rtol=1e-12, atol=1e-14)
