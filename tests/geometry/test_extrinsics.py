"""Where cameras stand: rigid motions in meters, of wrists and of turned and mirrored pictures, too."""

import numpy as np
import pytest
from cameras import CAMERA, looking_at, random_camera, random_gripper_poses
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.errors import InputError
from spatialvla.geometry.camera import mirror_intrinsics, turn_intrinsics
from spatialvla.geometry.extrinsics import (
    check_extrinsics,
    check_hand_eye,
    check_picture_pose,
    inverse,
    mirror_extrinsics,
    pose_matrix,
    project,
    transform,
    turn_extrinsics,
    wrist_extrinsics,
)

STANDING = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
HAND_EYE = pose_matrix(np.array([0.0, 0.05, -0.1]), np.diag([-1.0, -1, 1]))
seeds = st.integers(0, 10_000)


def changed(**entries):
    """STANDING with some of its entries replaced: e03=5 sets row 0, column 3."""
    matrix = STANDING.copy()
    for name, value in entries.items():
        matrix[int(name[1]), int(name[2])] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.eye(3), r"4x4 matrix, got shape \(3, 3\)"),
        (changed(e03=np.nan), "NaN or infinity"),
        (changed(e33=2), "last row 0 0 0 1, got 0 0 0 2"),
        (STANDING.T, "transpose the matrix"),
        (changed(e00=STANDING[0, 0] + 0.01), "columns are orthonormal"),
        (STANDING * [[1000], [1000], [1000], [1]], "columns are orthonormal"),
        (STANDING @ np.diag([-1, 1, 1, 1]), "must not mirror"),
        (STANDING * [1, 1, 1, 1000] / [[1], [1], [1], [1000]], "meters, not millimeters"),
    ],
)
def test_no_camera_stands_where_none_can(matrix, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        check_extrinsics(matrix)
    assert str(refused.value).count(". ") == 0


def test_rounded_matrices_become_rigid():
    found = check_extrinsics(np.round(STANDING, 4))
    np.testing.assert_allclose(found, STANDING, atol=1e-3)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-12)


def test_a_camera_in_the_hand_is_close_to_it():
    check_hand_eye(HAND_EYE)
    with pytest.raises(InputError, match=r"cannot lead 50\.\d* m away from the gripper.*not millimeters"):
        check_hand_eye(pose_matrix(np.array([0.0, 50.0, 10.0]), np.eye(3)))


@given(seeds)
def test_there_and_back(seed):
    rng = np.random.default_rng(seed)
    pose, points = random_camera(rng), rng.normal(0, 1, (5, 3))
    for motion in (pose, mirror_extrinsics(pose)):
        np.testing.assert_allclose(transform(inverse(motion), transform(motion, points)), points, atol=1e-12)
        np.testing.assert_allclose(inverse(motion) @ motion, np.eye(4), atol=1e-12)


def test_points_are_seen_where_they_are():
    camera = looking_at([1.0, 0.0, 0.5], [0.0, 0.0, 0.5])  # looks along -x, so +y is on its right
    points = np.array([[0, 0, 0.5], [0, 0.1, 0.5], [0, 0, 0.6], [2, 0, 0.5]], np.float64)
    pixels, depth = project(points, CAMERA.intrinsics, camera)
    np.testing.assert_allclose(pixels[:3], [[330, 235], [390, 235], [330, 174]])
    np.testing.assert_allclose(depth, [1, 1, 1, -1])
    assert np.isnan(pixels[3]).all()


@given(seeds)
def test_a_wrist_camera_is_where_the_gripper_carries_it(seed):
    """A point of the camera's frame goes to the gripper's, and from there to the base's."""
    rng = np.random.default_rng(seed)
    poses, points = random_gripper_poses(rng, 3), rng.normal(0, 1, (3, 4, 3))
    in_gripper = points @ HAND_EYE[:3, :3].T + HAND_EYE[:3, 3]
    in_base = [p @ pose[:3, :3].T + pose[:3, 3] for p, pose in zip(in_gripper, poses, strict=True)]
    found = wrist_extrinsics(poses, HAND_EYE)
    assert found.shape == (3, 4, 4)
    np.testing.assert_allclose(transform(found, points), in_base, atol=1e-9)
    np.testing.assert_allclose(wrist_extrinsics(poses[1], HAND_EYE), found[1])


@pytest.mark.wrong_arrays
def test_a_wrist_camera_needs_poses_of_the_gripper():
    with pytest.raises(InputError, match="gripper's pose must be a 4x4 matrix"):
        wrist_extrinsics(np.zeros(7), HAND_EYE)
    with pytest.raises(InputError, match=r"A gripper's pose .* not millimeters"):
        wrist_extrinsics(pose_matrix(np.array([400.0, 0, 300]), np.eye(3)), HAND_EYE)


def test_a_turned_picture_is_that_of_a_camera_held_upside_down():
    points = np.array([[0.4, 0.1, 0.1], [0.3, -0.2, 0.2]])
    pixels, depth = project(points, CAMERA.intrinsics, STANDING)
    K = turn_intrinsics(CAMERA.intrinsics, (480, 640))
    turned, same_depth = project(points, K, turn_extrinsics(STANDING))
    np.testing.assert_allclose(turned, [640, 480] - pixels)
    np.testing.assert_allclose(same_depth, depth)
    check_extrinsics(turn_extrinsics(STANDING))


@pytest.mark.parametrize("skew", [0.0, 7.0])
def test_a_mirrored_picture_is_flipped_left_to_right(skew):
    points = np.array([[0.4, 0.1, 0.1], [0.3, -0.2, 0.2]])
    given_k = CAMERA.intrinsics + np.array([[0, skew, 0], [0, 0, 0], [0, 0, 0]])
    pixels, depth = project(points, given_k, STANDING)
    K = mirror_intrinsics(given_k, 640)
    assert K[0, 0] > 0
    flipped, same_depth = project(points, K, mirror_extrinsics(STANDING))
    np.testing.assert_allclose(flipped, np.stack([640 - pixels[:, 0], pixels[:, 1]], axis=1))
    np.testing.assert_allclose(same_depth, depth)
    np.testing.assert_array_equal(mirror_extrinsics(mirror_extrinsics(STANDING)), STANDING)


def test_texts_are_no_matrix():
    for check in (check_extrinsics, check_picture_pose):
        with pytest.raises(InputError, match="must be a 4x4 matrix of numbers"):
            check(np.full((4, 4), "place"))
