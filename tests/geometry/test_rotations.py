"""Rotations in every notation, and motions that lead from one pose to the next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.geometry import rotations

angles = st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
points = st.tuples(*[st.floats(-2, 2)] * 3)


def turn(axis, angle):
    """About one axis, written out."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def from_euler(roll, pitch, yaw):
    return turn(2, yaw) @ turn(1, pitch) @ turn(0, roll)


@given(angles)
def test_euler_angles_there_and_back(given_angles):
    matrix = rotations.matrices(np.array([given_angles]), "euler")
    np.testing.assert_allclose(matrix[0], from_euler(*given_angles), atol=1e-12)
    np.testing.assert_allclose(rotations.euler(matrix)[0], given_angles, atol=1e-6)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_locked_angles_are_still_the_same_rotation(pitch):
    matrix = from_euler(0.4, pitch, -0.3)[None]
    again = rotations.matrices(rotations.euler(matrix), "euler")
    np.testing.assert_allclose(again, matrix, atol=1e-6)


@given(st.integers(0, 2), st.floats(-3, 3), st.floats(0.1, 5))
def test_axis_angle_and_quaternion_about_one_axis(axis, angle, length):
    vector = np.zeros((1, 3))
    vector[0, axis] = angle
    np.testing.assert_allclose(rotations.matrices(vector, "axis_angle")[0], turn(axis, angle), atol=1e-12)
    quaternion = np.append(np.sin(angle / 2) * np.eye(3)[axis], np.cos(angle / 2))[None] * length
    np.testing.assert_allclose(
        rotations.matrices(quaternion, "quaternion_xyzw")[0], turn(axis, angle), atol=1e-12
    )


@given(angles, st.sampled_from(["euler", "axis_angle", "quaternion_xyzw"]))
def test_a_rotation_can_be_written_in_every_notation(given_angles, notation):
    matrix = from_euler(*given_angles)[None]
    written = rotations.notated(matrix, notation)
    assert written.shape == (1, rotations.SIZES[notation])
    np.testing.assert_allclose(rotations.matrices(written, notation), matrix, atol=1e-6)


def test_no_rotation_is_written_without_one():
    assert rotations.notated(np.eye(3)[None], "none").shape == (1, 0)
    np.testing.assert_array_equal(rotations.notated(np.eye(3)[None], "axis_angle"), [[0, 0, 0]])


@given(angles, points, angles, points)
def test_a_motion_leads_from_the_first_pose_to_the_next(first, place, second, next_place):
    before, after = from_euler(*first)[None], from_euler(*second)[None]
    place, next_place = np.array([place]), np.array([next_place])
    in_base = rotations.motion(place, before, next_place, after, "base")
    np.testing.assert_allclose(place + in_base[:, :3], next_place, atol=1e-9)
    np.testing.assert_allclose(from_euler(*in_base[0, 3:]) @ before[0], after[0], atol=1e-6)
    in_tool = rotations.motion(place, before, next_place, after, "tool")
    np.testing.assert_allclose(place[0] + before[0] @ in_tool[0, :3], next_place[0], atol=1e-9)
    np.testing.assert_allclose(before[0] @ from_euler(*in_tool[0, 3:]), after[0], atol=1e-6)


def test_quaternions_are_interpolated_the_short_way():
    half = np.array([0, 0, np.sin(0.5), np.cos(0.5)])  # a turn of 1 about z
    found = rotations.interpolated(
        np.array([0.0, 10.0]), np.stack([np.array([0, 0, 0, 1.0]), -half]), np.array([-1, 0, 2.5, 10, 12])
    )
    yaw = rotations.euler(rotations.matrices(found, "quaternion_xyzw"))[:, 2]
    np.testing.assert_allclose(yaw, [0, 0, 0.25, 1, 1], atol=1e-9)
    alone = rotations.interpolated(np.array([3.0]), half[None], np.array([1.0, 5.0]))
    np.testing.assert_allclose(alone, [half, half])


@given(st.floats(-1.2, 1.2), st.floats(-0.8, 0.8), st.floats(-0.8, 0.8))
def test_a_hand_that_points_down_has_a_vector_that_never_jumps(yaw, roll, pitch):
    down = np.pi * np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    turned = rotations.matrices(np.array([[roll, pitch, yaw]]), "euler") @ rotations.matrices(
        down[None], "axis_angle"
    )
    (short,) = rotations.notated(turned, "axis_angle")
    vector = rotations.towards(rotations.PANDA_DOWN, short)

    np.testing.assert_allclose(rotations.matrices(vector[None], "axis_angle"), turned, atol=1e-6)
    assert vector[0] + vector[1] >= 0
    np.testing.assert_allclose(rotations.towards(rotations.PANDA_DOWN, vector), vector)
    assert np.linalg.norm(vector - down) < 3 * np.linalg.norm([yaw, roll, pitch]) + 1e-6
