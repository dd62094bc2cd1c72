"""Poses from simulated correspondences: as exact as the noise allows, wrong points named, bad sets refused."""

from dataclasses import replace

import numpy as np
import pytest
from cameras import CAMERA, random_camera, random_gripper_poses, rotation

from spatialvla.calibration.pose_solver import solve_pose
from spatialvla.errors import InputError
from spatialvla.geometry.camera import mirror_intrinsics
from spatialvla.geometry.extrinsics import inverse, project, transform


def seen_points(rng, camera, count=20, noise=0.0, K=CAMERA.intrinsics):
    """Points all over a workspace that the camera sees in its picture, and the pixels, with Gaussian noise."""
    points = rng.uniform([0.1, -0.5, 0.0], [0.9, 0.5, 0.5], (4000, 3))
    pixels, _ = project(points, K, camera)
    inside = ((pixels > 0) & (pixels < [640, 480])).all(axis=1)
    chosen = np.flatnonzero(inside)[:count]
    assert len(chosen) == count
    return points[chosen], pixels[chosen] + rng.normal(0, noise, (count, 2))


def distance(first, second):
    """Meters and radians between poses."""
    between = inverse(first) @ second
    turn = np.arccos(np.clip((np.trace(between[:3, :3]) - 1) / 2, -1, 1))
    return np.linalg.norm(between[:3, 3]), turn


@pytest.mark.parametrize("seed", range(10))
def test_exact_points_give_the_exact_pose(seed):
    rng = np.random.default_rng(seed)
    camera = random_camera(rng)
    fit = solve_pose(*seen_points(rng, camera, 6 + seed), CAMERA)
    np.testing.assert_allclose(fit.pose, camera, atol=1e-7)
    assert fit.largest_error < 1e-5
    assert not fit.outliers.any()


def test_the_error_is_within_what_the_noise_allows():
    """One pixel of noise over 30 points, 40 cameras: the stated standard deviation is the true one."""
    rng = np.random.default_rng(1)
    ratios, errors = [], []
    for _ in range(40):
        camera = random_camera(rng)
        fit = solve_pose(*seen_points(rng, camera, 30, noise=1.0), CAMERA)
        meters, radians = distance(fit.pose, camera)
        ratios.append([meters / fit.position_sigma, radians / fit.rotation_sigma])
        errors.append([meters, radians, fit.mean_error])
        assert not fit.outliers.any()
    assert np.sqrt(np.mean(np.square(ratios), axis=0)) == pytest.approx([1, 1], abs=0.25)
    assert np.max(ratios) < 4
    assert np.median(errors, axis=0)[0] < 0.01
    assert np.median(errors, axis=0)[1] < 0.01
    assert np.mean(errors, axis=0)[2] == pytest.approx(
        np.sqrt(np.pi / 2), abs=0.15
    )  # of a Rayleigh distribution


@pytest.mark.parametrize("seed", range(8))
def test_wrong_points_are_named_and_do_not_matter(seed):
    rng = np.random.default_rng(100 + seed)
    camera = random_camera(rng)
    points, pixels = seen_points(rng, camera, 24, noise=0.5)
    wrong = rng.choice(24, 6, replace=False)
    pixels[wrong] += rng.uniform(25, 200, (6, 2)) * rng.choice([-1, 1], (6, 2))
    fit = solve_pose(points, pixels, CAMERA)
    assert sorted(np.flatnonzero(fit.outliers)) == sorted(wrong)
    right = np.setdiff1d(np.arange(24), wrong)
    np.testing.assert_allclose(fit.pose, solve_pose(points[right], pixels[right], CAMERA).pose, atol=1e-6)
    assert fit.largest_error < 3


def test_a_camera_in_the_hand_from_one_point_that_stands_still():
    """In the gripper's frame it is the point that moves."""
    rng = np.random.default_rng(3)
    hand_eye = np.eye(4)
    hand_eye[:3, :3], hand_eye[:3, 3] = rotation([0.1, -0.2, 1.4]), [0.02, 0.06, -0.1]
    poses = random_gripper_poses(rng, 400)
    in_gripper = transform(inverse(poses), np.tile([0.5, 0.0, 0.02], (400, 1, 1)))[:, 0]
    pixels, depth = project(in_gripper, CAMERA.intrinsics, hand_eye)
    inside = np.flatnonzero(((pixels > 0) & (pixels < [640, 480])).all(axis=1) & (depth > 0.05))[:25]
    assert len(inside) == 25
    fit = solve_pose(in_gripper[inside], pixels[inside] + rng.normal(0, 0.5, (25, 2)), CAMERA)
    meters, radians = distance(fit.pose, hand_eye)
    assert meters < 0.004
    assert radians < 0.01


@pytest.mark.parametrize("seed", range(4))
def test_mirrored_pictures_are_noticed_and_can_be_used(seed):
    rng = np.random.default_rng(seed)
    points, pixels = seen_points(rng, random_camera(rng), 15, noise=0.3)
    flipped = pixels * [-1, 1] + [640, 0]
    flipped_camera = replace(CAMERA, intrinsics=mirror_intrinsics(CAMERA.intrinsics, 640))
    with pytest.raises(InputError, match="that are flipped left to right much better; say --mirrored"):
        solve_pose(points, flipped, flipped_camera)
    with pytest.raises(InputError, match=r"that are not flipped .* leave out --mirrored"):
        solve_pose(points, pixels, CAMERA, mirrored=True)
    fit = solve_pose(points, flipped, flipped_camera, mirrored=True)
    plain = solve_pose(points, pixels, CAMERA)
    np.testing.assert_allclose(fit.pose, plain.pose, atol=1e-9)
    np.testing.assert_allclose(fit.reprojected, plain.reprojected * [-1, 1] + [640, 0], atol=1e-6)


def _line(points):
    return points[:1] + np.linspace(0, 0.5, len(points))[:, None] * [1, 0.2, 0.1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda points, seen: (points[:5], seen[:5]), "at least 6 points, got 5"),
        (lambda points, seen: (_line(points), seen), "lie on a line"),
        (lambda points, seen: (points * [1, 1, 0], seen), "lie in a plane"),
        (lambda points, seen: (points * [1, 1, 0.01], seen), "lie in a plane"),
        (lambda points, seen: (points * 0.01, seen), "lie on a line"),
        (lambda points, seen: (points, np.where(seen > 300, np.nan, seen)), "must be finite"),
        (lambda points, seen: (points, seen * 0 + 300), "in one spot or on a line"),
        (lambda points, seen: (points, seen * [1, 0] + [0, 200]), "in one spot or on a line"),
        (lambda points, seen: (points, seen[::-1]), "fit one pose of the camera"),
    ],
)
def test_points_from_which_no_pose_follows(change, sentence):
    rng = np.random.default_rng(5)
    points, seen = change(*seen_points(rng, random_camera(rng), 20))
    with pytest.raises(InputError, match=sentence):
        solve_pose(points, seen, CAMERA)


def test_points_that_only_wrong_ones_bring_out_of_the_plane_are_refused():
    rng = np.random.default_rng(6)
    camera = random_camera(rng)
    points, seen = seen_points(rng, camera, 20)
    points[:, 2] = 0.0
    points[:3, 2] = 0.4
    seen = project(points, CAMERA.intrinsics, camera)[0]
    seen[:3] += 150
    with pytest.raises(InputError, match=r"lie in a plane|fit one pose"):
        solve_pose(points, seen, CAMERA)
