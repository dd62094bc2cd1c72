"""What a calibrated camera of a robot can be, and what it sees."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from cameras import CAMERA, looking_at, random_camera, random_gripper_poses

from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.extrinsics import inverse, pose_matrix
from spatialvla.geometry.known_cameras import LIBERO_WRIST

STANDING = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
FRONT = CalibratedCamera(CAMERA, STANDING)


def test_a_matrix_the_wrong_way_round_is_noticed_and_no_right_one_is_blamed():
    """From the numbers alone most can be told: three in four of cameras all around a table."""
    rng, noticed = np.random.default_rng(0), 0
    for _ in range(200):
        camera = random_camera(rng)
        CalibratedCamera(CAMERA, camera)
        with suppress(InputError):
            CalibratedCamera(CAMERA, inverse(camera))
            noticed -= 1
        noticed += 1
    assert noticed > 130
    with pytest.raises(InputError, match=r"robot's base to the camera.*invert the matrix"):
        CalibratedCamera(CAMERA, inverse(STANDING))


def test_a_camera_that_looks_away_is_refused():
    with pytest.raises(InputError, match=r"sees nothing within 1\.5 m of the robot's base"):
        CalibratedCamera(CAMERA, looking_at([2, 0, 0.5], [4, 0, 0.4]))


def test_cameras_that_see_little_or_far_are_not_blamed():
    narrow = replace(CAMERA, intrinsics=np.array([[6000.0, 0, 320], [0, 6000, 240], [0, 0, 1]]))
    CalibratedCamera(narrow, looking_at([0.6, 0.1, 0.4], [0.47, 0.03, 0.0]))
    CalibratedCamera(narrow, looking_at([3.0, 2.0, 1.5], [1.0, 0.9, 0.2]))


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"extrinsics": None}, "give one of the two"),
        ({"hand_eye": LIBERO_WRIST.hand_eye}, "give one of the two"),
        ({"depth_range": (0.0, 2.0)}, "depth range of 0 to 2 cannot be"),
        ({"depth_range": (2.0, 0.2)}, "depth range of 2 to 0.2"),
        ({"depth_range": (200.0, 2000.0)}, "in meters, up to 100"),
    ],
)
def test_entries_that_cannot_be(entries, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(FRONT, **entries)


def test_another_resolution_of_the_same_aspect_is_the_same_view():
    half = FRONT.scaled_to(240, 320)
    points = np.array([[0.4, 0.1, 0.1], [0.2, -0.1, 0.0]])
    np.testing.assert_allclose(half.project(points)[0], FRONT.project(points)[0] / 2)
    np.testing.assert_array_equal(half.extrinsics, FRONT.extrinsics)
    FRONT.scaled_to(225, 300)
    with pytest.raises(InputError, match="640 x 480 pixels, and 640 x 360 has another aspect"):
        FRONT.scaled_to(360, 640)


def test_a_mirrored_camera_sees_the_flipped_picture():
    centered = replace(CAMERA, intrinsics=np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]))
    plain, mirrored = (
        CalibratedCamera(centered, STANDING),
        CalibratedCamera(centered, STANDING, mirrored=True),
    )
    points = np.array([[0.4, 0.1, 0.1], [0.2, -0.1, 0.0]])
    expected = plain.project(points)[0] * [-1, 1] + [640, 0]
    np.testing.assert_allclose(mirrored.project(points)[0], expected)
    assert np.linalg.det(mirrored.picture_pose()[:3, :3]) == pytest.approx(-1)
    np.testing.assert_array_equal(mirrored.extrinsics_at(), plain.extrinsics_at())


def test_a_camera_in_the_hand_needs_the_gripper():
    poses = random_gripper_poses(np.random.default_rng(1), 2)
    assert LIBERO_WRIST.moves
    assert LIBERO_WRIST.extrinsics_at(poses).shape == (2, 4, 4)
    with pytest.raises(InputError, match="give the gripper's pose"):
        LIBERO_WRIST.extrinsics_at()


def test_liberos_wrist_camera_sees_the_fingertips():
    """9.7 cm ahead and 5 cm to the side of it, in each pose of the arm."""
    for pose in random_gripper_poses(np.random.default_rng(2), 3):
        pixels, depth = LIBERO_WRIST.project(pose[None, :3, 3], pose)
        focal = 128 / np.tan(np.radians(75) / 2)
        np.testing.assert_allclose(pixels, [[128, 128 + focal * 0.05 / 0.097]], atol=1e-6)
        np.testing.assert_allclose(depth, [0.097], atol=1e-9)


def test_a_camera_that_stands_still_is_the_same_in_every_step():
    poses = np.tile(pose_matrix(np.zeros(3), np.eye(3)), (3, 1, 1))
    np.testing.assert_array_equal(FRONT.extrinsics_at(poses), np.tile(FRONT.extrinsics_at(), (3, 1, 1)))
