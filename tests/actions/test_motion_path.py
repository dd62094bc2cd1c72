"""Where a chunk leads the gripper: in meters from where it is, or from an origin of its own, and why."""

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.actions.motion_path import MotionPath
from spatialvla.actions.units import LIBERO

ACTIONS = np.array([[1, 0, 0, 0, 0, 0, 1], [0, -2, 1, 0, 0, 0, 1]], np.float32)
STEPS = [[0.05, 0, 0], [0, -0.1, 0.05]]


def test_a_path_goes_from_the_gripper_action_by_action_in_meters():
    path = MotionPath.of(ACTIONS, LIBERO, np.array([0.5, 0.1, 0.2]))
    assert not path.unplaced
    np.testing.assert_allclose(path.points, [[0.5, 0.1, 0.2], [0.55, 0.1, 0.2], [0.55, 0, 0.25]], atol=1e-7)
    np.testing.assert_allclose(path.steps, STEPS, atol=1e-7)


@pytest.mark.parametrize(
    ("units", "gripper", "why", "meters"),
    [
        (replace(LIBERO, meters=None), np.ones(3), "how long", 1.0),
        (replace(LIBERO, frame=None), np.ones(3), "along whose axes", 0.05),
        (replace(LIBERO, frame="gripper"), np.ones(3), "along the gripper's axes", 0.05),
        (LIBERO, None, "where the gripper is", 0.05),
    ],
)
def test_a_path_without_a_place_says_why_and_begins_at_an_origin_of_its_own(units, gripper, why, meters):
    path = MotionPath.of(ACTIONS, units, gripper)
    assert why in path.unplaced
    np.testing.assert_array_equal(path.points[0], 0)
    np.testing.assert_allclose(path.steps, ACTIONS[:, :3] * meters, atol=1e-7)
