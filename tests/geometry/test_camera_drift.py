import numpy as np
import pytest
from moving_arm import FRONT, K, path, pictures, turned

from spatialvla.geometry.camera_drift import CLEAR, DriftDetector, Sighting, find_gripper
from spatialvla.geometry.extrinsics import mirror_extrinsics, pose_matrix, project


@pytest.mark.parametrize("mirror", [False, True])
def test_a_camera_that_stands_where_it_should_has_not_drifted(mirror):
    camera = mirror_extrinsics(FRONT) if mirror else FRONT
    found = find_gripper(pictures(camera, path()), path(), K, camera)
    assert found is not None
    assert found.clear
    assert not found.drifted
    assert found.distance < 0.05


@pytest.mark.parametrize("axis", [[0.0, 1, 0], [0, -1, 0], [1, 0, 0]])
def test_a_turned_camera_sees_the_gripper_elsewhere(axis):
    moved = turned(8, axis)
    found = find_gripper(pictures(moved, path()), path(), K, FRONT)
    expected = (project(path(), K, moved)[0] - project(path(), K, FRONT)[0]).mean(axis=0)
    assert found is not None
    assert found.drifted
    np.testing.assert_allclose(found.pixels, expected, atol=15)
    np.testing.assert_allclose(
        found.offset, expected / K[0, 0] * project(path(), K, FRONT)[1].mean(), atol=0.05
    )


def test_pictures_that_were_squeezed_into_squares_say_the_same():
    squeeze, moved = np.diag([0.5, 1, 1]), turned(8, [1, 0, 0])
    images = pictures(moved, path())
    whole, squeezed = (
        find_gripper(images, path(), K, FRONT),
        find_gripper(images[:, :, ::2], path(), squeeze @ K, FRONT),
    )
    assert whole is not None
    assert squeezed is not None
    np.testing.assert_allclose(squeezed.offset, whole.offset, atol=0.02)


def test_a_shifted_camera_sees_the_gripper_elsewhere():
    moved = pose_matrix(FRONT[:3, 3] + [0, 0.15, 0], FRONT[:3, :3])
    found = find_gripper(pictures(moved, path()), path(), K, FRONT)
    assert found is not None
    assert found.drifted
    np.testing.assert_allclose(found.offset, [-0.15, 0], atol=0.05)


def test_nothing_is_said_of_a_gripper_that_hardly_moves():
    still = path()[:1] + np.linspace(0, 0.05, 60)[:, None]
    assert find_gripper(pictures(FRONT, still), still, K, FRONT) is None


def test_nothing_is_said_of_few_pictures():
    few = path(8)
    assert find_gripper(pictures(FRONT, few), few, K, FRONT) is None


def test_nothing_is_said_where_the_gripper_is_outside_of_the_picture():
    away = pose_matrix(FRONT[:3, 3] + [0, 2.0, 0], FRONT[:3, :3])
    assert find_gripper(pictures(FRONT, path()), path(), K, away) is None


def test_what_moves_otherwise_is_not_taken_for_the_gripper():
    order = np.random.default_rng(0).permutation(60)
    found = find_gripper(pictures(FRONT, path()), path()[order], K, FRONT)
    assert found is not None
    assert not found.clear
    assert not found.drifted


def test_a_detector_says_what_it_saw_whenever_a_stretch_of_motion_is_complete():
    moved, detector = turned(8, [0, 1, 0]), DriftDetector()
    positions = np.repeat(np.tile(path(), (2, 1)), 2, axis=0)  # each second picture shows no motion
    said = [
        detector.add(image, position, K, FRONT)
        for image, position in zip(pictures(moved, positions), positions, strict=True)
    ]
    sightings = [found for found in said if found is not None]
    assert len(sightings) == 2
    assert all(found.drifted and found.pictures == 48 for found in sightings)
    rest = detector.sighting()
    assert rest is not None
    assert rest.pictures < 48
    assert detector.sighting() is None


def test_of_a_camera_that_moves_along_nothing_is_said():
    detector, positions = DriftDetector(), path(100)
    images = pictures(FRONT, positions)
    hand = [pose_matrix(position + np.array([0, 0, 0.3]), np.diag([1.0, -1, -1])) for position in positions]
    assert all(detector.add(*seen) is None for seen in zip(images, positions, [K] * 100, hand, strict=True))
    assert detector.sighting() is None


def test_another_size_of_pictures_begins_anew():
    detector, positions = DriftDetector(), path(40)
    images = pictures(FRONT, positions)
    for image, position in zip(images, positions, strict=True):
        detector.add(image, position, K, FRONT)
    half = np.diag([0.5, 0.5, 1]) @ K
    for image, position in zip(images, positions, strict=True):
        detector.add(np.ascontiguousarray(image[::2, ::2]), position, half, FRONT)
    found = detector.sighting()
    assert found is not None
    assert found.pictures == 40
    assert not found.drifted


def test_pictures_of_another_size_with_the_same_camera_begin_anew():
    detector, positions = DriftDetector(), path()
    images = pictures(FRONT, positions)
    for step in range(20):
        detector.add(images[step], positions[step], K, FRONT)
    for step in range(20, 60):
        detector.add(np.ascontiguousarray(images[step, :200]), positions[step], K, FRONT)
    found = detector.sighting()
    assert found is not None
    assert 30 < found.pictures <= 40


def test_nothing_is_said_of_nothing():
    assert find_gripper(np.zeros((0, 64, 64, 3), np.uint8), np.zeros((0, 3)), K, FRONT) is None


def test_a_sighting_says_where():
    found = Sighting(np.array([0.12, -0.05]), np.array([20.0, -8.0]), CLEAR, 48)
    assert str(found) == "13 cm (22 pixels) to the right and above"
