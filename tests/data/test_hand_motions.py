"""Grippers of any convention come out as 1 = open, and actions go back into the numbers that a dataset has."""

import numpy as np
import pytest

from spatialvla.data.hand_motions import GripperMapping, HandMotion
from spatialvla.data.mapping_lines import ActionMapping
from spatialvla.errors import InputError


@pytest.mark.parametrize(
    ("mapping", "stored", "opening"),
    [
        (GripperMapping(), [0, 0.5, 1, 2], [0, 0.5, 1, 1]),
        (GripperMapping(), [0, 0.5, 1, -32768] + [1] * 6, [0, 0.5, 1, 0] + [1] * 6),
        (GripperMapping(open=0, min=0, max=100), [0, 25, 100, -3], [1, 0.75, 0, 1]),
        # Commands: what lies halfway changes nothing, and before the first the gripper is the opposite of it.
        (GripperMapping(open=0, min=-1, commands=True), [0, 1, 0, 0, -1, 0.05, 1], [1, 0, 0, 0, 1, 1, 0]),
        (GripperMapping(open=1, min=-1, commands=True), [0, 1, 0, -1, 0], [0, 1, 1, 0, 0]),
        (GripperMapping(min=-1, commands=True), [0, 0], [1, 1]),
    ],
)
def test_openings(mapping, stored, opening):
    np.testing.assert_allclose(mapping.opening(np.array(stored, np.float64)), opening)


def test_a_gripper_in_another_unit_than_the_mapping_says_is_not_clipped_in_silence():
    with pytest.raises(
        InputError, match="from 0 to 100, far outside of min 0 and max 1; say what it reaches"
    ):
        GripperMapping().opening(np.array([0.0, 20, 60, 100, 100]))
    assert not len(GripperMapping().opening(np.zeros(0)))


@pytest.mark.parametrize(
    ("gripper", "stored"),
    [
        (GripperMapping(min=-1), [1, 0, -1]),
        (GripperMapping(open=0, min=0, max=100), [0, 50, 100]),
        (GripperMapping(open=0, min=-1, commands=True), [-1, 0, 1]),
    ],
)
def test_openings_are_told_back(gripper, stored):
    np.testing.assert_allclose(gripper.stored(np.array([1, 0.5, 0])), stored)


MIXED = ActionMapping(indices=(3, 4, 5, 0, 1, 2, 6), rotation="axis_angle", meters=0.001, radians=np.pi / 180)


@pytest.mark.parametrize(
    ("action", "numbers"),
    [
        (ActionMapping(), [[1, 2, 3, 0.1, 0.2, 0.3, -1]]),
        (ActionMapping(meters=0.05, radians=0.5), [[0.4, -1, 1, 0.3, 0.2, -0.6, 1]]),
        (ActionMapping(rotation="none", meters=0.01), [[1, 2, 3, 1]]),
        (MIXED, [[10, -20, 30, 5, 6, 7, 1], [0, 0, 0, 1, 0, 0, -1]]),
        (ActionMapping(rotation="quaternion_xyzw"), [[1, 2, 3, 0.5, -0.5, 0.5, 0.5, 1]]),
    ],
)
def test_motions_are_told_back_in_the_datasets_numbers(action, numbers):
    motion = HandMotion(action, GripperMapping(open=0, min=-1))
    numbers = np.array(numbers, np.float64)
    np.testing.assert_allclose(motion.stored(motion.actions({"action": numbers})), numbers, atol=1e-9)


@pytest.mark.parametrize(
    ("motion", "said"),
    [
        (HandMotion(ActionMapping(convention="absolute")), "made of poses"),
        (HandMotion(ActionMapping(from_state=("state",))), "made of poses"),
        (HandMotion(ActionMapping(), GripperMapping("hand")), "several features"),
        (HandMotion(ActionMapping(indices=(0, 1, 2, 3, 4, 5, 8))), "nothing tells the robot the others"),
    ],
)
def test_what_does_not_follow_from_motions_is_not_told_back(motion, said):
    with pytest.raises(InputError, match=said):
        motion.stored(np.zeros((1, 7)))
